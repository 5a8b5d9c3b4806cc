//! What the kernel lets in: a program (BPF) that is asked of each frame before it costs us anything.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use p2v_contract::address::SECTOR;

use crate::ata::ATA_LEN;
use crate::frame::{ETHERNET_LEN, HEADER_LEN, command};

/// Lets only frames in that were sent to us or to everybody. A frame with the tag of a VLAN that we are
/// not in, and one for another station, are of type `PACKET_OTHERHOST`
/// (`net/core/dev.c`, `__netif_receive_skb_core`). `no_data`: and no answers to ATA commands that are longer
/// than the one to IDENTIFY.
pub(super) fn filter(socket: &OwnedFd, no_data: bool) -> io::Result<()> {
    const PACKET_BROADCAST: u32 = 1;
    /// Larger than any frame: the whole of it.
    const WHOLE: u32 = 0x4_0000;
    /// Where the AoE command is in a frame.
    const COMMAND: u32 = ETHERNET_LEN as u32 + 5;
    /// Headers, registers and 512 bytes.
    const IDENTIFY_LEN: u32 = (HEADER_LEN + ATA_LEN + SECTOR as usize) as u32;
    let packet_type = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let length = libc::BPF_LD | libc::BPF_W | libc::BPF_LEN;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let greater = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
    // Jumps count the steps between; the last step takes nothing, the one before it all.
    let ours = [step(load, 0, 0, packet_type)];
    let short = [
        step(greater, 5, 0, PACKET_BROADCAST),
        step(load, 0, 0, COMMAND),
        step(equal, 0, 2, command::ATA.into()),
        step(length, 0, 0, 0),
        step(greater, 1, 0, IDENTIFY_LEN),
    ];
    let all = [step(greater, 1, 0, PACKET_BROADCAST)];
    let end = [
        step(libc::BPF_RET | libc::BPF_K, 0, 0, WHOLE),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let middle: &[_] = if no_data { &short } else { &all };
    let mut program: Vec<libc::sock_filter> = ours
        .into_iter()
        .chain(middle.iter().copied())
        .chain(end)
        .collect();
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `filter` points to `program`, both outlive the call, and the length is that of a
    // `sock_fprog`.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            mem::size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if set < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
