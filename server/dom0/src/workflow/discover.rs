//! `p2v list` and `p2v show`: what is remembered, what is true, and where the two differ.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use p2v_contract::inventory::Inventory;
use p2v_contract::key::PublicKey;
use p2v_contract::operation::Stats;
use p2v_contract::{Address, MacAddr};
use serde::Serialize;

use super::next::{self, Action};
use super::old_disks::{self, ExportState};
use super::{Context, Error, Outage, SharedCards, config, disarm, outage};
use crate::name::MachineName;
use crate::record::{DiskRecord, HistoryLine, NotOurs, Record, State};
use crate::timestamp::Timestamp;
use crate::tool::xl;

/// One machine as it is now. Holds no secret.
#[derive(Clone, Debug, Serialize)]
pub struct MachineView {
    /// Its name; `None` if it answers and has no record.
    pub name: Option<MachineName>,
    /// Its shelf.
    pub shelf: u16,
    /// The permanent MAC it boots from.
    pub boot_mac: Option<MacAddr>,
    /// What the record says.
    pub state: Option<State>,
    /// The disks that answer, each with the stations that do.
    pub answers: BTreeMap<Address, Vec<MacAddr>>,
    /// The inventory: just read if it answers, else the last one.
    pub inventory: Option<Inventory>,
    /// When the inventory was read.
    pub inventory_read: Option<Timestamp>,
    /// What was done with its disks, by slot.
    pub disks: BTreeMap<u8, DiskRecord>,
    /// Slots of its old disks that are disarmed, each with whether nothing starts from it: else that was interrupted.
    pub disarmed: BTreeMap<u8, bool>,
    /// Number of its domain, if it runs.
    pub domain: Option<u32>,
    /// Its domain waits for its old disks: they do not answer, or not yet.
    pub waits: bool,
    /// Other records with a network card of its.
    pub shared_cards: Vec<SharedCards>,
    /// Where record and reality differ, and what to do.
    pub differences: Vec<String>,
    /// What an operator can do next, the likely step first.
    pub next: Vec<Action>,
    /// What happened, oldest first.
    pub history: Vec<HistoryLine>,
}

/// Asks the wire and `xl`, reads inventories, brings records up to date, and says what differs.
/// Machines without a record are shown, and none is made.
///
/// # Errors
/// The interface or the records cannot be used. What one machine does wrong is in its
/// [`MachineView::differences`]; unreadable records are told to [`Context::report`].
pub fn discover(context: Context<'_>) -> Result<Vec<MachineView>, Error> {
    let Context { host, wire, report } = context;
    let wait = Duration::from_secs(host.settings.discovery_seconds.max(1));
    let mut shelves: BTreeMap<u16, BTreeMap<Address, Vec<MacAddr>>> = BTreeMap::new();
    for found in wire.discover(wait)? {
        let macs = shelves
            .entry(found.address.shelf)
            .or_default()
            .entry(found.address)
            .or_default();
        if !macs.contains(&found.mac) {
            macs.push(found.mac);
        }
    }
    let domains = context.domains().unwrap_or_else(|error| {
        report.warn(&error.to_string());
        Vec::new()
    });
    let listing = host.store.list()?;
    for error in &listing.unreadable {
        report.warn(&error.to_string());
    }
    for name in listing.lost() {
        report.warn(&format!(
            "the record of {name} is lost, and its server may be on this host: put it back in {}, then `p2v trust {name}`; \
             or, if nothing of it is left, `p2v forget {name}`",
            host.store.machines().display()
        ));
    }
    let mut views = Vec::new();
    for record in &listing.records {
        let answers = shelves.remove(&record.shelf).unwrap_or_default();
        let mut view = known(context, record.clone(), answers, &domains);
        view.shared_cards = context.shared_cards(record, &listing.records);
        view.next = next::of(&view, &config::path(host, &record.name));
        views.push(view);
    }
    for (shelf, answers) in shelves {
        let mut view = unknown(context, shelf, answers);
        view.next = next::of(&view, Path::new(""));
        views.push(view);
    }
    views.sort_by_key(|v| v.shelf);
    Ok(views)
}

