//! A machine's SMBIOS UUID, which all its network cards have in common.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The UUID. Firmware, boot loaders and Linux write its first three fields in either byte order (SMBIOS 3.x, 7.2.1), so
/// those two texts are one and the same here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MachineId([u8; 16]);

/// What firmware has that was given none: it names no machine.
const NOBODYS: [[u8; 16]; 4] = [
    [0; 16],
    [0xff; 16],
    // AMI's and Intel's samples, which many boards were sold with.
    [
        0x03, 0x00, 0x02, 0x00, 0x04, 0x00, 0x05, 0x00, 0x00, 0x06, 0x00, 0x07, 0x00, 0x08, 0x00,
        0x09,
    ],
    [
        0x12, 0x34, 0x56, 0x78, 0x12, 0x34, 0x56, 0x78, 0x90, 0xab, 0xcd, 0xde, 0xef, 0xaa, 0xbb,
        0xcc,
    ],
];

impl MachineId {
    /// The one with these bytes, in either order; `None`: it is nobody's.
    fn new(bytes: [u8; 16]) -> Option<MachineId> {
        let both = |bytes: [u8; 16]| bytes.min(swapped(bytes));
        let nobodys = NOBODYS.into_iter().any(|known| both(known) == both(bytes));
        (!nobodys).then_some(MachineId(both(bytes)))
    }

    /// Both its texts, in lower case.
    pub fn texts(&self) -> [String; 2] {
        [text(self.0), text(swapped(self.0))]
    }

    /// DHCP option 97 (RFC 4578, 2.3): type 0, and 16 bytes.
    pub fn from_option(data: &[u8]) -> Option<MachineId> {
        match data {
            [0, bytes @ ..] => MachineId::new(bytes.try_into().ok()?),
            _ => None,
        }
    }
}

fn text(bytes: [u8; 16]) -> String {
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    let [a, b, c, d, e] = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
    format!("{a}-{b}-{c}-{d}-{e}")
}

fn swapped(bytes: [u8; 16]) -> [u8; 16] {
    let mut swapped = bytes;
    swapped[..4].reverse();
    swapped[4..6].reverse();
    swapped[6..8].reverse();
    swapped
}

/// Why a text is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a machine's UUID: 32 hex digits with dashes, as dmidecode -s system-uuid prints it")]
pub struct NoMachineId;

impl FromStr for MachineId {
    type Err = NoMachineId;

    fn from_str(text: &str) -> Result<MachineId, NoMachineId> {
        let dashed = [8, 13, 18, 23]
            .iter()
            .all(|at| text.as_bytes().get(*at) == Some(&b'-'));
        let digits = text.replace('-', "");
        if !dashed || text.len() != 36 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NoMachineId);
        }
        let number = u128::from_str_radix(&digits, 16).map_err(|_| NoMachineId)?;
        MachineId::new(number.to_be_bytes()).ok_or(NoMachineId)
    }
}

/// One of its two texts.
impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text(self.0))
    }
}

impl Serialize for MachineId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MachineId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<MachineId, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_machine_in_either_byte_order_and_from_everywhere() {
        let linux: MachineId = "4c4c4544-0042-3510-8052-b4c04f4a3732".parse().unwrap();
        let raw = [
            0x44, 0x45, 0x4c, 0x4c, 0x42, 0x00, 0x10, 0x35, 0x80, 0x52, 0xb4, 0xc0, 0x4f, 0x4a,
            0x37, 0x32,
        ];
        let option = [&[0][..], &raw].concat();
        assert_eq!(MachineId::from_option(&option), Some(linux));
        let pxelinux = "44454c4c-4200-1035-8052-b4c04f4a3732";
        assert_eq!(pxelinux.parse(), Ok(linux));
        assert_eq!(linux.to_string().parse(), Ok(linux));
        assert!(linux.texts().contains(&pxelinux.to_owned()));
        let other = "4c4c4544-0042-3510-8052-b4c04f4a3733";
        assert_ne!(other.parse(), Ok(linux));
    }

    #[test]
    fn what_is_nobodys_is_none() {
        for text in [
            "",
            "4c4c4544",
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "03000200-0400-0500-0006-000700080009",
            "00020003-0004-0005-0006-000700080009",
            "4c4c4544-0042-3510-8052-b4c04f4a373g",
            "+c4c4544-0042-3510-8052-b4c04f4a3732",
            "4c4c45440042-3510-8052-b4c04f4a3732--",
        ] {
            assert_eq!(text.parse::<MachineId>(), Err(NoMachineId), "{text}");
        }
        for option in [&[][..], &[0; 17], &[1; 17], &[0, 1, 2]] {
            assert_eq!(MachineId::from_option(option), None);
        }
    }
}
