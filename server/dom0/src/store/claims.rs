//! What root has made something for under a machine's name: configs, devices, copies. They outlive a record that is lost,
//! and no other machine may get the name or the shelf then. Written by root alone, for the boot service to read.
//!
//! Records are files of the boot service's user, who answers strangers. So root takes from a record no copy, and no
//! machine, that it did not note here before it wrote it there.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use p2v_contract::MacAddr;
use p2v_copy::atomic_file;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::name::MachineName;
use crate::record::{Destination, Record};

/// The record of a machine that is another one, by the operator's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Apart {
    /// Its name.
    pub name: MachineName,
    /// The card it boots from: names are given again.
    pub boot_mac: MacAddr,
    /// What both had in common when the word was given.
    pub common: BTreeSet<String>,
}

impl Apart {
    pub fn is(&self, record: &Record) -> bool {
        (&self.name, self.boot_mac) == (&record.name, record.boot_mac)
    }
}

/// Whose a name is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Claim {
    /// The machine's name.
    pub name: MachineName,
    /// The card it boots from.
    pub boot_mac: MacAddr,
    /// Its shelf.
    pub shelf: u16,
    /// What its disks were ever copied to, with their slots.
    #[serde(default)]
    pub copies: Vec<(u8, Destination)>,
    /// A domain was started on its old disks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub runs: bool,
    /// Its network cards, for when the record cannot be read.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub cards: BTreeSet<MacAddr>,
    /// Its SMBIOS UUIDs, too.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub uuids: BTreeSet<String>,
    /// Other machines that share a network card with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<Apart>,
}

impl Claim {
    /// That of the machine of a record, with what its disks were copied to before, and which machines are others.
    pub(super) fn of(
        record: &Record,
        mut copied: Vec<(u8, Destination)>,
        apart: Vec<Apart>,
    ) -> Claim {
        for copy in copies(record) {
            if !copied.contains(&copy) {
                copied.push(copy);
            }
        }
        Claim {
            name: record.name.clone(),
            boot_mac: record.boot_mac,
            shelf: record.shelf,
            copies: copied,
            runs: record.has_domain_on_old_disks(),
            cards: record.cards.clone(),
            uuids: record.uuids.clone(),
            apart,
        }
    }

    /// Its server may be on this host.
    fn may_be_here(&self) -> bool {
        self.runs || !self.copies.is_empty()
    }

    /// Why a record is not one that root wrote, but for what the boot service may change; `None`: it is.
    fn forged(&self, record: &Record) -> Option<String> {
        if (self.boot_mac, self.shelf) != (record.boot_mac, record.shelf) {
            return Some(format!(
                "p2v made something for a machine of this name that boots from {} and has shelf {}",
                self.boot_mac, self.shelf
            ));
        }
        let foreign = copies(record).find(|copy| !self.copies.contains(copy));
        foreign.map(|(slot, copy)| format!("p2v never copied disk {slot} to {copy}"))
    }
}

/// A machine whose server may be on this host, and whose record does not tell.
#[derive(Clone, Debug)]
pub(super) struct Hidden {
    pub name: MachineName,
    /// Where it is noted.
    pub note: PathBuf,
    /// There is no record at all.
    pub is_lost: bool,
}

fn copies(record: &Record) -> impl Iterator<Item = (u8, Destination)> + '_ {
    let disks = record.disks.iter();
    disks.filter_map(|(slot, disk)| Some((*slot, disk.copy.as_ref()?.destination.clone())))
}

impl Store {
    fn claim_path(&self, name: &MachineName) -> PathBuf {
        self.names.join(format!("{name}.json"))
    }

    /// The record, if root may act on it.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`]: it names what root never made.
    pub(super) fn trusted(&self, record: Record) -> Result<Record, StoreError> {
        if !self.is_roots {
            return Ok(record);
        }
        let why = match self.claim_of(&record.name)? {
            Some(claim) => claim.forged(&record),
            None => copies(&record)
                .next()
                .map(|(slot, copy)| format!("p2v never copied disk {slot} to {copy}")),
        };
        match why {
            None => Ok(record),
            Some(why) => Err(StoreError::NotRoots {
                path: self.path(&record.name),
                why,
                claim: self.claim_path(&record.name),
                name: record.name,
            }),
        }
    }

