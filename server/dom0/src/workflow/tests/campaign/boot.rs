//! What `p2v serve` tells a machine that boots from the network, from the records as they are.
//!
//! That decision is made in crate `p2v` (`boot_policy::decide`, `network_cards` and `serve/records.rs`), which stands above this
//! one. Here it is taken once more from what it takes: the records and what is noted of them, the cards and the SMBIOS UUID.

use std::collections::BTreeMap;

use p2v_contract::MacAddr;

use super::old_server::UUID;
use crate::store::Listing;
use crate::{MachineName, Record, State, Store};

/// The boot decision for a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Agent,
    Held,
    LocalDisk,
}

/// What the operator said of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Nothing: one whose agent was heard before is approved.
    None,
    Always,
    Revoked,
}

/// The cards of each machine, as the boot service has them in a file of its own (`LastKnown`).
pub(super) type Cards = BTreeMap<MachineName, Vec<MacAddr>>;

fn cards_of(record: &Record) -> Vec<MacAddr> {
    let inventory = record.inventory.iter().flat_map(|known| &known.nics);
    let all = record.cards.iter().copied();
    let all = std::iter::once(record.boot_mac).chain(all);
    all.chain(inventory.map(|card| card.mac)).collect()
}

fn uuids_of(record: &Record) -> Vec<String> {
    let inventory = record.inventory.iter().map(|known| &known.dmi.uuid);
    let all = record.uuids.iter().chain(inventory);
    all.filter(|uuid| !uuid.is_empty()).cloned().collect()
}

/// `boot_policy::decide`, without wishes and `--once`.
fn decide(record: Option<&Record>, word: Word) -> Told {
    let state = record.map(|record| record.state);
    match state {
        Some(State::Moved | State::Released) => return Told::Held,
        Some(State::Running) => return Told::Agent,
        _ if record.is_some_and(Record::has_domain_on_old_disks) => return Told::Agent,
        _ => {}
    }
    let approved = match word {
        Word::None => state.is_some_and(|state| state != State::Seen),
        Word::Always => true,
        Word::Revoked => false,
    };
    match approved {
        true => Told::Agent,
        false => Told::LocalDisk,
    }
}

fn server_is_here(record: &Record) -> bool {
    decide(Some(record), Word::Revoked) != Told::LocalDisk
}

fn hides(cards: Option<&Cards>, store: &Store, listing: Option<&Listing>, mac: MacAddr) -> bool {
    let nobody = Cards::new();
    let known = cards.unwrap_or(&nobody);
    let nothing_known = match listing {
        None => cards.is_none(),
        Some(listing) => listing
            .silent()
            .any(|path| known.keys().all(|name| store.path(name) != path)),
    };
    nothing_known
        || known.iter().any(|(name, cards)| {
            listing.is_none_or(|listing| listing.cannot_read(&store.path(name)))
                && cards.contains(&mac)
        })
}

/// The boot decision for the machine's card `mac`. `cards`: what the service knew of the cards before; `None`: it was started for
/// the first time.
pub(super) fn told(store: &Store, cards: &mut Option<Cards>, mac: MacAddr, word: Word) -> Told {
    let not_ours = |ours: bool| match ours || word == Word::Always {
        true => Told::Held,
        false => Told::LocalDisk,
    };
    let Ok(mut listing) = store.list() else {
        return not_ours(hides(cards.as_ref(), store, None, mac));
    };
    let known = cards.get_or_insert_default();
    known.retain(|name, _| listing.cannot_read(&store.path(name)));
    for record in &listing.records {
        known.insert(record.name.clone(), cards_of(record));
    }
    let own = listing.records.iter().find(|record| record.boot_mac == mac);
    let ids = match own.map(uuids_of) {
        Some(own) if !own.is_empty() => own,
        _ => vec![UUID.to_owned()],
    };
    let has_record = own.is_some();
    // `second_card_of`
    let begun =
        |r: &&Record| server_is_here(r) || matches!(r.state, State::Copying | State::Copied);
    let has_it = |r: &&Record| {
        r.boot_mac != mac
            && (cards_of(r).contains(&mac) || uuids_of(r).iter().any(|uuid| ids.contains(uuid)))
    };
    let mut others: Vec<&Record> = listing
        .records
        .iter()
        .filter(has_it)
        .filter(begun)
        .collect();
    others.sort_by_key(|record| !server_is_here(record));
    let other = others
        .into_iter()
        .find(|record| decide(Some(record), word) != Told::LocalDisk);
    let other = other.cloned();
    if other.is_some() && !has_record {
        return Told::Held;
    }
    let here = other.filter(server_is_here);
    let doubtful = hides(cards.as_ref(), store, Some(&listing), mac)
        || listing.names_in_unreadable(mac)
        || listing.names_id_in_unreadable(&ids);
    let record = match listing.by_mac(mac) {
        Ok(Some(record)) => Some(record),
        Ok(None) => match store.copied_by_mac(mac) {
            Ok(Some(_)) => return Told::Held,
            Ok(None) if doubtful => return Told::Held,
            Ok(None) => None,
            Err(_) => return not_ours(doubtful),
        },
        Err(_) => return not_ours(has_record || doubtful),
    };
    let verdict = decide(record.as_ref(), word);
    if let (Some(own), Some(other)) = (&record, &here) {
        let needs_its_disk = other.has_domain_on_old_disks();
        let held = matches!(own.state, State::Moved | State::Released) && needs_its_disk;
        if verdict == Told::LocalDisk || held {
            return Told::Held;
        }
    }
    match verdict {
        Told::LocalDisk if doubtful => Told::Held,
        verdict => verdict,
    }
}
