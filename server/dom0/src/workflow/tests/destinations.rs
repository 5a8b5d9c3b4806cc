//! Block devices as destinations: known again by what they are, or left alone.

use super::*;
use crate::record::{CopyRecord, Destination, DiskRecord, Stage};

/// A device node that nothing answers to, with a number for local use (Documentation/admin-guide/devices.txt).
fn node(lab: &Lab, path: &str, (major, minor): (u64, u64)) -> PathBuf {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let path = lab.dir.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    mknod(&path, SFlag::S_IFBLK, Mode::S_IRUSR, makedev(major, minor))
        .expect("the test needs root");
    path
}

/// What the kernel says of it.
fn attribute(lab: &Lab, (major, minor): (u64, u64), name: &str, value: &str) {
    let file = lab
        .host
        .paths
        .sys_dev_block
        .join(format!("{major}:{minor}/{name}"));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, format!("{value}\n")).unwrap();
}

#[test]
fn of_a_device_that_has_no_mark_it_is_told() {
    let lab = lab(1);
    let warned = |device: &PathBuf| {
        let warnings = Warnings::default();
        let context = Context {
            report: &warnings,
            ..lab.context()
        };
        let wanted = device.to_str().unwrap().parse().unwrap();
        crate::workflow::copying::warn_of_nameless(context, &wanted);
        warnings.0.into_inner().unwrap().concat()
    };
    let (nameless, known) = (node(&lab, "nbd0", (240, 0)), node(&lab, "sda", (240, 1)));
    attribute(&lab, (240, 1), "device/wwid", "naa.6001405");
    let said = warned(&nameless);
    assert!(
        said.contains("`pvcreate ") && said.contains("no serial"),
        "{said}"
    );
    assert_eq!(warned(&known), "");
    // Until another one says the same.
    attribute(&lab, (240, 0), "device/wwid", "naa.6001405");
    assert!(warned(&known).contains("`naa.6001405` is that of"));
}

const BEGUN: Stage = Stage::Begun {
    journal: None,
    fresh: false,
};

/// A record of another machine, whose disk 0 has a copy there, ready for cutover; or is moved to it.
fn other_machine(lab: &Lab, path: &str, identity: &str, moved: bool) -> MachineName {
    let mac = MacAddr::new(2, 0, 0, 0, 0, 77);
    let name = lab
        .host
        .store
        .menu(mac, None, Timestamp::now())
        .unwrap()
        .name;
    let copy = CopyRecord {
        destination: Destination::Device {
            path: path.into(),
            identity: identity.into(),
        },
        begun: Timestamp::from_unix(0),
        unguarded: false,
        stage: match moved {
            true => Stage::Used {
                since: Timestamp::from_unix(1),
                verified: None,
            },
            false => BEGUN,
        },
    };
    let disk = DiskRecord {
        table_id: String::new(),
        sectors: SECTORS,
        model: String::new(),
        serial: String::new(),
        mapping: None,
        copy: Some(copy),
    };
    let noted = lab.host.store.update(&name, |record| {
        record.disks.insert(0, disk);
        record.state = if moved { State::Moved } else { State::Copied };
        Ok::<_, Error>(())
    });
    noted.unwrap();
    name
}

/// Whether its record has a copy still.
fn has_copy(lab: &Lab, name: &MachineName) -> bool {
    let record = lab.host.store.get(name).unwrap();
    assert_eq!(
        record.state == State::Copied,
        record.disks[&0].copy.is_some()
    );
    record.disks[&0].copy.is_some()
}

#[test]
fn a_copy_that_may_go_is_forgotten_however_it_was_found() {
    let lab = lab(1);
    // By its path: what is noted of both has nothing in common.
    let path = lab.dir.path().join("disk").display().to_string();
    fs::write(&path, "the copy of another").unwrap();
    let other = other_machine(&lab, &path, "naa.600", false);
    let error = text(lab.copy(&path));
    assert!(error.contains(&format!("of {other}")), "{error}");
    assert!(has_copy(&lab, &other));
    lab.copy_with(&path, |r| r.may_go = &|_, _| true).unwrap();
    assert!(!has_copy(&lab, &other));
}

