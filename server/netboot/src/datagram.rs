//! UDP over IPv4 in an Ethernet frame, made and read by hand: for talking to clients that have no
//! address yet, and for listening without one.

use std::net::Ipv4Addr;

use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet::packet::udp::{self, MutableUdpPacket, UdpPacket};

const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// Who and where, on both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub source: (Ipv4Addr, u16),
    pub destination: (Ipv4Addr, u16),
}

/// An IPv4 packet with `payload`; `None` if it is too long for one.
pub(crate) fn build(ends: Ends, payload: &[u8]) -> Option<Vec<u8>> {
    let udp_len = u16::try_from(UDP_HEADER + payload.len()).ok()?;
    let total_len = u16::try_from(IPV4_HEADER + usize::from(udp_len)).ok()?;
    let mut bytes = vec![0; total_len.into()];

    let mut udp = MutableUdpPacket::new(bytes.get_mut(IPV4_HEADER..)?)?;
    udp.set_source(ends.source.1);
    udp.set_destination(ends.destination.1);
    udp.set_length(udp_len);
    udp.set_payload(payload);
    let sum = udp::ipv4_checksum(&udp.to_immutable(), &ends.source.0, &ends.destination.0);
    // RFC 768: a sum of zero is sent as all ones, because zero means "none".
    udp.set_checksum(if sum == 0 { 0xFFFF } else { sum });

    let mut ip = MutableIpv4Packet::new(&mut bytes)?;
    ip.set_version(4);
    ip.set_header_length(5);
    ip.set_total_length(total_len);
    ip.set_ttl(64);
    ip.set_next_level_protocol(IpNextHeaderProtocols::Udp);
    ip.set_source(ends.source.0);
    ip.set_destination(ends.destination.0);
    let sum = ipv4::checksum(&ip.to_immutable());
    ip.set_checksum(sum);
    Some(bytes)
}

/// The ends and the payload of a UDP datagram in an IPv4 packet; `None` for anything else, and for
/// fragments. Checksums are not looked at: frames from this same host have none yet.
pub(crate) fn read(packet: &[u8]) -> Option<(Ends, &[u8])> {
    let ip = Ipv4Packet::new(packet)?;
    let header = usize::from(ip.get_header_length()) * 4;
    if ip.get_version() != 4
        || header < IPV4_HEADER
        || ip.get_next_level_protocol() != IpNextHeaderProtocols::Udp
        || ip.get_fragment_offset() != 0
        || ip.get_flags() & ipv4::Ipv4Flags::MoreFragments != 0
    {
        return None;
    }
    let udp_bytes = packet.get(header..usize::from(ip.get_total_length()))?;
    let udp = UdpPacket::new(udp_bytes)?;
    let payload = udp_bytes.get(UDP_HEADER..usize::from(udp.get_length()))?;
    let ends = Ends {
        source: (ip.get_source(), udp.get_source()),
        destination: (ip.get_destination(), udp.get_destination()),
    };
    Some((ends, payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pnet::packet::Packet;
    use proptest::prelude::*;

    const ENDS: Ends = Ends {
        source: (Ipv4Addr::new(10, 0, 0, 1), 67),
        destination: (Ipv4Addr::new(10, 0, 0, 9), 68),
    };

    #[test]
    fn checksums_are_right() {
        let bytes = build(ENDS, b"odd").unwrap();
        let ip = Ipv4Packet::new(&bytes).unwrap();
        assert_eq!(ipv4::checksum(&ip), ip.get_checksum());
        let udp = UdpPacket::new(ip.payload()).unwrap();
        let sum = udp::ipv4_checksum(&udp, &ENDS.source.0, &ENDS.destination.0);
        assert_eq!(sum, udp.get_checksum());
        assert!(build(ENDS, &[0; 65508]).is_none());
    }

    proptest! {
        #[test]
        fn what_is_built_is_read(payload in proptest::collection::vec(any::<u8>(), 0..600)) {
            let bytes = build(ENDS, &payload).unwrap();
            prop_assert_eq!(read(&bytes), Some((ENDS, &payload[..])));
        }

        #[test]
        fn any_bytes_are_read_or_not(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), ip: bool) {
            if let (true, Some(first)) = (ip, bytes.first_mut()) { *first = 0x45; }
            let _ = read(&bytes);
        }
    }
}
