//! External programs: how they are run, and one module for each that knows what it prints.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};

pub mod aoe_driver;
pub mod blkid;
pub mod dmsetup;
pub mod limited;
pub mod lvm;
pub mod nft;
pub mod qemu_img;
pub mod qemu_storage_daemon;
pub mod sfdisk;
pub mod xl;

/// Longest part of a program's error output that is put in an error message, in bytes.
const STDERR_SHOWN: usize = 4096;

/// Runs external programs.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    dir: Option<PathBuf>,
    /// Does what the programs of the directory would do.
    #[cfg(test)]
    stand_in: Option<StandIn>,
}

/// Stands in for the program of this name in a directory.
#[cfg(test)]
pub(crate) type StandIn = fn(&std::path::Path, &str, &[OsString]) -> Output;

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
            #[cfg(test)]
            stand_in: None,
        }
    }

    /// No programs, but what stands in for those of one directory.
    #[cfg(test)]
    pub(crate) fn stood_in_for(dir: &std::path::Path, stand_in: StandIn) -> Tools {
        Tools {
            stand_in: Some(stand_in),
            ..Tools::in_dir(dir)
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
        let args: Vec<OsString> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let command = command_line(program, &args);
        let output = self
            .output(program, &args)
            .map_err(|source| not_started(program, &command, source))?;
        if !output.status.success() {
            return Err(failed(
                command,
                output.status,
                &output.stdout,
                &output.stderr,
            ));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn output(&self, program: &str, args: &[OsString]) -> io::Result<Output> {
        #[cfg(test)]
        if let (Some(stand_in), Some(dir)) = (self.stand_in, &self.dir) {
            return Ok(stand_in(dir, program, args));
        }
        self.command(program, args).output()
    }

    fn command(&self, program: &str, args: &[OsString]) -> Command {
        let mut command = Command::new(self.path(program));
        command
            .args(args)
            .env("LC_ALL", "C")
            // LVM tells of every file that it was started with, among what it has to say (lvm(8)).
            .env("LVM_SUPPRESS_FD_WARNINGS", "1")
            .stdin(Stdio::null());
        command
    }

    /// What a program is started by.
    fn path(&self, program: &str) -> PathBuf {
        match &self.dir {
            Some(dir) => dir.join(program),
            None => PathBuf::from(program),
        }
    }
}

fn not_started(program: &str, command: &str, source: io::Error) -> ToolError {
    match source.kind() {
        io::ErrorKind::NotFound => ToolError::Missing {
            program: program.to_owned(),
            package: package(program),
        },
        _ => ToolError::Start {
            command: command.to_owned(),
            source,
        },
    }
}

fn failed(command: String, status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> ToolError {
    let said = if stderr.trim_ascii().is_empty() {
        stdout
    } else {
        stderr
    };
    let text = String::from_utf8_lossy(&said[said.len().saturating_sub(STDERR_SHOWN)..])
        .trim()
        .to_owned();
    ToolError::Failed {
        command,
        status,
        stderr: if text.is_empty() {
            "it said nothing".into()
        } else {
            text
        },
    }
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
        "nft" => "nftables",
        "modprobe" => "kmod",
        "sfdisk" => "fdisk",
        "blkid" | "setpriv" => "util-linux",
        "qemu-img" => "qemu-utils",
        "qemu-storage-daemon" => "qemu-system-common",
        "debugfs" | "dumpe2fs" | "e2fsck" => "e2fsprogs",
        "losetup" => "mount",
        "grub-mkrescue" => "grub-common",
        "xorriso" => "xorriso",
        "mtools" => "mtools",
        "xfs_db" | "xfs_logprint" | "xfs_repair" => "xfsprogs",
        "btrfs" => "btrfs-progs",
        "fsck.fat" => "dosfstools",
        "ntfscluster" | "ntfsinfo" | "ntfsls" | "ntfsresize" | "ntfs-3g.probe" => "ntfs-3g",
        _ if program.starts_with("partclone.") => "partclone",
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
    fn a_missing_program_names_its_package() {
        let dir = tempfile::tempdir().unwrap();
        let error = Tools::in_dir(dir.path())
            .run("xl", ["list"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("apt install xen-utils-common"), "{error}");
    }
}
