//! What root has made something for under a machine's name: configs, devices, volumes. They outlive a record that is lost,
//! and no other machine may get the name or the shelf then. Written by root alone, for the boot service to read.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;

use p2v_aoe::MacAddr;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::atomic_file;
use crate::name::MachineName;
use crate::record::Record;

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
}

impl Store {
    /// Notes that something is made for the machine, before it is.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn claim(&self, record: &Record) -> Result<(), StoreError> {
        let path = self.names.join(format!("{}.json", record.name));
        let claim = Claim {
            name: record.name.clone(),
            boot_mac: record.boot_mac,
            shelf: record.shelf,
        };
        let write = || -> io::Result<()> {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&self.names)?;
            let text = serde_json::to_vec(&claim)?;
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

    /// Every name that something was made for.
    ///
    /// # Errors
    /// One cannot be read: it may be the name or the shelf that is looked for.
    pub(super) fn claims(&self) -> Result<Vec<Claim>, StoreError> {
        let entries = match fs::read_dir(&self.names) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|source| StoreError::Io {
                doing: "read the directory",
                path: self.names.clone(),
                source,
            })?,
        };
        let mut claims = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let unreadable = |why: String| StoreError::Unreadable {
                path: path.clone(),
                why,
            };
            let text = fs::read(&path).map_err(|e| unreadable(e.to_string()))?;
            claims.push(serde_json::from_slice(&text).map_err(|e| unreadable(e.to_string()))?);
        }
        Ok(claims)
    }

    /// Puts the record, and what is kept of its copies, away: the name and the shelf are free then. Returns the directory
    /// where they are.
    ///
    /// # Errors
    /// They cannot be moved; what was moved stays there.
    pub fn retire(
        &self,
        record: &Record,
        now: crate::Timestamp,
    ) -> Result<std::path::PathBuf, StoreError> {
        let _lock = self.write_lock()?;
        let away = self.retired.join(format!("{}-{}", record.name, now));
        let io = |doing, path: &std::path::Path, source| StoreError::Io {
            doing,
            path: path.to_owned(),
            source,
        };
        super::make_private(&self.retired)?;
        super::make_private(&away)?;
        let mut text = serde_json::to_vec_pretty(record)
            .map_err(|e| io("write", &away, io::Error::other(e)))?;
        text.push(b'\n');
        let kept = away.join("record.json");
        atomic_file::replace(&kept, &text, 0o600).map_err(|e| io("write", &kept, e))?;
        let of_copies = format!("{}-disk", record.name);
        for entry in fs::read_dir(&self.copies).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&of_copies) {
                let to = away.join(entry.file_name());
                fs::rename(entry.path(), &to).map_err(|e| io("move a file to", &to, e))?;
            }
        }
        let path = self.path(&record.name);
        fs::remove_file(&path).map_err(|e| io("remove", &path, e))?;
        // Last: while it is there, nobody gets the name.
        let claim = self.names.join(format!("{}.json", record.name));
        match fs::remove_file(&claim) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io("remove", &claim, e)),
            _ => Ok(away),
        }
    }
}
