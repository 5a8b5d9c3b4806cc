//! What the kernel says of a network interface: its number, its address and its MTU.

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use pnet::util::MacAddr;

/// The number that the kernel has for an interface of this name.
pub(super) fn index(name: &str) -> Option<libc::c_uint> {
    let name = CString::new(name).ok()?;
    if name.as_bytes_with_nul().len() > libc::IFNAMSIZ {
        return None;
    }
    // SAFETY: `name` is a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// An `ifreq` with the interface's name filled in.
fn request_for(name: &str) -> libc::ifreq {
    // SAFETY: `ifreq` is plain integers and a union of such; all zero is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .take(libc::IFNAMSIZ - 1)
        .zip(name.bytes())
    {
        *to = from as libc::c_char;
    }
    request
}

fn ioctl(socket: &OwnedFd, code: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: `request` is a valid `ifreq` with a NUL-terminated name, which is what SIOCGIF* take.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), code as _, &raw mut *request) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

pub(super) fn hardware_address(socket: &OwnedFd, name: &str) -> io::Result<MacAddr> {
    let mut request = request_for(name);
    ioctl(socket, libc::SIOCGIFHWADDR as libc::c_ulong, &mut request)?;
    // SAFETY: SIOCGIFHWADDR has filled in `ifru_hwaddr`.
    let octets = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let [a, b, c, d, e, f, ..] = octets.map(|o| o as u8);
    Ok(MacAddr::new(a, b, c, d, e, f))
}

pub(super) fn mtu(socket: &OwnedFd, name: &str) -> io::Result<usize> {
    let mut request = request_for(name);
    ioctl(socket, libc::SIOCGIFMTU as libc::c_ulong, &mut request)?;
    // SAFETY: SIOCGIFMTU has filled in `ifru_mtu`.
    Ok(unsafe { request.ifr_ifru.ifru_mtu }.max(0) as usize)
}
