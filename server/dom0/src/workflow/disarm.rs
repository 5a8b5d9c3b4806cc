//! `p2v disarm` and `p2v rearm`: whether an old disk can start anything, once its server runs on this host.
//!
//! What is replaced is kept in a file of root's before a byte of the disk is written, and written back from there. A
//! sector that holds neither what was there nor what was put there is left alone.

use std::path::{Path, PathBuf};

use super::other_record::has_its_server_here;
use super::{Code, Contact, Context, Error, refusal, refused};
use crate::disarm::{
    Disarmed, Place, candidates, gpt_entries, is_disarmed, replaced, replaced_first,
};
use crate::disk_user;
use crate::host::Host;
use crate::name::MachineName;
use crate::record::{Mapping, State};
use crate::tool::aoe_driver::AoeDriver;
use crate::wire::{Access, Export};

mod kept;

use kept::{ENDING, cannot, keep, kept, path, read_kept};
pub(super) use kept::{disarmed, how_far};
use p2v_contract::inventory::Disk;
use p2v_contract::{Address, SECTOR};
use p2v_copy::SourceError;
use p2v_copy::atomic_file;

/// What a disk is made to hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// What starts nothing. What somebody else wrote is in the way.
    Disarmed,
    /// What was there. What somebody else wrote is left alone.
    AsItWas,
}

/// Makes the old disks of a moved machine unable to start, so that it cannot come up beside its domain even where
/// `p2v serve` does not answer it. Returns those on which there was something to start. `without`: slots of disks that are
/// gone for good.
///
/// # Errors
/// The machine is not moved, does not answer or takes no orders; or a disk of it can still start, and why. Repeated, it goes
/// on where it was.
pub fn disarm(
    context: Context<'_>,
    name: &MachineName,
    without: &[u8],
) -> Result<Vec<Address>, Error> {
    let Context { host, report, .. } = context;
    let _lock = host.store.lock(name, &format!("p2v disarm {name}"))?;
    let record = host.store.get(name)?;
    if !matches!(record.state, State::Moved | State::Released) {
        return refused(
            Code::NotMoved,
            format!(
                "{name} is {}, not moved: its own old disk is what it starts from",
                record.state
            ),
        );
    }
    let unreadable = record.unreadable();
    if unreadable > 0 {
        return refused(
            Code::DiskFailing,
            format!(
                "the old disk of {name} is failing: {unreadable} sectors could not be read when it was copied, and this would write \
                 to it. Pull the disk out of the old machine"
            ),
        );
    }
    let contact = context.contact(name)?;
    context.refuse_missing(&contact.record, without)?;
    let disks = record.disks.iter();
    let moved = disks.filter(|(_, disk)| disk.mapping == Some(Mapping::Copy));
    let slots: Vec<u8> = moved.map(|(slot, _)| *slot).collect();
    for disk in &contact.inventory.disks {
        let is_moved = |address: Address| slots.contains(&address.slot);
        if !disk.address.is_some_and(is_moved) {
            report.warn(&format!(
                "the disk {} of {name} was not moved{}, and is left as it is",
                disk.name,
                match disk.address {
                    Some(_) => String::new(),
                    None => format!(" ({})", disk.refused),
                }
            ));
        }
    }
    disarm_disks(context, &contact, &slots)
}

/// Puts back what [`disarm`] replaced. Returns the disks where it did.
///
/// # Errors
/// As [`disarm`]; nothing that is there is disarmed.
pub fn rearm(context: Context<'_>, name: &MachineName) -> Result<Vec<Address>, Error> {
    let host = context.host;
    let _lock = host.store.lock(name, &format!("p2v rearm {name}"))?;
    let contact = context.contact(name)?;
    let done = each(context, &contact, |address, disk| {
        adopt(context, &contact, address, disk)?;
        rearm_disk(context, &contact, address, disk)
    })?;
    let left: Vec<String> = disarmed(host, name)?
        .into_iter()
        .map(|slot| Address::new(contact.record.shelf, slot).to_string())
        .collect();
    match left.is_empty() {
        true if done.is_empty() => refused(
            Code::NotDisarmed,
            format!("no old disk of {name} is disarmed"),
        ),
        true => Ok(done),
        false => refused(
            Code::DiskMissing,
            format!(
                "{} is not exported now, and stays disarmed: look at the old machine's disks",
                left.join(" and ")
            ),
        ),
    }
}

