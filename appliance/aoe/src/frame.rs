//! The AoE frame: Ethernet header, AoE header, and the bodies of the standard commands.
//!
//! Byte layout from the AoE specification (AoEr11). Nothing here does I/O: frames are byte slices.
//! Ethernet pads short frames, so lengths are taken from the headers and never from the frame,
//! and a body is what is left of the frame, padding included.

use p2v_contract::address::Address;
use pnet::packet::Packet;
use pnet::packet::ethernet::{EtherType, EthernetPacket, MutableEthernetPacket};
use pnet::util::MacAddr;

use crate::header::{AoePacket, MutableAoePacket};

/// EtherType of ATA over Ethernet (AoEr11, section 2).
pub const ETHERTYPE: u16 = 0x88A2;
/// Bytes of the Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// Bytes of the Ethernet and AoE headers together: where a command's body begins.
pub const HEADER_LEN: usize = 24;
/// Smallest Ethernet frame without its check sequence (IEEE 802.3): shorter ones are zero-padded.
pub const FRAME_MIN: usize = 60;
/// The one version of the protocol there is.
pub const VERSION: u8 = 1;

const FLAG_RESPONSE: u8 = 0x8;
const FLAG_ERROR: u8 = 0x4;

/// Standard and vendor command codes (byte 19).
pub mod command {
    /// Issue ATA command.
    pub const ATA: u8 = 0;
    /// Query config information.
    pub const CONFIG: u8 = 1;
    /// MAC mask list.
    pub const MAC_MASK: u8 = 2;
    /// Reserve/release.
    pub const RESERVE: u8 = 3;
    /// p2v's own command, first of the vendor range 0xF0 to 0xFF.
    pub const P2V: u8 = 0xF0;
}

/// AoE error codes (byte 15), valid when the error flag is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ErrorCode {
    /// The command is not known.
    UnrecognisedCommand = 1,
    /// An argument is out of its range.
    BadArgument = 2,
    /// The device cannot be used now.
    DeviceUnavailable = 3,
    /// "Set if empty" found a config string.
    ConfigStringPresent = 4,
    /// The version is not 1.
    UnsupportedVersion = 5,
    /// Another initiator holds a reservation.
    TargetReserved = 6,
}

/// The headers of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Destination of the frame.
    pub destination: MacAddr,
    /// Source of the frame.
    pub source: MacAddr,
    /// A response; requests have this clear.
    pub response: bool,
    /// The error code if the error flag is set (any byte may come from the wire).
    pub error: Option<u8>,
    /// Shelf and slot; 0xFFFF and 0xFF mean all.
    pub address: Address,
    /// One of [`command`].
    pub command: u8,
    /// Chosen by the initiator, returned untouched by the target.
    pub tag: u32,
}

/// Why bytes are not an AoE frame that we can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than the headers have.
    #[error("frame of {0} bytes is shorter than the 24 bytes of the headers")]
    Truncated(usize),
    /// Another protocol.
    #[error("EtherType {0:#06x} is not AoE (0x88a2)")]
    NotAoe(u16),
    /// The header is readable, and so an error can be answered.
    #[error("AoE version {version} is not 1")]
    Version {
        /// The version of the frame.
        version: u8,
        /// Its headers.
        header: Header,
    },
}

/// Splits a frame into headers and body.
///
/// # Errors
/// [`FrameError`]: it is too short, is not AoE, or is of another version of it.
pub fn parse(frame: &[u8]) -> Result<(Header, &[u8]), FrameError> {
    let truncated = FrameError::Truncated(frame.len());
    let ethernet = EthernetPacket::new(frame).ok_or(truncated)?;
    let ethertype = ethernet.get_ethertype().0;
    if ethertype != ETHERTYPE {
        return Err(FrameError::NotAoe(ethertype));
    }
    let aoe = AoePacket::new(&frame[ETHERNET_LEN..]).ok_or(truncated)?;
    let flags = aoe.get_flags();
    let header = Header {
        destination: ethernet.get_destination(),
        source: ethernet.get_source(),
        response: flags & FLAG_RESPONSE != 0,
        error: (flags & FLAG_ERROR != 0).then(|| aoe.get_error()),
        address: Address::new(aoe.get_shelf(), aoe.get_slot()),
        command: aoe.get_command(),
        tag: aoe.get_tag(),
    };
    let version = aoe.get_version();
    if version != VERSION {
        return Err(FrameError::Version { version, header });
    }
    debug_assert_eq!(aoe.payload().len(), frame.len() - HEADER_LEN);
    Ok((header, &frame[HEADER_LEN..]))
}

