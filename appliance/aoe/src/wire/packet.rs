//! `AF_PACKET`: the one place with system calls for frames. Batches both ways (`recvmmsg`,
//! `sendmmsg`), because an old processor pays most for the number of calls.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use pnet::util::MacAddr;

use super::Wire;
use super::ring::Ring;
use super::spin::{LOOK, Spin};
use crate::frame::{ETHERNET_LEN, ETHERTYPE};

mod error;
mod filter;
mod interface;

use filter::filter;

pub use error::OpenError;

/// Frames taken from the kernel, or given to it, with one call.
const BATCH: usize = 64;
/// Frames handed out at once: few enough that the first are answered while others still come.
const HANDFUL: usize = 16;
/// Bytes of one receive buffer: the largest jumbo frame (9000 + 14), rounded up.
const FRAME_MAX: usize = 9216;
/// An interface may carry longer frames (the loopback's MTU is 65536); none are sent, and none have room.
const MTU_MAX: usize = FRAME_MAX - ETHERNET_LEN;
/// What the socket's buffers are asked to hold: with room for a window of 64 jumbo frames from
/// each of several hosts at their true size (about 16 KiB, AOE.md).
const SOCKET_BUFFER: usize = 4 << 20;
/// A wait as long as this is one system call: the socket's own time-out.
const LONG_WAIT: Duration = Duration::from_millis(500);

/// A packet socket bound to one interface and to EtherType 0x88A2, so that nothing but AoE wakes
/// it. Frames with a VLAN tag and frames for other stations are passed over.
pub struct PacketSocket {
    socket: OwnedFd,
    name: String,
    mac: MacAddr,
    mtu: AtomicUsize,
    index: libc::c_uint,
    /// The interface is no more, or its frames no longer fit: a new socket is needed.
    lost: AtomicBool,
    dropped: AtomicU64,
    /// Looking for a frame is allowed.
    look: AtomicBool,
    arrivals: Mutex<Arrivals>,
}

/// Where frames come to.
enum Arrivals {
    /// Memory shared with the kernel.
    Ring(Ring, Spin),
    /// Buffers that system calls fill.
    Buffers(Box<[[u8; FRAME_MAX]; BATCH]>),
}

impl PacketSocket {
    /// Opens the socket on the interface called `name`, to send some frames and receive the answers.
    ///
    /// # Errors
    /// There is no such interface, or no packet socket to be had on it.
    pub fn open(name: &str) -> Result<PacketSocket, OpenError> {
        Self::open_as(name, false)
    }

    /// Opens it for a station that gets many frames: they come through memory shared with the kernel,
    /// where it can be had.
    ///
    /// # Errors
    /// As [`PacketSocket::open`].
    pub fn open_with_ring(name: &str) -> Result<PacketSocket, OpenError> {
        Self::open_as(name, true)
    }

