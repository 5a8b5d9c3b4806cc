//! Which shelves new machines get.

use std::ops::RangeInclusive;

use p2v_contract::address::SHELF_MAX;
use serde::Deserialize;

/// The shelves that this host gives to new machines. Two hosts that boot machines on one segment have ranges that do not
/// meet: a disk's address is all that tells it from another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Shelves {
    first: u16,
    last: u16,
}

/// As it stands in the settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    first: u16,
    last: u16,
}

impl TryFrom<Raw> for Shelves {
    type Error = String;

    fn try_from(Raw { first, last }: Raw) -> Result<Shelves, String> {
        match 1 <= first && first <= last && last <= SHELF_MAX {
            true => Ok(Shelves { first, last }),
            false => Err(format!(
                "`shelves` from {first} to {last}: they go from 1 to {SHELF_MAX}, and the first is not above the last"
            )),
        }
    }
}

impl Default for Shelves {
    /// All but shelf 0, which no machine gets.
    fn default() -> Shelves {
        Shelves {
            first: 1,
            last: SHELF_MAX,
        }
    }
}

impl Shelves {
    /// In the order in which they are given.
    pub fn range(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}
