//! A QEMU process that ends with the value that stands for it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A running QEMU.
pub struct Machine {
    name: String,
    child: Child,
    errors: PathBuf,
}

impl Machine {
    /// Starts QEMU with `arguments`; its own messages go to `NAME.qemu.log` in `work`.
    ///
    /// # Errors
    /// The file for its messages cannot be made, or `setpriv` not be run.
    pub fn start(name: &str, work: &Path, arguments: &[String]) -> Result<Machine> {
        let errors = work.join(format!("{name}.qemu.log"));
        let log = File::create(&errors)?;
        // `setpriv`: gone with the test, also when that is interrupted or killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run setpriv and qemu-system-x86_64 (`make setup` installs them)")?;
        Ok(Machine {
            name: name.to_owned(),
            child,
            errors,
        })
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the machine has switched itself off.
    ///
    /// # Errors
    /// It is still on after `limit`.
    pub fn wait_until_off(&mut self, limit: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= until {
                bail!("{} has not switched itself off within {limit:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What QEMU itself complained about.
    pub fn complaints(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The plug is pulled: the disks belong to the run.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
