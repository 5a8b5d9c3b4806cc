//! `p2v copy`: the old disks, copied and checked.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use p2v_aoe::Address;
use p2v_aoe::inventory::Disk;
use p2v_aoe::token::Token;

use super::{Contact, Context, Error, addresses, refused};
use crate::copy::destination::{self, Wanted};
use crate::copy::{self, CopyError, Options, Summary};
use crate::name::MachineName;
use crate::record::{CopyRecord, Destination, State, Verified};
use crate::timestamp::Timestamp;
use crate::tool::lvm;
use crate::wire::{Access, Export};

/// What is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyTarget {
    /// Every exported disk of a machine.
    Machine(MachineName),
    /// One disk.
    Disk(Address),
}

/// A copy as it was asked for.
#[derive(Clone, Copy, Debug)]
pub struct CopyRequest<'a> {
    /// What.
    pub target: &'a CopyTarget,
    /// Where to: `VG`, `VG/LV`, a file or a block device.
    pub to: &'a str,
    /// What is there may go.
    pub overwrite: bool,
    /// Go on although the old machine takes no orders from this host: the operator knows that no
    /// other host writes to its disks.
    pub not_booted_by_this_host: bool,
    /// Slots of disks that are gone for good.
    pub without: &'a [u8],
    /// Set to stop in good order (by a signal handler).
    pub stop: &'a AtomicBool,
}

/// One disk's copy that came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyDone {
    /// The disk.
    pub address: Address,
    /// Where its copy is.
    pub destination: Destination,
    /// What was done. Only with no unreadable sectors is the disk copied.
    pub summary: Summary,
}

/// Copies and checks. Refuses while anything uses the disks.
///
/// # Errors
/// What stopped it; the same command goes on from there.
pub fn copy(context: Context<'_>, request: CopyRequest<'_>) -> Result<Vec<CopyDone>, Error> {
    let Context { host, report, .. } = context;
    let wanted: Wanted = request
        .to
        .parse()
        .map_err(destination::DestinationError::from)?;
    let name = machine(context, request.target)?;
    let _lock = host.store.lock(&name, &format!("p2v copy {name}"))?;
    if let state @ (State::Moved | State::Released) = host.store.get(&name)?.state {
        return refused(format!(
            "{name} is {state}: the domain runs on its volume, which is newer than the old disk. There is nothing to copy"
        ));
    }
    // Before the wire is asked: a running domain is the first thing to hear of.
    context.refuse_while_in_use(
        &name,
        &super::stop::known_addresses(&host.store.get(&name)?),
    )?;
    let contact = context.contact(&name)?;
    context.refuse_missing(&contact.record, request.without)?;
    let all = addresses(&contact.disks);
    context.refuse_while_in_use(&name, &all)?;
    let chosen: Vec<(Address, Disk)> = match request.target {
        CopyTarget::Machine(_) => contact.disks.clone(),
        CopyTarget::Disk(address) => contact
            .disks
            .iter()
            .filter(|(a, _)| a == address)
            .cloned()
            .collect(),
    };
    if chosen.is_empty() {
        return refused(format!(
            "{name} exports no such disk; `p2v show {name}` lists those it does"
        ));
    }
    if chosen.len() > 1 && !matches!(wanted, Wanted::Group(_)) {
        return refused(format!(
            "{name} has {} disks and {} is one destination: name a volume group, or one disk at a time (as in \
             `p2v copy {} --to ...`)",
            chosen.len(),
            request.to,
            chosen[0].0
        ));
    }
    let guard = guard(context, &contact, request)?;
    context.let_go(&name, &all)?;
    if let Some(token) = &guard {
        report.step("making the exports read-only");
        context.set_access(&contact, &all, token, Access::ReadOnly)?;
    }
    let unguarded = guard.is_none();
    let mut done = Vec::new();
    for (address, disk) in &chosen {
        done.push(copy_disk(
            context, &contact, *address, disk, &wanted, request, unguarded,
        )?);
    }
    let complete = finish_state(context, &name, &all)?;
    if complete {
        report.step(&format!(
            "{name} is copied and checked; next: `p2v cutover {name}`"
        ));
    }
    Ok(done)
}

/// The machine of a target; one without a record that answers gets one.
fn machine(context: Context<'_>, target: &CopyTarget) -> Result<MachineName, Error> {
    let address = match target {
        CopyTarget::Machine(name) => return Ok(context.host.store.get(name)?.name),
        CopyTarget::Disk(address) => *address,
    };
    if let Some(record) = context.host.store.by_shelf(address.shelf)? {
        return Ok(record.name);
    }
    let inventory = context.wire.attach(address)?.inventory()?;
    let Some(nic) = inventory
        .nics
        .iter()
        .find(|n| n.boot)
        .or(inventory.nics.first())
    else {
        return refused(format!(
            "the machine at {address} names no network card to know it by"
        ));
    };
    Ok(context
        .host
        .store
        .adopt(nic.mac, address.shelf, Timestamp::now())?
        .name)
}

/// The token with which the old disks are made read-only, so that nothing writes to them while they
/// are copied; `None` if there is none and the operator takes that on himself.
fn guard(
    context: Context<'_>,
    contact: &Contact,
    request: CopyRequest<'_>,
) -> Result<Option<Token>, Error> {
    let name = &contact.record.name;
    match Context::token(contact) {
        Some(token) => Ok(Some(token)),
        None if request.not_booted_by_this_host => {
            context.report.warn(&format!(
                "{name} was not booted by this host, which cannot make its exports read-only: if a domain of another \
                 host writes to them meanwhile, the copy is of no use. `p2v cutover` will ask again"
            ));
            Ok(None)
        }
        None => refused(format!(
            "the agent on {name} did not get its boot token from this host, so this host cannot make its exports \
             read-only, and a domain of another host may be writing to them. Restart the old machine so that it boots \
             from `p2v serve` here; or, if you know that nothing writes to its disks, say --not-booted-by-this-host"
        )),
    }
}