    pub(super) fn claim_of(&self, name: &MachineName) -> Result<Option<Claim>, StoreError> {
        let path = self.claim_path(name);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(&path, error)),
            Ok(text) => serde_json::from_slice(&text).map_err(|e| unreadable(&path, e)),
        }
    }

    /// Notes that something is made for the machine, before it is, and what its disks are copied to.
    ///
    /// # Errors
    /// It cannot be written, or another machine has the name.
    pub fn claim(&self, record: &Record) -> Result<(), StoreError> {
        let known = self.own_claim(record)?;
        let (copied, apart) = known
            .map(|known| (known.copies, known.apart))
            .unwrap_or_default();
        self.write_claim(&Claim::of(record, copied, apart))
    }

    /// What is noted of the machine of a record.
    ///
    /// # Errors
    /// It cannot be read, or is another machine's.
    pub(super) fn own_claim(&self, record: &Record) -> Result<Option<Claim>, StoreError> {
        let known = self.claim_of(&record.name)?;
        match known.as_ref().filter(|k| k.boot_mac != record.boot_mac) {
            None => Ok(known),
            Some(owner) => Err(StoreError::NameTaken {
                name: record.name.clone(),
                mac: record.boot_mac,
                owner: owner.boot_mac,
            }),
        }
    }

    pub(super) fn write_claim(&self, claim: &Claim) -> Result<(), StoreError> {
        let path = self.claim_path(&claim.name);
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.names)?;
            // Whatever the umask: the boot service reads them.
            fs::set_permissions(&self.names, fs::Permissions::from_mode(0o755))?;
            let text = serde_json::to_vec(claim)?;
            if fs::read(&path).is_ok_and(|known| known == text) {
                return Ok(());
            }
            atomic_file::replace(&path, &text, 0o644)
        };
        write().map_err(|source| StoreError::Io {
            doing: "note the machine's name in",
            path: path.clone(),
            source,
        })
    }

    /// The same records, each believed as it is: to find the one that is to be trusted.
    pub fn as_written(&self) -> Store {
        Store {
            is_roots: false,
            ..self.clone()
        }
    }

    /// Believes what the record says, as if root had written all of it.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] or [`StoreError::Lost`]: there is none; it cannot be read, or noted.
    pub fn trust(&self, name: &MachineName) -> Result<Record, StoreError> {
        let _lock = self.write_lock()?;
        let path = self.path(name);
        let record = match super::file::read(&path) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(match self.claim_of(name)? {
                    Some(_) => StoreError::Lost {
                        name: name.clone(),
                        path,
                    },
                    None => self.as_written().unknown(name),
                });
            }
            read => read?,
        };
        // In one step: a name that nothing is noted for could be given to another machine.
        let apart = self
            .own_claim(&record)
            .ok()
            .flatten()
            .map(|known| known.apart);
        self.write_claim(&Claim::of(&record, Vec::new(), apart.unwrap_or_default()))?;
        Ok(record)
    }

    /// The disk's copy is another machine's now: it is no longer this one's.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn disclaim(&self, name: &MachineName, copy: &Destination) -> Result<(), StoreError> {
        let Some(mut claim) = self.claim_of(name)? else {
            return Ok(());
        };
        claim.copies.retain(|(_, known)| known != copy);
        self.write_claim(&claim)
    }

    /// What was copied for a machine of this name, where the record knows of no copy at all: it was lost, and this is
    /// another one of that name.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn forgotten_copies(&self, record: &Record) -> Result<Vec<Destination>, StoreError> {
        if copies(record).next().is_some() {
            return Ok(Vec::new());
        }
        let claim = self.claim_of(&record.name)?;
        let copies = claim.into_iter().flat_map(|claim| claim.copies);
        Ok(copies.map(|(_, copy)| copy).collect())
    }

    /// The machine that boots by the card `mac`, or whose record does not tell and which has that card, if its disks were
    /// copied or its domain had them.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn copied_by_mac(&self, mac: MacAddr) -> Result<Option<MachineName>, StoreError> {
        let mut claims = self.claims()?.into_iter();
        let tells = |claim: &Claim| super::file::read(&self.path(&claim.name)).is_ok();
        let has_it =
            |claim: &Claim| claim.boot_mac == mac || (claim.cards.contains(&mac) && !tells(claim));
        let its = claims.find(|claim| claim.may_be_here() && has_it(claim));
        Ok(its.map(|claim| claim.name))
    }

    /// What is noted of machines whose server may be on this host, and whose record is none of `readable`.
    ///
    /// # Errors
    /// The notes cannot be listed: any machine may be one of those.
    pub(super) fn hidden(&self, readable: &[Record]) -> Result<Vec<Hidden>, StoreError> {
        let mut hidden = Vec::new();
        for note in self.notes()? {
            let name = note
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse().ok());
            let Some(name) = name else {
                continue;
            };
            let read = || readable.iter().any(|record| record.name == name);
            // One that cannot be read may say anything.
            let may_be_here =
                || !matches!(self.claim_of(&name), Ok(Some(claim)) if !claim.may_be_here());
            if !read() && may_be_here() {
                let is_lost = !self.path(&name).exists();
                hidden.push(Hidden {
                    name,
                    note,
                    is_lost,
                });
            }
        }
        Ok(hidden)
    }

    /// The files in which names are noted.
    fn notes(&self) -> Result<Vec<PathBuf>, StoreError> {
        let list = || -> io::Result<Vec<PathBuf>> {
            let mut notes = Vec::new();
            for entry in fs::read_dir(&self.names)? {
                let path = entry?.path();
                if path.extension().is_some_and(|e| e == "json") {
                    notes.push(path);
                }
            }
            Ok(notes)
        };
        match list() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            notes => notes.map_err(|source| StoreError::Io {
                doing: "read the directory",
                path: self.names.clone(),
                source,
            }),
        }
    }

    /// What is known of a machine whose record is lost; `None`: nothing was made for one of this name.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn lost(
        &self,
        name: &MachineName,
    ) -> Result<Option<(Record, Vec<Destination>)>, StoreError> {
        let claim = self.claim_of(name)?;
        Ok(claim.map(|claim| {
            let record = Record::new(claim.name, claim.boot_mac, claim.shelf);
            let copies = claim.copies.into_iter().map(|(_, copy)| copy);
            (record, copies.collect())
        }))
    }

    /// Every name that something was made for.
    ///
    /// # Errors
    /// One cannot be read: it may be the name or the shelf that is looked for.
    pub(super) fn claims(&self) -> Result<Vec<Claim>, StoreError> {
        let mut claims = Vec::new();
        for path in self.notes()? {
            let text = fs::read(&path).map_err(|e| unreadable(&path, e))?;
            claims.push(serde_json::from_slice(&text).map_err(|e| unreadable(&path, e))?);
        }
        Ok(claims)
    }

    /// Puts the record, and what is kept of its copies, away: the name and the shelf are free then. Returns the directory
    /// where they are.
    ///
    /// # Errors
    /// They cannot be moved; what was moved stays there.
    pub fn retire(&self, record: &Record, now: crate::Timestamp) -> Result<PathBuf, StoreError> {
        let _lock = self.write_lock()?;
        let io = |doing, path: &Path, source| StoreError::Io {
            doing,
            path: path.to_owned(),
            source,
        };
        super::make_private(&self.retired)?;
        let away = new_directory(&self.retired.join(format!("{}-{now}", record.name)))
            .map_err(|e| io("make a directory in", &self.retired, e))?;
        let mut text = serde_json::to_vec_pretty(record)
            .map_err(|e| io("write", &away, io::Error::other(e)))?;
        text.push(b'\n');
        let kept = away.join("record.json");
        atomic_file::replace(&kept, &text, 0o600).map_err(|e| io("write", &kept, e))?;
        for entry in fs::read_dir(&self.copies).into_iter().flatten().flatten() {
            if is_of_copies_of(&record.name, &entry.file_name().to_string_lossy()) {
                let to = away.join(entry.file_name());
                fs::rename(entry.path(), &to).map_err(|e| io("move a file to", &to, e))?;
                #[cfg(test)]
                p2v_copy::boundary::reached(&format!("after {}", entry.path().display()));
            }
        }
        let path = self.path(&record.name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("remove", &path, e)),
            _ => {}
        }
        #[cfg(test)]
        p2v_copy::boundary::reached(&format!("after {}", path.display()));
        // Last: while it is there, nobody gets the name.
        let claim = self.claim_path(&record.name);
        match fs::remove_file(&claim) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("remove", &claim, e)),
            _ => {}
        }
        #[cfg(test)]
        p2v_copy::boundary::reached(&format!("after {}", claim.display()));
        Ok(away)
    }
}

/// Makes a directory of that name, or the next one that is not there: one that was cut off in the same second keeps what it has.
fn new_directory(wanted: &Path) -> io::Result<PathBuf> {
    let mut dir = wanted.to_owned();
    for n in 2_u32.. {
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| dir),
        }
        dir = wanted.with_file_name(format!(
            "{}-{n}",
            wanted.file_name().unwrap_or_default().to_string_lossy()
        ));
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// `NAME-diskN.ENDING`; names may have a `-disk` of their own.
fn is_of_copies_of(name: &MachineName, file: &str) -> bool {
    let slot = file
        .strip_prefix(name.as_str())
        .and_then(|rest| rest.strip_prefix("-disk"))
        .and_then(|rest| Some(rest.split_once('.')?.0));
    slot.is_some_and(|slot| !slot.is_empty() && slot.bytes().all(|b| b.is_ascii_digit()))
}

fn unreadable(path: &Path, why: impl ToString) -> StoreError {
    StoreError::Unreadable {
        path: path.to_owned(),
        why: why.to_string(),
    }
}
