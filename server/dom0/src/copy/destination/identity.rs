//! What a device is known by, whatever its name is today.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::tool::aoe_driver;

fn sys_block(rdev: u64) -> PathBuf {
    let (major, minor) = device_number(rdev);
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

/// Major and minor of a device number.
pub fn device_number(rdev: u64) -> (u64, u64) {
    (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev))
}

/// Bytes of a sector as the device is written; `None`: the kernel does not say.
pub(super) fn logical_sector(rdev: u64) -> Option<u64> {
    let sys = sys_block(rdev);
    // A partition has its disk's queue.
    ["queue", "../queue"]
        .iter()
        .find_map(|q| fs::read_to_string(sys.join(q).join("logical_block_size")).ok())
        .and_then(|t| t.trim().parse().ok())
}

/// What the kernel knows the device by: stays with the device, not with the name.
pub fn device_identity(rdev: u64) -> String {
    let sys = sys_block(rdev);
    let read = |name: &str| {
        let text = fs::read_to_string(sys.join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|t| !t.is_empty())
    };
    let partition = read("partition").map_or(String::new(), |n| format!(" partition {n}"));
    [
        "dm/uuid",
        "md/uuid",
        "wwid",
        "device/wwid",
        "serial",
        "../wwid",
        "../device/wwid",
        "../serial",
    ]
    .iter()
    .find_map(|n| read(n))
    .map_or(String::new(), |id| id + &partition)
}

/// The link in `/dev/disk/by-id` that leads to the device, else the path as it was given: `/dev/sdb`
/// may be another disk after the next start.
pub(super) fn stable_path(path: &Path, rdev: u64) -> PathBuf {
    let links = fs::read_dir("/dev/disk/by-id")
        .into_iter()
        .flatten()
        .flatten();
    links
        .map(|l| l.path())
        .filter(|l| {
            fs::metadata(l).is_ok_and(|m| m.file_type().is_block_device() && m.rdev() == rdev)
        })
        .min()
        .unwrap_or_else(|| path.to_owned())
}

/// Size in sectors and device number of what a destination is now.
///
/// # Errors
/// It is not there.
pub fn measure(path: &Path) -> io::Result<(u64, u64)> {
    Ok((aoe_driver::sectors(path)?, fs::metadata(path)?.rdev()))
}
