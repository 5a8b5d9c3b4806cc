//! `p2v forget`: a machine's record is retired. Its name and shelf are free then, so nothing of it may be left.

use std::path::PathBuf;
use std::time::Duration;

use super::{Context, Error, config, refused};
use crate::name::MachineName;
use crate::record::{Destination, Record};
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

/// Retires the record of a machine of which nothing is left. Returns where its history is kept.
///
/// # Errors
/// What is left of it, and how it goes.
pub fn forget(context: Context<'_>, name: &MachineName) -> Result<PathBuf, Error> {
    let host = context.host;
    let _lock = host.store.lock(name, &format!("p2v forget {name}"))?;
    let record = host.store.get(name)?;
    let left = left(context, &record)?;
    if !left.is_empty() {
        let words: Vec<String> = left.iter().map(|left| left.words(&record)).collect();
        return refused(format!(
            "something of {name} is left, and another machine would get its name: {}",
            words.join("; ")
        ));
    }
    Ok(host.store.retire(&record, Timestamp::now())?)
}

fn left(context: Context<'_>, record: &Record) -> Result<Vec<Left>, Error> {
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
    for copy in record.disks.values().filter_map(|disk| disk.copy.as_ref()) {
        let is_there = match &copy.destination {
            Destination::Volume { vg, lv, .. } => {
                volumes.iter().any(|v| v.vg == *vg && v.lv == *lv)
            }
            // A device is the host's own: what is on it is the operator's to know.
            Destination::Device { .. } => false,
            file => file.path().exists(),
        };
        left.extend(is_there.then(|| Left::Copy(copy.destination.clone())));
    }
    let wait = Duration::from_secs(host.settings.discovery_seconds.max(1));
    let answers = context.wire.discover(wait)?;
    let answers = answers
        .iter()
        .any(|found| found.address.shelf == record.shelf);
    left.extend(answers.then_some(Left::OldMachine));
    Ok(left)
}