pub(super) fn disarm_disks(
    context: Context<'_>,
    contact: &Contact,
    slots: &[u8],
) -> Result<Vec<Address>, Error> {
    let name = &contact.record.name;
    each(context, contact, |address, disk| {
        if !slots.contains(&address.slot) {
            return Ok(false);
        }
        let mut session = free_disk(context, contact, address, disk)?;
        adopt(context, contact, address, disk)?;
        let kept = match kept(context.host, name, address, disk)? {
            Some(kept) => kept,
            None => {
                let found = look(context, name, address, disk, &mut *session)?;
                if found.places.is_empty() {
                    context
                        .report
                        .step(&format!("{address} has nothing that firmware starts from"));
                    return Ok(false);
                }
                keep(context.host, name, address, &found, false)?;
                found
            }
        };
        context
            .report
            .step(&format!("making {address} unable to start"));
        put(
            context,
            contact,
            address,
            &mut *session,
            &kept.places,
            Goal::Disarmed,
        )?;
        keep(context.host, name, address, &kept, true)?;
        context.note_or_warn(
            name,
            &format!("the old disk {address} was disarmed: nothing starts from it"),
        );
        Ok(true)
    })
}

pub(super) fn rearm_disks(context: Context<'_>, contact: &Contact) -> Result<Vec<Address>, Error> {
    each(context, contact, |address, disk| {
        rearm_disk(context, contact, address, disk)
    })
}

/// Whether there was something to put back.
fn rearm_disk(
    context: Context<'_>,
    contact: &Contact,
    address: Address,
    disk: &Disk,
) -> Result<bool, Error> {
    let (host, name) = (context.host, &contact.record.name);
    let Some(kept) = kept(host, name, address, disk)? else {
        return Ok(false);
    };
    let mut session = free_disk(context, contact, address, disk)?;
    context
        .report
        .step(&format!("putting back what {address} starts from"));
    keep(host, name, address, &kept, false)?;
    put(
        context,
        contact,
        address,
        &mut *session,
        &kept.places,
        Goal::AsItWas,
    )?;
    let path = path(host, name, address.slot);
    put_aside(&path, "rearmed.json")?;
    context.note_or_warn(
        name,
        &format!("the old disk {address} was rearmed: it starts as it did"),
    );
    Ok(true)
}

/// Gives a file of what is kept another ending, and a number where there is one of that name: it may be the only place of
/// what a disk started from.
fn put_aside(file: &Path, ending: &str) -> Result<(), Error> {
    let text = file.display().to_string();
    let stem = text.strip_suffix(ENDING).unwrap_or(&text);
    let mut aside = PathBuf::from(format!("{stem}{ending}"));
    for number in 2.. {
        if !aside.exists() {
            break;
        }
        aside = PathBuf::from(format!("{stem}{number}.{ending}"));
    }
    atomic_file::rename(file, &aside).map_err(|e| cannot("rename", file, &e))
}

/// Also if its record is lost.
fn may_have_its_server_here(host: &Host, name: &MachineName) -> Result<bool, Error> {
    match host.store.path(name).exists() {
        true => Ok(has_its_server_here(&host.store.get(name)?)),
        false => Ok(host.store.lost(name)?.is_some()),
    }
}