/// It was not moved after all.
fn only_copied(lab: &Lab, name: &MachineName) {
    let changed = lab.host.store.update(name, |record| {
        let disk = record.disks.get_mut(&0).unwrap();
        disk.copy.as_mut().unwrap().stage = BEGUN;
        record.state = State::Copied;
        Ok::<_, Error>(())
    });
    changed.unwrap();
}

#[test]
fn a_second_way_to_a_disk_is_that_disk() {
    let lab = lab(1);
    let (sdb, sdc) = (node(&lab, "sdb", (240, 1)), node(&lab, "sdc", (240, 2)));
    for (number, wwid) in [((240, 1), "naa.600"), ((240, 2), "naa.600")] {
        attribute(&lab, number, "device/wwid", wwid);
    }
    let other = other_machine(&lab, sdb.to_str().unwrap(), "naa.600", true);
    let go = |r: &mut CopyRequest<'_>| r.may_go = &|_, _| true;
    let sdc = sdc.display().to_string();
    let error = text(lab.copy_with(&sdc, go));
    assert!(error.contains(&format!("moved system {other}")), "{error}");
    only_copied(&lab, &other);
    let error = text(lab.copy(&sdc));
    assert!(
        error.contains(&format!("of {other}")) && error.contains("--overwrite="),
        "{error}"
    );
    // One that says something else is another disk; nothing answers to it here.
    attribute(&lab, (240, 2), "device/wwid", "naa.601");
    let error = text(lab.copy(&sdc));
    assert!(error.contains("cannot open"), "{error}");
}

#[test]
fn the_volume_under_a_drbd_device_is_known_while_it_is_not_active() {
    let lab = lab(1);
    fs::create_dir_all(lab.dir.path().join("dev/vg")).unwrap();
    let path = lab.dir.path().join("dev/vg/e1-disk0");
    fs::write(&path, vec![9; 12 << 20]).unwrap();
    fs::write(lab.dir.path().join("lv"), "vg e1-disk0 12582912 \n").unwrap();
    use std::os::unix::fs::MetadataExt;
    let uuid = fs::metadata(&path).unwrap().ino();
    let mark = format!("DRBD on DRBD on LVM-AbCd{uuid}");
    let other = other_machine(&lab, "/dev/drbd/by-res/web/0", &mark, true);
    let go = |r: &mut CopyRequest<'_>| r.may_go = &|_, _| true;
    for to in ["vg", "vg/e1-disk0"] {
        let error = text(lab.copy_with(to, go));
        assert!(error.contains(&format!("moved system {other}")), "{error}");
    }
    only_copied(&lab, &other);
    lab.copy_with("vg", go).unwrap();
    assert!(!has_copy(&lab, &other));
}

#[test]
fn an_unreadable_record_may_name_a_device_by_another_link_or_its_mark() {
    let lab = lab(1);
    let disk = node(&lab, "dev/sdb", (240, 1));
    attribute(&lab, (240, 1), "dm/uuid", "LVM-abc");
    let link = lab.dir.path().join("dev/by-id");
    std::os::unix::fs::symlink(&disk, &link).unwrap();
    let volume = node(&lab, "dev/vg/web", (240, 1));
    assert!(volume.exists());
    let record = lab.host.store.path(&"moved".parse().unwrap());
    let go = |r: &mut CopyRequest<'_>| r.may_go = &|_, _| true;
    let disk = disk.display().to_string();
    let link = link.display().to_string();
    for (says, to) in [
        (&*link, &*disk),
        ("LVM-abc", &disk),
        ("DRBD on LVM-abc", &disk),
        ("DRBD on LVM-abc", "vg/web"),
    ] {
        fs::write(&record, format!("{{\"version\": 9, \"is\": \"{says}\"}}")).unwrap();
        let error = text(lab.copy_with(to, go));
        assert!(
            error.contains("moved.json cannot be read"),
            "{says}: {error}"
        );
    }
    fs::write(&record, "{\"version\": 9, \"is\": \"LVM-abcd\"}").unwrap();
    let error = text(lab.copy_with(&disk, go));
    assert!(error.contains("cannot open"), "{error}");
}

