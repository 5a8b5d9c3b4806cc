//! The workflows against a wire in memory and programs that keep their state in files: which steps
//! are taken, in which order, and what is left when one fails. The real `xl`, LVM and device-mapper
//! are the lab's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::record::State;
use crate::report::Silent;
use crate::tool::Tools;
use crate::wire::{Access, Export, Finish, Found, Reservation, WireError};
use crate::{Paths, Settings};
use lab::{Lab, Warnings, lab};
use machine::{FakeWire, Machine, SECTORS};
use p2v_contract::inventory::{Dmi, Inventory, Nic};
use p2v_contract::key::SecretKey;
use p2v_contract::{MacAddr, SECTOR};
use p2v_copy::{Digest, Source, SourceError};

mod campaign;
mod cutover;
mod destinations;
mod disarm;
mod images;
mod lab;
mod machine;
mod names;
mod outage;
mod safety;
mod strangers;
mod thin_pools;
mod two_cards;

const FORCE: StartOptions = StartOptions {
    discard_copy: true,
    discard_moved: true,
    without: Vec::new(),
    another_machine: Vec::new(),
};

fn text<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn the_whole_way_of_a_machine() {
    let lab = lab(2);
    let config = lab.start().unwrap();
    assert_eq!(lab.state(), State::Running);
    assert!(lab.machine().writable);
    assert_eq!(lab.file("domains"), "e1\n");
    assert_eq!(
        lab.file("table-p2v-e1-1"),
        format!(
            "0 {SECTORS} linear {}/dev/etherd/e1.1 0\n",
            lab.dir.path().display()
        )
    );
    assert!(lab.file("log").contains("modprobe aoe aoe_iflist=xenbr0"));
    let on_old_disk = fs::read_to_string(&config).unwrap();

    // One writer: not while the domain runs, and not a byte of a volume is made for it.
    let error = text(lab.copy("vg"));
    assert!(error.contains("p2v stop e1"), "{error}");
    assert!(text(lab.cutover()).contains("not copied"));
    assert!(text(lab.release()).contains("not moved"));
    assert_eq!(lab.file("lv"), "");

    lab.stop().unwrap();
    lab.assert_clean();
    assert_eq!(lab.state(), State::Exported);
    let done = lab.copy("vg").unwrap();
    assert!(done.iter().all(|d| d.summary.is_complete()));
    assert_eq!(lab.state(), State::Copied);
    for slot in 0..2 {
        assert!(lab.volume(slot)[..(SECTORS * SECTOR) as usize] == lab.machine().data[slot]);
    }
    assert!(!lab.file("lv").contains("p2v.copying"));
    assert!(text(lab.start()).contains("p2v cutover"));
    lab.assert_clean();

    let options = CutoverOptions {
        autostart: true,
        ..CutoverOptions::default()
    };
    cutover(lab.context(), &lab.name, options).unwrap();
    assert_eq!(lab.state(), State::Moved);
    assert!(
        lab.file("table-p2v-e1-0")
            .starts_with(&format!("0 {SECTORS} linear "))
    );
    assert!(lab.file("table-p2v-e1-0").contains("/dev/vg/e1-disk0 0"));
    assert_eq!(lab.file("lv").matches("p2v.moved").count(), 2);
    assert!(lab.host.settings.auto_dir.join("e1.cfg").exists());
    // What xl acts on is what it was: only the comments tell where the disk is.
    let acting = |t: &str| {
        t.lines()
            .filter(|l| !l.starts_with('#'))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let on_copy = fs::read_to_string(&config).unwrap();
    assert_eq!(acting(&on_copy), acting(&on_old_disk));
    assert_ne!(on_copy, on_old_disk);

    // What holds newer data is never written again.
    let before = lab.volume(0);
    for refused in [text(lab.copy("vg")), text(lab.start()), text(lab.cutover())] {
        assert!(refused.contains("moved"), "{refused}");
    }
    assert!(lab.volume(0) == before);

    // The host restarted: no domain, no device-mapper device.
    fs::write(lab.dir.path().join("dm"), "").unwrap();
    fs::write(lab.dir.path().join("domains"), "").unwrap();
    for expected in ["made", "was there"] {
        let results = devices_up(&lab.host, &Silent).unwrap();
        assert_eq!(results.len(), 2);
        assert!(
            results
                .iter()
                .all(|r| *r.result.as_ref().unwrap() == expected)
        );
    }
    assert!(
        devices_down(&lab.host, &Silent)
            .unwrap()
            .iter()
            .all(|r| r.result.is_ok())
    );
    assert_eq!(lab.file("dm"), "");

    lab.release().unwrap();
    assert_eq!(lab.state(), State::Released);
    assert!(!lab.machine().on);
    assert_eq!(lab.machine().orders.last().unwrap(), "PowerOff");
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    for obstacle in [
        "fail-modprobe-aoe",
        "fail-dmsetup-create",
        "fail-xl-create",
        "create-dies",
    ] {
        let lab = lab(2);
        let path = lab.obstacle(obstacle);
        let error = text(lab.start());
        assert!(
            error.contains("taken back") && !error.contains("NOT"),
            "{obstacle}: {error}"
        );
        lab.assert_clean();
        assert_eq!(lab.state(), State::Exported, "{obstacle}");
        assert!(
            !lab.host.paths.sys_module.join("aoe").exists(),
            "{obstacle}"
        );
        // Write access is asked for when nothing but the domain is missing.
        let orders = lab.machine().orders.join(" ");
        let expected = if ["fail-xl-create", "create-dies"].contains(&obstacle) {
            "ReadWrite ReadWrite ReadOnly ReadOnly"
        } else {
            ""
        };
        assert_eq!(orders, expected, "{obstacle}");
        // And the way is clear for the next try.
        fs::remove_file(path).unwrap();
        lab.start().unwrap();
    }
}

#[test]
fn the_wrong_disk_is_not_started() {
    let lab = lab(1);
    let node = fs::File::options()
        .write(true)
        .open(lab.host.paths.dev_etherd.join("e1.0"))
        .unwrap();
    node.set_len((SECTORS - 1) * SECTOR).unwrap();
    let error = text(lab.start());
    assert!(error.contains("not the disk it should be"), "{error}");
    lab.assert_clean();

    node.set_len(SECTORS * SECTOR).unwrap();
    lab.machine().stations.push(MacAddr::new(2, 0, 0, 0, 0, 9));
    let log = lab.file("log");
    let error = text(lab.start());
    assert!(error.contains("2 machines answer"), "{error}");
    assert_eq!(lab.file("log"), log, "nothing was run");
    lab.machine().stations.pop();

    lab.machine().inventory.nics[0].mac = MacAddr::new(0, 1, 2, 3, 4, 5);
    let error = text(lab.start());
    assert!(error.contains("not known to be e1"), "{error}");
    let remedy = "boots from the network by 00:0c:29:01:02:03";
    assert!(error.contains(remedy), "{error}");
}

#[test]
fn no_orders_without_this_hosts_key() {
    let lab = lab(1);
    lab.machine().inventory.host_keys.clear();
    assert!(text(lab.start()).contains("without this host's key"));
    lab.assert_clean();
    assert!(lab.machine().orders.is_empty());
}

#[test]
fn a_copy_is_out_of_date_once_the_old_disk_was_started_again() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    start(lab.context(), &lab.name, FORCE).unwrap();
    lab.machine().data[0][12_345] ^= 1;
    lab.stop().unwrap();
    let error = text(lab.cutover());
    assert!(error.contains("p2v copy"), "{error}");
    lab.assert_clean();
    let done = lab.copy("vg").unwrap();
    assert_eq!(
        done[0].summary.moved,
        u64::from(p2v_copy::RANGE_SECTORS) * SECTOR
    );
    lab.cutover().unwrap();
    assert!(lab.volume(0)[..(SECTORS * SECTOR) as usize] == lab.machine().data[0]);
}

