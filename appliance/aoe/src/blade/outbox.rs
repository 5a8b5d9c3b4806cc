//! Replies that wait for the end of a batch: they leave with one system call for each interface.

use std::io;
use std::sync::Arc;

use p2v_contract::address::SECTOR;

use super::buffer::{Buffer, Buffers};
use super::schedule::ReplyTo;
use crate::ata::{ATA_LEN, Registers};
use crate::frame::{FRAME_MIN, HEADER_LEN};
use crate::wire::Wire;

/// Headers and registers of an ATA reply.
const HEAD: usize = HEADER_LEN + ATA_LEN;

/// One reply.
enum Reply {
    /// All of it in one piece.
    Frame(Vec<u8>),
    /// ATA registers, padded with zeros to the least that Ethernet carries.
    Registers([u8; FRAME_MIN]),
    /// Registers, and after them a part of a buffer: index, first byte, bytes.
    Data([u8; HEAD], usize, usize, usize),
}

/// The replies of a batch and the buffers that their data is in.
#[derive(Default)]
pub(super) struct Outbox {
    replies: Vec<(usize, Reply)>,
    buffers: Vec<Buffer>,
}

fn write_head(head: &mut [u8], to: &ReplyTo, registers: Registers) {
    to.header.write(head);
    head[HEADER_LEN..HEAD].copy_from_slice(&registers.to_bytes());
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// A whole frame.
    pub(super) fn frame(&mut self, wire: usize, frame: Vec<u8>) {
        self.replies.push((wire, Reply::Frame(frame)));
    }

    /// An ATA reply without data.
    pub(super) fn registers(&mut self, to: &ReplyTo, registers: Registers) {
        let mut frame = [0; FRAME_MIN];
        write_head(&mut frame, to, registers);
        self.replies.push((to.wire, Reply::Registers(frame)));
    }

    /// Keeps a buffer until the replies with its data have left, and returns its index.
    pub(super) fn keep(&mut self, buffer: Buffer) -> usize {
        self.buffers.push(buffer);
        self.buffers.len() - 1
    }

    /// An ATA reply with `sectors` of data, from sector `from` of a buffer that was kept.
    pub(super) fn data(
        &mut self,
        to: &ReplyTo,
        registers: Registers,
        buffer: usize,
        from: u64,
        sectors: u64,
    ) {
        let mut head = [0; HEAD];
        write_head(&mut head, to, registers);
        let (from, bytes) = ((from * SECTOR) as usize, (sectors * SECTOR) as usize);
        self.replies
            .push((to.wire, Reply::Data(head, buffer, from, bytes)));
    }

    /// Sends them all. A reply for a wire that is no more is lost; the initiator asks again.
    pub(super) fn send(&mut self, wires: &[Arc<dyn Wire>], spare: &mut Buffers) -> io::Result<()> {
        let mut result = Ok(());
        for (index, wire) in wires.iter().enumerate() {
            let frames: Vec<[&[u8]; 2]> = self
                .replies
                .iter()
                .filter(|(to, _)| *to == index)
                .map(|(_, reply)| -> [&[u8]; 2] {
                    match reply {
                        Reply::Frame(frame) => [frame, &[]],
                        Reply::Registers(frame) => [frame, &[]],
                        Reply::Data(head, buffer, from, bytes) => {
                            [head, &self.buffers[*buffer][*from..*from + *bytes]]
                        }
                    }
                })
                .collect();
            if !frames.is_empty() {
                result = result.and(wire.send_parts(&frames));
            }
        }
        self.replies.clear();
        for buffer in self.buffers.drain(..) {
            spare.give(buffer);
        }
        result
    }
}