impl Header {
    /// A request from `source`.
    pub fn request(
        source: MacAddr,
        destination: MacAddr,
        address: Address,
        command: u8,
        tag: u32,
    ) -> Header {
        Header {
            destination,
            source,
            response: false,
            error: None,
            address,
            command,
            tag,
        }
    }

    /// The headers of the answer: addresses swapped, the target's own address, the tag untouched.
    pub fn reply(&self, own: Address, own_mac: MacAddr) -> Header {
        Header {
            destination: self.source,
            source: own_mac,
            response: true,
            error: None,
            address: own,
            ..*self
        }
    }

    /// The same headers with the error flag and a code.
    pub fn with_error(self, code: ErrorCode) -> Header {
        Header {
            error: Some(code as u8),
            ..self
        }
    }

    /// A whole frame: headers, the parts of the body one after the other, zero padding up to
    /// [`FRAME_MIN`] bytes.
    pub fn frame(&self, body: &[&[u8]]) -> Vec<u8> {
        let length = HEADER_LEN + body.iter().map(|part| part.len()).sum::<usize>();
        let mut frame = Vec::with_capacity(length.max(FRAME_MIN));
        frame.resize(HEADER_LEN, 0);
        self.write(&mut frame);
        for part in body {
            frame.extend_from_slice(part);
        }
        frame.resize(length.max(FRAME_MIN), 0);
        frame
    }

    /// Writes the headers over the first [`HEADER_LEN`] bytes of `frame`, which must have them.
    pub fn write(&self, frame: &mut [u8]) {
        let (ethernet, aoe) = frame.split_at_mut(ETHERNET_LEN);
        if let Some(mut ethernet) = MutableEthernetPacket::new(ethernet) {
            ethernet.set_destination(self.destination);
            ethernet.set_source(self.source);
            ethernet.set_ethertype(EtherType(ETHERTYPE));
        }
        if let Some(mut aoe) = MutableAoePacket::new(aoe) {
            let response = if self.response { FLAG_RESPONSE } else { 0 };
            let error = if self.error.is_some() { FLAG_ERROR } else { 0 };
            aoe.set_version(VERSION);
            aoe.set_flags(response | error);
            aoe.set_error(self.error.unwrap_or(0));
            aoe.set_shelf(self.address.shelf);
            aoe.set_slot(self.address.slot);
            aoe.set_command(self.command);
            aoe.set_tag(self.tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mac() -> impl Strategy<Value = MacAddr> {
        any::<[u8; 6]>().prop_map(MacAddr::from)
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn encoded_headers_are_read_back(
            (destination, source) in (mac(), mac()), response: bool, error: Option<u8>,
            shelf: u16, slot: u8, command: u8, tag: u32, body in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let header = Header { destination, source, response, error, address: Address::new(shelf, slot), command, tag };
            let frame = header.frame(&[&body]);
            prop_assert!(frame.len() >= FRAME_MIN);
            let (read, rest) = parse(&frame).unwrap();
            prop_assert_eq!(read, header);
            prop_assert_eq!(&rest[..body.len()], &body[..]);
            prop_assert!(rest[body.len()..].iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn bytes_are_where_the_specification_has_them() {
        let header = Header::request(
            MacAddr::new(2, 0, 0, 0, 0, 1),
            MacAddr::new(0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
            Address::new(0x0102, 3),
            command::CONFIG,
            0x8001_0203,
        );
        let frame = header.with_error(ErrorCode::BadArgument).frame(&[]);
        assert_eq!(frame.len(), 60);
        assert_eq!(
            frame[..12],
            [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1]
        );
        assert_eq!(
            frame[12..24],
            [0x88, 0xa2, 0x14, 2, 1, 2, 3, 1, 0x80, 1, 2, 3]
        );
    }

    #[test]
    fn another_version_can_still_be_answered() {
        let mut frame =
            Header::request(MacAddr::zero(), MacAddr::zero(), Address::new(1, 2), 0, 9).frame(&[]);
        frame[14] = 0x20;
        assert!(
            matches!(parse(&frame), Err(FrameError::Version { version: 2, header }) if header.tag == 9)
        );
        assert_eq!(parse(&frame[..23]), Err(FrameError::Truncated(23)));
        frame[12] = 8;
        assert_eq!(parse(&frame), Err(FrameError::NotAoe(0x08a2)));
    }
}
