//! A UDP datagram in a frame, whoever it says it is from.

use std::net::Ipv4Addr;

use p2v_contract::MacAddr;
use pnet::packet::ethernet::{EtherTypes, MutableEthernetPacket};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, MutableIpv4Packet};
use pnet::packet::udp::MutableUdpPacket;

/// Bytes of the three headers.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
/// What an Ethernet frame carries after its own header.
const MTU: usize = 1500;

/// Hardware address, address and port.
pub type End = (MacAddr, Ipv4Addr, u16);

/// The frame; the payload is cut to what one carries. No checksum of UDP's own: it may be left out (RFC 768).
pub fn frame(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(MTU - IPV4 - UDP)];
    let mut frame = vec![0; ETHERNET + IPV4 + UDP + payload.len()];
    let mut ethernet = MutableEthernetPacket::new(&mut frame).unwrap();
    ethernet.set_source(from.0);
    ethernet.set_destination(to.0);
    ethernet.set_ethertype(EtherTypes::Ipv4);
    let mut ip = MutableIpv4Packet::new(&mut frame[ETHERNET..]).unwrap();
    ip.set_version(4);
    ip.set_header_length(5);
    ip.set_total_length((IPV4 + UDP + payload.len()) as u16);
    ip.set_ttl(64);
    ip.set_next_level_protocol(IpNextHeaderProtocols::Udp);
    ip.set_source(from.1);
    ip.set_destination(to.1);
    let sum = ipv4::checksum(&ip.to_immutable());
    ip.set_checksum(sum);
    let mut udp = MutableUdpPacket::new(&mut frame[ETHERNET + IPV4..]).unwrap();
    udp.set_source(from.2);
    udp.set_destination(to.2);
    udp.set_length((UDP + payload.len()) as u16);
    udp.set_payload(payload);
    frame
}
