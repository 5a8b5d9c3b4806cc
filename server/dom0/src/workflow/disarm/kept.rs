//! The file in which it is kept what a disarmed disk held: root's, whole, and written before the disk is.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use p2v_contract::Address;
use p2v_contract::inventory::Disk;
use p2v_copy::atomic_file;
use serde::{Deserialize, Serialize};

use crate::disarm::Disarmed;
use crate::host::Host;
use crate::name::MachineName;
use crate::workflow::{Code, Error, refusal};

/// The file of one disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    pub(super) disk: Disarmed,
    /// All of it was replaced.
    done: bool,
    /// BLAKE3 of that as it is written, in hex: what was damaged is not written to a disk.
    blake3: String,
}

/// The slots of a machine's disks that are disarmed, or were about to be.
pub(in crate::workflow) fn disarmed(host: &Host, name: &MachineName) -> Result<Vec<u8>, Error> {
    Ok(host.store.slots_with(name, ENDING)?)
}

/// The same, each with whether nothing starts from it; else `disarm` or `rearm` was interrupted.
pub(in crate::workflow) fn how_far(
    host: &Host,
    name: &MachineName,
) -> Result<BTreeMap<u8, bool>, Error> {
    let slots = disarmed(host, name)?.into_iter();
    let done = |slot| read_kept(&path(host, name, slot)).is_ok_and(|kept| kept.done);
    Ok(slots.map(|slot| (slot, done(slot))).collect())
}

/// Of the file's name, behind the disk's.
pub(super) const ENDING: &str = "disarmed.json";

pub(super) fn path(host: &Host, name: &MachineName, slot: u8) -> PathBuf {
    host.store.copy_file(name, slot, ENDING)
}

pub(super) fn cannot(what: &str, path: &Path, why: &dyn std::fmt::Display) -> Error {
    refusal(
        Code::File,
        format!("cannot {what} {}: {why}", path.display()),
    )
}

fn digest(disk: &Disarmed) -> serde_json::Result<String> {
    Ok(blake3::hash(&serde_json::to_vec(disk)?)
        .to_hex()
        .to_string())
}

pub(super) fn keep(
    host: &Host,
    name: &MachineName,
    address: Address,
    disk: &Disarmed,
    done: bool,
) -> Result<(), Error> {
    let path = path(host, name, address.slot);
    let write = || -> io::Result<()> {
        let kept = Kept {
            disk: disk.clone(),
            blake3: digest(disk)?,
            done,
        };
        atomic_file::replace(&path, &serde_json::to_vec_pretty(&kept)?, 0o600)
    };
    write().map_err(|e| cannot("write", &path, &e))
}

/// What is kept of a disk, if it is disarmed.
pub(super) fn kept(
    host: &Host,
    name: &MachineName,
    address: Address,
    disk: &Disk,
) -> Result<Option<Disarmed>, Error> {
    let path = path(host, name, address.slot);
    if !path.exists() {
        return Ok(None);
    }
    let kept = read_kept(&path)?.disk;
    if kept.sectors != disk.sectors {
        let why = format!(
            "it is of a disk of {} sectors, and {address} has {}",
            kept.sectors, disk.sectors
        );
        return Err(cannot("use", &path, &why));
    }
    Ok(Some(kept))
}

pub(super) fn read_kept(path: &Path) -> Result<Kept, Error> {
    let text = fs::read(path).map_err(|e| cannot("read", path, &e))?;
    let kept: Kept = serde_json::from_slice(&text).map_err(|e| cannot("read", path, &e))?;
    match digest(&kept.disk).is_ok_and(|digest| digest == kept.blake3) {
        true => Ok(kept),
        false => Err(cannot("use", path, &"it was changed since p2v wrote it")),
    }
}