/// The counters of each of the machine's disks that answer and have some (a foreign target has none).
pub fn statistics(context: Context<'_>, machine: &MachineView) -> BTreeMap<Address, Stats> {
    let ask = |address: &Address| {
        let stats = context.wire.attach(*address).ok()?.stats().ok()?;
        Some((*address, stats))
    };
    machine.answers.keys().filter_map(ask).collect()
}

fn stations(answers: &BTreeMap<Address, Vec<MacAddr>>) -> BTreeSet<MacAddr> {
    answers.values().flatten().copied().collect()
}

fn read_inventory(
    context: Context<'_>,
    answers: &BTreeMap<Address, Vec<MacAddr>>,
) -> Result<Option<Inventory>, String> {
    let macs = stations(answers);
    if macs.len() > 1 {
        let macs: Vec<String> = macs.iter().map(MacAddr::to_string).collect();
        return Err(format!(
            "{} machines answer for this shelf ({}): switch off all but one before anything else",
            macs.len(),
            macs.join(", ")
        ));
    }
    let Some(first) = answers.keys().next() else {
        return Ok(None);
    };
    let inventory = context
        .wire
        .attach(*first)
        .and_then(|mut session| session.inventory())
        .map_err(|e| format!("its inventory could not be read: {e}"))?;
    Ok(Some(inventory))
}

fn known(
    context: Context<'_>,
    mut record: Record,
    answers: BTreeMap<Address, Vec<MacAddr>>,
    domains: &[xl::Domain],
) -> MachineView {
    let mut differences = Vec::new();
    let mut stranger = false;
    match read_inventory(context, &answers) {
        Ok(Some(inventory)) => {
            if inventory.stands_in {
                differences.push(format!(
                    "its disks are exported by another machine now (`p2v-agent export --waiting`): `p2v resume {}` makes \
                     sure that they are the same",
                    record.name
                ));
            } else if let Err(why) = record.is_ours(&inventory) {
                // An older record does not know the menu of a start since.
                stranger = why != NotOurs::NoMenuOfOurs;
                let (name, shelf) = (record.name.clone(), record.shelf);
                differences.push(Error::NotOurs { name, shelf, why }.to_string());
            } else {
                let taken = context.host.store.update(&record.name, |r| {
                    r.take_inventory(inventory, Timestamp::now());
                    Ok::<_, Error>(r.clone())
                });
                match taken {
                    Ok(fresh) => record = fresh,
                    Err(error) => differences.push(error.to_string()),
                }
            }
        }
        Ok(None) => {}
        Err(why) => differences.push(why),
    }
    let domain = domains
        .iter()
        .find(|d| d.name == record.name.as_str())
        .map(|d| d.id);
    if domain.is_some() && record.state == State::Moved && record.served.is_none() {
        // By `xl create`, after a cutover that was cut off.
        context.note_served(&record.name, "a domain runs from the copies");
    }
    let heard = match heard(context, &record, &answers) {
        Ok(heard) => heard,
        Err(why) => {
            differences.push(why);
            Heard::Answers
        }
    };
    // The machine itself does not answer, then.
    let heard = if stranger { Heard::Nothing } else { heard };
    let outage = outage::outage(context.host, &record.name);
    let is_moved = matches!(record.state, State::Moved | State::Released);
    let has_config = domain.is_some() || !is_moved || config::is_there(context.host, &record);
    differences.extend(compare(
        &record,
        heard,
        domain.is_some(),
        has_config,
        outage.as_ref(),
        &context.host.key.public(),
    ));
    let disarmed = disarm::how_far(context.host, &record.name).unwrap_or_else(|error| {
        differences.push(error.to_string());
        BTreeMap::new()
    });
    if is_moved && is_writable(context, &answers) {
        differences.push(format!(
            "its old disk can be WRITTEN, and nothing needs that: a command was interrupted. `p2v {0} {1}` ends it",
            if disarmed.is_empty() { "release" } else { "disarm" },
            record.name
        ));
    }
    let waits = domain.is_some()
        && record.has_domain_on_old_disks()
        && matches!(heard, Heard::Nothing | Heard::Waits);
    MachineView {
        name: Some(record.name),
        shelf: record.shelf,
        boot_mac: Some(record.boot_mac),
        state: Some(record.state),
        answers,
        inventory: record.inventory,
        inventory_read: record.inventory_read,
        disarmed,
        disks: record.disks,
        domain,
        waits,
        shared_cards: Vec::new(),
        differences,
        next: Vec::new(),
        history: record.history,
    }
}

