//! What a machine says on its serial port.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a console's file is looked at. QEMU has no event for it; nothing depends on the pace.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A log file that a machine's serial port is written to.
pub struct Console {
    path: PathBuf,
    /// Bytes already passed by [`Console::wait_for`].
    seen: u64,
}

impl Console {
    /// The console that is written to `path`, which need not be there yet.
    pub fn new(path: PathBuf) -> Console {
        Console { path, seen: 0 }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything said so far.
    pub fn text(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.path) {
            let _ = file.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the machine says `wanted` (after what was waited for before) and returns the line
    /// it is in. `alive` is asked meanwhile: a machine that is gone says nothing more.
    ///
    /// # Errors
    /// It is not said within `limit`, or before the machine is gone; the file cannot be read.
    pub fn wait_for(
        &mut self,
        wanted: &str,
        limit: Duration,
        mut alive: impl FnMut() -> bool,
    ) -> Result<String> {
        let until = Instant::now() + limit;
        loop {
            let was_alive = alive();
            if let Some(line) = self.find(wanted)? {
                return Ok(line);
            }
            let why = match (was_alive, Instant::now() >= until) {
                (false, _) => "the machine ended before it said",
                (_, true) => "the machine did not say in time",
                _ => {
                    std::thread::sleep(LOOK_EVERY);
                    continue;
                }
            };
            let text = self.text();
            let tail: Vec<&str> = text.lines().rev().take(15).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!(
                "{why} {wanted:?} (limit {limit:?}); {} ends:\n{}",
                self.path.display(),
                tail.join("\n")
            );
        }
    }

    fn find(&mut self, wanted: &str) -> Result<Option<String>> {
        let Ok(mut file) = File::open(&self.path) else {
            return Ok(None);
        };
        file.seek(SeekFrom::Start(self.seen))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let Some(at) = text.find(wanted) else {
            return Ok(None);
        };
        let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
        let length = text[at..]
            .find('\n')
            .map_or(text.len() - start, |n| at + n - start);
        let line = text[start..start + length].trim_end().to_owned();
        self.seen += (at + wanted.len()) as u64;
        Ok(Some(line))
    }
}
