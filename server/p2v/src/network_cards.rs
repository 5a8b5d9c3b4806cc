//! Whose network card it is that asks: of all cards of a machine, not only the one it boots from.
//!
//! A machine whose server is on this host must not start its own disk because it asked by another
//! card, or because its record cannot be read at the moment.

use std::collections::BTreeMap;

use p2v_aoe::MacAddr;
use p2v_dom0::store::Listing;
use p2v_dom0::{MachineName, Record, State, Store};

use crate::boot_policy::{self, Facts, Rules};

/// A machine's cards, the one it boots from first.
fn cards(record: &Record) -> impl Iterator<Item = MacAddr> {
    let inventory = record.inventory.iter().flat_map(|known| &known.nics);
    std::iter::once(record.boot_mac).chain(inventory.map(|card| card.mac))
}

/// Whether a machine's server is on this host, or its disks were copied there, in part at least.
pub fn begun(record: &Record) -> bool {
    let facts = Facts::of(record);
    facts.server_is_here() || matches!(record.state, State::Copying | State::Copied)
}

/// The machine that has `mac` as another card than the one it boots from, and shall not come to its
/// disk by it: its server is on this host, or its disks were copied, and by the card that it boots
/// from it would start the agent. A server that was copied on trial may run on its own disk as long as
/// the settings say so. `rules`: for a card.
pub fn second_card_of(
    records: &[Record],
    mac: MacAddr,
    rules: impl Fn(MacAddr) -> Rules,
) -> Option<&Record> {
    let mut machines: Vec<&Record> = records
        .iter()
        .filter(|record| record.boot_mac != mac && cards(record).any(|card| card == mac))
        .filter(|record| begun(record))
        .collect();
    // One whose server is here comes first, should two records have the card.
    machines.sort_by_key(|record| !Facts::of(record).server_is_here());
    machines.into_iter().find(|record| {
        let verdict = boot_policy::decide(Some(Facts::of(record)), rules(record.boot_mac));
        !verdict.leaves_it_to_its_disk()
    })
}

/// What such a machine shows.
pub fn not_by_this_card(record: &Record, mac: MacAddr) -> String {
    let why = match record.state {
        _ if Facts::of(record).server_is_here() => "server is on the Xen host now",
        State::Copying => "disks are being copied to the Xen host",
        _ => "disks were copied to the Xen host",
    };
    format!(
        "This is {}, whose {why}. It boots from its network card {}, and not from this one ({mac}).",
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
