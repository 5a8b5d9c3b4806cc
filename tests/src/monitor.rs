//! QEMU's own control socket (QMP): what is done to a machine from outside.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// Generous: an emulated machine that is busy answers between two things.
const LIMIT: Duration = Duration::from_secs(60);

/// How often a query is repeated; nothing depends on the pace.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// A conversation with one QEMU.
pub struct Monitor {
    socket: BufReader<UnixStream>,
}

impl Monitor {
    /// Opens QEMU's socket at `path` (`-qmp unix:PATH,server=on,wait=off`).
    ///
    /// # Errors
    /// QEMU cannot be reached, or does not answer as it should.
    pub fn open(path: &Path) -> Result<Monitor> {
        let socket = UnixStream::connect(path)
            .with_context(|| format!("cannot reach QEMU at {}", path.display()))?;
        socket.set_read_timeout(Some(LIMIT))?;
        let mut monitor = Monitor {
            socket: BufReader::new(socket),
        };
        // It greets first, and takes nothing before this.
        monitor.read()?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Has QEMU execute a command; what that returns.
    ///
    /// # Errors
    /// QEMU refuses, hangs up, or says nothing for long.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.socket.get_mut(), "{request}")?;
        loop {
            let mut answer = self.read()?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU does not execute {command} {arguments}: {error}");
            }
            // Events come in between.
            if let Some(returned) = answer.get_mut("return") {
                return Ok(returned.take());
            }
        }
    }

    /// Has QEMU execute a command of its monitor for people; those say by words that they fail.
    ///
    /// # Errors
    /// As [`Monitor::execute`]; what it says tells of a failure.
    pub fn execute_silent(&mut self, line: &str) -> Result<()> {
        let said = self.execute("human-monitor-command", &json!({ "command-line": line }))?;
        let said = said.as_str().unwrap_or_default();
        ensure!(!said.to_lowercase().contains("error"), "{line}: {said}");
        ensure!(!said.contains("failed"), "{line}: {said}");
        Ok(())
    }

    /// Waits until a query's `key` has this value.
    ///
    /// # Errors
    /// As [`Monitor::execute`]; it becomes `failed`, or does not get there in time.
    pub fn wait_until(&mut self, query: &str, key: &str, value: &str) -> Result<()> {
        let until = Instant::now() + LIMIT;
        loop {
            let answer = self.execute(query, &json!({}))?;
            if answer[key] == value {
                return Ok(());
            }
            ensure!(
                answer[key] != "failed" && Instant::now() < until,
                "QEMU's {query} does not come to {value}: {answer}"
            );
            std::thread::sleep(ASK_EVERY);
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        ensure!(self.socket.read_line(&mut line)? > 0, "QEMU hung up");
        Ok(serde_json::from_str(&line)?)
    }
}
