//! Raw frames: sent as given, captured and sent again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::unhex;

/// How long a reply to a frame may take.
const REPLY_LIMIT: Duration = Duration::from_secs(3);

/// A packet socket that sees everything on an interface, its own frames included.
fn socket(iface: &str) -> Result<OwnedFd> {
    let name = std::ffi::CString::new(iface)?;
    // SAFETY: `name` is a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        bail!("no interface {iface}");
    }
    let all = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: no pointers are passed.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            i32::from(all),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("cannot open a packet socket");
    }
    // SAFETY: `fd` was just opened and is owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `sockaddr_ll` is plain integers; all zero is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = all;
    address.sll_ifindex = index as i32;
    // SAFETY: `address` is a valid `sockaddr_ll` and the length is its size.
    let bound = unsafe {
        libc::bind(
            fd,
            (&raw const address).cast(),
            std::mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if bound < 0 {
        return Err(io::Error::last_os_error()).context("cannot bind the packet socket");
    }
    Ok(socket)
}

fn put(socket: &OwnedFd, frame: &[u8]) -> Result<()> {
    Ok(nix::sys::socket::send(
        socket.as_raw_fd(),
        frame,
        nix::sys::socket::MsgFlags::empty(),
    )
    .map(|_| ())?)
}

/// The next AoE frame, within `limit`.
fn next(socket: &OwnedFd, limit: Duration) -> Result<Option<Vec<u8>>> {
    let until = Instant::now() + limit;
    let mut buffer = [0; 10_000];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if poll(
            &mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)],
            timeout,
        )? == 0
        {
            return Ok(None);
        }
        let length = nix::sys::socket::recv(
            socket.as_raw_fd(),
            &mut buffer,
            nix::sys::socket::MsgFlags::empty(),
        )?;
        if length >= 24 && buffer[12..14] == [0x88, 0xa2] {
            return Ok(Some(buffer[..length].to_vec()));
        }
    }
}

fn hex(frame: &[u8]) -> String {
    frame.iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether `reply` is a response to `frame`: same tag and command, response flag.
fn answers(frame: &[u8], reply: &[u8]) -> bool {
    reply[14] & 0x08 != 0 && reply[19] == frame[19] && reply[20..24] == frame[20..24]
}

/// Sends a frame and prints the reply in hex, or `silence`.
pub fn send(iface: &str, text: &str) -> Result<()> {
    let frame = unhex(text)?;
    let socket = socket(iface)?;
    put(&socket, &frame)?;
    let until = Instant::now() + REPLY_LIMIT;
    while let Some(reply) = next(&socket, until.saturating_duration_since(Instant::now()))? {
        if answers(&frame, &reply) {
            println!("{}", hex(&reply));
            return Ok(());
        }
    }
    println!("silence");
    Ok(())
}

/// Writes every Access and Finish request (vendor command, operations 4 and 5) that goes over the
/// interface to a file, a line of hex each, until it is killed.
pub fn capture(iface: &str, file: &str) -> Result<()> {
    let socket = socket(iface)?;
    let mut file = File::create(file)?;
    println!("capturing");
    loop {
        let Some(frame) = next(&socket, Duration::from_secs(3600))? else {
            continue;
        };
        if frame[14] & 0x08 == 0
            && frame[19] == 0xf0
            && frame.len() > 24
            && matches!(frame[24], 4 | 5)
        {
            writeln!(file, "{}", hex(&frame))?;
        }
    }
}

/// Sends every frame of a file again and prints each reply in hex, or `silence`.
pub fn replay(iface: &str, file: &str) -> Result<()> {
    for line in fs::read_to_string(file)?.lines() {
        send(iface, line)?;
    }
    Ok(())
}
