//! What a machine is called: one name that is at once a file name, a Xen domain name, part of a
//! device-mapper name, of an LVM volume name and of an LVM tag.

use std::fmt;
use std::str::FromStr;

use p2v_contract::Address;
use serde::{Deserialize, Serialize};

/// Longest name: leaves room for `p2v-` and `-15` in a device-mapper name (127 characters) and for
/// a volume name (127), and stays a legal host name label.
pub const NAME_MAX: usize = 63;

/// A machine's name: letters, digits, `-` and `_`, starting with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineName(String);

/// Why a text is not a machine name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` cannot name a machine: use 1 to 63 letters, digits, `-` or `_`, starting with a letter or digit \
     (not `Domain-0`)"
)]
pub struct BadName(pub String);

impl MachineName {
    /// The name a machine gets when the settings give it none: `e7` for shelf 7.
    pub fn of_shelf(shelf: u16) -> MachineName {
        MachineName(format!("e{shelf}"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The device-mapper name of the machine's `disk`-th disk: `p2v-NAME-0`.
    pub fn dm_name(&self, disk: usize) -> String {
        format!("p2v-{}-{disk}", self.0)
    }

    /// The volume name used when the operator names only a volume group: `NAME-disk0`.
    pub fn volume_name(&self, disk: usize) -> String {
        format!("{}-disk{disk}", self.0)
    }
}

impl FromStr for MachineName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<MachineName, BadName> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let ok = !text.is_empty()
            && text.len() <= NAME_MAX
            && text.bytes().all(legal)
            && text.as_bytes()[0].is_ascii_alphanumeric()
            && !text.eq_ignore_ascii_case("domain-0")
            && text.parse::<Address>().is_err();
        if ok {
            Ok(MachineName(text.to_owned()))
        } else {
            Err(BadName(text.to_owned()))
        }
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for MachineName {
    type Error = BadName;

    fn try_from(text: String) -> Result<MachineName, BadName> {
        text.parse()
    }
}

impl From<MachineName> for String {
    fn from(name: MachineName) -> String {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_safe_everywhere() {
        for good in ["e7", "web1", "OLD-box_2", "7of9", &"a".repeat(63)] {
            assert!(good.parse::<MachineName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-x",
            "_x",
            ".",
            "..",
            "a/b",
            "a b",
            "a\"b",
            "a\nb",
            "e7.0",
            "Domain-0",
            "ü",
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<MachineName>().is_err(), "{bad}");
        }
    }
}
