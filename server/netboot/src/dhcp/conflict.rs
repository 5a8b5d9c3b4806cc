//! Whether an address is in use, asked by ARP before it is offered (RFC 2131, section 3.1, point 2;
//! RFC 5227). Asking takes a while, and other clients are answered meanwhile.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use pnet::packet::arp::{ArpHardwareTypes, ArpOperations, ArpPacket, MutableArpPacket};
use pnet::packet::ethernet::EtherTypes;
use pnet::util::MacAddr;

use super::decide::Port;
use super::request::Request;

/// How long an answer is waited for. ROMs ask again after a second at the earliest (iPXE; others
/// after four), and this is to be over by then.
const WAIT: Duration = Duration::from_millis(500);
/// How long nobody's answer counts: as long as an offer is held.
const FREE_FOR: Duration = Duration::from_secs(120);
/// Addresses remembered at most; then the oldest questions are forgotten, and asked again.
const MAX: usize = 4096;

/// A question that waits for an answer about the address it would be offered.
#[derive(Debug)]
pub struct Waiting {
    /// What was asked.
    pub request: Request,
    /// On which port.
    pub port: Port,
    until: Instant,
}

/// Addresses that were asked for.
#[derive(Debug, Default)]
pub struct Conflicts {
    waiting: HashMap<Ipv4Addr, Waiting>,
    free: HashMap<Ipv4Addr, Instant>,
}

impl Conflicts {
    /// Whether the address may be offered now.
    pub fn is_free(&self, address: Ipv4Addr, now: Instant) -> bool {
        self.free
            .get(&address)
            .is_some_and(|asked| now.saturating_duration_since(*asked) < FREE_FOR)
    }

    /// The question waits for it. Returns whether ARP is to be asked: not again for a client that
    /// only repeats itself.
    pub fn wait(&mut self, address: Ipv4Addr, request: Request, port: Port, now: Instant) -> bool {
        let until = match self.waiting.get(&address) {
            Some(known) if known.request.mac == request.mac => known.until,
            _ => now + WAIT,
        };
        let waiting = Waiting {
            request,
            port,
            until,
        };
        self.waiting.insert(address, waiting).is_none()
    }

    /// Somebody has this address. Returns the question it was to be the answer to, unless it was its own
    /// client that spoke.
    pub fn heard(&mut self, address: Ipv4Addr, mac: MacAddr) -> Option<Waiting> {
        self.free.remove(&address);
        match self.waiting.get(&address) {
            Some(waiting) if waiting.request.mac != mac => self.waiting.remove(&address),
            _ => None,
        }
    }

    /// When there is next something to do.
    pub fn next(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.until).min()
    }

    /// Questions whose address nobody claimed in time.
    pub fn due(&mut self, now: Instant) -> Vec<Waiting> {
        let over: Vec<Ipv4Addr> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.until <= now)
            .map(|(address, _)| *address)
            .collect();
        let mut due = Vec::new();
        for address in over {
            self.assume_free(address, now);
            due.extend(self.waiting.remove(&address));
        }
        due
    }

    /// The address is offered without (more) asking.
    pub fn assume_free(&mut self, address: Ipv4Addr, now: Instant) {
        if self.free.len() >= MAX {
            self.free.clear();
        }
        self.free.insert(address, now);
    }
}

/// An ARP probe (RFC 5227, section 2.1.1): from nobody's address, so that nobody takes note of it.
pub fn probe(own: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0; MutableArpPacket::minimum_packet_size()];
    if let Some(mut packet) = MutableArpPacket::new(&mut bytes) {
        packet.set_hardware_type(ArpHardwareTypes::Ethernet);
        packet.set_protocol_type(EtherTypes::Ipv4);
        packet.set_hw_addr_len(6);
        packet.set_proto_addr_len(4);
        packet.set_operation(ArpOperations::Request);
        packet.set_sender_hw_addr(own);
        packet.set_target_proto_addr(address);
    }
    bytes
}

/// Who says by this packet, question or answer, that it has which address.
pub fn claim(bytes: &[u8]) -> Option<(Ipv4Addr, MacAddr)> {
    let packet = ArpPacket::new(bytes)?;
    let ours = packet.get_hardware_type() == ArpHardwareTypes::Ethernet
        && packet.get_protocol_type() == EtherTypes::Ipv4
        && packet.get_hw_addr_len() == 6
        && packet.get_proto_addr_len() == 4;
    let address = packet.get_sender_proto_addr();
    (ours && !address.is_unspecified()).then(|| (address, packet.get_sender_hw_addr()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientKind;
    use crate::dhcp::MessageType;
    use proptest::prelude::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 200);

    fn mac(n: u8) -> MacAddr {
        MacAddr::new(0x52, 0x54, 0, 0, 0, n)
    }

    fn request(n: u8) -> Request {
        Request {
            message_type: MessageType::Discover,
            xid: 1,
            secs: 0,
            broadcast: false,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            mac: mac(n),
            requested: None,
            server: None,
            client: ClientKind::Bios { ipxe: false },
            machine_id: None,
        }
    }

    #[test]
    fn silence_makes_it_free_for_a_while_and_an_answer_does_not() {
        let (mut conflicts, start) = (Conflicts::default(), Instant::now());
        assert!(!conflicts.is_free(ADDRESS, start));
        assert!(conflicts.wait(ADDRESS, request(1), Port::Dhcp, start));
        assert_eq!(conflicts.next(), Some(start + WAIT));
        let later = start + WAIT / 2;
        // It repeats itself: not asked again, and not longer.
        assert!(!conflicts.wait(ADDRESS, request(1), Port::Dhcp, later));
        assert!(conflicts.due(later).is_empty());
        assert_eq!(conflicts.due(start + WAIT).len(), 1);
        assert!(conflicts.is_free(ADDRESS, start + WAIT) && conflicts.next().is_none());
        assert!(!conflicts.is_free(ADDRESS, start + WAIT + FREE_FOR));

        assert!(conflicts.wait(ADDRESS, request(1), Port::Dhcp, start));
        assert!(conflicts.heard(ADDRESS, mac(1)).is_none(), "its own answer");
        assert_eq!(
            conflicts.heard(ADDRESS, mac(2)).unwrap().request.mac,
            mac(1)
        );
        assert!(conflicts.heard(ADDRESS, mac(2)).is_none() && conflicts.next().is_none());
        assert!(!conflicts.is_free(ADDRESS, start + WAIT));
    }

    #[test]
    fn a_probe_claims_nothing() {
        let bytes = probe(mac(1), ADDRESS);
        assert_eq!(bytes.len(), 28);
        assert_eq!(claim(&bytes), None);
        let mut answer = bytes;
        answer[14..18].copy_from_slice(&ADDRESS.octets());
        assert_eq!(claim(&answer), Some((ADDRESS, mac(1))));
        assert_eq!(claim(&answer[..27]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_claim_something_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = claim(&bytes);
        }
    }
}
