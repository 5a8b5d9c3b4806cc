//! A machine that booted once by each of two network cards has two records. Whichever is used, it has one server.
//!
//! A card that was moved from one machine to another looks like that. That they are two is the operator's word, which root
//! notes.

use std::collections::BTreeSet;

use p2v_contract::MacAddr;
use serde::Serialize;

use super::alike::{Alike, cards};
use super::{Code, Context, Error, refused};
use crate::name::MachineName;
use crate::record::{Record, State};
use crate::timestamp::Timestamp;

/// Another record with a network card of the machine's.
#[derive(Clone, Debug, Serialize)]
pub struct SharedCards {
    /// Its name.
    pub with: MachineName,
    /// Where it is on its way.
    pub state: State,
    /// The cards of both.
    pub cards: BTreeSet<MacAddr>,
    /// The operator said that it is another machine.
    pub another_machine: bool,
}

impl Context<'_> {
    /// Takes the operator's word that the machines `another` are others than the one of `record`.
    ///
    /// # Errors
    /// They share no network card, or have so much in common that they are one.
    pub(super) fn take_word(&self, record: &Record, another: &[MachineName]) -> Result<(), Error> {
        let (store, name) = (&self.host.store, &record.name);
        for other in another {
            let other = store.get(other)?;
            let alike = Alike::of(record, &other).filter(|_| other.name != *name);
            let Some(alike) = alike else {
                return refused(
                    Code::BadOption,
                    format!(
                        "--another-machine {}: {name} shares no network card with a machine of that name: leave the option out",
                        other.name
                    ),
                );
            };
            if alike.is_one {
                return refused(
                    Code::SameMachine,
                    format!(
                        "--another-machine {0}: it is the same machine as {name}. {1}. Go on without that; `p2v show {0}` says \
                         what is there of it",
                        other.name,
                        alike.words()
                    ),
                );
            }
            if store.are_apart(record, &other, &alike.common)? {
                continue;
            }
            for (one, other) in [(name, &other.name), (&other.name, name)] {
                let said = format!(
                    "the operator said that {other} is another machine. {}",
                    alike.words()
                );
                self.note(one, &said)?;
            }
            store.set_apart(record, &other, alike.common)?;
        }
        Ok(())
    }

    /// Refuses where another record of the machine says that its server runs or was moved here, or where one that cannot be
    /// read may say so: a domain by this one would be a second server. `command`: by which that is asked for.
    pub(super) fn refuse_second_server(&self, record: &Record, command: &str) -> Result<(), Error> {
        let listing = self.host.store.list()?;
        let name = &record.name;
        let others = self.others(record, &listing.records)?;
        if let Some((other, alike)) = server_elsewhere(&others) {
            let way = match alike.is_one {
                true => way_of_one(record, other),
                false => format!(
                    "If they are one: {}. If you know that they are two machines (a network card was moved from one to the \
                     other): `{command} {name} --another-machine {}`",
                    way_of_one(record, other),
                    other.name
                ),
            };
            return refused(
                Code::SameMachine,
                format!(
                    "{name} counts as the same machine as {}, which is {}: a domain of {name} would be a second server beside \
                     it. {}. {way}",
                    other.name,
                    other.state,
                    alike.words()
                ),
            );
        }
        let mut cards = cards(record).into_iter();
        if let Some(card) = cards.find(|card| listing.names_in_unreadable(*card)) {
            return refused(
                Code::RecordUnreadable,
                format!(
                    "a record that is lost or cannot be read has the network card {card} of {name}: if it is one of the same \
                     machine, its server may be here already. `p2v list` names that record: put it back, or `p2v forget` it if \
                     nothing of it is left"
                ),
            );
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
        let others = self.others(record, &listing.records)?;
        let Some((other, alike)) = started_since(&others, boot_id, at) else {
            return Ok(());
        };
        let name = &record.name;
        let two = match alike.is_one {
            true => String::new(),
            false => format!(
                ". Or, if you know that {0} is another machine: `p2v cutover {name} --old-machine-gone \
                 --another-machine {0}`",
                other.name
            ),
        };
        refused(
            Code::OldMachineRestarted,
            format!(
                "the old machine restarted since {name} was copied, and booted as {} (network card {}): a domain may have written \
                 to its disks. {}. Boot it by the network card {} and run `p2v copy {name}` again, it moves only what differs{two}",
                other.name,
                other.boot_mac,
                alike.words(),
                record.boot_mac
            ),
        )
    }

    /// Before a record is forgotten: what other records of the machine were copied before its agent was started by this one
    /// is out of date, and nothing else would tell.
    pub(super) fn doubt_copies_of_others(&self, record: &Record) -> Result<(), Error> {
        let listing = self.host.store.list()?;
        for (other, _) in self.others(record, &listing.records)? {
            let known = other.inventory.as_ref().map(|known| known.boot_id.as_str());
            let at = other.inventory_read.unwrap_or(Timestamp::from_unix(0));
            let alone = [(record, Alike::of(other, record).unwrap_or_default())];
            let has_copies = other.disks.values().any(|disk| disk.copy.is_some());
            if !has_copies
                || matches!(other.state, State::Moved | State::Released)
                || started_since(&alone, known.unwrap_or_default(), at).is_none()
            {
                continue;
            }
            let why = format!(
                "the machine was started as {} since {} was copied: the copy may be out of date",
                record.name, other.name
            );
            self.report
                .warn(&format!("{why}. `p2v copy {}` again", other.name));
            self.host.store.update(&other.name, |other| {
                other.forget_verified();
                if other.state == State::Copied {
                    other.state = State::Copying;
                }
                other.note(Timestamp::now(), why);
                Ok::<_, Error>(())
            })?;
        }
        Ok(())
    }

    /// What each other record has in common with one.
    pub(super) fn shared_cards(&self, record: &Record, records: &[Record]) -> Vec<SharedCards> {
        let shared = alike(record, records).map(|(other, alike)| SharedCards {
            with: other.name.clone(),
            state: other.state,
            another_machine: self.is_another(record, other, &alike).unwrap_or_default(),
            cards: alike.cards,
        });
        shared.collect()
    }

    /// The other records that count as the machine's.
    fn others<'r>(&self, record: &Record, records: &'r [Record]) -> Result<Vec<Other<'r>>, Error> {
        let mut others = Vec::new();
        for (other, alike) in alike(record, records) {
            if !self.is_another(record, other, &alike)? {
                others.push((other, alike));
            }
        }
        Ok(others)
    }

    /// The operator said so, and nothing that was found since speaks against it.
    fn is_another(&self, record: &Record, other: &Record, alike: &Alike) -> Result<bool, Error> {
        let store = &self.host.store;
        Ok(!alike.is_one && store.are_apart(record, other, &alike.common)?)
    }
}

