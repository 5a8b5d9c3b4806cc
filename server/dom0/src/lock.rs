//! One command at a time per machine.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::timestamp::Timestamp;

/// What `p2v watch` calls itself. It runs always, needs a machine for some seconds, and is waited for.
pub const WATCH: &str = "p2v watch";
/// How long, and how often it is looked whether it has ended.
const WATCH_TAKES: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// Held while a command changes a machine; given back on drop, and by the kernel if the process dies.
#[derive(Debug)]
pub struct MachineLock {
    _held: Held,
}

/// A file's exclusive lock. It is ended by name and not only by closing the file: a program that
/// another thread is just starting has a copy of every open file until its `exec`, and the lock
/// would last as long.
#[derive(Debug)]
pub(crate) struct Held(pub(crate) File);

impl Drop for Held {
    fn drop(&mut self) {
        // Closing follows, which ends the lock at the latest.
        let _ = self.0.unlock();
    }
}

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another command holds it.
    #[error(
        "another p2v command is working on {name}: {holder}. Wait for it to end, or stop it first"
    )]
    Held {
        /// The machine.
        name: String,
        /// Its pid, command and start, as it wrote them.
        holder: String,
    },
    /// The lock file could not be used.
    #[error("cannot lock {}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl MachineLock {
    /// Takes the lock of the machine `name` in `dir` for `command`, and waits for nothing but `p2v watch`.
    ///
    /// # Errors
    /// [`LockError::Held`] says who has it.
    pub fn take(dir: &Path, name: &str, command: &str) -> Result<MachineLock, LockError> {
        Self::take_within(WATCH_TAKES, dir, name, command)
    }

    /// `patience`: with the watch.
    fn take_within(
        patience: Duration,
        dir: &Path,
        name: &str,
        command: &str,
    ) -> Result<MachineLock, LockError> {
        let until = Instant::now() + patience;
        loop {
            match Self::take_now(dir, name, command) {
                Err(LockError::Held { holder, .. })
                    if holder.contains(WATCH) && command != WATCH && Instant::now() < until =>
                {
                    std::thread::sleep(LOOK);
                }
                done => return done,
            }
        }
    }

    fn take_now(dir: &Path, name: &str, command: &str) -> Result<MachineLock, LockError> {
        let path = dir.join(format!("{name}.lock"));
        let io = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message: a holder that has not written its line yet is still a holder.
                let _ = file.read_to_string(&mut holder);
                return Err(LockError::Held {
                    name: name.to_owned(),
                    holder: holder.trim().to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        writeln!(
            file,
            "pid {}, `{command}`, since {}",
            std::process::id(),
            Timestamp::now()
        )
        .map_err(io)?;
        Ok(MachineLock { _held: Held(file) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_while_the_watch_is_at_it_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let watch = MachineLock::take(dir.path(), "e7", WATCH).unwrap();
        let waits = |command| {
            let (began, patience) = (Instant::now(), LOOK * 3);
            MachineLock::take_within(patience, dir.path(), "e7", command).unwrap_err();
            began.elapsed() >= patience
        };
        assert!(waits("p2v resume e7"));
        assert!(!waits(WATCH), "it waits for itself");
        drop(watch);
        let _copy = MachineLock::take(dir.path(), "e7", "p2v copy e7").unwrap();
        assert!(!waits("p2v resume e7"));
    }

    #[test]
    fn the_second_is_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = MachineLock::take(dir.path(), "e7", "p2v copy e7").unwrap();
        let error = MachineLock::take(dir.path(), "e7", "p2v start e7")
            .unwrap_err()
            .to_string();
        assert!(error.contains("p2v copy e7"), "{error}");
        assert!(
            error.contains(&format!("pid {}", std::process::id())),
            "{error}"
        );
        MachineLock::take(dir.path(), "e8", "p2v start e8").unwrap();
        drop(first);
        MachineLock::take(dir.path(), "e7", "p2v start e7").unwrap();
    }
}
