//! The old machine falls silent, restarts, or comes back as another, while its domain runs.
use p2v_contract::inventory::{PartitionTable, TableKind};

use super::*;
use crate::record::HistoryLine;
use crate::record::Mapping;
use crate::workflow::{ResumeOptions, Resumed, ServedBoot, outage, resume, watch_once};

impl Lab {
    fn resume(&self, sure: bool) -> Result<Resumed, Error> {
        let options = ResumeOptions {
            old_system_did_not_run: sure,
            ..ResumeOptions::default()
        };
        resume(self.context(), &self.name, options, &|_| None)
    }

    /// As when it is switched off and on: its agent is started by a menu that says that it waits.
    fn machine_restarts(&self) {
        let mut machine = self.machine();
        machine.inventory.boot_id = "second".into();
        machine.inventory.since_reset_ms = 1;
        machine.writable = false;
        machine.waits = true;
    }

    fn differences(&self) -> String {
        discover(self.context()).unwrap()[0].differences.join("\n")
    }

    /// What `xl list -l` tells of the domain.
    fn domain_has(&self, disk: &std::path::Path) {
        let disks = serde_json::json!([{ "pdev_path": disk, "vdev": "hda" }]);
        let config = serde_json::json!({ "c_info": { "name": "e1" }, "disks": disks });
        let long = serde_json::json!([{ "domid": 7, "config": config }]);
        fs::write(self.dir.path().join("long"), long.to_string()).unwrap();
    }

    fn domain_has_its_disks(&self) {
        self.domain_has_a_device_over(&self.host.paths.dev_etherd.join("e1.0"));
    }

    fn domain_has_a_device_over(&self, below: &std::path::Path) {
        let device = self.host.paths.dev_mapper.join("p2v-e1-0");
        fs::create_dir_all(&self.host.paths.dev_mapper).unwrap();
        let _ = fs::remove_file(&device);
        std::os::unix::fs::symlink(below, &device).unwrap();
        self.domain_has(&device);
    }

    fn dead_seconds(&self) -> String {
        let parameters = self.host.paths.sys_module.join("aoe/parameters");
        fs::read_to_string(parameters.join("aoe_deadsecs"))
            .unwrap()
            .trim()
            .to_owned()
    }
}

#[test]
fn a_machine_that_restarted_gets_no_write_until_the_operator_is_sure() {
    let lab = lab(2);
    assert!(text(lab.resume(true)).contains("none waits"));
    lab.start().unwrap();
    assert_eq!(lab.resume(false).unwrap(), Resumed::HadThem);
    assert_eq!(lab.differences(), "");
    lab.machine().on = false;
    assert!(lab.differences().contains("OLD MACHINE SILENT"));
    lab.machine().on = true;
    lab.machine_restarts();
    assert!(lab.differences().contains("OLD MACHINE RESTARTED"));
    let error = text(lab.resume(false));
    assert!(
        error.contains("--old-system-did-not-run") && error.contains("p2v stop e1"),
        "{error}"
    );
    assert!(lab.machine().waits && !lab.machine().writable);
    assert_eq!(lab.resume(true).unwrap(), Resumed::Disks);
    assert!(lab.machine().writable && lab.differences().is_empty());
    let record = lab.host.store.get(&lab.name).unwrap();
    assert!(
        record
            .history
            .last()
            .unwrap()
            .what
            .contains("got its old disks back")
    );
}

#[test]
fn another_disk_or_another_machine_gets_no_write_however_sure_the_operator_is() {
    for change in [
        |machine: &mut Machine| machine.inventory.disks[1].serial = "other".into(),
        |machine: &mut Machine| machine.inventory.disks[0].sectors -= 1,
        |machine: &mut Machine| drop(machine.inventory.disks.pop()),
        |machine: &mut Machine| machine.inventory.nics[0].mac = MacAddr::new(2, 9, 9, 9, 9, 9),
        |machine: &mut Machine| machine.inventory.dmi.uuid = "44454c4c-0000".into(),
        |machine: &mut Machine| machine.inventory.host_keys.clear(),
        |machine: &mut Machine| machine.inventory.menu_id = "another's".into(),
    ] {
        let lab = lab(2);
        lab.machine().inventory.dmi.uuid = "44454c4c-ffff".into();
        lab.start().unwrap();
        lab.machine_restarts();
        change(&mut lab.machine());
        // Which remembers what it finds.
        lab.differences();
        text(lab.resume(true));
        assert!(lab.machine().waits && !lab.machine().writable);
    }
}

