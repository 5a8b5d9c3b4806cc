//! This host's key: with `host.key`, which is root's alone, orders to the old machines are signed; `host.pub`, which goes into
//! their boot menus, is for everybody.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use p2v_contract::key::{PublicKey, SecretKey};
use p2v_copy::atomic_file;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    /// The file system's answer.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The public part is there, and the key is not.
    #[error(
        "{} is missing, and the old machines that are booted know this host by it: put it back from a backup. Without one, \
         remove host.pub beside it and run `p2v key`; then restart p2v-serve and the old machines, which take no orders before",
        .0.display()
    )]
    Lost(PathBuf),
    /// It is something else.
    #[error(
        "{} is no key: put it back from a backup. Without one, remove it and host.pub beside it; then a new one is made, and \
         the old machines must be booted again before they take orders", .0.display()
    )]
    Bad(PathBuf),
}

/// The key of the host whose state this is; made when it is first asked for.
///
/// # Errors
/// It cannot be read or made.
pub fn secret(state: &Path) -> Result<SecretKey, HostKeyError> {
    let path = state.join("host.key");
    let key = match read(&path) {
        Err(HostKeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            if state.join("host.pub").symlink_metadata().is_ok() {
                return Err(HostKeyError::Lost(path));
            }
            make(state, &path)?;
            read(&path)?
        }
        other => other?,
    };
    let key: SecretKey = key.parse().map_err(|_| HostKeyError::Bad(path))?;
    let line = format!("{}\n", key.public());
    let for_all = state.join("host.pub");
    let found = fs::metadata(&for_all).map(|found| found.permissions().mode() & 0o777);
    if found.ok() != Some(0o644) || fs::read_to_string(&for_all).ok().as_deref() != Some(&line) {
        atomic_file::replace(&for_all, line.as_bytes(), 0o644)
            .map_err(io_error("write", &for_all))?;
    }
    Ok(key)
}

/// Its public part, for who may not read the key.
///
/// # Errors
/// It was not made yet (`p2v key` does), or cannot be read.
pub fn public(state: &Path) -> Result<PublicKey, HostKeyError> {
    let path = state.join("host.pub");
    read(&path)?.parse().map_err(|_| HostKeyError::Bad(path))
}

fn read(path: &Path) -> Result<String, HostKeyError> {
    let text = fs::read_to_string(path).map_err(io_error("read", path))?;
    Ok(text.trim().to_owned())
}

/// Makes it, unless another command has just done so: never in the place of one.
fn make(state: &Path, path: &Path) -> Result<(), HostKeyError> {
    let write = || -> io::Result<()> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let key = SecretKey::from_bytes(&bytes);
        let new = state.join(format!(".host.key.{}", std::process::id()));
        let _ = fs::remove_file(&new);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        writeln!(file, "{}", key.to_hex())?;
        file.sync_all()?;
        let linked = fs::hard_link(&new, path);
        fs::remove_file(&new)?;
        File::open(state)?.sync_all()?;
        match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    };
    write().map_err(io_error("make", path))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HostKeyError {
    let path = path.to_owned();
    move |source| HostKeyError::Io {
        doing,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_kept_and_only_its_public_part_is_for_others() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path();
        assert!(public(state).is_err());
        let key = secret(state).unwrap();
        assert_eq!(secret(state).unwrap().public(), key.public());
        assert_eq!(public(state).unwrap(), key.public());
        let mode = |name: &str| {
            let found = fs::metadata(state.join(name)).unwrap();
            found.permissions().mode() & 0o777
        };
        assert_eq!((mode("host.key"), mode("host.pub")), (0o600, 0o644));
        // Whatever the umask was, or a backup has made of it.
        let closed = fs::Permissions::from_mode(0o600);
        fs::set_permissions(state.join("host.pub"), closed).unwrap();
        secret(state).unwrap();
        assert_eq!(mode("host.pub"), 0o644);
        // Its public part is made again from it, and another one's does not stay.
        fs::write(state.join("host.pub"), "0\n").unwrap();
        secret(state).unwrap();
        assert_eq!(public(state).unwrap(), key.public());
        let files = fs::read_dir(state).unwrap().count();
        assert_eq!(files, 2);
        // A file that is none is not replaced.
        fs::write(state.join("host.key"), "half").unwrap();
        assert!(secret(state).unwrap_err().to_string().contains("backup"));
        assert_eq!(fs::read(state.join("host.key")).unwrap(), b"half");
        // One that is lost is not replaced in silence: the machines know this host by it.
        fs::remove_file(state.join("host.key")).unwrap();
        assert!(matches!(secret(state), Err(HostKeyError::Lost(_))));
    }
}
