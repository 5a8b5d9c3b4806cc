//! What a device is known by, whatever its name is today.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{READ_ONLY, SECONDARY};
use crate::host::Paths;
use crate::tool::aoe_driver;

/// DRBD's major number (Documentation/admin-guide/devices.txt).
const DRBD: u64 = 147;
/// How a DRBD device is known.
const DRBD_ON: &str = "DRBD on ";
/// Between the disks that it is on.
const DRBD_AND: &str = " and ";
/// Between a disk's mark and a partition's number.
const PARTITION: &str = " partition ";
/// DRBD devices may be stacked, one on the other: more than this nobody does.
const DEEPEST: u32 = 4;

/// How the kernel shows what tgt (and iscsitarget before it) calls a disk that was not given a `scsi_id`: made
/// of the numbers of target and LUN, and so the same on every such server (tgt, usr/spc.c, `update_vpd_83`).
/// In a multipath device's UUID it stands without `naa.`.
const COMMON: [&str; 2] = ["60000000000000000e000000", "t10.IET "];

/// How a disk is known that its target's name tells, and nothing else.
const ISCSI: &str = "iSCSI ";

/// Why a device could not be told from another one after a restart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// There is nothing.
    #[error("it has no serial number or other mark")]
    Nothing,
    /// What there is, others have too.
    #[error(
        "its mark `{0}` is one that every tgt server gives its disks, and no iSCSI session says which server's it is"
    )]
    Common(String),
    /// Another device here has it, too.
    #[error(
        "its mark `{mark}` is that of {other} too: either both are one disk by two ways ({}), or their server does not \
         tell its disks apart",
        one_way(mark)
    )]
    Shared {
        /// The mark.
        mark: String,
        /// The other device.
        other: String,
    },
    /// A DRBD device is what its disk is, and there is none.
    #[error("this DRBD device has no disk of its own on this host")]
    Diskless,
    /// That disk cannot be told.
    #[error("of the disk {disk} under this DRBD device: {why}")]
    Below {
        /// The disk.
        disk: String,
        /// Why.
        why: Box<Unknown>,
    },
}

impl Unknown {
    /// The device that has the same mark, this one's or that of a disk under it.
    pub fn other(&self) -> Option<&str> {
        match self {
            Unknown::Shared { other, .. } => Some(other),
            Unknown::Below { why, .. } => why.other(),
            _ => None,
        }
    }
}

/// How a disk is named that several ways lead to.
fn one_way(mark: &str) -> &'static str {
    // The multipath device over them is called what every tgt server calls its disks.
    match mark.starts_with(ISCSI) {
        true => {
            "then give the LUN a scsi_id of its own on its server (`tgtadm --params scsi_id=...`), log in again, and \
             name the multipath device over them"
        }
        false => "then name the multipath device over them",
    }
}

/// Whether a mark is one that many devices have.
fn is_common(mark: &str) -> bool {
    COMMON.iter().any(|common| mark.contains(common))
}

/// What md shows of an array whose metadata is not its own, IMSM or DDF (md.c, `uuid_show`).
fn is_nil(uuid: &str) -> bool {
    uuid.chars().all(|c| "0:-".contains(c))
}

/// Major and minor.
type Number = (u64, u64);

fn sys_block(paths: &Paths, (major, minor): Number) -> PathBuf {
    paths.sys_dev_block.join(format!("{major}:{minor}"))
}

/// Major and minor of a device number.
pub fn device_number(rdev: u64) -> (u64, u64) {
    (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev))
}

/// Whether it is a DRBD device.
pub(super) fn is_drbd(rdev: u64) -> bool {
    device_number(rdev).0 == DRBD
}

/// Whether writes to the device will fail. Opening it for them may succeed. DRBD 8.4 makes its Secondary devices so.
pub(super) fn is_read_only(paths: &Paths, rdev: u64) -> bool {
    read(&sys_block(paths, device_number(rdev)).join("ro")).is_some_and(|ro| ro != "0")
}

