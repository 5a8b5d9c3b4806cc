//! Processes that are held to account: what they needed of the processor and of memory.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// What a process and those that it waited for used.
pub struct Usage {
    /// User and system time. What the kernel does for others in its interrupts may be in it.
    pub cpu_seconds: f64,
    /// The most memory that one of them had.
    pub max_rss_kib: i64,
}

/// A process and its children, which end with this value.
pub struct Running(Option<Child>);

impl Running {
    pub fn start(mut command: Command) -> Result<Running> {
        let program = format!("{command:?}");
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        Ok(Running(Some(
            child.with_context(|| format!("cannot start {program}"))?,
        )))
    }

    /// All that it says until it ends.
    pub fn output(&mut self) -> Result<String> {
        let mut said = String::new();
        if let Some(mut stdout) = self.0.as_mut().and_then(|child| child.stdout.take()) {
            stdout.read_to_string(&mut said)?;
        }
        Ok(said)
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Result<(ExitStatus, Usage)> {
        let child = self.0.take().context("it has ended already")?;
        let mut status = 0;
        // SAFETY: `rusage` is plain integers; all zero is a valid value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        let pid = child.id().cast_signed();
        loop {
            // SAFETY: both pointers are valid for writing during the call.
            let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
            if waited == pid {
                break;
            }
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(error.into());
            }
        }
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        let usage = Usage {
            cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
            max_rss_kib: usage.ru_maxrss,
        };
        Ok((ExitStatus::from_raw(status), usage))
    }

    /// Has it end in good order.
    pub fn end(self) -> Result<Usage> {
        if let Some(child) = &self.0 {
            // It may have ended by itself.
            let _ = killpg(group(child), Signal::SIGTERM);
        }
        Ok(self.wait()?.1)
    }
}

fn group(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = killpg(group(child), Signal::SIGKILL);
            let _ = child.wait();
        }
    }
}
