//! External programs: how they are run, and one module for each that knows what it prints.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

pub mod aoe_driver;
pub mod blkid;
pub mod dmsetup;
pub mod lvm;
pub mod xl;

/// Longest part of a program's error output that is put in an error message, in bytes.
const STDERR_SHOWN: usize = 4096;

/// Runs external programs.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    dir: Option<PathBuf>,
}

/// What went wrong with an external program.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not there.
    #[error("`{program}` is not installed (or not in PATH); on Debian: apt install {package}")]
    Missing {
        /// The program.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// It could not be started.
    #[error("cannot run `{command}`: {source}")]
    Start {
        /// Program and arguments.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// It failed.
    #[error("`{command}` failed ({status}): {stderr}")]
    Failed {
        /// Program and arguments.
        command: String,
        /// Exit status or signal.
        status: std::process::ExitStatus,
        /// What it wrote to standard error (else to standard output).
        stderr: String,
    },
    /// It did not end in time.
    #[error("`{command}` took too long and was ended")]
    TimedOut {
        /// Program and arguments.
        command: String,
    },
    /// It printed something else than expected.
    #[error("`{command}` printed something unexpected: {why}")]
    Output {
        /// Program and arguments.
        command: String,
        /// What is wrong with it.
        why: String,
    },
    /// What it was asked to do did not come about.
    #[error("{0}")]
    NotDone(String),
}

impl Tools {
    /// Programs as found in `PATH`.
    pub fn new() -> Tools {
        Tools::default()
    }

    /// Programs from one directory only.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Tools {
        Tools {
            dir: Some(dir.into()),
        }
    }

    /// Runs `program` with `args` and returns what it printed.
    ///
    /// # Errors
    /// [`ToolError`] with the command line, the exit status and its error output.
    pub fn run<I, A>(&self, program: &str, args: I) -> Result<String, ToolError>
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        self.run_limited(program, args, None)
    }

    /// As [`Tools::run`], but the program is killed when it takes longer than `limit`.
    ///
    /// # Errors
    /// As [`Tools::run`], and [`ToolError::TimedOut`].
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
        self.run_limited(program, args, Some(limit))
    }

    fn run_limited<I, A>(
        &self,
        program: &str,
        args: I,
        limit: Option<Duration>,
    ) -> Result<String, ToolError>
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        let args: Vec<OsString> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let command = command_line(program, &args);
        let path = match &self.dir {
            Some(dir) => dir.join(program),
            None => PathBuf::from(program),
        };
        let mut child = Command::new(path);
        child.args(&args).env("LC_ALL", "C").stdin(Stdio::null());
        let output = match limit {
            None => child.output(),
            Some(limit) => output_within(&mut child, limit),
        };
        let output = output.map_err(|source| match source.kind() {
            io::ErrorKind::TimedOut if limit.is_some() => ToolError::TimedOut {
                command: command.clone(),
            },
            io::ErrorKind::NotFound => ToolError::Missing {
                program: program.to_owned(),
                package: package(program),
            },
            _ => ToolError::Start {
                command: command.clone(),
                source,
            },
        })?;
        if !output.status.success() {
            let said = if output.stderr.trim_ascii().is_empty() {
                &output.stdout
            } else {
                &output.stderr
            };
            let text = String::from_utf8_lossy(&said[said.len().saturating_sub(STDERR_SHOWN)..])
                .trim()
                .to_owned();
            return Err(ToolError::Failed {
                command,
                status: output.status,
                stderr: if text.is_empty() {
                    "it said nothing".into()
                } else {
                    text
                },
            });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// As [`Command::output`]; after `limit` the program is killed, and the error is
/// [`io::ErrorKind::TimedOut`].
fn output_within(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let (ended, end) = mpsc::channel();
    // Both ends are closed when the program has ended.
    std::thread::spawn(move || {
        let errors = std::thread::spawn(move || read_all(stderr.as_mut()));
        let printed = read_all(stdout.as_mut());
        let errors = errors.join().unwrap_or_else(|_| Ok(Vec::new()));
        // Nobody waits any more after the limit.
        let _ = ended.send((printed, errors));
    });
    let Ok((stdout, stderr)) = end.recv_timeout(limit) else {
        child.kill()?;
        child.wait()?;
        return Err(io::ErrorKind::TimedOut.into());
    };
    Ok(Output {
        status: child.wait()?,
        stdout: stdout?,
        stderr: stderr?,
    })
}

fn read_all(from: Option<&mut impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// The command as an operator would type it.
fn command_line(program: &str, args: &[OsString]) -> String {
    let mut line = program.to_owned();
    for arg in args {
        let arg = arg.to_string_lossy();
        line.push(' ');
        if arg.is_empty() || arg.contains(|c: char| c.is_whitespace() || c == '"' || c == '\'') {
            line.push_str(&format!("{arg:?}"));
        } else {
            line.push_str(&arg);
        }
    }
    line
}

/// The Debian 12 package that has a program.
fn package(program: &str) -> &'static str {
    match program {
        "xl" => "xen-utils-common",
        "dmsetup" => "dmsetup",
        "modprobe" => "kmod",
        "debugfs" | "dumpe2fs" => "e2fsprogs",
        "ntfscluster" => "ntfs-3g",
        "sfdisk" => "fdisk",
        "blkid" => "util-linux",
        "losetup" => "mount",
        _ => "lvm2",
    }
}

fn unexpected(command: &str, why: impl ToString) -> ToolError {
    ToolError::Output {
        command: command.to_owned(),
        why: why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_has_command_status_and_stderr() {
        let tools = Tools::new();
        let error = tools
            .run("sh", ["-c", "echo to-stdout; echo broken >&2; exit 3"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("sh -c \"echo"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.ends_with("broken"), "{error}");
        assert_eq!(tools.run("sh", ["-c", "echo x"]).unwrap(), "x\n");
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let tools = Tools::new();
        let error = tools
            .run_within("sleep", ["1000"], Duration::from_millis(50))
            .unwrap_err();
        assert!(matches!(error, ToolError::TimedOut { .. }), "{error}");
        let long = Duration::from_secs(60);
        let printed = tools.run_within("sh", ["-c", "echo x; seq 100000 >&2"], long);
        assert_eq!(printed.unwrap(), "x\n");
        let error = tools.run_within("sh", ["-c", "echo bad >&2; exit 3"], long);
        assert!(error.unwrap_err().to_string().ends_with("bad"));
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let dir = tempfile::tempdir().unwrap();
        let error = Tools::in_dir(dir.path())
            .run("xl", ["list"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("apt install xen-utils-common"), "{error}");
    }
}