/// Bytes of a sector as the device is written; `None`: the kernel does not say.
pub(super) fn logical_sector(paths: &Paths, rdev: u64) -> Option<u64> {
    let sys = sys_block(paths, device_number(rdev));
    // A partition has its disk's queue.
    ["queue", "../queue"]
        .iter()
        .find_map(|q| read(&sys.join(q).join("logical_block_size")))
        .and_then(|t| t.parse().ok())
}

/// What the kernel knows the device by, and no other one: stays with the device, not with the name.
///
/// # Errors
/// [`Unknown`]: after a restart, another device could pass for it.
pub fn identify(paths: &Paths, rdev: u64) -> Result<String, Unknown> {
    unique(paths, device_number(rdev), DEEPEST)
}

fn unique(paths: &Paths, number: Number, depth: u32) -> Result<String, Unknown> {
    let mark = mark(paths, number, depth)?;
    if number.0 == DRBD {
        for disk in disks_below(paths, number) {
            unique(paths, disk, depth.saturating_sub(1)).map_err(|why| below(paths, disk, why))?;
        }
    }
    let others = fs::read_dir(&paths.sys_dev_block).into_iter().flatten();
    let same = others
        .flatten()
        .filter_map(|entry| parse_number(entry.file_name().to_str()?))
        .filter(|other| *other != number)
        .find(|other| self::mark(paths, *other, depth).as_ref() == Ok(&mark));
    match same {
        None => Ok(mark),
        Some(other) => Err(Unknown::Shared {
            mark,
            other: name(paths, other),
        }),
    }
}

/// What the kernel says of the device itself.
fn mark(paths: &Paths, number: Number, depth: u32) -> Result<String, Unknown> {
    if number.0 == DRBD {
        return drbd(paths, number, depth);
    }
    let sys = sys_block(paths, number);
    let read = |name: &str| read(&sys.join(name));
    let partition = read("partition").map_or(String::new(), |n| format!("{PARTITION}{n}"));
    let id = [
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
    .find_map(|n| read(n).filter(|id| *n != "md/uuid" || !is_nil(id)))
    .or_else(|| rbd(&sys.join("device")))
    .or_else(|| rbd(&sys.join("../device")))
    .ok_or(Unknown::Nothing)?;
    if !is_common(&id) {
        return Ok(id + &partition);
    }
    match iscsi(&sys) {
        Some(id) => Ok(id + &partition),
        None => Err(Unknown::Common(id)),
    }
}

/// A DRBD device has no mark: it is the disk under it, of which it shows all but its own notes. Where those are
/// on a device of their own, that belongs to it too.
fn drbd(paths: &Paths, number: Number, depth: u32) -> Result<String, Unknown> {
    let disks = disks_below(paths, number);
    let Some(depth) = depth.checked_sub(1).filter(|_| !disks.is_empty()) else {
        return Err(Unknown::Diskless);
    };
    let marks: Result<Vec<String>, Unknown> = disks
        .into_iter()
        .map(|disk| mark(paths, disk, depth).map_err(|why| below(paths, disk, why)))
        .collect();
    let mut marks = marks?;
    marks.sort();
    Ok(format!("{DRBD_ON}{}", marks.join(DRBD_AND)))
}

/// What the kernel says of the device, also where another one says the same: not enough to know it again by, and
/// enough to see that it may be a known one.
pub fn mark_of(paths: &Paths, rdev: u64) -> Option<String> {
    mark(paths, device_number(rdev), DEEPEST).ok()
}

/// Whether what is written to the one device is on the other, by their marks: they are one, the one is a partition of
/// the other, or a DRBD device (also one on another) is on it. What two DRBD devices have in common beside the
/// disks that they show, their notes, does not count.
pub fn overlap(one: &str, other: &str) -> bool {
    let disks = |mark: &str| -> Vec<String> {
        let below = mark.split(DRBD_AND);
        below
            .map(|disk| disk.trim_start_matches(DRBD_ON).to_owned())
            .collect()
    };
    let (one, other) = (disks(one), disks(other));
    let all_in = |some: &[String], others: &[String]| {
        let is_in = |disk: &String| others.iter().any(|other| is_part(disk, other));
        some.iter().all(is_in)
    };
    all_in(&one, &other) || all_in(&other, &one)
}

fn is_part(one: &str, other: &str) -> bool {
    let of = |part: &str, whole: &str| {
        let rest = part.strip_prefix(whole);
        !whole.is_empty() && rest.is_some_and(|r| r.is_empty() || r.starts_with(PARTITION))
    };
    of(one, other) || of(other, one)
}

fn below(paths: &Paths, disk: Number, why: Unknown) -> Unknown {
    Unknown::Below {
        disk: name(paths, disk),
        why: Box::new(why),
    }
}

fn disks_below(paths: &Paths, number: Number) -> Vec<Number> {
    let slaves = fs::read_dir(sys_block(paths, number).join("slaves"));
    slaves
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|slave| parse_number(&read(&slave.path().join("dev"))?))
        .collect()
}

