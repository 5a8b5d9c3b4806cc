//! The files that are kept of copies and of old disks, those of forgotten machines too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Store, StoreError};
use crate::name::MachineName;

impl Store {
    /// Where files of copies are.
    pub fn copies(&self) -> &Path {
        &self.copies
    }

    /// The files of copies with this ending, of all machines, those that were retired too.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn files_of_copies(&self, ending: &str) -> Result<Vec<PathBuf>, StoreError> {
        let list = |dir: &Path| -> Result<Vec<PathBuf>, StoreError> {
            let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            match entries {
                Ok(entries) => Ok(entries.iter().map(fs::DirEntry::path).collect()),
                Err(e)
                    if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory]
                        .contains(&e.kind()) =>
                {
                    Ok(Vec::new())
                }
                Err(source) => Err(StoreError::Io {
                    doing: "read the directory",
                    path: dir.to_owned(),
                    source,
                }),
            }
        };
        let mut files = list(&self.copies)?;
        for dir in list(&self.retired)? {
            files.extend(list(&dir)?);
        }
        let ending = format!(".{ending}");
        files.retain(|file| file.to_str().is_some_and(|file| file.ends_with(&ending)));
        Ok(files)
    }

    /// The slots of a machine's disks for which there is such a file.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn slots_with(&self, name: &MachineName, ending: &str) -> Result<Vec<u8>, StoreError> {
        let failed = |source| StoreError::Io {
            doing: "read the directory",
            path: self.copies.clone(),
            source,
        };
        let (before, after) = (format!("{name}-disk"), format!(".{ending}"));
        let mut slots = Vec::new();
        for entry in fs::read_dir(&self.copies).map_err(failed)? {
            let file = entry.map_err(failed)?.file_name();
            let slot = file.to_str().and_then(|file| file.strip_prefix(&before));
            let slot = slot.and_then(|rest| rest.strip_suffix(&after)?.parse::<u8>().ok());
            slots.extend(slot);
        }
        slots.sort_unstable();
        Ok(slots)
    }
}
