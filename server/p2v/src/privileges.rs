//! From root to a user that can do nothing else on this host.
//!
//! The service reads what strangers send. It needs ports below 1024 and frames of its own making, which are
//! opened before, and never again; and no more: not the disks, not `xl`, not root's files.

use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

use anyhow::{Context, Result, bail};
use caps::CapSet;
use nix::sys::prctl;
use nix::unistd::{User, geteuid, setgroups, setresgid, setresuid};

/// The user that `make install` brings.
pub const USUAL: &str = "p2v";

/// Whom the service shall go on as; `None`: as whoever started it.
///
/// # Errors
/// The user that is `wanted` by name does not exist.
pub fn user(wanted: Option<&str>) -> Result<Option<User>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let name = wanted.unwrap_or(USUAL);
    let found = User::from_name(name).with_context(|| format!("cannot look up the user {name}"))?;
    match (found, wanted) {
        (Some(user), _) if user.uid.is_root() => Ok(None),
        (Some(user), _) => Ok(Some(user)),
        (None, Some(name)) => bail!(
            "there is no user {name} for p2v serve (`user` under [serve]); create it with \
             `useradd --system --shell /usr/sbin/nologin {name}`"
        ),
        (None, None) => {
            eprintln!(
                "p2v serve: runs as root, because there is no user {USUAL} (`systemd-sysusers` makes it after \
                 `make install`)"
            );
            Ok(None)
        }
    }
}

/// Gives a directory, and the files directly in it, to `user`. Links are not followed, and a file with
/// a second name is left alone: it may be one of root's, linked there by the user.
///
/// # Errors
/// What the file system refused.
pub fn give(dir: &Path, user: &User) -> Result<()> {
    let hand_over = |path: &Path| -> std::io::Result<()> {
        if fs::symlink_metadata(path)?.uid() == user.uid.as_raw() {
            return Ok(());
        }
        lchown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
    };
    let all = || -> std::io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // Not followed, if it is a link.
            let found = entry.metadata()?;
            if found.is_file() && found.nlink() == 1 {
                hand_over(&entry.path())?;
            }
        }
        hand_over(dir)
    };
    all().with_context(|| format!("cannot give {} to the user {}", dir.display(), user.name))
}

/// Goes on as `user`, with nothing of root's power and no way back. For a process with one thread: others
/// would keep what they have.
///
/// # Errors
/// The kernel refused a step. Then the process must end: it may be half root.
pub fn go_on_as(user: &User) -> Result<()> {
    let change = || -> Result<()> {
        for one in caps::read(None, CapSet::Bounding)? {
            caps::drop(None, CapSet::Bounding, one)?;
        }
        setgroups(&[])?;
        setresgid(user.gid, user.gid, user.gid)?;
        setresuid(user.uid, user.uid, user.uid)?;
        Ok(())
    };
    change().with_context(|| format!("cannot change to the user {}", user.name))?;
    give_up_capabilities()
}

/// Gives up what a service manager gave a user other than root, for ever. For a process with one thread.
///
/// # Errors
/// The kernel, or a filter of system calls, refused it.
pub fn give_up_capabilities() -> Result<()> {
    let change = || -> Result<()> {
        // Ambient ones go with the permitted ones (`capabilities(7)`).
        for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
            caps::clear(None, set)?;
        }
        prctl::set_no_new_privs()?;
        Ok(())
    };
    change().context("cannot give up the capabilities of the start")
}
