//! Command 1: query config information. Discovery, and the config string.
use p2v_contract::bytes::{Short, fixed};

/// Bytes before the config string.
pub const CONFIG_LEN: usize = 8;
/// Longest config string in bytes (AoEr11, section 3.2).
pub const STRING_MAX: usize = 1024;

/// Sub-commands (low four bits of byte 27).
pub mod sub {
    /// Read the config string.
    pub const READ: u8 = 0;
    /// Answer only if the string is equal.
    pub const TEST: u8 = 1;
    /// Answer only if the given string is a prefix.
    pub const TEST_PREFIX: u8 = 2;
    /// Set the string if there is none.
    pub const SET_IF_EMPTY: u8 = 3;
    /// Set the string whatever there is.
    pub const FORCE_SET: u8 = 4;
}

/// The body of a config query or its reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryConfig {
    /// Requests that the target can hold for one initiator.
    pub buffer_count: u16,
    /// Version of the target's firmware.
    pub firmware: u16,
    /// Largest count of sectors in one frame; 0 means 2.
    pub sectors: u8,
    /// One of [`sub`].
    pub sub: u8,
    /// The config string.
    pub string: Vec<u8>,
}

impl QueryConfig {
    /// Reads the body. A string length beyond the body or [`STRING_MAX`] is an error.
    ///
    /// # Errors
    /// The body ends before its string does, or that is longer than [`STRING_MAX`].
    pub fn parse(body: &[u8]) -> Result<QueryConfig, Short> {
        let (bytes, rest) = fixed::<CONFIG_LEN>(body)?;
        let [b0, b1, f0, f1, sectors, version_and_sub, l0, l1] = *bytes;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let string = rest
            .get(..length)
            .filter(|_| length <= STRING_MAX)
            .ok_or(Short {
                have: body.len(),
                need: CONFIG_LEN + length,
            })?;
        Ok(QueryConfig {
            buffer_count: u16::from_be_bytes([b0, b1]),
            firmware: u16::from_be_bytes([f0, f1]),
            sectors,
            sub: version_and_sub & 0x0f,
            string: string.to_vec(),
        })
    }

    /// The body as bytes, with protocol version 1.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CONFIG_LEN + self.string.len());
        bytes.extend(self.buffer_count.to_be_bytes());
        bytes.extend(self.firmware.to_be_bytes());
        bytes.push(self.sectors);
        bytes.push(0x10 | self.sub & 0x0f);
        bytes.extend((self.string.len() as u16).to_be_bytes());
        bytes.extend(&self.string);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = QueryConfig::parse(&bytes);
        }

        #[test]
        fn and_back(
            buffer_count: u16, firmware: u16, sectors: u8, sub in 0u8..16,
            string in proptest::collection::vec(any::<u8>(), 0..STRING_MAX),
        ) {
            let config = QueryConfig { buffer_count, firmware, sectors, sub, string };
            prop_assert_eq!(QueryConfig::parse(&config.to_bytes()).unwrap(), config);
        }
    }

    #[test]
    fn a_length_beyond_the_frame_is_refused() {
        let mut bytes = QueryConfig {
            string: vec![1; 4],
            ..QueryConfig::default()
        }
        .to_bytes();
        bytes[7] = 5;
        assert_eq!(
            QueryConfig::parse(&bytes),
            Err(Short { have: 12, need: 13 })
        );
    }
}
