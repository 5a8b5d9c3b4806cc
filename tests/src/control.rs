//! Commands in the Xen host, over a virtio serial port: what both ends say.
//!
//! One JSON value a line. The host's `lab-guest` answers each command with its output, line by line
//! as it comes, and then its exit status.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// To the Xen host.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// For `sh -c`.
    pub command: String,
}

/// From the Xen host.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The control channel is up.
    Ready,
    /// A line on standard output.
    Out(String),
    /// A line on standard error.
    Err(String),
    /// The command ended, with this exit status (128 and the signal's number after a signal).
    Exit(i32),
}

/// What a command gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The command.
    pub command: String,
    /// Its exit status.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Outcome {
    /// The outcome, if the command succeeded.
    ///
    /// # Errors
    /// It failed.
    pub fn success(self) -> Result<Outcome> {
        if self.status != 0 {
            bail!(
                "`{}` ended with status {}:\n{}{}",
                self.command,
                self.status,
                self.out,
                self.err
            );
        }
        Ok(self)
    }

    /// What it said on standard error, if the command failed as it should.
    ///
    /// # Errors
    /// It succeeded.
    pub fn failure(self) -> Result<String> {
        if self.status == 0 {
            bail!(
                "`{}` succeeded, and should not have:\n{}{}",
                self.command,
                self.out,
                self.err
            );
        }
        Ok(self.err)
    }
}

/// The host's end of the channel.
pub struct Control {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Control {
    /// Connects to QEMU's socket (which is there soon after QEMU is) and waits for the other end.
    ///
    /// # Errors
    /// Nobody takes the connection within `limit`.
    pub fn connect(socket: &Path, limit: Duration) -> Result<Control> {
        let until = Instant::now() + limit;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(50)),
                Err(error) => {
                    return Err(error).context(format!("cannot connect to {}", socket.display()));
                }
            }
        };
        let lines = BufReader::new(stream.try_clone()?);
        Ok(Control { stream, lines })
    }

    /// Waits for the other end to come up.
    ///
    /// # Errors
    /// The other end does not come up within `limit`, or says something else.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        self.stream.set_read_timeout(Some(limit))?;
        match self
            .answer()
            .context("the Xen host's control channel did not come up")?
        {
            Answer::Ready => Ok(()),
            other => bail!("the control channel began with {other:?}"),
        }
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            bail!("the control channel was closed: the Xen host is gone");
        }
        serde_json::from_str(&line).with_context(|| format!("not an answer: {line:?}"))
    }

    /// Runs a command; `each` sees every line as it comes (true: standard error). `limit` is for the
    /// silence between two lines.
    ///
    /// # Errors
    /// The channel is closed, or silent for `limit`; what comes is no answer; the host starts again. That the command
    /// fails is no error.
    pub fn run(
        &mut self,
        command: &str,
        limit: Duration,
        each: &mut dyn FnMut(bool, &str),
    ) -> Result<Outcome> {
        self.stream.set_read_timeout(Some(limit))?;
        let order = serde_json::to_string(&Order {
            command: command.to_owned(),
        })?;
        writeln!(self.stream, "{order}")?;
        let mut outcome = Outcome {
            command: command.to_owned(),
            status: 0,
            out: String::new(),
            err: String::new(),
        };
        loop {
            match self
                .answer()
                .with_context(|| format!("while `{command}` ran"))?
            {
                Answer::Out(line) => {
                    each(false, &line);
                    outcome.out += &line;
                    outcome.out.push('\n');
                }
                Answer::Err(line) => {
                    each(true, &line);
                    outcome.err += &line;
                    outcome.err.push('\n');
                }
                Answer::Exit(status) => {
                    outcome.status = status;
                    return Ok(outcome);
                }
                Answer::Ready => bail!("the Xen host started again while `{command}` ran"),
            }
        }
    }
}
