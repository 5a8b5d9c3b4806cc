//! Who else answers DHCP on a network.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use dhcproto::Encodable;
use dhcproto::v4::{self, DhcpOption, Flags, Message};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pnet::util::MacAddr;

use crate::datagram::{self, Ends};
use crate::interface::{Interface, InterfaceError};
use crate::socket::{FrameSocket, SocketError};

/// How long another DHCP server may take to answer: dnsmasq looks for 3 s whether anybody has an address
/// before it offers it for the first time (`ping-check`, on by default).
pub const PROBE_WAIT: Duration = Duration::from_secs(5);

/// A DHCP server that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DhcpServer {
    /// Its address.
    pub address: Ipv4Addr,
    /// The address it offered.
    pub offered: Ipv4Addr,
}

/// Why it could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The interface.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// While asking.
    #[error("cannot {action} on `{iface}`: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The interface.
        iface: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// Asks as a machine without an address would (not as one that boots from the network, so that
/// neither this host's netboot service nor another proxy answers), and collects answers for
/// `wait`. No address is taken. Needs CAP_NET_RAW. Blocks.
///
/// # Errors
/// The interface or a socket is not to be had.
pub fn probe(iface: &str, wait: Duration) -> Result<Vec<DhcpServer>, ProbeError> {
    Probe::open(&Interface::find(iface)?)?.ask(wait)
}

/// What is needed to ask; opening it needs CAP_NET_RAW, and asking does not.
pub(crate) struct Probe {
    interface: Interface,
    frames: FrameSocket,
}

impl Probe {
    pub fn open(interface: &Interface) -> Result<Probe, SocketError> {
        Ok(Probe {
            interface: interface.clone(),
            // Frames by hand, both ways: port 68 may belong to this host's own DHCP client.
            frames: FrameSocket::open(interface, true)?,
        })
    }

    /// As [`probe`].
    pub fn ask(self, wait: Duration) -> Result<Vec<DhcpServer>, ProbeError> {
        ask(&self.interface, &self.frames, wait)
    }
}

fn ask(
    interface: &Interface,
    frames: &FrameSocket,
    wait: Duration,
) -> Result<Vec<DhcpServer>, ProbeError> {
    let failed = |action| {
        let iface = interface.name.clone();
        move |source| ProbeError::Io {
            action,
            iface,
            source,
        }
    };

    let mut discover = Message::default();
    discover
        .set_flags(Flags::default().set_broadcast())
        .set_chaddr(&interface.mac.octets());
    discover
        .opts_mut()
        .insert(DhcpOption::MessageType(v4::MessageType::Discover));
    let xid = discover.xid();
    let mut payload = discover
        .to_vec()
        .map_err(|e| failed("make a DHCP question")(io::Error::other(e)))?;
    payload.resize(payload.len().max(v4::MIN_PACKET_SIZE), 0);
    let ends = Ends {
        source: (Ipv4Addr::UNSPECIFIED, 68),
        destination: (Ipv4Addr::BROADCAST, 67),
    };
    let packet = datagram::build(ends, &payload)
        .ok_or_else(|| failed("make a DHCP question")(io::ErrorKind::InvalidData.into()))?;
    frames
        .send(MacAddr::broadcast(), &packet)
        .map_err(failed("ask for DHCP servers"))?;

    let mut found = BTreeSet::new();
    let deadline = Instant::now() + wait;
    let mut buffer = [0; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        // Rounded up, or the last millisecond would be spent spinning.
        let timeout =
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(
            &mut [PollFd::new(frames.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(failed("wait for answers")(e.into())),
        }
        while let Some(len) = frames
            .receive(&mut buffer)
            .map_err(failed("hear answers"))?
        {
            let packet = buffer.get(..len).unwrap_or_default();
            if let Some((ends, payload)) = datagram::read(packet)
                && ends.destination.1 == 68
            {
                found.extend(read_offer(payload, xid));
            }
        }
    }
    let ours: Vec<Ipv4Addr> = interface
        .addresses
        .iter()
        .map(|(address, _)| *address)
        .collect();
    Ok(found
        .into_iter()
        .filter(|server| !ours.contains(&server.address))
        .collect())
}

/// An offer for this transaction.
fn read_offer(payload: &[u8], xid: u32) -> Option<DhcpServer> {
    let message = v4::borrowed::Message::new(payload).ok()?;
    if payload.first() != Some(&2) || message.xid() != xid {
        return None;
    }
    let mut is_offer = false;
    let mut address = None;
    for option in message.opts() {
        match (u8::from(option.code()), option.data()) {
            (53, [kind]) => is_offer = *kind == 2,
            (54, data) => address = <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from),
            _ => {}
        }
    }
    (is_offer && !message.yiaddr().is_unspecified()).then_some(DhcpServer {
        address: address?,
        offered: message.yiaddr(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_an_offer_or_not(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if bytes.len() > 240 {
                bytes[0] = 2;
                bytes[4..8].copy_from_slice(&[0, 0, 0, 9]);
                bytes[236..240].copy_from_slice(&v4::MAGIC);
            }
            let _ = read_offer(&bytes, 9);
        }
    }
}
