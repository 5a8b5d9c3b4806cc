//! The Debian kernel: fetched with apt, or given as a package or as an unpacked directory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

/// The package that depends on Debian's current kernel.
pub const META_PACKAGE: &str = "linux-image-amd64";

/// A kernel ready to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its version as in `uname -r`.
    pub version: String,
    /// The bootable image.
    pub vmlinuz: PathBuf,
    /// `lib/modules/VERSION`.
    pub modules: PathBuf,
}

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A tool could not be started.
    #[error("running `{command}`: {source} (this needs Debian's apt and dpkg)")]
    Start {
        /// The command line.
        command: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A tool failed.
    #[error("`{command}` failed ({status}): {stderr}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// apt does not know a kernel.
    #[error(
        "apt knows no kernel package under {META_PACKAGE}: run `apt-get update`, \
         or give a kernel package with --kernel"
    )]
    NoPackage,
    /// Something cannot be read or written.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A directory does not hold what a kernel package has.
    #[error(
        "{path} holds {found} kernel(s) under boot/vmlinuz-*, not one: \
         give a linux-image package or a directory it was unpacked into"
    )]
    NotOne {
        /// The directory.
        path: PathBuf,
        /// How many there are.
        found: usize,
    },
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KernelError {
    let path = path.to_owned();
    move |source| KernelError::Io {
        doing,
        path,
        source,
    }
}

/// Runs a tool and returns what it printed.
fn run(command: &mut Command) -> Result<String, KernelError> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.output().map_err(|source| KernelError::Start {
        command: shown.clone(),
        source,
    })?;
    if !output.status.success() {
        return Err(KernelError::Failed {
            command: shown,
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The versioned kernel package in the output of `apt-cache depends linux-image-amd64`.
fn versioned_package(depends: &str) -> Option<&str> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
}

/// Fetches the kernel package that [`META_PACKAGE`] depends on into `cache`, unless it is there.
///
/// # Errors
/// apt knows no such package, or cannot download it; `cache` cannot be used.
pub fn fetch(cache: &Path) -> Result<PathBuf, KernelError> {
    let depends = run(Command::new("apt-cache").args(["depends", META_PACKAGE]))?;
    let package = versioned_package(&depends).ok_or(KernelError::NoPackage)?;
    fs::create_dir_all(cache).map_err(io_error("creating", cache))?;
    if let Some(found) = package_file(cache, package)? {
        return Ok(found);
    }
    // A directory of its own, so that a download cut short never stands in the cache.
    let partial = tempfile::Builder::new()
        .prefix("download-")
        .tempdir_in(cache)
        .map_err(io_error("creating a directory in", cache))?;
    run(Command::new("apt-get")
        .args(["download", package])
        .current_dir(partial.path()))?;
    let fetched = package_file(partial.path(), package)?.ok_or(KernelError::NoPackage)?;
    let kept = cache.join(fetched.file_name().unwrap_or_default());
    fs::rename(&fetched, &kept).map_err(io_error("moving", &fetched))?;
    Ok(kept)
}

/// The file of `package` in `dir` (`NAME_VERSION_ARCH.deb`), the last one if there are several.
fn package_file(dir: &Path, package: &str) -> Result<Option<PathBuf>, KernelError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("listing", dir))? {
        let path = entry.map_err(io_error("listing", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(&format!("{package}_")) && name.ends_with(".deb") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found.pop())
}

/// Opens a kernel package (unpacked under `cache`, once) or a directory one was unpacked into.
///
/// # Errors
/// The package cannot be unpacked, or there is not exactly one kernel in it.
pub fn open(package: &Path, cache: &Path) -> Result<Kernel, KernelError> {
    if package.is_dir() {
        return find(package);
    }
    let stem = package.file_stem().unwrap_or_default();
    let unpacked = cache.join(stem);
    if !unpacked.exists() {
        fs::create_dir_all(cache).map_err(io_error("creating", cache))?;
        let partial = tempfile::Builder::new()
            .prefix("unpack-")
            .tempdir_in(cache)
            .map_err(io_error("creating a directory in", cache))?;
        run(Command::new("dpkg-deb")
            .arg("--extract")
            .args([package, partial.path()]))?;
        fs::rename(partial.path(), &unpacked).map_err(io_error("creating", &unpacked))?;
    }
    find(&unpacked)
}

/// Finds the one kernel in a directory laid out as the package is.
fn find(dir: &Path) -> Result<Kernel, KernelError> {
    let boot = dir.join("boot");
    let mut versions = Vec::new();
    for entry in fs::read_dir(&boot).map_err(io_error("listing", &boot))? {
        let name = entry.map_err(io_error("listing", &boot))?.file_name();
        if let Some(version) = name.to_string_lossy().strip_prefix("vmlinuz-") {
            versions.push(version.to_owned());
        }
    }
    match versions.as_slice() {
        [version] => {
            let modules = ["lib/modules", "usr/lib/modules"]
                .map(|lib| dir.join(lib).join(version))
                .into_iter()
                .find(|tree| tree.is_dir())
                .unwrap_or_else(|| dir.join("lib/modules").join(version));
            Ok(Kernel {
                version: version.clone(),
                vmlinuz: boot.join(format!("vmlinuz-{version}")),
                modules,
            })
        }
        other => Err(KernelError::NotOne {
            path: dir.to_owned(),
            found: other.len(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versioned_package_is_read_from_apt() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(versioned_package(text), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(versioned_package("linux-image-amd64\n"), None);
    }

    #[test]
    fn a_directory_with_one_kernel_is_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("boot")).unwrap();
        let error = open(dir.path(), dir.path()).unwrap_err();
        assert!(error.to_string().contains("0 kernel(s)"), "{error}");
        fs::write(dir.path().join("boot/vmlinuz-6.1-x"), "").unwrap();
        let kernel = open(dir.path(), dir.path()).unwrap();
        assert_eq!(kernel.version, "6.1-x");
        assert!(kernel.modules.ends_with("lib/modules/6.1-x"));
    }

    #[test]
    fn a_tool_that_fails_is_quoted() {
        let error = run(Command::new("sh").args(["-c", "echo no such package >&2; exit 3"]));
        let text = error.unwrap_err().to_string();
        assert!(text.contains("no such package"), "{text}");
        assert!(text.contains("exit status: 3"), "{text}");
    }
}
