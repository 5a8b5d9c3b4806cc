//! The options of a transfer: what a client asks for, and what it is granted (RFC 2347).

use std::ops::RangeInclusive;

use super::fields::Fields;

/// Bytes in a block where nothing else was agreed (RFC 1350).
const BLOCK_SIZE: u16 = 512;
/// Block sizes that exist (RFC 2348).
const BLOCK_SIZES: RangeInclusive<u16> = 8..=65464;

/// The most that is granted.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the file in a block.
    pub block_size: u16,
    /// Blocks in flight.
    pub window: u16,
}

/// What a client asks for. Its `timeout` (RFC 2349) is not looked at: up to 255 s would hold a lost block
/// that long, and an option that is not acknowledged does not count. Values that do not exist are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `blksize` (RFC 2348): bytes in a block.
    pub block_size: Option<u16>,
    /// `tsize` 0 (RFC 2349): the size of the file.
    pub size: bool,
    /// `windowsize` (RFC 7440): blocks in flight.
    pub window: Option<u16>,
}

impl Asked {
    pub(super) fn parse(mut fields: Fields<'_>) -> Asked {
        let mut asked = Asked::default();
        while let Some(name) = fields.next() {
            if name.is_empty() {
                // A NUL too many.
                continue;
            }
            let Some(value) = fields.next() else { break };
            let value: Option<u64> = str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok());
            let Some(value) = value else { continue };
            let small = u16::try_from(value).ok();
            match name.to_ascii_lowercase().as_slice() {
                b"blksize" => {
                    asked.block_size = small
                        .filter(|size| BLOCK_SIZES.contains(size))
                        .or(asked.block_size);
                }
                b"tsize" => asked.size = value == 0,
                b"windowsize" => asked.window = small.filter(|&size| size > 0).or(asked.window),
                _ => {}
            }
        }
        asked
    }

    /// What is granted for a file of so many bytes: nothing that was not asked for, which PXELINUX would
    /// not bear with.
    pub fn grant(self, limits: Limits, file_len: usize) -> Granted {
        Granted {
            block_size: self.block_size.map(|size| size.min(limits.block_size)),
            size: self.size.then_some(file_len as u64),
            window: self.window.map(|size| size.min(limits.window)),
        }
    }
}

/// What holds for one transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    block_size: Option<u16>,
    size: Option<u64>,
    window: Option<u16>,
}

impl Granted {
    /// Bytes of the file in a block.
    pub fn block_size(&self) -> u16 {
        self.block_size.unwrap_or(BLOCK_SIZE)
    }

    /// Blocks in flight.
    pub fn window(&self) -> u16 {
        self.window.unwrap_or(1)
    }

    /// Names and values, as they are acknowledged.
    pub(super) fn list(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("blksize", self.block_size.map(u64::from)),
            ("tsize", self.size),
            ("windowsize", self.window.map(u64::from)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::{self, Request};
    use super::*;

    const LIMITS: Limits = Limits {
        block_size: 1456,
        window: 16,
    };

    fn acknowledged(options: &[u8]) -> Option<Vec<u8>> {
        let datagram = [b"\0\x01vmlinuz\0octet\0", options].concat();
        let asked = Request::parse(&datagram).unwrap().options;
        packet::options(&asked.grant(LIMITS, 300_001))
    }

    #[test]
    fn only_what_was_asked_for_is_granted_and_within_the_limits() {
        for (asked, granted) in [
            (
                &b"tsize\x000\0blksize\x001408\0"[..],
                &b"blksize\x001408\0tsize\x00300001\0"[..],
            ),
            (
                b"blksize\x0065464\0windowsize\x0064000\0",
                b"blksize\x001456\0windowsize\x0016\0",
            ),
            (
                b"BLKSIZE\x00512\0timeout\x00255\0x-new\0y\0",
                b"blksize\x00512\0",
            ),
            (b"blksize\x001408\0blksize\x00x\0", b"blksize\x001408\0"),
        ] {
            let packet = [b"\0\x06", granted].concat();
            assert_eq!(acknowledged(asked), Some(packet), "{asked:?}");
        }
    }

    #[test]
    fn what_follows_the_last_whole_option_is_ignored() {
        for rubbish in [
            &b"\0"[..],
            b"\0\0\0",
            b"\xFF\xFEgarbage",
            b"tsize",
            b"\xFF\0\xFE\0",
        ] {
            let asked = [b"blksize\x001408\0", rubbish].concat();
            assert_eq!(
                acknowledged(&asked).unwrap(),
                b"\0\x06blksize\x001408\0",
                "{asked:?}"
            );
        }
        let between = acknowledged(b"blksize\x001408\0\0tsize\x000\0").unwrap();
        assert_eq!(between, b"\0\x06blksize\x001408\0tsize\x00300001\0");
    }

    #[test]
    fn absurd_values_count_as_not_sent() {
        for absurd in [
            &b"blksize\x000\0"[..],
            b"blksize\x007\0",
            b"blksize\x0065465\0",
            b"blksize\x0099999999999999999999\0",
            b"blksize\0-1\0",
            b"windowsize\x000\0",
            b"windowsize\x0065536\0",
            b"tsize\x004096\0",
            b"timeout\x003\0",
            b"blksize",
        ] {
            assert_eq!(acknowledged(absurd), None, "{absurd:?}");
        }
    }
}