/// An RBD image: cluster, pool, namespace and the image's own id, which no other one gets, also of its name
/// (Documentation/ABI/testing/sysfs-bus-rbd). Images of format 1 have none.
fn rbd(device: &Path) -> Option<String> {
    let part = |name: &str| read(&device.join(name));
    let (cluster, pool, image) = (part("cluster_fsid")?, part("pool_id")?, part("image_id")?);
    let space = part("pool_ns").map_or(String::new(), |space| space + "/");
    let snapshot = part("current_snap").filter(|name| name != "-");
    let snapshot = snapshot.map_or(String::new(), |name| format!("@{name}"));
    Some(format!("rbd {cluster}/{pool}/{space}{image}{snapshot}"))
}

/// An iSCSI disk by its target's name, which is the only one of that name in the world (RFC 7143, 4.2.7), and
/// its LUN.
fn iscsi(sys: &Path) -> Option<String> {
    let real = fs::canonicalize(sys).ok()?;
    let target = real.ancestors().find_map(|dir| {
        let session = dir.file_name()?.to_str()?;
        session.strip_prefix("session")?;
        read(&dir.join("iscsi_session").join(session).join("targetname"))
    })?;
    // The SCSI device is named HOST:CHANNEL:ID:LUN.
    let lun = real.iter().rev().find_map(|part| {
        let parts: Vec<&str> = part.to_str()?.split(':').collect();
        match parts.as_slice() {
            [_, _, _, lun] => lun.parse::<u64>().ok(),
            _ => None,
        }
    })?;
    Some(format!("{ISCSI}{target} LUN {lun}"))
}

/// What is in a file of sysfs, if there is something in it.
fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|t| !t.is_empty())
}

fn parse_number(text: &str) -> Option<Number> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// What the kernel calls it, for the operator.
fn name(paths: &Paths, number: Number) -> String {
    let uevent = fs::read_to_string(sys_block(paths, number).join("uevent")).unwrap_or_default();
    let name = uevent
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="));
    name.map_or_else(
        || format!("the device {}:{}", number.0, number.1),
        |name| format!("/dev/{name}"),
    )
}

/// Whether DRBD refused to open a device with `error` because it is not Primary: for reading with this number,
/// for writing as if it were read-only (drbd_main.c, `drbd_open`).
pub(super) fn is_secondary(rdev: u64, error: &io::Error) -> bool {
    let refusals = [nix::libc::EMEDIUMTYPE, nix::libc::EROFS];
    is_drbd(rdev) && error.raw_os_error().is_some_and(|e| refusals.contains(&e))
}

/// Size in sectors and device number of what a destination is now.
///
/// # Errors
/// Why it cannot be used, for the operator.
pub fn measure(paths: &Paths, path: &Path) -> Result<(u64, u64), String> {
    let rdev = match fs::metadata(path) {
        Ok(metadata) => metadata.rdev(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err("it is not there. If it comes from another host or from a service (iSCSI, DRBD, RBD), bring \
                        that up first"
                .into());
        }
        Err(error) => return Err(error.to_string()),
    };
    if is_read_only(paths, rdev) {
        let why = if is_drbd(rdev) { SECONDARY } else { READ_ONLY };
        return Err(format!("it {why}"));
    }
    match aoe_driver::sectors(path) {
        Ok(sectors) => Ok((sectors, rdev)),
        Err(error) if is_secondary(rdev, &error) => Err(format!("it {SECONDARY}")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
