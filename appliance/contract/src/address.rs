//! Where a target lives: shelf and slot, written `e7.0` everywhere.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes in a sector. AoE counts in 512-byte sectors whatever the disk does inside
/// (AoEr11, section 3: "sectors of 512 bytes").
pub const SECTOR: u64 = 512;

/// Shelf numbers 0xFFF and 0xFFFF are refused by the Linux driver (`drivers/block/aoe/aoecmd.c`,
/// `aoecmd_cfg_rsp`), so the last one that can be used is this.
pub const SHELF_MAX: u16 = 0xFFE;

/// Slot 0xFF means "all"; the Linux driver's device numbers allow 16 per shelf when
/// `aoe_dyndevs=0`, and 255 otherwise. We use no more than these.
pub const SLOT_MAX: u8 = 0xFE;

/// The address of one AoE target: shelf (major) and slot (minor), written `e7.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// The shelf: one per machine.
    pub shelf: u16,
    /// The slot: one per disk of the machine, boot disk first.
    pub slot: u8,
}

/// Why a text is not an AoE address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an AoE address: write eSHELF.SLOT, as in e7.0 (shelf 0 to 4094, slot 0 to 254)"
)]
pub struct BadAddress(pub String);

impl Address {
    /// Every shelf and every slot: the address of a discovery request.
    pub const ALL: Address = Address {
        shelf: 0xFFFF,
        slot: 0xFF,
    };

    /// An address from its two numbers.
    pub const fn new(shelf: u16, slot: u8) -> Self {
        Address { shelf, slot }
    }

    /// Whether a request for `self` is meant for the target at `own` (exactly, or by "all").
    pub fn covers(self, own: Address) -> bool {
        (self.shelf == 0xFFFF || self.shelf == own.shelf)
            && (self.slot == 0xFF || self.slot == own.slot)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}.{}", self.shelf, self.slot)
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(text.to_owned());
        let (shelf, slot) = text
            .strip_prefix('e')
            .and_then(|t| t.split_once('.'))
            .ok_or_else(bad)?;
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        if !digits(shelf) || !digits(slot) {
            return Err(bad());
        }
        let shelf: u16 = shelf.parse().map_err(|_| bad())?;
        let slot: u8 = slot.parse().map_err(|_| bad())?;
        if shelf > SHELF_MAX || slot > SLOT_MAX {
            return Err(bad());
        }
        Ok(Address { shelf, slot })
    }
}

impl TryFrom<String> for Address {
    type Error = BadAddress;

    fn try_from(text: String) -> Result<Self, BadAddress> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let a: Address = "e7.0".parse().unwrap();
        assert_eq!(a, Address::new(7, 0));
        assert_eq!(a.to_string(), "e7.0");
        for bad in [
            "", "7.0", "e7", "e7.", "e.0", "e+7.0", "e4095.0", "e65535.0", "e7.255", "e7.0.1",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn all_covers_everything_and_exact_only_itself() {
        let own = Address::new(7, 1);
        assert!(Address::ALL.covers(own));
        assert!(Address::new(7, 0xFF).covers(own));
        assert!(Address::new(0xFFFF, 1).covers(own));
        assert!(own.covers(own));
        assert!(!Address::new(7, 0).covers(own));
        assert!(!Address::new(8, 1).covers(own));
    }
}
