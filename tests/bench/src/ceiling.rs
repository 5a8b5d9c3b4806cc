//! The most that a target could do with the sockets that ours has: answers reads with the
//! right bytes from memory, without a disk, a queue or a check.

use std::time::Duration;

use anyhow::{Result, bail};
use p2v_aoe::ata::{ATA_LEN, Registers};
use p2v_aoe::frame::{self, FRAME_MIN, HEADER_LEN, command};
use p2v_aoe::wire::{PacketSocket, Wire};
use p2v_contract::{Address, SECTOR};

use crate::scene::{SHELF, SLOT};

/// Headers and registers.
const HEAD: usize = HEADER_LEN + ATA_LEN;

/// Answers reads of a file: interface, file.
pub fn run(arguments: &[String]) -> Result<()> {
    let [iface, file] = arguments else {
        bail!("ceiling IFACE FILE");
    };
    let image = std::fs::read(file)?;
    let wire = PacketSocket::open_with_ring(iface)?;
    let own = Address::new(SHELF, SLOT);
    let mut heads: Vec<([u8; FRAME_MIN], usize, usize, usize)> = Vec::new();
    loop {
        heads.clear();
        wire.receive(Duration::from_millis(500), &mut |bytes| {
            let Ok((header, body)) = frame::parse(bytes) else {
                return;
            };
            if header.response || !header.address.covers(own) {
                return;
            }
            let mut head = [0; FRAME_MIN];
            header.reply(own, wire.mac()).write(&mut head);
            if header.command == command::ATA
                && let Ok((registers, _)) = Registers::parse(body)
            {
                head[HEADER_LEN..HEAD].copy_from_slice(&registers.done().to_bytes());
                let from = (registers.lba() * SECTOR) as usize;
                let to = from + usize::from(registers.count) * SECTOR as usize;
                if to <= image.len() {
                    heads.push((head, HEAD, from, to));
                }
            } else {
                heads.push((head, FRAME_MIN, 0, 0));
            }
        })?;
        let frames: Vec<[&[u8]; 2]> = heads
            .iter()
            .map(|(head, length, from, to)| [&head[..*length], &image[*from..*to]])
            .collect();
        if !frames.is_empty() {
            wire.send_parts(&frames)?;
        }
    }
}
