//! `AF_PACKET`: the one place with system calls for frames. Batches both ways (`recvmmsg`,
//! `sendmmsg`), because an old processor pays most for the number of calls.

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use pnet::util::MacAddr;

use super::Wire;
use crate::frame::ETHERTYPE;

/// Frames taken from the kernel, or given to it, with one call.
const BATCH: usize = 64;
/// Bytes of one receive buffer: the largest jumbo frame (9000 + 14), rounded up.
const FRAME_MAX: usize = 9216;
/// What the socket's buffers are asked to hold: with room for a window of 64 jumbo frames from
/// each of several hosts at their true size (about 16 KiB, AOE.md).
const SOCKET_BUFFER: usize = 4 << 20;

/// A packet socket bound to one interface and to EtherType 0x88A2, so that nothing but AoE wakes
/// it. Frames with a VLAN tag and frames for other stations are passed over.
pub struct PacketSocket {
    socket: OwnedFd,
    name: String,
    mac: MacAddr,
    mtu: usize,
    buffers: Mutex<Box<[[u8; FRAME_MAX]; BATCH]>>,
}

/// Why the socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such interface.
    #[error("there is no network interface `{name}`: {source} (`ip link` lists them)")]
    NoInterface {
        /// What was asked for.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot {action} on interface `{name}`: {source}{}", if source.raw_os_error() == Some(libc::EPERM) { " (raw Ethernet needs root, or CAP_NET_RAW)" } else { "" })]
    Socket {
        /// What was tried.
        action: &'static str,
        /// On which interface.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl PacketSocket {
    /// Opens the socket on the interface called `name`.
    pub fn open(name: &str) -> Result<PacketSocket, OpenError> {
        let no_interface = |source| OpenError::NoInterface {
            name: name.to_owned(),
            source,
        };
        let c_name = CString::new(name).map_err(|e| no_interface(e.into()))?;
        if c_name.as_bytes_with_nul().len() > libc::IFNAMSIZ {
            return Err(no_interface(io::Error::from_raw_os_error(libc::ENODEV)));
        }
        // SAFETY: `c_name` is a NUL-terminated string that outlives the call.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 {
            return Err(no_interface(io::Error::last_os_error()));
        }
        let failed = |action| {
            move |source| OpenError::Socket {
                action,
                name: name.to_owned(),
                source,
            }
        };

        // Protocol 0: nothing arrives before the socket is bound to its interface.
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(failed("open a packet socket")(io::Error::last_os_error()));
        }
        // SAFETY: `fd` was just opened and is owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        for forced in [true, false] {
            // The "force" forms need CAP_NET_ADMIN; the others stop at the system's limit.
            let set = if forced {
                setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER)
            } else {
                setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER)
            };
            if set.is_ok() {
                break;
            }
        }

        // SAFETY: `sockaddr_ll` is plain integers; all zero is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ETHERTYPE.to_be();
        address.sll_ifindex = index as i32;
        // SAFETY: `address` is a valid `sockaddr_ll` and the length is its size.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if bound < 0 {
            return Err(failed("bind a packet socket")(io::Error::last_os_error()));
        }
        let mac = hardware_address(&socket, name).map_err(failed("read the MAC address"))?;
        let mtu = mtu(&socket, name).map_err(failed("read the MTU"))?;
        Ok(PacketSocket {
            socket,
            name: name.to_owned(),
            mac,
            mtu,
            buffers: Mutex::new(Box::new([[0; FRAME_MAX]; BATCH])),
        })
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn wait(&self, events: PollFlags, timeout: Duration) -> io::Result<bool> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.socket.as_fd(), events)], timeout) {
            Ok(ready) => Ok(ready > 0),
            Err(nix::errno::Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Wire for PacketSocket {
    fn mac(&self) -> MacAddr {
        self.mac
    }

    fn mtu(&self) -> usize {
        self.mtu
    }

    fn receive(&self, timeout: Duration, each: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        if !self.wait(PollFlags::POLLIN, timeout)? {
            return Ok(0);
        }
        let mut buffers = self
            .buffers
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: `iovec`, `mmsghdr` and `sockaddr_ll` are plain integers and pointers; all zero is
        // a valid value of each.
        let (mut iovecs, mut headers, mut senders): (
            [libc::iovec; BATCH],
            [libc::mmsghdr; BATCH],
            [libc::sockaddr_ll; BATCH],
        ) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        for i in 0..BATCH {
            iovecs[i] = libc::iovec {
                iov_base: buffers[i].as_mut_ptr().cast(),
                iov_len: FRAME_MAX,
            };
            headers[i].msg_hdr.msg_iov = &raw mut iovecs[i];
            headers[i].msg_hdr.msg_iovlen = 1;
            headers[i].msg_hdr.msg_name = (&raw mut senders[i]).cast();
            headers[i].msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        }
        // SAFETY: every header points to an iovec over a buffer of its own and to a sender of its
        // own, and all of them outlive the call.
        let received = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        if received < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(0),
                // The interface is down. The error is told once, later reads wait in poll.
                Some(libc::ENETDOWN) => Ok(0),
                _ => Err(error),
            };
        }
        let received = received as usize;
        for i in 0..received {
            let length = headers[i].msg_len as usize;
            let truncated = headers[i].msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            // PACKET_HOST or PACKET_BROADCAST; a tagged frame of a VLAN we are not in comes as
            // PACKET_OTHERHOST (net/core/dev.c, __netif_receive_skb_core).
            let ours = matches!(senders[i].sll_pkttype, 0 | 1);
            if ours && !truncated {
                each(&buffers[i][..length]);
            }
        }
        Ok(received)
    }

    fn send(&self, frames: &[Vec<u8>]) -> io::Result<()> {
        let mut rest = frames;
        while !rest.is_empty() {
            let batch = &rest[..rest.len().min(BATCH)];
            // SAFETY: as above, all zero is a valid value of each.
            let (mut iovecs, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
                unsafe { (mem::zeroed(), mem::zeroed()) };
            for (i, frame) in batch.iter().enumerate() {
                iovecs[i] = libc::iovec {
                    iov_base: frame.as_ptr().cast_mut().cast(),
                    iov_len: frame.len(),
                };
                headers[i].msg_hdr.msg_iov = &raw mut iovecs[i];
                headers[i].msg_hdr.msg_iovlen = 1;
            }
            // SAFETY: every header points to an iovec over a frame that outlives the call, and the
            // kernel only reads from it.
            let sent = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    headers.as_mut_ptr(),
                    batch.len() as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            };
            if sent < 0 {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => {
                        self.wait(PollFlags::POLLOUT, Duration::from_millis(100))?;
                    }
                    // Lost, as on the wire: down, queue full, or too long for the MTU of now.
                    Some(libc::ENETDOWN | libc::ENOBUFS | libc::ENXIO | libc::EMSGSIZE) => {
                        rest = &rest[1..]
                    }
                    _ => return Err(error),
                }
                continue;
            }
            rest = &rest[sent as usize..];
        }
        Ok(())
    }
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

fn interface_ioctl(
    socket: &OwnedFd,
    code: libc::c_ulong,
    request: &mut libc::ifreq,
) -> io::Result<()> {
    // SAFETY: `request` is a valid `ifreq` with a NUL-terminated name, which is what SIOCGIF* take.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), code as _, &raw mut *request) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn hardware_address(socket: &OwnedFd, name: &str) -> io::Result<MacAddr> {
    let mut request = request_for(name);
    interface_ioctl(socket, libc::SIOCGIFHWADDR as libc::c_ulong, &mut request)?;
    // SAFETY: SIOCGIFHWADDR has filled in `ifru_hwaddr`.
    let octets = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let [a, b, c, d, e, f, ..] = octets.map(|o| o as u8);
    Ok(MacAddr::new(a, b, c, d, e, f))
}

fn mtu(socket: &OwnedFd, name: &str) -> io::Result<usize> {
    let mut request = request_for(name);
    interface_ioctl(socket, libc::SIOCGIFMTU as libc::c_ulong, &mut request)?;
    // SAFETY: SIOCGIFMTU has filled in `ifru_mtu`.
    Ok(unsafe { request.ifr_ifru.ifru_mtu }.max(0) as usize)
}