fn unknown(
    context: Context<'_>,
    shelf: u16,
    answers: BTreeMap<Address, Vec<MacAddr>>,
) -> MachineView {
    let (inventory, mut differences) = match read_inventory(context, &answers) {
        Ok(inventory) => (inventory, Vec::new()),
        Err(why) => (None, vec![why]),
    };
    differences.push(match &inventory {
        Some(inventory) if !inventory.nics.is_empty() => format!(
            "it answers and has no record here: it was booted by another server, or its record was lost. \
             `p2v copy e{shelf}.0 --not-booted-by-this-host --to ...` can read it"
        ),
        Some(_) => "it is a plain AoE target (`p2v-agent export`), not an old machine that booted p2v's image: `p2v` leaves \
                    it alone, the kernel's aoe driver can use it"
            .into(),
        None => "it tells this host nothing: it is an old machine of another p2v host's, or a plain AoE target. Leave it alone, \
                 unless you know what it is"
            .into(),
    });
    MachineView {
        name: None,
        shelf,
        boot_mac: inventory
            .as_ref()
            .and_then(|i| i.nics.iter().find(|n| n.boot))
            .map(|n| n.mac),
        state: None,
        answers,
        inventory_read: inventory.as_ref().map(|_| Timestamp::now()),
        inventory,
        disks: BTreeMap::new(),
        disarmed: BTreeMap::new(),
        domain: None,
        waits: false,
        shared_cards: Vec::new(),
        differences,
        next: Vec::new(),
        history: Vec::new(),
    }
}

/// What the old machine says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Answers,
    /// Its agent was started anew and waits before it answers reads and writes.
    Waits,
    /// A disk of its domain's is read-only.
    RefusesWrites,
}

fn heard(
    context: Context<'_>,
    record: &Record,
    answers: &BTreeMap<Address, Vec<MacAddr>>,
) -> Result<Heard, String> {
    if answers.is_empty() {
        return Ok(Heard::Nothing);
    }
    // Only one whose domain has its disks waits.
    if !record.has_domain_on_old_disks() || stations(answers).len() > 1 {
        return Ok(Heard::Answers);
    }
    for address in old_disks::the_domains(record) {
        let session = context.wire.attach(address).map_err(Error::from);
        let state = session.and_then(|mut session| old_disks::state(&mut *session));
        match state
            .map_err(|e| format!("{address} could not be asked what it lets be done: {e}"))?
        {
            ExportState::Waiting => return Ok(Heard::Waits),
            ExportState::ReadOnly => return Ok(Heard::RefusesWrites),
            ExportState::ReadWrite => {}
        }
    }
    Ok(Heard::Answers)
}

/// What starts the domain of a moved machine. `has_config`: a cutover that was cut off left none.
pub(super) fn how_a_moved_one_starts(name: &MachineName, has_config: bool) -> String {
    let write = match has_config {
        true => String::new(),
        false => format!("`p2v config {name} --write`, "),
    };
    format!("`p2v devices up`, {write}then `xl create` with its config starts it ({name})")
}

/// Whether one of the disks takes writes.
fn is_writable(context: Context<'_>, answers: &BTreeMap<Address, Vec<MacAddr>>) -> bool {
    stations(answers).len() == 1
        && answers.keys().any(|address| {
            let session = context.wire.attach(*address).map_err(Error::from);
            let state = session.and_then(|mut session| old_disks::state(&mut *session));
            matches!(state, Ok(ExportState::ReadWrite))
        })
}

