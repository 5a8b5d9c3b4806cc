//! One MAC address, or many: `52:54:00:12:34:56`, `52:54:00:*`, `*`, with dashes too.

use std::fmt;
use std::str::FromStr;

use pnet::util::MacAddr;
use serde::Deserialize;

use crate::mac::parse_mac;

/// An entry of `allow` or `deny`. Each byte is two hexadecimal digits or `*`; a `*` at the end stands
/// for all the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct MacPattern([Option<u8>; 6]);

/// Not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a MAC address nor the beginning of one and `*`, as in \"52:54:00:*\"")]
pub struct MacPatternError(String);

impl MacPattern {
    /// Whether it stands for this address.
    pub fn matches(&self, mac: MacAddr) -> bool {
        let bytes = mac.octets();
        self.0
            .iter()
            .zip(bytes)
            .all(|(wanted, byte)| wanted.is_none_or(|wanted| wanted == byte))
    }

    /// The bytes that it names, and where any is right.
    pub fn bytes(&self) -> [Option<u8>; 6] {
        self.0
    }

    /// The address, if it stands for only one.
    pub fn only(&self) -> Option<MacAddr> {
        match self.0 {
            [Some(a), Some(b), Some(c), Some(d), Some(e), Some(f)] => {
                Some(MacAddr::new(a, b, c, d, e, f))
            }
            _ => None,
        }
    }

    /// Whether it stands for this address, and for no other.
    pub fn is(&self, mac: MacAddr) -> bool {
        self.0 == mac.octets().map(Some)
    }
}

impl FromStr for MacPattern {
    type Err = MacPatternError;

    fn from_str(text: &str) -> Result<MacPattern, MacPatternError> {
        let refused = || MacPatternError(text.to_owned());
        if let Ok(mac) = parse_mac(text) {
            return Ok(mac.into());
        }
        let separator = if text.contains('-') { '-' } else { ':' };
        let parts: Vec<&str> = text.trim().split(separator).collect();
        let open = parts.last() == Some(&"*");
        if parts.len() > 6 || (parts.len() < 6 && !open) {
            return Err(refused());
        }
        let mut bytes = [None; 6];
        for (byte, part) in bytes.iter_mut().zip(parts) {
            if part != "*" {
                let hex = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
                let value = u8::from_str_radix(part, 16).map_err(|_| refused())?;
                *byte = Some(hex.then_some(value).ok_or_else(refused)?);
            }
        }
        Ok(MacPattern(bytes))
    }
}

impl TryFrom<String> for MacPattern {
    type Error = MacPatternError;

    fn try_from(text: String) -> Result<MacPattern, MacPatternError> {
        text.parse()
    }
}

impl From<MacAddr> for MacPattern {
    fn from(mac: MacAddr) -> MacPattern {
        MacPattern(mac.octets().map(Some))
    }
}

impl fmt::Display for MacPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let between = if at == 0 { "" } else { ":" };
            match byte {
                Some(byte) => write!(f, "{between}{byte:02x}")?,
                None => write!(f, "{between}*")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_many_all() {
        let mac: MacAddr = "52:54:00:12:34:56".parse().unwrap();
        let other: MacAddr = "52:54:01:12:34:56".parse().unwrap();
        for (pattern, this, that) in [
            ("52:54:00:12:34:56", true, false),
            ("52:54:00:*", true, false),
            ("52:54:*:12:34:56", true, true),
            ("52-54-00-12-34-56", true, false),
            ("52-54-00-*", true, false),
            ("5254.0012.3456", true, false),
            ("52:54:*", true, true),
            ("00:*", false, false),
            ("*", true, true),
        ] {
            let pattern: MacPattern = pattern.parse().unwrap();
            assert_eq!(
                (pattern.matches(mac), pattern.matches(other)),
                (this, that),
                "{pattern}"
            );
        }
        for wrong in [
            "",
            "52",
            "52:54:00:12:34",
            "52:54:00:12:34:5",
            "52:54:00:12:34:+6",
            "52:54:00:12:34:56:78",
            "52-54:00-12-34-56",
            "5254.*",
            "52:5*:*",
            "**",
            "52:*:",
            "*:*:*:*:*:*:*",
        ] {
            assert!(wrong.parse::<MacPattern>().is_err(), "{wrong}");
        }
    }
}
