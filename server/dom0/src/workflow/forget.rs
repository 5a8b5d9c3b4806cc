//! `p2v forget`: a machine's record is retired. Its name and shelf are free then, so nothing of it may be left.

use std::path::PathBuf;
use std::time::Duration;

use p2v_contract::Address;

use super::disarm::disarmed;
use super::{Code, Context, Error, config, refused};
use crate::name::MachineName;
use crate::record::{Destination, Record, State};
use crate::store::StoreError;
use crate::timestamp::Timestamp;
use crate::tool::{ToolError, lvm};

/// What is left of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Left {
    Domain(u32),
    SavedImage(PathBuf),
    Device(String),
    Config(PathBuf),
    Copy(Destination),
    /// It answers on its shelf.
    OldMachine,
}

impl Left {
    /// What it is, and how it goes.
    fn words(&self, record: &Record) -> String {
        let (name, shelf) = (&record.name, record.shelf);
        match self {
            Left::Domain(id) => format!("its domain runs (number {id}): `p2v stop {name}`"),
            Left::SavedImage(path) => format!(
                "its domain was saved: `rm {0}`, if it may be lost (else `xl restore {0}`)",
                path.display()
            ),
            Left::Device(device) => {
                format!("its device /dev/mapper/{device} is there: `dmsetup remove {device}`")
            }
            Left::Config(path) => format!("its config is there: move {} away", path.display()),
            Left::Copy(Destination::Volume { vg, lv, .. }) => {
                format!(
                    "the copy of its disk is there: `lvremove {vg}/{lv}`, or `lvrename` to keep it"
                )
            }
            Left::Copy(copy) => format!("the copy of its disk is there: move {} away", copy.name()),
            Left::OldMachine => format!(
                "its shelf e{shelf} answers: switch the old machine off (or end what answers in its place)"
            ),
        }
    }
}

/// A menu was given to it so short a time ago that it may be starting its agent.
const JUST_NOW: Duration = Duration::from_secs(10 * 60);

/// Retires the record of a machine of which nothing is left, also where only what was noted for it is there. `gone`: the
/// operator knows that the old machine starts neither its own system nor a medium of p2v's again. Returns where its history
/// is kept.
///
/// # Errors
/// What is left of it, and how it goes.
pub fn forget(context: Context<'_>, name: &MachineName, gone: bool) -> Result<PathBuf, Error> {
    let store = &context.host.store;
    let _lock = store.lock(name, &format!("p2v forget {name}"))?;
    let (record, noted) = match store.get(name) {
        Err(StoreError::Unknown {
            name: asked,
            others,
        }) => {
            let lost = store.lost(name)?;
            lost.ok_or(StoreError::Unknown {
                name: asked,
                others,
            })?
        }
        record => (
            record?,
            store
                .lost(name)?
                .map(|(_, copies)| copies)
                .unwrap_or_default(),
        ),
    };
    let left = left(context, &record, &noted)?;
    if !left.is_empty() {
        let words: Vec<String> = left.iter().map(|left| left.words(&record)).collect();
        return refused(
            Code::StillInUse,
            format!(
                "something of {name} is left, and another machine would get its name: {}",
                words.join("; ")
            ),
        );
    }
    if let Some(why) = why_not(&record, &noted, Timestamp::now()).filter(|_| !gone) {
        return refused(
            Code::OldDiskMayStart,
            format!(
                "{why}. If the old machine is gone for good (scrapped, or its disks wiped) and no medium of it is used: --gone"
            ),
        );
    }
    let disarmed = disarmed(context.host, name)?;
    context.doubt_copies_of_others(&record)?;
    let away = store.retire(&record, Timestamp::now())?;
    for slot in disarmed {
        context.report.warn(&format!(
            "its old disk {} is disarmed: should the machine come back, `p2v rearm` puts back what it starts from, as long as \
             {} is there",
            Address::new(record.shelf, slot),
            away.display()
        ));
    }
    Ok(away)
}

/// Why a machine that is forgotten could do harm.
fn why_not(record: &Record, noted: &[Destination], now: Timestamp) -> Option<String> {
    let name = &record.name;
    if matches!(record.state, State::Moved | State::Released) || !noted.is_empty() {
        return Some(format!(
            "the server of {name} was copied or moved here (a finished move needs no `forget`), and what is forgotten no longer keeps the old machine from starting a \
             second one from its own disk"
        ));
    }
    if record.menus.in_files.is_some() {
        return Some(format!(
            "{name} has a menu in files or on a medium (`p2v image`), by which it would export its disks with a shelf that is \
             another machine's then"
        ));
    }
    let just_now = record.menu_fetched.and_then(|at| at.age_at(now));
    let just_now = just_now.is_some_and(|age| age < JUST_NOW);
    just_now.then(|| {
        format!(
            "{name} was given its menu just now, and may be starting its agent: wait 10 minutes"
        )
    })
}

fn left(context: Context<'_>, record: &Record, noted: &[Destination]) -> Result<Vec<Left>, Error> {
    let host = context.host;
    let name = &record.name;
    let mut left = Vec::new();
    let domains = context.domains()?;
    let domain = domains.iter().find(|d| d.name == name.as_str());
    left.extend(domain.map(|domain| Left::Domain(domain.id)));
    left.extend(host.saved_image(name).map(Left::SavedImage));
    let devices = context.dm_devices()?;
    let its =
        |device: &String| (0..=usize::from(u8::MAX)).any(|slot| *device == name.dm_name(slot));
    left.extend(
        devices
            .into_iter()
            .map(|d| d.name)
            .filter(its)
            .map(Left::Device),
    );
    let config = config::path(host, name);
    left.extend(
        config
            .symlink_metadata()
            .is_ok()
            .then_some(Left::Config(config)),
    );
    let volumes = match lvm::volumes(&host.tools) {
        Err(ToolError::Missing { .. }) => Vec::new(),
        volumes => volumes?,
    };
    let copies = record.disks.values().filter_map(|disk| disk.copy.as_ref());
    let copies = copies.map(|copy| &copy.destination);
    let mut copies: Vec<&Destination> = copies.chain(noted).collect();
    copies.dedup();
    for copy in copies {
        let is_there = match copy {
            Destination::Volume { vg, lv, .. } => {
                volumes.iter().any(|v| v.vg == *vg && v.lv == *lv)
            }
            // A device is the host's own: what is on it is the operator's to know.
            Destination::Device { .. } => false,
            file => file.path().exists(),
        };
        left.extend(is_there.then(|| Left::Copy(copy.clone())));
    }
    let wait = Duration::from_secs(host.settings.discovery_seconds.max(1));
    let answers = context.wire.discover(wait)?;
    let answers = answers
        .iter()
        .any(|found| found.address.shelf == record.shelf);
    left.extend(answers.then_some(Left::OldMachine));
    Ok(left)
}