#[test]
fn a_forced_start_that_fails_does_not_leave_the_copy_current() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    let obstacle = lab.obstacle("create-dies");
    start(lab.context(), &lab.name, FORCE).unwrap_err();
    lab.assert_clean();
    fs::remove_file(obstacle).unwrap();
    assert_eq!(lab.state(), State::Copying);
    assert!(text(lab.cutover()).contains("may have been written"));
}

#[test]
fn a_restart_of_the_old_machine_makes_the_copy_doubtful() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    lab.machine().inventory.boot_id = "second".into();
    let error = text(lab.cutover());
    assert!(error.contains("restarted"), "{error}");
    lab.assert_clean();
    lab.copy("vg").unwrap();
    lab.cutover().unwrap();
}

#[test]
fn a_volume_that_was_written_since_is_not_switched_to() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    let path = lab.dir.path().join("dev/vg/e1-disk0");
    let mut volume = fs::read(&path).unwrap();
    volume[100] ^= 1;
    fs::write(&path, volume).unwrap();
    assert!(text(lab.cutover()).contains("something wrote to it"));
    lab.assert_clean();
    assert_eq!(lab.state(), State::Copied);
}

#[test]
fn a_cutover_that_fails_can_be_tried_again() {
    for obstacle in ["fail-dmsetup-create", "fail-xl-create", "create-dies"] {
        let lab = lab(2);
        lab.copy("vg").unwrap();
        let path = lab.obstacle(obstacle);
        let options = CutoverOptions {
            autostart: true,
            ..CutoverOptions::default()
        };
        let error = text(cutover(lab.context(), &lab.name, options));
        assert!(
            error.contains("taken back") && !error.contains("NOT"),
            "{obstacle}: {error}"
        );
        lab.assert_clean();
        assert_eq!(lab.state(), State::Copied);
        assert!(!lab.file("lv").contains("p2v.moved"));
        assert!(!lab.host.settings.auto_dir.join("e1.cfg").exists());
        fs::remove_file(path).unwrap();
        lab.cutover().unwrap();
    }
}

