//! The kernel's device events (`NETLINK_KOBJECT_UEVENT`): only that something happened is used,
//! what happened is then read from sysfs.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// A socket that the kernel's device events arrive on.
#[derive(Debug)]
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Opens the socket and joins the kernel's own group (1).
    ///
    /// # Errors
    /// The socket cannot be opened or bound.
    pub fn open() -> Result<Uevents, Errno> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
        Ok(Uevents(socket))
    }

    /// Waits up to `milliseconds` for an event; takes all that are there. True if there was one.
    pub fn wait(&self, milliseconds: u16) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut fds, PollTimeout::from(milliseconds)), Ok(1..)) {
            return false;
        }
        let mut buffer = [0; 8192];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                // ENOBUFS: events were lost, which is an event too.
                Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(_) => return true,
            }
        }
    }
}
