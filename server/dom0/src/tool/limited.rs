//! Programs that read what nobody vouches for: with a time limit, a limit to what they print, and
//! an end when the operator wants one.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{ToolError, Tools};

/// How often the operator's wish to stop is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Longest error output that is read, in bytes; what comes after it is thrown away.
const STDERR_READ: usize = 64 * 1024;

/// What a program may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// Time.
    pub time: Duration,
    /// Bytes on standard output.
    pub output: usize,
    /// Set when the operator wants an end.
    pub stop: &'a AtomicBool,
}

/// What a program that ended well printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    /// Standard output.
    pub stdout: String,
    /// Standard error, without white space at its ends.
    pub stderr: String,
}

impl Tools {
    /// Runs `program` with `args` within `limits`; it and what it started is killed when it goes
    /// past them.
    ///
    /// # Errors
    /// As [`Tools::run`]; [`ToolError::NotDone`] if it was killed.
    pub fn run_limited<I, A>(
        &self,
        program: &str,
        args: I,
        limits: Limits<'_>,
    ) -> Result<Printed, ToolError>
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        let args: Vec<OsString> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let command = super::command_line(program, &args);
        let child = self
            .command(program, &args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that what it starts ends with it.
            .process_group(0)
            .spawn()
            .map_err(|source| super::not_started(program, &command, source))?;
        let mut group = Group(Some(child));
        let ended = watch(&mut group, limits);
        match ended {
            Ok((status, stdout, stderr)) if status.success() => Ok(Printed {
                stdout: String::from_utf8_lossy(&stdout).into_owned(),
                stderr: String::from_utf8_lossy(&stderr).trim().to_owned(),
            }),
            Ok((status, stdout, mut stderr)) => {
                // Checkers say on standard error who they are, and what is wrong on standard output.
                stderr.extend(stdout);
                Err(super::failed(command, status, &[], &stderr))
            }
            Err(why) => Err(ToolError::NotDone(format!("`{command}` {why}"))),
        }
    }
}

/// Bytes on standard output that are read of a program that is only given a time.
const OUTPUT_READ: usize = 64 << 20;

impl Tools {
    /// As [`Tools::run`], but the program is killed when it takes longer than `limit`.
    ///
    /// # Errors
    /// As [`Tools::run`]; [`ToolError::NotDone`] if it was killed.
    pub fn run_within<I, A>(
        &self,
        program: &str,
        args: I,
        limit: Duration,
    ) -> Result<String, ToolError>
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        let limits = Limits {
            time: limit,
            output: OUTPUT_READ,
            stop: &AtomicBool::new(false),
        };
        Ok(self.run_limited(program, args, limits)?.stdout)
    }
}

/// A child and its process group, killed when this goes.
struct Group(Option<Child>);

impl Group {
    fn end(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(mut child) = self.0.take() else {
            return Ok(None);
        };
        // Before the wait: until then its number is nobody else's. It may have ended already.
        if let Ok(id) = i32::try_from(child.id()) {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
        child.wait().map(Some)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

enum Stream {
    Out,
    Err,
}

type Ended = (ExitStatus, Vec<u8>, Vec<u8>);

fn watch(group: &mut Group, limits: Limits<'_>) -> Result<Ended, String> {
    let started = Instant::now();
    let (sender, chunks) = channel();
    if let Some(child) = &mut group.0 {
        if let Some(pipe) = child.stdout.take() {
            let sender = sender.clone();
            std::thread::spawn(move || pump(pipe, |data| sender.send((Stream::Out, data)).is_ok()));
        }
        if let Some(pipe) = child.stderr.take() {
            let sender = sender.clone();
            std::thread::spawn(move || pump(pipe, |data| sender.send((Stream::Err, data)).is_ok()));
        }
    }
    drop(sender);
    let (stdout, stderr) = collect(&chunks, limits, started)?;
    let status = loop {
        let child = group.0.as_mut().ok_or("was not there any more")?;
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            group.0 = None;
            break status;
        }
        // Both its outputs are closed, so this is a matter of moments.
        past(limits, started)?;
        std::thread::sleep(Duration::from_millis(5));
    };
    Ok((status, stdout, stderr))
}

fn collect(
    chunks: &Receiver<(Stream, Vec<u8>)>,
    limits: Limits<'_>,
    started: Instant,
) -> Result<(Vec<u8>, Vec<u8>), String> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match chunks.recv_timeout(POLL) {
            Ok((Stream::Out, data)) => {
                if stdout.len() + data.len() > limits.output {
                    return Err(format!(
                        "printed more than {} bytes and was ended",
                        limits.output
                    ));
                }
                stdout.extend(data);
            }
            Ok((Stream::Err, data)) => {
                let room = STDERR_READ.saturating_sub(stderr.len()).min(data.len());
                stderr.extend_from_slice(&data[..room]);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok((stdout, stderr)),
        }
        past(limits, started)?;
    }
}

fn past(limits: Limits<'_>, started: Instant) -> Result<(), String> {
    if limits.stop.load(Ordering::Relaxed) {
        Err("was stopped by the operator".into())
    } else if started.elapsed() >= limits.time {
        Err(format!(
            "had not ended after {} s and was ended",
            limits.time.as_secs()
        ))
    } else {
        Ok(())
    }
}

fn pump(mut pipe: impl Read, mut give: impl FnMut(Vec<u8>) -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) if give(buffer[..n].to_vec()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, millis: u64, output: usize, stop: bool) -> Result<Printed, ToolError> {
        let stop = AtomicBool::new(stop);
        Tools::new().run_limited(
            "sh",
            ["-c", script],
            Limits {
                time: Duration::from_millis(millis),
                output,
                stop: &stop,
            },
        )
    }

    #[test]
    fn what_is_printed_and_how_it_ended() {
        let printed = run("echo out; echo err >&2", 60_000, 100, false).unwrap();
        assert_eq!(
            (printed.stdout.as_str(), printed.stderr.as_str()),
            ("out\n", "err")
        );
        let error = run("echo why >&2; exit 8", 60_000, 100, false).unwrap_err();
        assert!(
            matches!(&error, ToolError::Failed { status, .. } if status.code() == Some(8)),
            "{error}"
        );
        assert!(error.to_string().ends_with("why"), "{error}");
    }

    #[test]
    fn what_goes_past_a_limit_is_ended_with_what_it_started() {
        let started = Instant::now();
        for (script, millis, output, stop, word) in [
            // The grandchild holds the pipe too: without an end of the group this takes an hour.
            ("sleep 3600 & sleep 3600", 200, 100, false, "had not ended"),
            ("yes", 60_000, 100_000, false, "printed more"),
            ("sleep 3600", 60_000, 100, true, "operator"),
        ] {
            let error = run(script, millis, output, stop).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
