//! Replacing a file so that after a crash either the old or the new one is there, whole.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// Writes `bytes` to `path` with permission bits `mode`: into a temporary file beside it, synced,
/// renamed over it, and the directory synced.
///
/// # Errors
/// Whatever the file system said; the old file is then still there as it was.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace_with(path, bytes, mode, |_, _| Ok(()))
}

/// The same, in a directory that belongs to a user of its own: written by root, the file becomes
/// that user's too, who must be able to read and replace it.
///
/// # Errors
/// As [`replace`].
pub fn replace_as_the_directorys(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace_with(path, bytes, mode, own_as)
}

/// Gives a file that root has just made to the owner of its directory. Only a regular file with one
/// name: that owner could have put a link to another file of root's there, and would be given that.
///
/// # Errors
/// The file system's answer.
pub fn own_as(file: &File, dir: &Path) -> io::Result<()> {
    let (made, dir) = (file.metadata()?, std::fs::metadata(dir)?);
    let has_one_name = made.is_file() && made.nlink() == 1;
    if made.uid() == 0 && dir.uid() != 0 && has_one_name {
        fchown(file, Some(dir.uid()), Some(dir.gid()))?;
    }
    Ok(())
}

/// Renames a file within its directory so that it does not have its old name again after a crash.
///
/// # Errors
/// The file system's answer.
pub fn rename(path: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(path, to)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

fn replace_with(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    prepare: impl Fn(&File, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.new", std::process::id()));
    let temporary = dir.join(hidden);
    let written = (|| {
        // A leftover of a process that died under the same pid is of no use to anyone.
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        // Whatever the umask of who runs the command.
        file.set_permissions(Permissions::from_mode(mode))?;
        prepare(&file, dir)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        #[cfg(feature = "boundary")]
        crate::boundary::reached(&format!("before {}", path.display()));
        std::fs::rename(&temporary, path)?;
        #[cfg(feature = "boundary")]
        crate::boundary::reached(&format!("after {}", path.display()));
        File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        // The error that matters is the first one; the temporary file is ours alone.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_a_file_with_one_name_is_given_away() {
        use std::os::unix::fs::chown;
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (dir, roots) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        chown(dir.path(), Some(1), Some(1)).unwrap();
        let path = dir.path().join("x");
        let owner_after = || {
            own_as(&File::open(&path).unwrap(), dir.path()).unwrap();
            std::fs::metadata(&path).unwrap().uid()
        };
        let secret = roots.path().join("secret");
        std::fs::write(&secret, "root's").unwrap();
        std::fs::hard_link(&secret, &path).unwrap();
        assert_eq!(owner_after(), 0);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(owner_after(), 0);
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, "new").unwrap();
        assert_eq!(owner_after(), 1);
    }

    #[test]
    fn a_failure_keeps_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("inside"), "kept").unwrap();
        assert!(replace(&path, b"new", 0o600).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read(path.join("inside")).unwrap(), b"kept");
    }
}
