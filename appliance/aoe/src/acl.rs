//! Commands 2 and 3: the MAC mask list and reserve/release, both lists of MAC addresses.

use p2v_contract::bytes::{Short, fixed};
use pnet::util::MacAddr;

/// Addresses a list may hold. 255 is what the count byte can say.
pub const LIST_MAX: usize = 255;

/// A change of the MAC mask list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directive {
    /// 0 none, 1 add, 2 delete; anything else is a bad directive.
    pub directive: u8,
    /// Whom it is about.
    pub mac: MacAddr,
}

/// Errors of the MAC mask list (byte 26).
pub mod mask_error {
    /// Unspecified.
    pub const UNSPECIFIED: u8 = 1;
    /// Directive not known.
    pub const BAD_DIRECTIVE: u8 = 2;
    /// The list is full.
    pub const FULL: u8 = 3;
}

/// The body of command 2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MacMask {
    /// 0 read, 1 edit.
    pub sub: u8,
    /// Error of a reply, one of [`mask_error`], or 0.
    pub error: u8,
    /// Directives of an edit; in a reply the list, each with directive 0.
    pub directives: Vec<Directive>,
}

impl MacMask {
    /// Reads the body.
    ///
    /// # Errors
    /// The body ends before its list does.
    pub fn parse(body: &[u8]) -> Result<MacMask, Short> {
        let (&[_, sub, error, count], rest) = fixed::<4>(body)?;
        let need = usize::from(count) * 8;
        let list = rest.get(..need).ok_or(Short {
            have: body.len(),
            need: 4 + need,
        })?;
        let directives = list
            .chunks_exact(8)
            .map(|d| Directive {
                directive: d[1],
                mac: MacAddr::new(d[2], d[3], d[4], d[5], d[6], d[7]),
            })
            .collect();
        Ok(MacMask {
            sub,
            error,
            directives,
        })
    }

    /// The body as bytes; the list is cut at [`LIST_MAX`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let list = &self.directives[..self.directives.len().min(LIST_MAX)];
        let mut bytes = vec![0, self.sub, self.error, list.len() as u8];
        for entry in list {
            bytes.extend([0, entry.directive]);
            bytes.extend(entry.mac.octets());
        }
        bytes
    }
}

/// Sub-commands of command 3.
pub mod reserve {
    /// Read the reservation.
    pub const READ: u8 = 0;
    /// Set it, unless another holds it. An empty list releases.
    pub const SET: u8 = 1;
    /// Set it whoever holds it.
    pub const FORCE_SET: u8 = 2;
}

/// The body of command 3.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserve {
    /// One of [`reserve`].
    pub sub: u8,
    /// Who may use the target.
    pub macs: Vec<MacAddr>,
}

impl Reserve {
    /// Reads the body.
    ///
    /// # Errors
    /// The body ends before its list does.
    pub fn parse(body: &[u8]) -> Result<Reserve, Short> {
        let (&[sub, count], rest) = fixed::<2>(body)?;
        let need = usize::from(count) * 6;
        let list = rest.get(..need).ok_or(Short {
            have: body.len(),
            need: 2 + need,
        })?;
        let macs = list
            .chunks_exact(6)
            .map(|m| MacAddr::new(m[0], m[1], m[2], m[3], m[4], m[5]))
            .collect();
        Ok(Reserve { sub, macs })
    }

    /// The body as bytes; the list is cut at [`LIST_MAX`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let list = &self.macs[..self.macs.len().min(LIST_MAX)];
        let mut bytes = vec![self.sub, list.len() as u8];
        for mac in list {
            bytes.extend(mac.octets());
        }
        bytes
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
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = MacMask::parse(&bytes);
            let _ = Reserve::parse(&bytes);
        }

        #[test]
        fn and_back(
            sub: u8, error: u8, macs in proptest::collection::vec(mac(), 0..20), directive in 0u8..4,
        ) {
            let reserve = Reserve { sub, macs: macs.clone() };
            prop_assert_eq!(Reserve::parse(&reserve.to_bytes()).unwrap(), reserve);
            let directives = macs.into_iter().map(|mac| Directive { directive, mac }).collect();
            let mask = MacMask { sub, error, directives };
            prop_assert_eq!(MacMask::parse(&mask.to_bytes()).unwrap(), mask);
        }
    }
}