/// Another record, and what it has in common with the one in question.
type Other<'r> = (&'r Record, Alike);

/// The other records with one of its network cards.
fn alike<'r>(record: &Record, records: &'r [Record]) -> impl Iterator<Item = Other<'r>> {
    let others = records.iter().filter(|other| other.name != record.name);
    others.filter_map(|other| Some((other, Alike::of(record, other)?)))
}

/// What the operator does next with a machine whose server was started from its other record.
fn way_of_one(record: &Record, other: &Record) -> String {
    format!(
        "its server is {0}, and `p2v show {0}` says what comes next; `p2v forget {1}` retires the record that is not needed",
        other.name, record.name
    )
}

fn server_elsewhere<'a, 'r>(others: &'a [Other<'r>]) -> Option<&'a Other<'r>> {
    others.iter().find(|(other, _)| has_its_server_here(other))
}

/// A domain has its old disks, or was switched to copies.
pub(super) fn has_its_server_here(record: &Record) -> bool {
    record.has_domain_on_old_disks() || matches!(record.state, State::Moved | State::Released)
}

fn started_since<'a, 'r>(
    others: &'a [Other<'r>],
    boot_id: &str,
    at: Timestamp,
) -> Option<&'a Other<'r>> {
    let is_later = |r: &Record| {
        let other = r.inventory.as_ref().is_some_and(|i| i.boot_id != boot_id);
        other && r.inventory_read.is_some_and(|read| read >= at)
    };
    others.iter().find(|(other, _)| is_later(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_contract::inventory::Inventory;

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
                let found = [0, 1, 2].map(|n| {
                    let others: Vec<Other> = alike(&records[n], &records).collect();
                    server_elsewhere(&others).is_some()
                });
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
            let found = |n: usize| {
                let others: Vec<Other> = alike(&records[n], &records).collect();
                started_since(&others, "same", at).is_some()
            };
            assert_eq!([found(0), found(2)], [expected, false], "{read} {boot_id}");
        }
    }
}
