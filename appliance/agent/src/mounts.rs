//! The kernel's own file systems.

use std::fs;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

/// Where, and what kind.
const MOUNTS: [(&str, &str); 4] = [
    ("/proc", "proc"),
    ("/sys", "sysfs"),
    ("/dev", "devtmpfs"),
    ("/run", "tmpfs"),
];

/// Mounts them all; those that are there already are left alone. Returns what went wrong.
pub fn mount_all() -> Vec<String> {
    let mut errors = Vec::new();
    for (target, kind) in MOUNTS {
        // May be there already; if it cannot be made, mount says so.
        let _ = fs::create_dir_all(target);
        let flags = MsFlags::MS_NOSUID;
        match mount(Some(kind), target, Some(kind), flags, None::<&str>) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => errors.push(format!("mounting {kind} on {target}: {error}")),
        }
    }
    errors
}