#[test]
fn a_machine_that_waits_for_no_domain_any_more_is_started_and_copied() {
    let lab = lab(1);
    lab.start().unwrap();
    fs::write(lab.dir.path().join("domains"), "").unwrap();
    lab.machine_restarts();
    assert!(text(lab.resume(true)).contains("p2v start e1"));
    lab.start().unwrap();
    assert!(lab.machine().writable && !lab.machine().waits);
    fs::write(lab.dir.path().join("domains"), "").unwrap();
    lab.machine_restarts();
    lab.copy("vg").unwrap();
    lab.assert_clean();
    let record = lab.host.store.get(&lab.name).unwrap();
    assert!(!record.has_domain_on_old_disks());
    assert_eq!(lab.dead_seconds(), "180");
}

/// Started by a menu from before the domain's start, or by an agent that does not know how to wait.
#[test]
fn a_machine_that_comes_back_read_only_is_not_called_well() {
    let lab = lab(1);
    lab.start().unwrap();
    lab.machine().writable = false;
    assert!(lab.differences().contains("OLD DISK READ-ONLY"));
    assert!(text(lab.resume(true)).contains("READ-ONLY"));
    assert!(!lab.machine().writable);
}

#[test]
fn a_disk_that_failed_meanwhile_is_not_given_back() {
    let lab = lab(1);
    lab.start().unwrap();
    lab.machine_restarts();
    fs::write(lab.host.paths.dev_etherd.join("e1.0"), "").unwrap();
    assert!(text(lab.resume(true)).contains("has FAILED"));
    assert!(lab.machine().waits);
}

#[test]
fn a_domain_that_waits_is_ended_once_its_requests_are_refused() {
    let lab = lab(1);
    lab.start().unwrap();
    lab.machine_restarts();
    // As with a disk that hangs, whatever ends the domain is not even tried before.
    lab.obstacle("fail-xl-destroy");
    let destroy = StopOptions { destroy: true };
    text(stop(lab.context(), &lab.name, destroy));
    assert!(!lab.machine().waits && !lab.machine().writable);
    fs::remove_file(lab.dir.path().join("fail-xl-destroy")).unwrap();
    stop(lab.context(), &lab.name, destroy).unwrap();
    lab.assert_clean();
}

/// The outage began so many seconds ago.
fn long_ago(lab: &Lab, seconds: u64) {
    set_back(lab, "outages", "since", seconds);
}

/// It is time to try again whether the disks may be given back.
fn tried_long_ago(lab: &Lab) {
    set_back(lab, "outages", "tried", 3600);
}

fn set_back(lab: &Lab, kept: &str, field: &str, seconds: u64) {
    let file = lab.host.paths.run.join(kept).join("e1.json");
    let mut kept: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs();
    kept[field] = serde_json::to_value(Timestamp::from_unix(now - seconds)).unwrap();
    fs::write(&file, kept.to_string()).unwrap();
}

/// A slow machine takes its time: how many seconds are said is at least what it should be.
fn seconds_after(words: &str, text: &str) -> u64 {
    let (_, rest) = text.split_once(words).expect(text);
    rest.split(' ').next().unwrap().parse().expect(text)
}

#[test]
fn a_domain_is_paused_while_its_disk_is_away_and_unpaused_when_it_is_back() {
    let lab = lab(1);
    let look = || {
        let warnings = Warnings::default();
        let context = Context {
            report: &warnings,
            ..lab.context()
        };
        watch_once(context, &|_| None).unwrap();
        warnings.0.into_inner().unwrap().join("\n")
    };
    lab.start().unwrap();
    lab.domain_has_its_disks();
    assert_eq!(look(), "");
    lab.machine().on = false;
    assert_eq!(look(), "");
    long_ago(&lab, 6);
    assert!(look().contains("OLD MACHINE SILENT"));
    let noted = || {
        let history = lab.host.store.get(&lab.name).unwrap().history;
        let silent = |line: &&HistoryLine| line.what.starts_with("its old disks are away");
        history.iter().filter(silent).count()
    };
    assert_eq!(noted(), 0, "not before it is paused");
    long_ago(&lab, 6);
    assert!(seconds_after("OLD MACHINE SILENT ", &lab.differences()) >= 6);
    long_ago(&lab, 6);
    assert_eq!((look().as_str(), lab.file("paused").as_str()), ("", ""));
    assert_eq!(noted(), 0, "not before it is paused");
    long_ago(&lab, 21);
    // Another domain of that name is nobody's business, nor one that was moved, whatever the record says.
    lab.domain_has(std::path::Path::new("/dev/vg/other"));
    assert_eq!((look().as_str(), lab.file("paused").as_str()), ("", ""));
    lab.domain_has_a_device_over(&lab.obstacle("volume"));
    assert_eq!((look().as_str(), lab.file("paused").as_str()), ("", ""));
    lab.domain_has_its_disks();
    let failing = lab.obstacle("fail-xl-pause");
    assert!(look().contains("was told to fail"));
    fs::remove_file(failing).unwrap();
    assert!(look().contains("is paused"));
    assert_eq!(lab.file("paused"), "e1\n");
    assert_eq!(noted(), 1);
    lab.machine().on = true;
    lab.machine_restarts();
    assert!(look().contains("OLD MACHINE RESTARTED"));
    assert_eq!(lab.file("paused"), "e1\n", "its disk is not there yet");
    let stopped = stop(lab.context(), &lab.name, StopOptions::default());
    assert!(text(stopped).contains("waits for its disk"));
    lab.resume(true).unwrap();
    look();
    assert_eq!(lab.file("paused"), "");
    assert_eq!(outage(&lab.host, &lab.name), None);
    let record = lab.host.store.get(&lab.name).unwrap();
    let said = &record.history.last().unwrap().what;
    assert!(said.contains("are back"), "{said}");
    assert!(seconds_after("were away for ", said) >= 21);
    // A domain that the operator paused is left so.
    fs::write(lab.dir.path().join("paused"), "e1\n").unwrap();
    look();
    assert_eq!(lab.file("paused"), "e1\n");
}

