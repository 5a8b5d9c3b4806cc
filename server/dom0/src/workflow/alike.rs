//! What two records that share a network card have in common, and what tells their machines apart.

use std::collections::BTreeSet;

use p2v_contract::MacAddr;

use crate::domain::identity::own_uuid;
use crate::record::{Record, exported};

/// Two records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Alike {
    /// The network cards of both: one at least.
    pub cards: BTreeSet<MacAddr>,
    /// All that they have in common.
    pub common: BTreeSet<String>,
    /// What both have, and differs.
    pub differs: Vec<String>,
    /// They have a disk in common and no UUIDs that differ: no card that was moved explains that.
    pub is_one: bool,
}

impl Alike {
    /// `None`: they have no network card in common.
    pub(super) fn of(one: &Record, other: &Record) -> Option<Alike> {
        let shared_cards = both(&cards(one), &cards(other));
        if shared_cards.is_empty() {
            return None;
        }
        let names = (&one.name, &other.name);
        let mut common = words("network card", &shared_cards);
        let mut differs = Vec::new();
        let mut compare = |what, one: BTreeSet<String>, other: BTreeSet<String>| {
            let shared = both(&one, &other);
            common.extend(words(what, &shared));
            let differ = shared.is_empty() && !one.is_empty() && !other.is_empty();
            if differ {
                differs.push(format!(
                    "{what} {} ({}) and {} ({})",
                    list(&one),
                    names.0,
                    list(&other),
                    names.1
                ));
            }
            (!shared.is_empty(), differ)
        };
        let (_, other_uuid) = compare("SMBIOS UUID", uuids(one), uuids(other));
        let (same_disk, _) = compare("disk with serial number", disks(one), disks(other));
        compare("hardware", hardware(one), hardware(other));
        Some(Alike {
            cards: shared_cards,
            common,
            differs,
            is_one: same_disk && !other_uuid,
        })
    }

    /// For the operator.
    pub(super) fn words(&self) -> String {
        let differs = match self.differs.as_slice() {
            [] => "nothing that p2v knows".to_owned(),
            differs => differs.join("; "),
        };
        let common: Vec<&str> = self.common.iter().map(String::as_str).collect();
        format!("In common: {}. Different: {differs}", common.join("; "))
    }
}

/// Every network card that was ever known of a machine.
pub(super) fn cards(record: &Record) -> BTreeSet<MacAddr> {
    let inventory = record.inventory.iter().flat_map(|known| &known.nics);
    let mut cards: BTreeSet<MacAddr> = inventory.map(|card| card.mac).collect();
    cards.extend(&record.cards);
    cards.insert(record.boot_mac);
    cards
}

/// Its UUIDs, without those that many machines have.
fn uuids(record: &Record) -> BTreeSet<String> {
    let now = record.inventory.iter().map(|known| &known.dmi.uuid);
    let all = record.uuids.iter().chain(now);
    all.filter_map(|uuid| own_uuid(uuid)).collect()
}

/// The serial numbers of its disks. A stick that it booted from is none.
fn disks(record: &Record) -> BTreeSet<String> {
    let now = record.inventory.iter().flat_map(exported);
    let now = now.map(|(_, disk)| &disk.serial);
    let all = record.disks.values().map(|disk| &disk.serial).chain(now);
    let all = all.map(|serial| serial.trim().to_owned());
    all.filter(|serial| !serial.is_empty()).collect()
}

/// What it says it is, with its own serial number.
fn hardware(record: &Record) -> BTreeSet<String> {
    let dmi = record.inventory.iter().map(|known| &known.dmi);
    let all = dmi.map(|dmi| [&dmi.vendor, &dmi.product, &dmi.serial].map(|text| text.trim()));
    let all = all.map(|texts| texts.join(" ").trim().to_owned());
    all.filter(|text| !text.is_empty()).collect()
}

fn both<T: Ord + Clone>(one: &BTreeSet<T>, other: &BTreeSet<T>) -> BTreeSet<T> {
    one.intersection(other).cloned().collect()
}

fn list<T: ToString>(all: &BTreeSet<T>) -> String {
    let all: Vec<String> = all.iter().map(T::to_string).collect();
    all.join(" ")
}

fn words<T: ToString>(what: &str, all: &BTreeSet<T>) -> BTreeSet<String> {
    let words = all.iter().map(|one| format!("{what} {}", one.to_string()));
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_contract::Address;
    use p2v_contract::inventory::{Disk, Dmi, Inventory};

    const UUIDS: [&str; 2] = [
        "4c4c4544-0046-4a10-8052-b4c04f4e344a",
        "4c4c4544-0046-4a10-8052-b4c04f4e344b",
    ];
    const PLACEHOLDER: &str = "03000200-0400-0500-0006-000700080009";

    fn record(n: u8, uuid: &str, serial: &str) -> Record {
        let mac = |n| MacAddr::new(2, 0, 0, 0, 0, n);
        let mut record = Record::new(format!("e{n}").parse().unwrap(), mac(n), n.into());
        record.cards = BTreeSet::from([mac(n), mac(9)]);
        record.inventory = Some(Inventory {
            dmi: Dmi {
                uuid: uuid.into(),
                ..Dmi::default()
            },
            disks: vec![
                Disk {
                    address: Some(Address::new(n.into(), 0)),
                    serial: serial.into(),
                    ..Disk::default()
                },
                // A stick.
                Disk {
                    serial: "STICK".into(),
                    ..Disk::default()
                },
            ],
            ..Inventory::default()
        });
        record
    }

    #[test]
    fn one_machine_has_its_disks_and_no_other_uuid() {
        for (one, other, is_one, differ) in [
            ((UUIDS[0], "S0"), (UUIDS[0], "S0"), true, 0),
            ((UUIDS[0], "S0"), (UUIDS[0], "S1"), false, 1),
            ((UUIDS[0], "S0"), (UUIDS[1], "S0"), false, 1),
            ((UUIDS[0], "S0"), (UUIDS[1], "S1"), false, 2),
            ((PLACEHOLDER, "S0"), (PLACEHOLDER, "S1"), false, 1),
            // Old ones have no UUID.
            (("", "S0"), ("", "S0"), true, 0),
            (("", "S0"), (UUIDS[1], "S0"), true, 0),
            (("", ""), ("", ""), false, 0),
        ] {
            let records = [record(1, one.0, one.1), record(2, other.0, other.1)];
            let alike = Alike::of(&records[0], &records[1]).unwrap();
            let found = (alike.is_one, alike.differs.len());
            assert_eq!(found, (is_one, differ), "{one:?} {other:?} {alike:?}");
            assert!(alike.words().contains("02:00:00:00:00:09"));
        }
        let mut stranger = record(2, UUIDS[0], "S0");
        stranger.cards.clear();
        assert_eq!(Alike::of(&record(1, UUIDS[0], "S0"), &stranger), None);
    }
}
