//! What an old machine lets be done with the disks that its domain has.

use std::time::Duration;

use p2v_contract::Address;
use serde::{Deserialize, Serialize};

use super::{Context, Error};
use crate::record::{Mapping, Record};
use crate::tool::aoe_driver::AoeDriver;
use crate::wire::Export;

/// How long a machine may take to say what it lets be done.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// What the old machine says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Seen {
    /// Every disk of the domain's can be read and written.
    Serves,
    /// Its agent was started anew, and a disk waits.
    Waits,
    /// A disk is read-only.
    RefusesWrites,
    /// A disk does not answer.
    Silent,
    /// The kernel's driver has given a disk up: what the domain had asked of it was refused.
    Failed,
}

/// The old disks that the domain has.
pub(super) fn the_domains(record: &Record) -> Vec<Address> {
    let disks = record.disks.iter();
    let used = disks.filter(|(_, disk)| matches!(disk.mapping, Some(Mapping::OldDisk { .. })));
    used.map(|(slot, _)| Address::new(record.shelf, *slot))
        .collect()
}

/// What an agent lets be done with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExportState {
    ReadOnly,
    ReadWrite,
    /// It was restarted, and answers no reads and writes before it is ordered to.
    Waiting,
}

pub(super) fn state(session: &mut dyn Export) -> Result<ExportState, Error> {
    Ok(match session.stats()?.get("read_write") {
        Some(1) => ExportState::ReadWrite,
        Some(2) => ExportState::Waiting,
        _ => ExportState::ReadOnly,
    })
}

/// Whether every disk that the domain has can be read and written.
pub(super) fn serves(context: Context<'_>, record: &Record) -> bool {
    see(context, record) == Seen::Serves
}

/// Asks every disk that the domain has.
pub(super) fn see(context: Context<'_>, record: &Record) -> Seen {
    let mut seen = Seen::Serves;
    let driver = AoeDriver::new(&context.host.tools, &context.host.paths);
    for address in the_domains(record) {
        if driver.has_given_up(address) {
            return Seen::Failed;
        }
        let session = context.wire.attach(address).map_err(Error::from);
        let state = session.and_then(|mut session| {
            session.wait_out_silence(PATIENCE, Box::new(|_| {}));
            state(&mut *session)
        });
        match state {
            Ok(ExportState::ReadWrite) => {}
            Ok(ExportState::Waiting) => seen = Seen::Waits,
            Ok(ExportState::ReadOnly) => return Seen::RefusesWrites,
            Err(_) => return Seen::Silent,
        }
    }
    seen
}
