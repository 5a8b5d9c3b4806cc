//! A machine that booted once by each of two network cards has two records. Whichever is used, it has one server.

use std::collections::BTreeSet;

use p2v_aoe::MacAddr;

use super::{Context, Error, refused};
use crate::record::{Record, State};
use crate::timestamp::Timestamp;

impl Context<'_> {
    /// Refuses where another record of the machine says that its server runs or was moved here, or where one that cannot be
    /// read may say so: a domain by this one would be a second server.
    pub(super) fn refuse_second_server(&self, record: &Record) -> Result<(), Error> {
        let listing = self.host.store.list()?;
        let name = &record.name;
        if let Some(other) = server_elsewhere(record, &listing.records) {
            return refused(format!(
                "{name} is the same machine as {} (network card {}), which is {}: a domain of {name} would be a second server \
                 beside it. See `p2v show {}`",
                other.name, other.boot_mac, other.state, other.name
            ));
        }
        let mut cards = cards(record).into_iter();
        if let Some(card) = cards.find(|card| listing.names_in_unreadable(*card)) {
            return refused(format!(
                "a record that is lost or cannot be read has the network card {card} of {name}: if it is one of the same \
                 machine, its server may be here already. `p2v list` names that record: put it back, or `p2v forget` it if \
                 nothing of it is left"
            ));
        }
        Ok(())
    }

    /// Refuses where the machine's agent was started since by another card: a domain by that record may have written to the
    /// disks. `boot_id`: of the start that this record knows; `at`: when that was heard last.
    pub(super) fn refuse_other_start(
        &self,
        record: &Record,
        boot_id: &str,
        at: Timestamp,
    ) -> Result<(), Error> {
        let listing = self.host.store.list()?;
        let Some(other) = started_since(record, &listing.records, boot_id, at) else {
            return Ok(());
        };
        refused(format!(
            "the old machine restarted since {} was copied, and booted as {} (network card {}): a domain may have written to \
             its disks. Boot it by the network card {} and run `p2v copy {}` again, it moves only what differs",
            record.name, other.name, other.boot_mac, record.boot_mac, record.name
        ))
    }
}

fn cards(record: &Record) -> BTreeSet<MacAddr> {
    let inventory = record.inventory.iter().flat_map(|known| &known.nics);
    let mut cards: BTreeSet<MacAddr> = inventory.map(|card| card.mac).collect();
    cards.extend(&record.cards);
    cards.insert(record.boot_mac);
    cards
}

/// The other records of the machine.
fn others<'r>(record: &Record, records: &'r [Record]) -> impl Iterator<Item = &'r Record> {
    let (name, its) = (record.name.clone(), cards(record));
    let same = move |r: &&Record| r.name != name && !cards(r).is_disjoint(&its);
    records.iter().filter(same)
}

fn server_elsewhere<'r>(record: &Record, records: &'r [Record]) -> Option<&'r Record> {
    let is_here = |r: &&Record| {
        r.has_domain_on_old_disks() || matches!(r.state, State::Moved | State::Released)
    };
    others(record, records).find(is_here)
}

fn started_since<'r>(
    record: &Record,
    records: &'r [Record],
    boot_id: &str,
    at: Timestamp,
) -> Option<&'r Record> {
    let is_later = |r: &&Record| {
        let other = r.inventory.as_ref().is_some_and(|i| i.boot_id != boot_id);
        other && r.inventory_read.is_some_and(|read| read >= at)
    };
    others(record, records).find(is_later)
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_aoe::inventory::Inventory;

    fn mac(n: u8) -> MacAddr {
        MacAddr::new(2, 0, 0, 0, 0, n)
    }

    /// Two of one machine, and one of another.
    fn records() -> [Record; 3] {
        let record = |n: u8| Record::new(format!("e{n}").parse().unwrap(), mac(n), n.into());
        let (mut one, two) = (record(1), record(2));
        one.cards = BTreeSet::from([mac(1), mac(2)]);
        [one, two, record(3)]
    }

    #[test]
    fn a_second_record_of_a_machine_whose_server_is_here_starts_nothing() {
        for (state, is_here) in [
            (State::Exported, false),
            (State::Copied, false),
            (State::Running, true),
            (State::Moved, true),
            (State::Released, true),
        ] {
            for at in 0..3 {
                let mut records = records();
                records[at].state = state;
                let found = [0, 1, 2].map(|n| server_elsewhere(&records[n], &records).is_some());
                let expected = [0, 1, 2].map(|n| is_here && n != at && n < 2 && at < 2);
                assert_eq!(found, expected, "{at} {state}");
            }
        }
    }

    #[test]
    fn a_start_that_another_record_heard_later_counts() {
        let at = Timestamp::from_unix(1000);
        for (read, boot_id, expected) in [
            (999, "other", false),
            (1000, "other", true),
            (1001, "same", false),
        ] {
            let mut records = records();
            records[1].inventory_read = Some(Timestamp::from_unix(read));
            records[1].inventory = Some(Inventory {
                boot_id: boot_id.into(),
                ..Inventory::default()
            });
            let found = |n: usize| started_since(&records[n], &records, "same", at).is_some();
            assert_eq!([found(0), found(2)], [expected, false], "{read} {boot_id}");
        }
    }
}