#[test]
fn no_copy_goes_over_what_the_drbd_disk_of_a_moved_system_is_on() {
    let lab = lab(1);
    let moved = other_machine(&lab, "/dev/drbd/by-res/web/0", "DRBD on LVM-abc", true);
    // DRBD is down, and what is under it free: under the names that a volume has.
    node(&lab, "dev/vg/web", (240, 1));
    attribute(&lab, (240, 1), "dm/uuid", "LVM-abc");
    let by_path = lab.dir.path().join("dev/vg/web").display().to_string();
    for to in ["vg/web", &by_path] {
        let error = text(lab.copy_with(to, |r| r.may_go = &|_, _| true));
        let says = format!("is the disk of the moved system {moved}");
        assert!(error.contains(&says), "{error}");
    }
    attribute(&lab, (240, 1), "dm/uuid", "LVM-abd");
    let error = text(lab.copy_with("vg/web", |r| r.may_go = &|_, _| true));
    assert!(!error.contains("moved"), "{error}");
}

#[test]
fn what_cannot_be_written_is_refused_before_it_is_opened() {
    let lab = lab(1);
    for (path, number, says) in [
        ("rbd0", (240, 0), "is read-only on this host"),
        ("drbd0", (147, 240), "`drbdadm primary RESOURCE`"),
    ] {
        let device = node(&lab, path, number);
        attribute(&lab, number, "ro", "1");
        let error = text(lab.copy(device.to_str().unwrap()));
        assert!(error.contains(says), "{error}");
        attribute(&lab, number, "ro", "0");
        let error = text(lab.copy(device.to_str().unwrap()));
        // Nothing answers to such a device.
        assert!(error.contains("cannot open"), "{error}");
    }
}

#[test]
fn no_domain_is_started_on_what_the_kernel_found_at_the_path_a_moment_later() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    fs::write(lab.dir.path().join("number"), "8:1").unwrap();
    let error = text(lab.cutover());
    assert!(error.contains("became another device"), "{error}");
    lab.assert_clean();
    fs::remove_file(lab.dir.path().join("number")).unwrap();
    lab.cutover().unwrap();
}