    fn open_as(name: &str, ring: bool) -> Result<PacketSocket, OpenError> {
        let no_interface = |source| OpenError::NoInterface {
            name: name.to_owned(),
            source,
        };
        let Some(index) = interface::index(name) else {
            return Err(no_interface(io::Error::from_raw_os_error(libc::ENODEV)));
        };
        let failed = |action| {
            move |source| OpenError::Socket {
                action,
                name: name.to_owned(),
                source,
            }
        };

        // Protocol 0: nothing arrives before the socket is bound to its interface.
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
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

        let wait = TimeVal::milliseconds(LONG_WAIT.as_millis() as i64);
        setsockopt(&socket, sockopt::ReceiveTimeout, &wait)
            .map_err(|e| failed("set the time-out of a packet socket")(e.into()))?;
        filter(&socket, false).map_err(failed("filter what comes in"))?;
        let mac =
            interface::hardware_address(&socket, name).map_err(failed("read the MAC address"))?;
        let mtu = interface::mtu(&socket, name).map_err(failed("read the MTU"))?;
        let mtu = mtu.min(MTU_MAX);
        // Without memory for the ring the socket's queue does, at a system call for each batch.
        let arrivals = match ring.then(|| Ring::new(&socket, mtu)) {
            Some(Ok(ring)) => Arrivals::Ring(ring, Spin::default()),
            _ => Arrivals::Buffers(Box::new([[0; FRAME_MAX]; BATCH])),
        };

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
        Ok(PacketSocket {
            socket,
            name: name.to_owned(),
            mac,
            mtu: AtomicUsize::new(mtu),
            index,
            lost: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            look: AtomicBool::new(true),
            arrivals: Mutex::new(arrivals),
        })
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn receive_into(
        &self,
        buffers: &mut [[u8; FRAME_MAX]; BATCH],
        timeout: Duration,
        each: &mut dyn FnMut(&[u8]),
    ) -> io::Result<usize> {
        let flags = if timeout >= LONG_WAIT {
            // For the first frame it waits as long as the socket's time-out says.
            libc::MSG_WAITFORONE
        } else {
            if !timeout.is_zero() && !self.wait(PollFlags::POLLIN, timeout)? {
                return Ok(0);
            }
            libc::MSG_DONTWAIT
        };
        // SAFETY: `iovec` and `mmsghdr` are plain integers and pointers; all zero is a valid value of
        // each.
        let (mut iovecs, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        for i in 0..BATCH {
            iovecs[i] = libc::iovec {
                iov_base: buffers[i].as_mut_ptr().cast(),
                iov_len: FRAME_MAX,
            };
            headers[i].msg_hdr.msg_iov = &raw mut iovecs[i];
            headers[i].msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: every header points to an iovec over a buffer of its own, and all of them outlive the
        // call.
        let received = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                flags as _,
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
            if !truncated {
                each(&buffers[i][..length]);
            }
        }
        Ok(received)
    }

    /// The interface is down, or was: the error is taken, so that the next wait is one.
    fn take_error(&self) {
        let _ = getsockopt(&self.socket, sockopt::SocketError);
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
        self.mtu.load(Ordering::Relaxed)
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn may_busy_poll(&self, may: bool) {
        self.look.store(may, Ordering::Relaxed);
    }

    fn pass_over_data(&self) {
        // Without it everything comes, as before.
        let _ = filter(&self.socket, true);
    }

    fn refresh(&self) {
        let dropped = dropped_since(&self.socket);
        self.dropped.fetch_add(dropped, Ordering::Relaxed);
        if interface::index(&self.name) != Some(self.index) {
            self.lost.store(true, Ordering::Relaxed);
            return;
        }
        if let Ok(mtu) = interface::mtu(&self.socket, &self.name) {
            let mtu = mtu.min(MTU_MAX);
            let fits = match &*self.arrivals() {
                Arrivals::Ring(ring, _) => ring.fits(mtu),
                Arrivals::Buffers(_) => true,
            };
            self.mtu.store(mtu, Ordering::Relaxed);
            self.lost.fetch_or(!fits, Ordering::Relaxed);
        }
    }

    fn receive(&self, timeout: Duration, each: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        if self.lost.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::ENXIO));
        }
        match &mut *self.arrivals() {
            Arrivals::Ring(ring, spin) => {
                let count = ring.receive(HANDFUL, each);
                if count > 0 {
                    return Ok(count);
                }
                if timeout.is_zero() {
                    // Whoever asks so was told that there is something.
                    self.take_error();
                    return Ok(0);
                }
                let begun = Instant::now();
                if spin.pays() && self.look.load(Ordering::Relaxed) {
                    let seen = ring.look_until(begun + LOOK);
                    spin.looked(seen);
                    if seen {
                        return Ok(ring.receive(HANDFUL, each));
                    }
                }
                if !self.wait(PollFlags::POLLIN, timeout)? {
                    return Ok(0);
                }
                spin.slept(begun.elapsed());
                let count = ring.receive(HANDFUL, each);
                if count == 0 {
                    self.take_error();
                }
                Ok(count)
            }
            Arrivals::Buffers(buffers) => self.receive_into(buffers, timeout, each),
        }
    }

    fn send_parts(&self, frames: &[[&[u8]; 2]]) -> io::Result<()> {
        let mut rest = frames;
        while !rest.is_empty() {
            let batch = &rest[..rest.len().min(BATCH)];
            // SAFETY: as above, all zero is a valid value of each.
            let (mut iovecs, mut headers): ([[libc::iovec; 2]; BATCH], [libc::mmsghdr; BATCH]) =
                unsafe { (mem::zeroed(), mem::zeroed()) };
            for (i, parts) in batch.iter().enumerate() {
                iovecs[i] = parts.map(|part| libc::iovec {
                    iov_base: part.as_ptr().cast_mut().cast(),
                    iov_len: part.len(),
                });
                headers[i].msg_hdr.msg_iov = iovecs[i].as_mut_ptr();
                headers[i].msg_hdr.msg_iovlen = 1 + usize::from(!parts[1].is_empty());
            }
            // SAFETY: every header points to iovecs over parts of a frame that outlive the call, and
            // the kernel only reads from them.
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
                        if !self.wait(PollFlags::POLLOUT, Duration::from_millis(100))? {
                            // It does not drain; others wait for us. Lost, as on the wire.
                            return Ok(());
                        }
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

/// Frames that the kernel dropped since the last call for want of room (`PACKET_STATISTICS`).
fn dropped_since(socket: &OwnedFd) -> u64 {
    let mut counted = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = mem::size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: `counted` is valid for writing for `length` bytes, and the versions of the ring that we
    // use fill in no more than a `tpacket_stats`.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut counted).cast(),
            &raw mut length,
        )
    };
    if got < 0 {
        0
    } else {
        u64::from(counted.tp_drops)
    }
}
