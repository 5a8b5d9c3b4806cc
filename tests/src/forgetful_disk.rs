//! A disk with a write cache of its own, that forgets what is in it when the power is cut.
//!
//! Killing QEMU alone shows little: what the guest has written is in this machine's page cache by
//! then, told to be kept or not. So nbdkit stands between QEMU and the image. Its `cache` filter holds
//! every write back until a flush, and is killed with the machine. Its `delay` filter holds a write up
//! before the cache gets it, and a flush not: who flushes before a write has been answered does not
//! flush that write.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::disk::Disk;

/// How long nbdkit may take to begin.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A disk at work. Dropping it cuts its power.
pub struct ForgetfulDisk {
    child: Child,
    socket: PathBuf,
}

impl ForgetfulDisk {
    /// Serves `disk` at a socket in `work`.
    ///
    /// # Errors
    /// nbdkit cannot be run, or does not begin to serve.
    pub fn start(work: &Path, disk: &Disk) -> Result<ForgetfulDisk> {
        let (socket, ready) = (work.join("disk.sock"), work.join("disk.pid"));
        for file in [&socket, &ready] {
            let _ = std::fs::remove_file(file);
        }
        // `setpriv`: gone with the test, also when that is interrupted or killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "nbdkit", "--foreground", "--unix"])
            .arg(&socket)
            .arg("--pidfile")
            .arg(&ready)
            .args(["--filter=delay", "--filter=cache", "file"])
            .arg(&disk.path)
            .args(["wdelay=2ms", "cache=writeback", "cache-min-block-size=4096"])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot run setpriv and nbdkit (`make setup` installs them)")?;
        let mut disk = ForgetfulDisk { child, socket };
        // The file is there when nbdkit listens.
        let until = Instant::now() + START_LIMIT;
        while !ready.exists() {
            ensure!(
                disk.child.try_wait()?.is_none() && Instant::now() < until,
                "nbdkit did not begin to serve"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(disk)
    }

    /// What QEMU finds it by.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    /// Cuts its power: what it was not told to keep is lost.
    pub fn cut_power(self) {}
}

impl Drop for ForgetfulDisk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