/// Deletes the file and makes it again with the same bytes, by the same inode number where the file system gives
/// that out again.
pub(super) fn make_again(path: &std::path::Path) {
    use std::os::unix::fs::MetadataExt;
    let bytes = fs::read(path).unwrap();
    let before = fs::metadata(path).unwrap();
    let born = before.created().ok();
    for _ in 0..100_000 {
        fs::remove_file(path).unwrap();
        let made = fs::File::create_new(path).unwrap().metadata().unwrap();
        // The clock of file systems goes in steps.
        if made.created().ok() != born {
            let same = made.ino() == before.ino();
            eprintln!(
                "the inode number is {}",
                if same { "the same" } else { "new" }
            );
            break;
        }
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_file_that_was_deleted_and_made_again_is_not_the_copy() {
    let lab = lab(1);
    let path = lab.dir.path().join("disk.img");
    let to = path.to_str().unwrap();
    let stop = AtomicBool::new(false);
    lab.copy(to).unwrap();
    verify(lab.context(), &lab.name, false, &stop).unwrap();
    make_again(&path);
    for from_certificate in [false, true] {
        let error = text(verify(lab.context(), &lab.name, from_certificate, &stop));
        assert!(
            error.contains("is not the file that was copied to"),
            "{error}"
        );
    }
    let error = text(lab.cutover());
    assert!(
        error.contains("is not the file that was copied to"),
        "{error}"
    );
    lab.assert_clean();
    let error = text(lab.copy(to));
    assert!(error.contains("--overwrite="), "{error}");
    // The operator's word, and all of it is compared.
    let done = lab.copy_with(to, |r| r.may_go = &|_, _| true).unwrap();
    assert_eq!((done[0].summary.moved, done[0].summary.before), (0, 0));
    lab.cutover().unwrap();
}

#[test]
fn a_file_of_another_size_is_not_the_copy() {
    let lab = lab(1);
    let path = lab.dir.path().join("disk.img");
    lab.copy(path.to_str().unwrap()).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len((SECTORS + 8) * SECTOR).unwrap();
    let error = text(lab.cutover());
    assert!(
        error.contains("is not the file that was copied to"),
        "{error}"
    );
    file.set_len(SECTORS * SECTOR).unwrap();
    lab.cutover().unwrap();
}

#[test]
fn what_was_written_to_a_copy_is_found_when_the_old_machine_is_gone_too() {
    for (to, at) in [("", "disk.img"), ("vg", "dev/vg/e1-disk0")] {
        for byte in [100, SECTORS * SECTOR - 100] {
            let lab = lab(1);
            let path = lab.dir.path().join(at);
            let to = if to.is_empty() {
                path.to_str().unwrap()
            } else {
                to
            };
            lab.copy(to).unwrap();
            lab.machine().on = false;
            let mut disk = fs::read(&path).unwrap();
            disk[usize::try_from(byte).unwrap()] ^= 1;
            fs::write(&path, &disk).unwrap();
            let gone = || CutoverOptions {
                old_machine_gone: true,
                ..CutoverOptions::default()
            };
            let error = text(cutover(lab.context(), &lab.name, gone()));
            assert!(error.contains("something wrote to it"), "{error}");
            lab.assert_clean();
            disk[usize::try_from(byte).unwrap()] ^= 1;
            fs::write(&path, &disk).unwrap();
            cutover(lab.context(), &lab.name, gone()).unwrap();
        }
    }
}

#[test]
fn where_nothing_can_be_compared_it_is_said() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    let gone = |lab: &Lab| {
        let warnings = Warnings::default();
        let context = Context {
            report: &warnings,
            ..lab.context()
        };
        let options = CutoverOptions {
            old_machine_gone: true,
            accept_unreadable: true,
            ..CutoverOptions::default()
        };
        let done = cutover(context, &lab.name, options);
        (done, warnings.0.into_inner().unwrap().concat())
    };
    lab.machine().on = false;
    // Nothing ran on the copy: what was noted of it stands.
    let obstacle = lab.obstacle("fail-dmsetup-create");
    gone(&lab).0.unwrap_err();
    fs::remove_file(obstacle).unwrap();
    let obstacle = lab.obstacle("create-dies");
    let (done, said) = gone(&lab);
    assert!(done.is_err() && !said.contains("nothing tells"), "{said}");
    fs::remove_file(obstacle).unwrap();
    let (done, said) = gone(&lab);
    done.unwrap();
    assert!(said.contains("nothing tells"), "{said}");
}

#[test]
fn a_disk_of_which_no_stretch_is_whole_is_switched_to_with_a_warning() {
    let lab = lab(1);
    lab.machine().bad = vec![77, SECTORS - 1];
    lab.copy("vg").unwrap();
    let warnings = Warnings::default();
    let context = Context {
        report: &warnings,
        ..lab.context()
    };
    let options = CutoverOptions {
        accept_unreadable: true,
        ..CutoverOptions::default()
    };
    cutover(context, &lab.name, options).unwrap();
    let said = warnings.0.into_inner().unwrap().concat();
    assert!(said.contains("copied without a gap"), "{said}");
}