#[test]
fn unreadable_sectors_need_the_operators_word() {
    let lab = lab(1);
    lab.machine().bad = vec![77, 5000];
    let done = lab.copy("vg").unwrap();
    assert_eq!(done[0].summary.unreadable, [(77, 1), (5000, 1)]);
    assert_eq!(lab.state(), State::Copying);
    assert!(lab.file("lv").contains("p2v.copying"));
    let error = text(lab.cutover());
    assert!(
        error.contains("2 sectors") && error.contains("--accept-unreadable"),
        "{error}"
    );
    let mut options = CutoverOptions {
        accept_unreadable: true,
        will_disarm: true,
        ..CutoverOptions::default()
    };
    let error = text(cutover(lab.context(), &lab.name, options.clone()));
    assert!(error.contains("pull the disk out"), "{error}");
    options.will_disarm = false;
    cutover(lab.context(), &lab.name, options).unwrap();
}

#[test]
fn a_strangers_volume_is_not_touched() {
    let lab = lab(1);
    fs::create_dir_all(lab.dir.path().join("dev/vg")).unwrap();
    let path = lab.dir.path().join("dev/vg/e1-disk0");
    fs::write(&path, vec![9; 12 << 20]).unwrap();
    fs::write(lab.dir.path().join("lv"), "vg e1-disk0 12582912 \n").unwrap();
    let error = text(lab.copy("vg"));
    assert!(error.contains("may hold data"), "{error}");
    assert!(fs::read(&path).unwrap().iter().all(|b| *b == 9));
    lab.assert_clean();
    assert_eq!(lab.state(), State::Exported);
}

#[test]
fn an_edited_config_is_used_and_one_for_other_disks_is_kept() {
    let lab = lab(1);
    let path = lab.start().unwrap();
    lab.stop().unwrap();
    let edited = fs::read_to_string(&path)
        .unwrap()
        .replace("vcpus = 1", "vcpus = 3");
    fs::write(&path, &edited).unwrap();
    lab.start().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), edited);
    lab.stop().unwrap();
    let other = edited.replace("target=", "target=/dev/sdx #");
    fs::write(&path, &other).unwrap();
    let other = other.replace("/dev/mapper", "/elsewhere");
    fs::write(&path, &other).unwrap();
    lab.start().unwrap();
    assert_ne!(fs::read_to_string(&path).unwrap(), other);
    let kept = fs::read_dir(&lab.host.settings.xen_dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p != &path)
        .unwrap();
    assert_eq!(fs::read_to_string(kept).unwrap(), other);
}

#[test]
fn discovery_shows_what_is_and_keeps_secrets() {
    let lab = lab(1);
    let secret = lab.host.key.to_hex();
    lab.start().unwrap();
    fs::write(lab.dir.path().join("domains"), "").unwrap();
    let views = discover(lab.context()).unwrap();
    assert_eq!(views.len(), 1);
    assert!(
        views[0]
            .differences
            .iter()
            .any(|d| d.contains("there is no domain"))
    );
    let json = serde_json::to_string(&views).unwrap();
    assert!(json.contains("\"e1.0\"") && !json.contains(&secret));
    // A machine nobody here booted is shown, and gets no record by being looked at.
    fs::remove_file(lab.host.store.path(&lab.name)).unwrap();
    let views = discover(lab.context()).unwrap();
    assert_eq!(views[0].name, None);
    assert!(lab.host.store.list().unwrap().records.is_empty());
}

/// As after a cutover that was killed before it wrote the config.
#[test]
fn a_moved_machine_without_its_config_is_told_to_write_it() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    let config = lab.cutover().unwrap();
    fs::write(lab.dir.path().join("domains"), "").unwrap();
    let said = || discover(lab.context()).unwrap()[0].differences.join("\n");
    assert!(
        said().contains("`p2v devices up`, then `xl create`"),
        "{}",
        said()
    );
    fs::remove_file(&config).unwrap();
    assert!(
        said().contains("`p2v config e1 --write`, then `xl create`"),
        "{}",
        said()
    );
    // Or with one that is for other disks.
    fs::write(&config, "name = \"e1\"\n").unwrap();
    assert!(said().contains("`p2v config e1 --write`"), "{}", said());
}
