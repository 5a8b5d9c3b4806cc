//! One run of a test or of the demo: its directory, and what is kept of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::times;

/// Lines of each log that are shown of a run that failed.
const LINES_SHOWN: usize = 25;

/// A directory `target/lab/runs/NAME` for disks, sockets and logs. Afterwards only logs are kept,
/// and after a success nothing (unless `P2V_LAB_KEEP` is set).
pub struct Run {
    directory: PathBuf,
    began: Instant,
    succeeded: bool,
}

impl Run {
    /// An empty directory for the run called `name`.
    ///
    /// # Errors
    /// The directory cannot be emptied or made.
    pub fn new(lab: &Path, name: &str) -> Result<Run> {
        let directory = lab.join("runs").join(name);
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Run {
            directory,
            began: Instant::now(),
            succeeded: false,
        })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Nothing needs to be kept.
    pub fn succeeded(mut self) {
        self.succeeded = true;
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(name) = self.directory.file_name() {
            times::note(&format!("story {}", name.display()), self.began.elapsed());
        }
        if self.succeeded && std::env::var_os("P2V_LAB_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.directory);
            return;
        }
        // Disks are large and can be made again; consoles and logs tell what went wrong.
        for entry in fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry
                .path()
                .extension()
                .is_none_or(|extension| extension != "log")
            {
                let _ = fs::remove_file(entry.path());
            }
        }
        eprintln!(
            "logs and consoles of this run are in {}",
            self.directory.display()
        );
        if std::thread::panicking() {
            self.show_ends_of_logs();
        }
    }
}

impl Run {
    /// For who has only what the test printed.
    fn show_ends_of_logs(&self) {
        for entry in fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let text =
                String::from_utf8_lossy(&fs::read(entry.path()).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            let end = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
            eprintln!("--- the end of {}:\n{end}", entry.path().display());
        }
    }
}