/// As `p2v serve` sees it: it has answered since before the domain started, and the machine boots now.
fn boots_now() -> ServedBoot {
    ServedBoot {
        serving_since: Timestamp::from_unix(1),
        began: Timestamp::now(),
        ended: Timestamp::now(),
        complete: true,
    }
}

#[test]
fn a_machine_that_cannot_have_run_its_own_system_gives_its_disks_back_unasked() {
    let lab = lab(2);
    lab.start().unwrap();
    lab.domain_has_its_disks();
    let look = |boot| watch_once(lab.context(), &|_| boot).unwrap();
    let restarts = || {
        look(None);
        set_back(&lab, "seen", "at", 10);
        lab.machine_restarts();
    };
    restarts();
    // Nobody saw it boot, the service was away, or what it booted was not ours.
    for boot in [
        None,
        Some(ServedBoot {
            serving_since: Timestamp::from_unix(u32::MAX.into()),
            ..boots_now()
        }),
        Some(ServedBoot {
            complete: false,
            ..boots_now()
        }),
    ] {
        look(boot);
        tried_long_ago(&lab);
        assert!(lab.machine().waits && !lab.machine().writable);
    }
    assert!(lab.differences().contains("--old-system-did-not-run"));
    look(Some(boots_now()));
    assert!(lab.machine().writable && !lab.machine().waits);
    look(Some(boots_now()));
    assert_eq!(outage(&lab.host, &lab.name), None);
    // Its processor does not tell when it was reset, or that was long after it was seen.
    for since in [0, 3600 * 1000] {
        restarts();
        lab.machine().inventory.since_reset_ms = since;
        look(Some(boots_now()));
        assert!(lab.machine().waits && !lab.machine().writable);
        lab.resume(true).unwrap();
        look(None);
    }
    restarts();
    set_back(&lab, "seen", "at", 40);
    look(Some(boots_now()));
    assert!(lab.differences().contains("s after it was seen last"));
    lab.resume(true).unwrap();
    look(None);
    // It restarts once more, and has run its own system, which no word of the operator's but one undoes.
    restarts();
    lab.machine().data[1][40] ^= 1;
    look(Some(boots_now()));
    let said = lab.differences();
    assert!(said.contains("e1.1 is NOT AS IT WAS"), "{said}");
    assert!(text(lab.resume(true)).contains("--although-changed"));
    assert!(lab.machine().waits && !lab.machine().writable);
    let options = ResumeOptions {
        although_changed: true,
        ..ResumeOptions::default()
    };
    resume(lab.context(), &lab.name, options, &|_| None).unwrap();
    assert!(lab.machine().writable);
}

#[test]
fn disks_without_serial_numbers_that_changed_places_are_not_given_back() {
    let lab = lab(2);
    let tables = |ids: [&str; 2]| {
        for (disk, id) in lab.machine().inventory.disks.iter_mut().zip(ids) {
            disk.serial.clear();
            disk.table = Some(PartitionTable {
                kind: TableKind::Mbr,
                id: id.to_owned(),
                partitions: Vec::new(),
            });
        }
    };
    tables(["0a", "0b"]);
    lab.start().unwrap();
    lab.machine_restarts();
    tables(["0b", "0a"]);
    let error = text(lab.resume(true));
    assert!(error.contains("is not the one it was"), "{error}");
    assert!(lab.machine().waits && !lab.machine().writable);
    tables(["0a", "0b"]);
    assert_eq!(lab.resume(true).unwrap(), Resumed::Disks);
}

