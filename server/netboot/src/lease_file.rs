//! `leases.json` in the state directory: written before an address is confirmed, so that a
//! restart of the service gives no address away twice.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::lease::Leases;

/// The only version there is.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    leases: Leases,
}

/// Why the leases could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum LeaseFileError {
    /// The file system said no.
    #[error("cannot {action} the lease file {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// There is something else in it.
    #[error(
        "the lease file {} cannot be understood: {why}; move it away to start without leases \
         (an address that is in use may then be given again)",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The lease file.
#[derive(Clone, Debug)]
pub struct LeaseFile {
    path: PathBuf,
}

impl LeaseFile {
    /// The one in `state_dir`.
    pub fn in_dir(state_dir: &Path) -> LeaseFile {
        LeaseFile {
            path: state_dir.join("leases.json"),
        }
    }

    /// What is in it; nothing if there is no such file.
    ///
    /// # Errors
    /// It is there and cannot be read or understood: it is then not overwritten either.
    pub fn read(&self) -> Result<Leases, LeaseFileError> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Leases::default()),
            Err(source) => return Err(self.failed("read")(source)),
        };
        let malformed = |why| LeaseFileError::Malformed {
            path: self.path.clone(),
            why,
        };
        let contents: Contents =
            serde_json::from_slice(&text).map_err(|e| malformed(e.to_string()))?;
        if contents.version != VERSION {
            return Err(malformed(format!(
                "version {} is not known",
                contents.version
            )));
        }
        Ok(contents.leases)
    }

    /// Replaces it: after a crash the old or the new one is there, whole.
    ///
    /// # Errors
    /// The old one is then still there.
    pub fn write(&self, leases: &Leases) -> Result<(), LeaseFileError> {
        let contents = Contents {
            version: VERSION,
            leases: leases.clone(),
        };
        let written = || -> io::Result<()> {
            let dir = self.path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(dir)?;
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            serde_json::to_writer_pretty(&mut file, &contents)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.persist(&self.path).map_err(|e| e.error)?;
            std::fs::File::open(dir)?.sync_all()
        };
        written().map_err(self.failed("write"))
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> LeaseFileError + '_ {
        move |source| LeaseFileError::Io {
            action,
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_garbage_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = LeaseFile::in_dir(&dir.path().join("new"));
        assert_eq!(file.read().unwrap(), Leases::default());
        file.write(&Leases::default()).unwrap();
        assert_eq!(file.read().unwrap(), Leases::default());
        std::fs::write(&file.path, "{\"version\": 1, \"lea").unwrap();
        let error = file.read().unwrap_err().to_string();
        assert!(
            error.contains("leases.json") && error.contains("move it away"),
            "{error}"
        );
    }
}