/// Where a record and what is seen disagree.
/// `has_config`: that of a moved machine is there.
/// `outage`: what `p2v watch` remembers of one.
/// `key`: this host's.
fn compare(
    record: &Record,
    heard: Heard,
    runs: bool,
    has_config: bool,
    outage: Option<&Outage>,
    key: &PublicKey,
) -> Vec<String> {
    let away = outage.and_then(|outage| outage.since.age_at(Timestamp::now()));
    let away = away.map_or_else(String::new, |away| format!(" {} s", away.as_secs()));
    let name = &record.name;
    let answers = heard != Heard::Nothing;
    let mut differences = Vec::new();
    match record.state {
        State::Running if !runs => differences.push(format!(
            "the record says running, and there is no domain: it was shut down or crashed. `p2v start {name}` starts it \
             again, `p2v copy {name} --to VG` copies it"
        )),
        State::Seen | State::Exported | State::Copying | State::Copied if runs => differences.push(format!(
            "the record says {}, and a domain {name} runs that p2v did not start: do not copy before you know what disk \
             it uses",
            record.state
        )),
        State::Moved | State::Released if !runs => differences.push(format!(
            "its domain does not run: {}",
            how_a_moved_one_starts(name, has_config)
        )),
        _ => {}
    }
    match record.state {
        State::Running if runs && heard == Heard::RefusesWrites => differences.push(format!(
            "OLD DISK READ-ONLY: the domain gets errors for what it writes. `p2v stop {name} --destroy`, then \
             `p2v start {name}`; its file systems will want a check"
        )),
        State::Running if runs && heard == Heard::Waits => {
            let why_not = outage.and_then(|outage| outage.why_not.clone());
            let why_not = why_not.unwrap_or_else(|| {
                format!(
                    "the domain waits for its disk; nothing is lost so far. `p2v resume {name}` says what to make sure of, \
                     and gives the disk back"
                )
            });
            differences.push(format!("OLD MACHINE RESTARTED, its disks are away{away}: {why_not}"));
        }
        State::Running if runs && !answers => differences.push(format!(
            "OLD MACHINE SILENT{away}: the domain waits for its disk (for domain_waits_seconds at most); nothing is lost so far. \
             Look at the old machine's power and cable; with the cable back there is nothing to type; if it \
             was restarted, `p2v show {name}` says how to go on"
        )),
        State::Running | State::Copying | State::Copied if !answers => {
            differences
                .push("the old machine does not answer: look at its screen and its cable".into());
        }
        State::Released if answers => {
            differences.push("it was released, and answers again: somebody switched it on".into());
        }
        _ => {}
    }
    for slot in record.missing() {
        differences.push(format!(
            "it had a disk e{}.{slot} and does not export it now: did it come up?",
            record.shelf
        ));
    }
    if let Some(inventory) = record.inventory.as_ref().filter(|_| answers)
        && !inventory.host_keys.contains(key)
    {
        differences.push(
            "it was started without this host's key and takes no orders from it: restart it".into(),
        );
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_said_and_agreement_is_not() {
        let key = p2v_contract::key::SecretKey::from_bytes(&[1; 32]).public();
        let mut record = Record::new("web".parse().unwrap(), MacAddr::new(2, 0, 0, 0, 0, 1), 7);
        let mut said = |state, answers, runs| {
            record.state = state;
            let heard = if answers {
                Heard::Answers
            } else {
                Heard::Nothing
            };
            compare(&record, heard, runs, true, None, &key).len()
        };
        for (state, answers, runs, count) in [
            (State::Seen, false, false, 0),
            (State::Exported, true, false, 0),
            (State::Exported, true, true, 1),
            (State::Running, true, true, 0),
            (State::Running, false, false, 2),
            (State::Copied, true, true, 1),
            (State::Moved, true, true, 0),
            (State::Released, false, true, 0),
            (State::Released, true, false, 2),
        ] {
            assert_eq!(
                said(state, answers, runs),
                count,
                "{state} {answers} {runs}"
            );
        }
    }
}
