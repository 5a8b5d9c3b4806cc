//! `p2v disarm` and `p2v rearm`: whether an old disk can start anything, once its server runs on this host.
//!
//! What is replaced is kept in a file of root's before a byte of the disk is written, and written back from there. A
//! sector that holds neither what was there nor what was put there is left alone.

use std::fs;
use std::io;
use std::path::PathBuf;

use p2v_aoe::inventory::Disk;
use p2v_aoe::{Address, SECTOR};
use serde::{Deserialize, Serialize};

use super::{Contact, Context, Error, refused};
use crate::atomic_file;
use crate::disarm::{Disarmed, Place, block, candidates, replaced};
use crate::disk_user;
use crate::host::Host;
use crate::name::MachineName;
use crate::record::{Record, State};
use crate::tool::aoe_driver::AoeDriver;
use crate::wire::{Access, Export};

/// The file of one disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    disk: Disarmed,
    /// BLAKE3 of that as it is written, in hex: what was damaged is not written to a disk.
    blake3: String,
}

/// A change of one place: from what, to what.
struct Change {
    lba: u64,
    from: Vec<u8>,
    to: Vec<u8>,
}

/// Makes the old disks of a moved machine unable to start, so that it cannot come up beside its domain even where
/// `p2v serve` does not answer it. Returns those on which there was something to start.
///
/// # Errors
/// The machine is not moved, does not answer or takes no orders; a disk is in use, or was changed by somebody else. Repeated,
/// it goes on where it was.
pub fn disarm(context: Context<'_>, name: &MachineName) -> Result<Vec<Address>, Error> {
    let _lock = context
        .host
        .store
        .lock(name, &format!("p2v disarm {name}"))?;
    let record = context.host.store.get(name)?;
    if !matches!(record.state, State::Moved | State::Released) {
        return refused(format!(
            "{name} is {}, not moved: its own old disk is what it starts from",
            record.state
        ));
    }
    let contact = context.contact(name)?;
    let done = disarm_disks(context, &contact)?;
    for disk in contact
        .inventory
        .disks
        .iter()
        .filter(|d| d.address.is_none())
    {
        context.report.warn(&format!(
            "the disk {} of {name} is not exported ({}), so it was not disarmed",
            disk.name, disk.refused
        ));
    }
    Ok(done)
}

/// Puts back what [`disarm`] replaced. Returns the disks where it did.
///
/// # Errors
/// As [`disarm`]; nothing was disarmed.
pub fn rearm(context: Context<'_>, name: &MachineName) -> Result<Vec<Address>, Error> {
    let _lock = context
        .host
        .store
        .lock(name, &format!("p2v rearm {name}"))?;
    let record = context.host.store.get(name)?;
    if disarmed(context.host, &record).is_empty() {
        return refused(format!("no old disk of {name} is disarmed"));
    }
    let contact = context.contact(name)?;
    let done = rearm_disks(context, &contact)?;
    for slot in disarmed(context.host, &record) {
        context.report.warn(&format!(
            "{} is not exported now, and is still disarmed",
            Address::new(record.shelf, slot)
        ));
    }
    Ok(done)
}

/// The slots of a machine's disks that are disarmed, or were about to be.
#[must_use]
pub fn disarmed(host: &Host, record: &Record) -> Vec<u8> {
    let mut slots: Vec<u8> = record
        .slots
        .iter()
        .chain(record.disks.keys())
        .copied()
        .collect();
    slots.sort_unstable();
    slots.dedup();
    slots.retain(|slot| path(host, &record.name, *slot).exists());
    slots
}

pub(super) fn disarm_disks(context: Context<'_>, contact: &Contact) -> Result<Vec<Address>, Error> {
    let (host, name) = (context.host, &contact.record.name);
    context.need_orders(contact)?;
    let mut done = Vec::new();
    for (address, disk) in &contact.disks {
        let mut session = free_disk(context, contact, *address, disk)?;
        let kept = match kept(host, name, *address, disk)? {
            Some(kept) => kept,
            None => {
                let found = look(name, *address, disk, &mut *session)?;
                if found.places.is_empty() {
                    context
                        .report
                        .step(&format!("{address} has nothing that firmware starts from"));
                    continue;
                }
                keep(host, name, *address, &found)?;
                found
            }
        };
        context
            .report
            .step(&format!("making {address} unable to start"));
        let changes = changes(&kept.places, |place| (place.was(), place.now()));
        put(context, contact, *address, &mut *session, &changes)?;
        context.note_or_warn(
            name,
            &format!("the old disk {address} was disarmed: nothing starts from it"),
        );
        done.push(*address);
    }
    Ok(done)
}

pub(super) fn rearm_disks(context: Context<'_>, contact: &Contact) -> Result<Vec<Address>, Error> {
    let (host, name) = (context.host, &contact.record.name);
    context.need_orders(contact)?;
    let mut done = Vec::new();
    for (address, disk) in &contact.disks {
        let Some(kept) = kept(host, name, *address, disk)? else {
            continue;
        };
        let mut session = free_disk(context, contact, *address, disk)?;
        context
            .report
            .step(&format!("putting back what {address} starts from"));
        let changes = changes(&kept.places, |place| (place.now(), place.was()));
        put(context, contact, *address, &mut *session, &changes)?;
        let path = path(host, name, address.slot);
        fs::remove_file(&path).map_err(|e| cannot("remove", &path, &e))?;
        context.note_or_warn(
            name,
            &format!("the old disk {address} was rearmed: it starts as it did"),
        );
        done.push(*address);
    }
    Ok(done)
}