fn copy_disk(
    context: Context<'_>,
    contact: &Contact,
    address: Address,
    disk: &Disk,
    wanted: &Wanted,
    request: CopyRequest<'_>,
    unguarded: bool,
) -> Result<CopyDone, Error> {
    let name = &contact.record.name;
    let mut session = context.attach(contact, address, disk)?;
    let patience = Duration::from_secs(context.host.settings.silence_seconds);
    let listener = context.report.silence(&address.to_string(), patience);
    session.wait_out_silence(patience, listener);
    // So that a disk that changed places is noticed before a volume is touched.
    let before = context.host.store.update(name, |record| {
        Ok::<_, Error>(record.use_disk(address, disk)?.copy.clone())
    })?;
    context.report.step(&format!("reserving {address}"));
    session.reserve()?;
    let copied = copy_reserved(
        context,
        contact,
        address,
        disk,
        wanted,
        request,
        unguarded,
        before,
        &mut *session,
    );
    // Also after a failure: the domain's driver must be let in again.
    if let Err(error) = session.release() {
        context.report.warn(&format!(
            "the reservation of {address} could not be ended: {error}"
        ));
    }
    copied
}

#[allow(
    clippy::too_many_arguments,
    reason = "one step of copy_disk, split off for its error path"
)]
fn copy_reserved(
    context: Context<'_>,
    contact: &Contact,
    address: Address,
    disk: &Disk,
    wanted: &Wanted,
    request: CopyRequest<'_>,
    unguarded: bool,
    before: Option<CopyRecord>,
    session: &mut dyn Export,
) -> Result<CopyDone, Error> {
    let Context { host, report, .. } = context;
    let name = &contact.record.name;
    let Some(tag) = host.store.get(name)?.volume_tag(address.slot) else {
        return refused(format!("the record of {name} lost its disk {address}"));
    };
    let prepared = destination::prepare(
        host,
        wanted,
        destination::Request {
            name,
            slot: address.slot,
            tag: &tag,
            sectors: disk.sectors,
            before: before.as_ref().map(|c| &c.destination),
            overwrite: request.overwrite,
        },
    )?;
    let to = prepared.destination.clone();
    if let Some(earlier) = before
        .as_ref()
        .map(|copy| &copy.destination)
        .filter(|d| **d != to)
    {
        // One disk has one copy that the domain can be switched to: the operator must know which.
        report.warn(&format!(
            "`p2v cutover {name}` will use {to} for {address} from now on, instead of the earlier copy in {earlier}; that \
             one is left as it is (to use it again, run the copy to it again: only what differs is moved)"
        ));
    }
    host.store.update(name, |record| {
        let begun = match &before {
            Some(copy) if copy.destination == to => copy.begun,
            _ => Timestamp::now(),
        };
        record.use_disk(address, disk)?.copy = Some(CopyRecord {
            destination: to.clone(),
            begun,
            unguarded,
            verified: None,
        });
        record.state = State::Copying;
        record.note(Timestamp::now(), format!("copying {address} to {to}"));
        Ok::<_, Error>(())
    })?;
    report.step(&format!("copying {address} to {to}"));
    let label = address.to_string();
    let options = Options {
        fresh: prepared.fresh,
        ..Options::default()
    };
    let summary = copy::run(session, &prepared.sink, options, request.stop, &|p| {
        report.progress(&label, p)
    })
    .inspect_err(|error| note_failure(context, name, address, error))?;
    // A restart of the old machine in between would have been heard as silence at most.
    let now = session.inventory()?;
    if now.boot_id != contact.inventory.boot_id {
        return refused(format!(
            "the old machine restarted while {address} was copied: its disk may have changed. Run the copy again; it \
             moves only what differs"
        ));
    }
    host.store.update(name, |record| {
        if let Some(copy) = &mut record.use_disk(address, disk)?.copy {
            copy.verified = Some(Verified {
                at: Timestamp::now(),
                boot_id: now.boot_id.clone(),
                unreadable: summary.unreadable.clone(),
            });
        }
        record.note(
            Timestamp::now(),
            format!(
                "{address} compared with {to}: {} bytes moved, {} equal, {} zero, {} sectors unreadable",
                summary.moved,
                summary.equal,
                summary.zeroed,
                summary.unreadable_sectors()
            ),
        );
        Ok::<_, Error>(())
    })?;
    if let Destination::Volume { vg, lv, .. } = &to
        && summary.is_complete()
    {
        lvm::retag(&host.tools, vg, lv, &[], &[lvm::TAG_COPYING])?;
    }
    Ok(CopyDone {
        address,
        destination: to,
        summary,
    })
}

fn note_failure(context: Context<'_>, name: &MachineName, address: Address, error: &CopyError) {
    // The copy's own error is what the operator must see.
    let _ = context.note(name, &format!("copying {address} ended: {error}"));
}

/// `copied` if every disk is, in this boot and completely.
fn finish_state(context: Context<'_>, name: &MachineName, all: &[Address]) -> Result<bool, Error> {
    context.host.store.update(name, |record| {
        let whole = record
            .disks
            .values()
            .filter_map(|d| d.copy.as_ref()?.verified.as_ref())
            .all(|v| v.unreadable.is_empty());
        let complete = whole && record.verified_copies(all).is_ok();
        if complete {
            record.state = State::Copied;
            record.note(Timestamp::now(), "every disk is copied and checked");
        }
        Ok(complete)
    })
}