/// Takes over what is kept of a disk that was disarmed when it was that of a record which was forgotten.
fn adopt(
    context: Context<'_>,
    contact: &Contact,
    address: Address,
    disk: &Disk,
) -> Result<(), Error> {
    let (host, name) = (context.host, &contact.record.name);
    if kept(host, name, address, disk)?.is_some() {
        return Ok(());
    }
    let first = first_sector(context, contact, address, disk)?;
    let Some(first) = first.filter(|first| is_disarmed(first)) else {
        return Ok(());
    };
    for file in host.store.files_of_copies(ENDING)? {
        let Ok(known) = read_kept(&file) else {
            continue;
        };
        let known = known.disk;
        let mut places = known.places.iter();
        let is_its = places.any(|place| place.lba == 0 && place.now() == first);
        if !is_its || known.sectors != disk.sectors {
            continue;
        }
        let is_live = file.parent() == Some(host.store.copies());
        let owner = file
            .file_name()
            .and_then(|file| file.to_str()?.rsplit_once("-disk"));
        let owner = owner.and_then(|(owner, _)| owner.parse().ok());
        if let Some(owner) = owner.filter(|_| is_live)
            && may_have_its_server_here(host, &owner)?
        {
            return refused(
                Code::SameMachine,
                format!(
                    "the old disk {address} was disarmed as that of {owner}, which counts as the same machine, and whose server is \
                     here: `p2v show {owner}` says what comes next, and only when it is booted as {owner}, `p2v rearm {owner}` puts \
                     back what the disk starts from"
                ),
            );
        }
        keep(host, name, address, &known, false)?;
        if is_live {
            // Nobody else says of it that it starts nothing.
            put_aside(&file, "taken.json")?;
        }
        return Ok(());
    }
    refused(
        Code::DisarmFileMissing,
        format!(
            "{address} was disarmed, and what it started from is not kept on this host: look for a file *.{ENDING} in a backup of \
             {}, and put it back there",
            host.store.copies().display()
        ),
    )
}

/// `None`: it cannot be read.
fn first_sector(
    context: Context<'_>,
    contact: &Contact,
    address: Address,
    disk: &Disk,
) -> Result<Option<[u8; SECTOR as usize]>, Error> {
    let mut first = [0; SECTOR as usize];
    match context.attach(contact, address, disk)?.read(0, &mut first) {
        Ok(()) => Ok(Some(first)),
        Err(SourceError::Unreadable { .. }) => Ok(None),
        Err(error) => Err(unreadable(0, address, &error)),
    }
}

/// Does the same with each disk, also where it fails with one. Returns those with which it was done.
fn each(
    context: Context<'_>,
    contact: &Contact,
    act: impl Fn(Address, &Disk) -> Result<bool, Error>,
) -> Result<Vec<Address>, Error> {
    context.need_orders(contact)?;
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for (address, disk) in &contact.disks {
        match act(*address, disk) {
            Ok(true) => done.push(*address),
            Ok(false) => {}
            Err(error) => failed.push(error.to_string()),
        }
    }
    match failed.is_empty() {
        true => Ok(done),
        false => refused(Code::DisarmFailed, failed.join("; ")),
    }
}

impl Context<'_> {
    /// Refuses a disk that was disarmed: a copy of it, and a domain on it, would not start. `known`: slots of those that
    /// are put right.
    pub(super) fn refuse_disarmed(&self, contact: &Contact, known: &[u8]) -> Result<(), Error> {
        let name = &contact.record.name;
        let mine = disarmed(self.host, name)?;
        for (address, disk) in &contact.disks {
            if known.contains(&address.slot) {
                continue;
            }
            // What cannot be read is not known to be, and a disk that fails is copied as far as it can be.
            let first = || first_sector(*self, contact, *address, disk).ok().flatten();
            if mine.contains(&address.slot) || first().is_some_and(|first| is_disarmed(&first)) {
                return refused(
                    Code::Disarmed,
                    format!(
                        "the old disk {address} is disarmed: `p2v rearm {name}` puts back what it starts from"
                    ),
                );
            }
        }
        Ok(())
    }
}

/// A session with a disk that is the one it was, and that nothing on this host uses.
fn free_disk(
    context: Context<'_>,
    contact: &Contact,
    address: Address,
    disk: &Disk,
) -> Result<Box<dyn Export>, Error> {
    let Context { host, .. } = context;
    contact
        .record
        .same_place(&contact.inventory, address, disk)?;
    // The same by its serial number and size.
    contact.record.clone().use_disk(address, disk)?;
    let device = AoeDriver::new(&host.tools, &host.paths).device(address);
    if let Some(user) = disk_user::user_among(host, &context.domains()?, &device)? {
        return refused(
            Code::DomainRuns,
            format!(
                "the domain {} (number {}) uses {}: shut it down first (`xl shutdown {}`)",
                user.domain, user.id, user.disk, user.domain
            ),
        );
    }
    context.attach(contact, address, disk)
}

