//! Records of two machines that share a network card: that they are two is the operator's word, and root notes it.

use std::collections::BTreeSet;

use super::claims::{Apart, Claim};
use super::{Store, StoreError};
use crate::record::Record;

impl Store {
    /// Notes that `record` and `other` are of two machines, which have no more than `common` in common.
    ///
    /// # Errors
    /// It cannot be written, or another machine has the name.
    pub fn set_apart(
        &self,
        record: &Record,
        other: &Record,
        common: BTreeSet<String>,
    ) -> Result<(), StoreError> {
        let _lock = self.write_lock()?;
        let known = self.own_claim(record)?;
        let mut claim = known.unwrap_or_else(|| Claim::of(record, Vec::new(), Vec::new()));
        claim.apart.retain(|apart| !apart.is(other));
        claim.apart.push(Apart {
            name: other.name.clone(),
            boot_mac: other.boot_mac,
            common,
        });
        self.write_claim(&claim)
    }

    /// Whether the operator said so of `one` and `other`, in either order, and they have no more in common since.
    ///
    /// # Errors
    /// What root noted cannot be read.
    pub fn are_apart(
        &self,
        one: &Record,
        other: &Record,
        common: &BTreeSet<String>,
    ) -> Result<bool, StoreError> {
        let said = |of: &Record, with: &Record| -> Result<bool, StoreError> {
            let claim = self
                .claim_of(&of.name)?
                .filter(|c| c.boot_mac == of.boot_mac);
            let mut said = claim.iter().flat_map(|claim| &claim.apart);
            Ok(said.any(|apart| apart.is(with) && common.is_subset(&apart.common)))
        };
        Ok(said(one, other)? || said(other, one)?)
    }
}

#[cfg(test)]
mod tests {
    use p2v_contract::MacAddr;

    use super::*;
    use crate::timestamp::Timestamp;

    #[test]
    fn what_was_said_of_two_machines_holds_for_no_others_and_for_no_more_in_common() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let [one, other, third] = [1, 2, 3].map(|n| {
            let mac = MacAddr::new(0x52, 0x54, 0, 0, 0, n);
            let facts = store.menu(mac, None, Timestamp::from_unix(1)).unwrap();
            store.get(&facts.name).unwrap()
        });
        let common = |what: &[&str]| what.iter().map(|what| (*what).to_owned()).collect();
        let (card, more) = (common(&["card"]), common(&["card", "disk"]));
        assert!(!store.are_apart(&one, &other, &card).unwrap());
        store.set_apart(&one, &other, card.clone()).unwrap();
        // What else is noted of a machine leaves it.
        store.claim(&one).unwrap();
        store.trust(&one.name).unwrap();
        let mut reused = other.clone();
        reused.boot_mac = MacAddr::new(0x52, 0x54, 0, 0, 0, 9);
        for (a, b, common, expected) in [
            (&one, &other, &card, true),
            (&other, &one, &card, true),
            (&one, &other, &more, false),
            (&one, &third, &card, false),
            (&one, &reused, &card, false),
        ] {
            let apart = store.are_apart(a, b, common).unwrap();
            assert_eq!(apart, expected, "{} {} {common:?}", a.name, b.name);
        }
        store.set_apart(&one, &other, more.clone()).unwrap();
        assert!(store.are_apart(&other, &one, &more).unwrap());
        store.retire(&one, Timestamp::from_unix(2)).unwrap();
        assert!(!store.are_apart(&other, &one, &card).unwrap());
    }
}