#[test]
fn a_disk_in_another_machine_is_known_by_what_is_on_it_and_given_back() {
    let lab = lab(1);
    lab.start().unwrap();
    lab.domain_has_its_disks();
    let known = lab.host.store.get(&lab.name).unwrap().inventory;
    let move_disk = || {
        let mut machine = lab.machine();
        machine.waits = true;
        machine.writable = false;
        machine.stations = vec![MacAddr::new(2, 7, 7, 7, 7, 7)];
        let mut inventory = Inventory {
            stands_in: true,
            host_keys: machine.inventory.host_keys.clone(),
            boot_id: "other".into(),
            disks: machine.inventory.disks.clone(),
            ..Inventory::default()
        };
        inventory.disks[0].model = "USB bridge".into();
        machine.inventory = inventory;
    };
    move_disk();
    // Nobody saw what is on it: the name must do.
    assert!(text(lab.resume(true)).contains("another disk now"));
    lab.machine().inventory.disks[0].model = String::new();
    let unsure = text(lab.resume(false));
    assert!(unsure.contains("--old-system-did-not-run"), "{unsure}");
    lab.resume(true).unwrap();
    assert!(lab.machine().writable);
    watch_once(lab.context(), &|_| None).unwrap();
    // The same disk by content, then another one that looks like it.
    move_disk();
    lab.machine().data[0][3] ^= 1;
    let said = text(lab.resume(true));
    assert!(said.contains("NOT AS IT WAS"), "{said}");
    assert!(!said.contains("--although-changed"), "{said}");
    lab.machine().data[0][3] ^= 1;
    lab.resume(true).unwrap();
    assert!(lab.machine().writable);
    assert!(lab.differences().contains("another machine now"));
    // Of the old machine everything is known that was.
    assert_eq!(lab.host.store.get(&lab.name).unwrap().inventory, known);
}

#[test]
fn a_domain_whose_machine_stays_away_is_ended_and_the_record_says_so() {
    let lab = lab(1);
    lab.start().unwrap();
    lab.machine().on = false;
    stop(lab.context(), &lab.name, StopOptions { destroy: true }).unwrap();
    assert_eq!((lab.file("domains"), lab.file("dm")), Default::default());
    assert_eq!(lab.dead_seconds(), "180");
    assert_eq!(lab.state(), State::Exported);
    let record = lab.host.store.get(&lab.name).unwrap();
    let mut said = record.history.iter().map(|line| line.what.as_str());
    assert!(said.any(|what| what.contains("is missing on them")));
}

#[test]
fn what_waits_of_one_machine_is_not_given_up_while_another_waits_too() {
    let lab = lab(1);
    lab.start().unwrap();
    let mac = MacAddr::new(2, 0, 0, 0, 0, 2);
    let other = lab.host.store.menu(mac, None, Timestamp::now()).unwrap();
    let disks = lab.host.store.get(&lab.name).unwrap().disks;
    let update = |record: &mut crate::record::Record| {
        record.state = State::Running;
        record.disks = disks;
        let shelf = record.shelf;
        for disk in record.disks.values_mut() {
            disk.mapping = Some(Mapping::OldDisk { shelf });
        }
        Ok::<_, Error>(())
    };
    lab.host.store.update(&other.name, update).unwrap();
    fs::write(lab.dir.path().join("domains"), "e1\ne2\n").unwrap();
    lab.machine().on = false;
    let refused = stop(lab.context(), &lab.name, StopOptions { destroy: true });
    assert!(text(refused).contains("e2 waits for its old disks too"));
    assert_eq!(lab.file("domains"), "e1\ne2\n");
    assert_eq!(lab.dead_seconds(), "3600");
}

#[test]
fn a_domain_whose_disk_the_driver_gave_up_is_ended() {
    let lab = lab(1);
    lab.start().unwrap();
    lab.domain_has_its_disks();
    lab.machine().on = false;
    fs::write(lab.host.paths.dev_etherd.join("e1.0"), "").unwrap();
    watch_once(lab.context(), &|_| None).unwrap();
    assert_eq!((lab.file("domains"), lab.file("dm")), Default::default());
    assert_eq!(lab.state(), State::Exported);
}

#[test]
fn the_driver_keeps_requests_while_a_domain_is_on_an_old_disk() {
    let lab = lab(1);
    lab.start().unwrap();
    assert_eq!(lab.dead_seconds(), "3600");
    lab.stop().unwrap();
    assert_eq!(lab.dead_seconds(), "180");
}
