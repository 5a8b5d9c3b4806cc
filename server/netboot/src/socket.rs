//! The sockets: ports bound to one interface, and raw IPv4 frames on it.

use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, Backlog, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn,
    SockaddrLike, bind, listen, sendto, setsockopt, socket, sockopt,
};
use pnet::util::MacAddr;

use crate::interface::{Interface, server_address};
use crate::port_holder::{port_holders, tcp_port_holders};
use crate::settings::Settings;

/// DHCP servers' port.
pub(crate) const DHCP_PORT: u16 = 67;

/// Bytes of a TCP connection in the kernel at most (it doubles this for its own needs): enough for a
/// wire of 10 Gbit/s, and the end of a file is not told long before the client has it.
const SEND_BUFFER: usize = 256 * 1024;

/// A port that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {source}{}", advice(source, holders))]
pub struct SocketError {
    /// What was tried, on what.
    pub action: String,
    /// The system's answer.
    pub source: io::Error,
    /// Programs that have the port, as far as could be found out.
    pub holders: Vec<String>,
}

fn advice(source: &io::Error, holders: &[String]) -> String {
    match source.raw_os_error() {
        Some(libc::EADDRINUSE) if holders.is_empty() => {
            " (`ss -tulpn` as root names the program that has it: stop it, or keep it off this interface)".to_owned()
        }
        Some(libc::EADDRINUSE) => format!(
            " by {} (stop it, or keep it off this interface; for DHCP, mode \"off\" leaves the port to it; for HTTP, `http_port`)",
            holders.join(", ")
        ),
        Some(libc::EACCES | libc::EPERM) => {
            " (needs root, or CAP_NET_BIND_SERVICE and CAP_NET_RAW)".to_owned()
        }
        _ => String::new(),
    }
}

/// A UDP port on one interface. Never shared (`SO_REUSEADDR`): a second server on the port would
/// take half of the questions, and must be an error that can be read.
pub(crate) fn udp_port(
    interface: &Interface,
    local: SocketAddrV4,
    what: &str,
) -> Result<UdpSocket, SocketError> {
    let open = || -> nix::Result<OwnedFd> {
        let fd = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        setsockopt(&fd, sockopt::BindToDevice, &interface.name.clone().into())?;
        setsockopt(&fd, sockopt::Broadcast, &true)?;
        bind(fd.as_raw_fd(), &SockaddrIn::from(local))?;
        Ok(fd)
    };
    open().map(UdpSocket::from).map_err(|errno| SocketError {
        action: format!(
            "listen on UDP port {} ({what}) of `{}`",
            local.port(),
            interface.name
        ),
        source: errno.into(),
        holders: if errno == nix::Error::EADDRINUSE {
            port_holders(local.port())
        } else {
            vec![]
        },
    })
}

/// A TCP port on one interface, listened to.
pub(crate) fn tcp_port(
    interface: &Interface,
    local: SocketAddrV4,
    what: &str,
) -> Result<TcpListener, SocketError> {
    let open = || -> nix::Result<OwnedFd> {
        let fd = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        setsockopt(&fd, sockopt::BindToDevice, &interface.name.clone().into())?;
        // Other than with UDP this shares the port with nobody who listens: it is for a restart
        // while connections of before are still known (`socket(7)`).
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        setsockopt(&fd, sockopt::SndBuf, &SEND_BUFFER)?;
        bind(fd.as_raw_fd(), &SockaddrIn::from(local))?;
        listen(&fd, Backlog::MAXCONN)?;
        Ok(fd)
    };
    open().map(TcpListener::from).map_err(|errno| SocketError {
        action: format!(
            "listen on TCP port {} ({what}) of `{}`",
            local.port(),
            interface.name
        ),
        source: errno.into(),
        holders: if errno == nix::Error::EADDRINUSE {
            tcp_port_holders(local.port())
        } else {
            vec![]
        },
    })
}

/// Asks for a UDP port as [`serve`](crate::serve) would, and gives it back: a program that has that port of another
/// interface only is not in its way.
///
/// # Errors
/// The interface, or what the system said.
pub fn try_udp_port(settings: &Settings, port: u16) -> io::Result<()> {
    let interface = Interface::find(&settings.iface).map_err(io::Error::other)?;
    let address = match port {
        DHCP_PORT => Ipv4Addr::UNSPECIFIED,
        _ => server_address(settings).map_err(io::Error::other)?,
    };
    let tried = udp_port(&interface, SocketAddrV4::new(address, port), "");
    tried.map(drop).map_err(|error| error.source)
}

/// The same of a TCP port.
///
/// # Errors
/// As [`try_udp_port`].
pub fn try_tcp_port(settings: &Settings, port: u16) -> io::Result<()> {
    let interface = Interface::find(&settings.iface).map_err(io::Error::other)?;
    let address = server_address(settings).map_err(io::Error::other)?;
    let tried = tcp_port(&interface, SocketAddrV4::new(address, port), "");
    tried.map(drop).map_err(|error| error.source)
}

/// IPv4 or ARP packets in Ethernet frames of our making, on one interface.
#[derive(Debug)]
pub(crate) struct FrameSocket {
    socket: OwnedFd,
    index: u32,
    /// EtherType, as `ETH_P_IP`.
    protocol: i32,
}

impl FrameSocket {
    /// Opens it. `hear`: also receive IPv4 packets; else nothing ever arrives in it.
    pub fn open(interface: &Interface, hear: bool) -> Result<FrameSocket, SocketError> {
        FrameSocket::of_type(interface, libc::ETH_P_IP, hear)
    }

    /// One that sends and receives ARP packets.
    pub fn arp(interface: &Interface) -> Result<FrameSocket, SocketError> {
        FrameSocket::of_type(interface, libc::ETH_P_ARP, true)
    }

    fn of_type(
        interface: &Interface,
        protocol: i32,
        hear: bool,
    ) -> Result<FrameSocket, SocketError> {
        let failed = |errno: nix::Error| SocketError {
            action: format!("send raw frames on `{}`", interface.name),
            source: errno.into(),
            holders: vec![],
        };
        // Protocol 0: no frame is queued before the socket is bound to its interface.
        let socket = socket(
            AddressFamily::Packet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None::<SockProtocol>,
        )
        .map_err(failed)?;
        let frames = FrameSocket {
            socket,
            index: interface.index,
            protocol,
        };
        if hear {
            let here = frames.address(MacAddr::zero());
            bind(frames.socket.as_raw_fd(), &here).map_err(failed)?;
        }
        Ok(frames)
    }

    fn address(&self, to: MacAddr) -> LinkAddr {
        let mut addr = [0; 8];
        addr[..6].copy_from_slice(&to.octets());
        let raw = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (self.protocol as u16).to_be(),
            sll_ifindex: self.index as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: addr,
        };
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `raw` is a whole `sockaddr_ll` of the length given, and is copied.
        let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(len)) };
        // `from_raw` looks only at the family and the length, which are as it wants them.
        address.expect("an AF_PACKET address of full length")
    }

    /// Sends one packet to a station.
    pub fn send(&self, to: MacAddr, packet: &[u8]) -> io::Result<()> {
        sendto(
            self.socket.as_raw_fd(),
            packet,
            &self.address(to),
            MsgFlags::MSG_DONTWAIT,
        )?;
        Ok(())
    }

    /// One packet that came in, if there is one.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match nix::sys::socket::recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(len) => Ok(Some(len)),
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsRawFd for FrameSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for FrameSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