/// What there is on the disk that firmware starts from, as its partition table is now.
fn look(
    context: Context<'_>,
    name: &MachineName,
    address: Address,
    disk: &Disk,
    session: &mut dyn Export,
) -> Result<Disarmed, Error> {
    let mut sectors = |lba: u64, count: u32| {
        let mut data = vec![0; count as usize * SECTOR as usize];
        let read = session.read(lba, &mut data);
        read.map(|()| data).map_err(|e| {
            refusal(
                Code::DisarmFailed,
                format!("cannot read sector {lba} of {address}: {e}"),
            )
        })
    };
    let first = sectors(0, 1)?;
    if is_disarmed(&first) {
        return refused(Code::Disarmed, format!("{address} is disarmed already"));
    }
    let header = sectors(1, 1)?;
    let entries = gpt_entries(&header);
    let listed = match entries {
        None => Vec::new(),
        Some(entries) => sectors(entries.lba, entries.sectors)?,
    };
    let bytes = entries.map_or(0, |entries| entries.bytes);
    let mut places: Vec<Place> = replaced_first(name, address.slot, &first)
        .into_iter()
        .collect();
    for candidate in candidates(disk, &first, &listed, bytes) {
        match sectors(candidate.lba, 1) {
            Ok(was) => places.extend(replaced(name, address.slot, candidate, &was)),
            // Firmware cannot read it either.
            Err(error) => context.report.warn(&error.to_string()),
        }
    }
    Ok(Disarmed {
        sectors: disk.sectors,
        places,
    })
}

/// Makes the changes that are not made yet, and reads them back. The disk can be written for no longer than that takes, but
/// where p2v is killed meanwhile: then until this is done again.
fn put(
    context: Context<'_>,
    contact: &Contact,
    address: Address,
    session: &mut dyn Export,
    places: &[Place],
    goal: Goal,
) -> Result<(), Error> {
    let all = [address];
    context.set_access(contact, &all, Access::ReadOnly)?;
    let path = path(context.host, &contact.record.name, address.slot);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for place in places {
        let (from, to) = match goal {
            Goal::Disarmed => (place.was(), place.now()),
            Goal::AsItWas => (place.now(), place.was()),
        };
        let (lba, mut have) = (place.lba, vec![0; to.len()]);
        match session.read(lba, &mut have) {
            Ok(()) if have == to => {}
            Ok(()) if have == from => left.push((lba, to.clone())),
            Ok(()) => {
                let what = format!(
                    "sector {} of {address} holds neither what was there nor what p2v put there: something else has written \
                     to it, and it is left as it is (what was there is kept in {})",
                    lba,
                    path.with_file_name("").display()
                );
                if goal == Goal::Disarmed {
                    return refused(Code::DiskChanged, what);
                }
                context.report.warn(&what);
                continue;
            }
            // Written to, it may be read again.
            Err(SourceError::Unreadable { .. }) => left.push((lba, to.clone())),
            Err(error) => return Err(unreadable(lba, address, &error)),
        }
        right.push((lba, to));
    }
    if left.is_empty() {
        return Ok(());
    }
    context.keep_guests_off()?;
    let written = context
        .set_access(contact, &all, Access::ReadWrite)
        .and_then(|()| {
            for (lba, to) in left {
                session.write(lba, &to)?;
            }
            Ok(())
        });
    // Also where write access was given and the answer got lost.
    let closed = context.set_access(contact, &all, Access::ReadOnly);
    if closed.is_ok() {
        context.let_guests();
    }
    if let Err(error) = closed {
        let why = written.err().map_or_else(String::new, |e| format!("{e}; "));
        return refused(
            Code::DisarmFailed,
            format!("{why}{error}. {address} may still be writable: run the command again"),
        );
    }
    written?;
    for (lba, to) in right {
        let mut have = vec![0; to.len()];
        let read = session.read(lba, &mut have);
        read.map_err(|error| unreadable(lba, address, &error))?;
        if have != to {
            return refused(
                Code::DisarmFailed,
                format!(
                    "sector {} of {address} does not hold what was just written to it: the disk is failing. What was there is \
                     kept in {}",
                    lba,
                    path.display()
                ),
            );
        }
    }
    Ok(())
}

fn unreadable(lba: u64, address: Address, error: &SourceError) -> Error {
    refusal(
        Code::DisarmFailed,
        format!("cannot read sector {lba} of {address}: {error}"),
    )
}
