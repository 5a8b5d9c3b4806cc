//! Whose network card it is that asks: of all cards of a machine, not only the one it boots from.
//!
//! A machine whose server is on this host must not start its own disk because it asked by another
//! card, or because its record cannot be read at the moment.

use std::collections::BTreeMap;

use p2v_aoe::MacAddr;
use p2v_dom0::store::Listing;
use p2v_dom0::{MachineName, Record, State, Store};

use crate::boot_policy::Facts;

/// A machine's cards, the one it boots from first.
fn cards(record: &Record) -> impl Iterator<Item = MacAddr> {
    let inventory = record.inventory.iter().flat_map(|known| &known.nics);
    std::iter::once(record.boot_mac).chain(inventory.map(|card| card.mac))
}

/// The machine that has `mac` as another card than the one it boots from, if its server is on this
/// host or is being copied.
pub fn second_card_of(records: &[Record], mac: MacAddr) -> Option<&Record> {
    records.iter().find(|record| {
        let begun = record.state >= State::Running || Facts::of(record).in_use;
        begun && cards(record).skip(1).any(|card| card == mac)
    })
}

/// What such a machine shows.
pub fn not_by_this_card(record: &Record, mac: MacAddr) -> String {
    format!(
        "This is {}, whose server runs on the Xen host, or is being copied. It boots from its network card {}, and \
         not from this one ({mac}).",
        record.name, record.boot_mac
    )
}

/// The cards of each machine, by the last listing in which its record could be read.
#[derive(Debug, Default)]
pub struct LastKnown(BTreeMap<MachineName, Vec<MacAddr>>);

impl LastKnown {
    /// Takes down what can be read, and forgets the machines whose records were moved away.
    pub fn learn(&mut self, store: &Store, listing: &Listing) {
        self.0
            .retain(|name, _| listing.cannot_read(&store.path(name)));
        for record in &listing.records {
            self.0.insert(record.name.clone(), cards(record).collect());
        }
    }

    /// Whether `mac` is of a machine whose record cannot be read now: `listing` has the others;
    /// `None` if nothing could be listed.
    pub fn hides(&self, store: &Store, listing: Option<&Listing>, mac: MacAddr) -> bool {
        self.0.iter().any(|(name, cards)| {
            listing.is_none_or(|listing| listing.cannot_read(&store.path(name)))
                && cards.contains(&mac)
        })
    }
}
