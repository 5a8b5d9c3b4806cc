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

/// Whether a mark is one that many devices have: an earlier p2v took it for one's own.
pub fn is_common(mark: &str) -> bool {
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
mod tests {
    use super::*;
    use nix::sys::stat::makedev;
    use std::os::unix::fs::symlink;

    /// A sysfs in which devices are put together.
    struct Sys {
        dir: tempfile::TempDir,
        paths: Paths,
    }

    impl Sys {
        fn new() -> Sys {
            let dir = tempfile::tempdir().unwrap();
            let paths = Paths::under(dir.path());
            fs::create_dir_all(&paths.sys_dev_block).unwrap();
            Sys { dir, paths }
        }

        /// The device of that number, at `place` under `/sys/devices`, with attributes.
        fn device(&self, number: Number, place: &str, attributes: &[(&str, &str)]) {
            let sys = self.dir.path().join("sys/devices").join(place);
            for (name, value) in attributes {
                let file = sys.join(name);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, format!("{value}\n")).unwrap();
            }
            let link = sys_block(&self.paths, number);
            symlink(sys, link).unwrap();
        }

        fn identify(&self, (major, minor): Number) -> Result<String, Unknown> {
            identify(&self.paths, makedev(major, minor))
        }

        fn known(&self, number: Number) -> String {
            self.identify(number).unwrap()
        }

        /// An iSCSI disk as Linux 6.1 shows it.
        fn iscsi(&self, minor: u64, session: u32, wwid: &str, target: &str) {
            let session = format!("platform/host{session}/session{session}");
            let number = session.rsplit("session").next().unwrap();
            let target_file = self.dir.path().join(format!(
                "sys/devices/{session}/iscsi_session/session{number}/targetname"
            ));
            fs::create_dir_all(target_file.parent().unwrap()).unwrap();
            fs::write(target_file, format!("{target}\n")).unwrap();
            self.device(
                (8, minor),
                &format!("{session}/target{number}:0:0/{number}:0:0:1/block/sd{minor}"),
                &[("device/wwid", wwid)],
            );
        }
    }

    /// As tgt 1.0.85 shows its first target's first disk, on every host.
    const TGT: &str = "naa.60000000000000000e00000000010001";

    #[test]
    fn by_what_the_kernel_says() {
        let sys = Sys::new();
        sys.device(
            (8, 0),
            "lio",
            &[
                ("device/wwid", "naa.6001405895374cd5"),
                ("sda1/partition", "1"),
            ],
        );
        symlink(
            sys.dir.path().join("sys/devices/lio/sda1"),
            sys_block(&sys.paths, (8, 1)),
        )
        .unwrap();
        sys.device((253, 0), "dm-0", &[("dm/uuid", "mpath-36001405895374cd5")]);
        sys.device((43, 0), "nbd0", &[("size", "8")]);
        sys.device((7, 0), "loop0", &[("loop/backing_file", "/srv/disk.img")]);
        assert_eq!(sys.known((8, 0)), "naa.6001405895374cd5");
        assert_eq!(sys.known((8, 1)), "naa.6001405895374cd5 partition 1");
        assert_eq!(sys.known((253, 0)), "mpath-36001405895374cd5");
        // An array of external metadata has none.
        let nil = "00000000-0000-0000-0000-000000000000";
        sys.device((9, 127), "md127", &[("md/uuid", nil)]);
        sys.device(
            (9, 1),
            "md1",
            &[("md/uuid", "00000000:00000000:00000000:00000000")],
        );
        sys.device(
            (9, 0),
            "md0",
            &[("md/uuid", "6ba7b810-0000-0000-0000-000000000000")],
        );
        assert_eq!(sys.known((9, 0)), "6ba7b810-0000-0000-0000-000000000000");
        for nameless in [(43, 0), (7, 0), (9, 9), (9, 127), (9, 1)] {
            assert_eq!(sys.identify(nameless), Err(Unknown::Nothing));
        }
    }

    #[test]
    fn two_devices_of_one_mark_are_not_told_apart() {
        let sys = Sys::new();
        sys.device((8, 0), "sda", &[("device/wwid", "naa.5000")]);
        sys.device(
            (8, 16),
            "sdb",
            &[
                ("device/wwid", "naa.5000"),
                ("uevent", "MAJOR=8\nDEVNAME=sdb"),
            ],
        );
        let Err(Unknown::Shared { mark, other }) = sys.identify((8, 0)) else {
            panic!("{:?}", sys.identify((8, 0)));
        };
        assert_eq!((&*mark, &*other), ("naa.5000", "/dev/sdb"));
        let said = sys.identify((8, 0)).unwrap_err().to_string();
        assert!(
            said.contains("name the multipath") && !said.contains("scsi_id"),
            "{said}"
        );
        assert!(sys.identify((8, 16)).is_err());
    }

    #[test]
    fn the_mark_that_every_tgt_server_gives_counts_with_its_target_only() {
        let sys = Sys::new();
        sys.device((8, 0), "sda", &[("device/wwid", TGT)]);
        sys.device(
            (253, 0),
            "dm-0",
            &[("dm/uuid", "mpath-360000000000000000e00000000010001")],
        );
        for number in [(8, 0), (253, 0)] {
            assert!(matches!(sys.identify(number), Err(Unknown::Common(_))));
        }
        sys.iscsi(16, 1, TGT, "iqn.2026-11.test:one");
        sys.iscsi(32, 2, TGT, "iqn.2026-11.test:two");
        assert_eq!(sys.known((8, 16)), "iSCSI iqn.2026-11.test:one LUN 1");
        assert_eq!(sys.known((8, 32)), "iSCSI iqn.2026-11.test:two LUN 1");
        // One that says what it is stays that, by whatever target it comes.
        sys.iscsi(48, 3, "naa.6001405", "iqn.2026-11.test:two");
        assert_eq!(sys.known((8, 48)), "naa.6001405");
        // A second way to the same.
        sys.iscsi(64, 4, TGT, "iqn.2026-11.test:one");
        let shared = sys.identify((8, 16)).unwrap_err();
        assert!(
            shared.other().is_some() && shared.to_string().contains("scsi_id"),
            "{shared}"
        );
    }

    #[test]
    fn a_drbd_device_is_the_disk_under_it() {
        let sys = Sys::new();
        sys.device(
            (253, 1),
            "dm-1",
            &[("dm/uuid", "LVM-abc"), ("dev", "253:1")],
        );
        sys.device((254, 0), "vda", &[("serial", "meta"), ("dev", "254:0")]);
        sys.device(
            (43, 0),
            "nbd0",
            &[("dev", "43:0"), ("uevent", "DEVNAME=nbd0")],
        );
        sys.device((147, 0), "drbd0", &[("slaves/dm-1/dev", "253:1")]);
        // The same resource, after a restart: with another number.
        sys.device(
            (147, 9),
            "drbd9",
            &[("slaves/vda/dev", "254:0"), ("slaves/nbd0/dev", "43:0")],
        );
        sys.device((147, 3), "drbd3", &[("size", "8")]);
        assert_eq!(sys.known((147, 0)), "DRBD on LVM-abc");
        assert!(overlap(&sys.known((147, 0)), &sys.known((253, 1))));
        assert_eq!(sys.identify((147, 3)), Err(Unknown::Diskless));
        let error = sys.identify((147, 9)).unwrap_err().to_string();
        assert!(
            error.contains("/dev/nbd0 under this DRBD device"),
            "{error}"
        );
        // Its notes on another device.
        fs::remove_dir_all(sys.dir.path().join("sys/devices/drbd9/slaves/nbd0")).unwrap();
        sys.device(
            (147, 4),
            "drbd4",
            &[("slaves/dm-1/dev", "253:1"), ("slaves/vda/dev", "254:0")],
        );
        assert_eq!(sys.known((147, 4)), "DRBD on LVM-abc and meta");
        assert!(overlap(&sys.known((147, 4)), "meta"));
        assert_eq!(sys.known((147, 9)), "DRBD on meta");
        // Stacked, and what cannot be: on itself.
        sys.device((147, 5), "drbd5", &[("slaves/drbd0/dev", "147:0")]);
        assert_eq!(sys.known((147, 5)), "DRBD on DRBD on LVM-abc");
        sys.device((147, 6), "drbd6", &[("slaves/drbd6/dev", "147:6")]);
        assert!(sys.identify((147, 6)).is_err());
        // Two disks of one mark are none, also below.
        sys.device((254, 16), "vdb", &[("serial", "meta"), ("dev", "254:16")]);
        assert!(matches!(sys.identify((147, 9)), Err(Unknown::Below { .. })));
    }

    #[test]
    fn marks_that_say_that_one_writes_to_the_other() {
        for (one, other, same) in [
            ("naa.600", "naa.600", true),
            ("naa.600", "naa.6001", false),
            ("naa.600 partition 1", "naa.600", true),
            ("naa.600 partition 1", "naa.600 partition 2", false),
            ("naa.600 partition 1", "naa.600 partition 10", false),
            ("DRBD on LVM-abc", "LVM-abc", true),
            ("DRBD on LVM-abcd", "LVM-abc", false),
            ("DRBD on DRBD on LVM-abc", "LVM-abc", true),
            ("DRBD on DRBD on LVM-abc and meta", "DRBD on LVM-abc", true),
            ("DRBD on LVM-abc and meta", "meta", true),
            // One device can have the notes of several.
            ("DRBD on a and meta", "DRBD on b and meta", false),
            // Nothing is known of it.
            ("", "", false),
            ("", "naa.600", false),
        ] {
            assert_eq!(overlap(one, other), same, "{one:?} {other:?}");
            assert_eq!(overlap(other, one), same, "{other:?} {one:?}");
        }
    }

    #[test]
    fn an_rbd_image_is_known_by_its_id() {
        let sys = Sys::new();
        let fsid = "f7e3a1f8-0000-4000-8000-00000000000a";
        let image = |minor: u64, id: &str, more: &[(&str, &str)]| {
            let place = format!("rbd/{minor}");
            let mut attributes = vec![
                ("device/cluster_fsid", fsid),
                ("device/pool_id", "2"),
                ("device/image_id", id),
                ("device/current_snap", "-"),
            ];
            attributes.extend(more);
            sys.device((251, minor), &place, &attributes);
        };
        image(0, "10226b8b4567", &[]);
        image(16, "10226b8b4567", &[("device/pool_ns", "web")]);
        image(32, "", &[]);
        assert_eq!(sys.known((251, 0)), format!("rbd {fsid}/2/10226b8b4567"));
        assert_eq!(
            sys.known((251, 16)),
            format!("rbd {fsid}/2/web/10226b8b4567")
        );
        assert_eq!(sys.identify((251, 32)), Err(Unknown::Nothing));
        // Mapped twice: a domain may have it by the other name.
        image(48, "10226b8b4567", &[]);
        assert!(matches!(
            sys.identify((251, 0)),
            Err(Unknown::Shared { .. })
        ));
    }
}
