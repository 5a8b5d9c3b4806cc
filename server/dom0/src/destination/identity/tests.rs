//! What devices are known by, in a sysfs that is put together here.

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