impl Context<'_> {
    /// Refuses while an old disk is disarmed: a copy of it would not start.
    pub(super) fn refuse_disarmed(&self, record: &Record) -> Result<(), Error> {
        let name = &record.name;
        match disarmed(self.host, record).first() {
            None => Ok(()),
            Some(slot) => refused(format!(
                "the old disk {} is disarmed: `p2v rearm {name}` puts back what it starts from",
                Address::new(record.shelf, *slot)
            )),
        }
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
        return refused(format!(
            "the domain {} (number {}) uses {}: shut it down first (`xl shutdown {}`)",
            user.domain, user.id, user.disk, user.domain
        ));
    }
    context.attach(contact, address, disk)
}

/// What there is on the disk that firmware starts from.
fn look(
    name: &MachineName,
    address: Address,
    disk: &Disk,
    session: &mut dyn Export,
) -> Result<Disarmed, Error> {
    let mut places = Vec::new();
    for lba in candidates(disk) {
        let mut was = vec![0; (block(disk) * SECTOR) as usize];
        read(session, address, lba, &mut was)?;
        places.extend(replaced(name, disk, lba, &was));
    }
    Ok(Disarmed {
        sectors: disk.sectors,
        places,
    })
}

fn changes(places: &[Place], ends: impl Fn(&Place) -> (Vec<u8>, Vec<u8>)) -> Vec<Change> {
    let change = |place: &Place| {
        let (from, to) = ends(place);
        let lba = place.lba;
        Change { lba, from, to }
    };
    places.iter().map(change).collect()
}

/// Makes the changes that are not made yet, and reads them back. The disk can be written for no longer than that takes, but
/// where p2v is killed meanwhile: then until this is done again.
fn put(
    context: Context<'_>,
    contact: &Contact,
    address: Address,
    session: &mut dyn Export,
    changes: &[Change],
) -> Result<(), Error> {
    let all = [address];
    context.set_access(contact, &all, Access::ReadOnly)?;
    let mut left = Vec::new();
    for change in changes {
        let mut have = vec![0; change.to.len()];
        read(session, address, change.lba, &mut have)?;
        if have == change.to {
            continue;
        }
        if have != change.from {
            let path = path(context.host, &contact.record.name, address.slot);
            return refused(format!(
                "sector {} of {address} holds neither what was there nor what p2v put there: something else has written to \
                 it, and it is left as it is. What was there is kept in {}; without that file p2v takes the disk as it is",
                change.lba,
                path.display()
            ));
        }
        left.push(change);
    }
    if left.is_empty() {
        return Ok(());
    }
    let written = context
        .set_access(contact, &all, Access::ReadWrite)
        .and_then(|()| {
            for change in left {
                session.write(change.lba, &change.to)?;
            }
            Ok(())
        });
    // Also where write access was given and the answer got lost.
    let closed = context.set_access(contact, &all, Access::ReadOnly);
    written?;
    closed?;
    for change in changes {
        let mut have = vec![0; change.to.len()];
        read(session, address, change.lba, &mut have)?;
        if have != change.to {
            return refused(format!(
                "sector {} of {address} does not hold what was just written to it: the disk is failing",
                change.lba
            ));
        }
    }
    Ok(())
}

fn read(
    session: &mut dyn Export,
    address: Address,
    lba: u64,
    buffer: &mut [u8],
) -> Result<(), Error> {
    let read = session.read(lba, buffer);
    read.map_err(|e| Error::Refused(format!("cannot read sector {lba} of {address}: {e}")))
}

fn path(host: &Host, name: &MachineName, slot: u8) -> PathBuf {
    host.store.copy_file(name, slot, "disarmed.json")
}

fn cannot(what: &str, path: &std::path::Path, why: &dyn std::fmt::Display) -> Error {
    Error::Refused(format!("cannot {what} {}: {why}", path.display()))
}

fn digest(disk: &Disarmed) -> serde_json::Result<String> {
    Ok(blake3::hash(&serde_json::to_vec(disk)?)
        .to_hex()
        .to_string())
}

fn keep(host: &Host, name: &MachineName, address: Address, disk: &Disarmed) -> Result<(), Error> {
    let path = path(host, name, address.slot);
    let write = || -> io::Result<()> {
        let kept = Kept {
            disk: disk.clone(),
            blake3: digest(disk)?,
        };
        atomic_file::replace(&path, &serde_json::to_vec_pretty(&kept)?, 0o600)
    };
    write().map_err(|e| cannot("write", &path, &e))
}

/// What is kept of a disk, if it is disarmed.
fn kept(
    host: &Host,
    name: &MachineName,
    address: Address,
    disk: &Disk,
) -> Result<Option<Disarmed>, Error> {
    let path = path(host, name, address.slot);
    let text = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| cannot("read", &path, &e))?,
    };
    let kept: Kept = serde_json::from_slice(&text).map_err(|e| cannot("read", &path, &e))?;
    let whole = digest(&kept.disk).is_ok_and(|digest| digest == kept.blake3);
    if !whole {
        return Err(cannot("use", &path, &"it was changed since p2v wrote it"));
    }
    if kept.disk.sectors != disk.sectors {
        let why = format!(
            "it is of a disk of {} sectors, and {address} has {}",
            kept.disk.sectors, disk.sectors
        );
        return Err(cannot("use", &path, &why));
    }
    Ok(Some(kept.disk))
}
