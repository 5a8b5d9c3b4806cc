//! A name that another machine had: nothing of that one is taken for this one's, and a record goes only when nothing is left.

use super::*;
use crate::workflow::forget;

#[test]
fn a_recycled_name_takes_over_nothing() {
    let lab = lab(1);
    // e1 was moved; its record was moved away by hand, and its claim is gone too.
    lab.copy("vg").unwrap();
    lab.cutover().unwrap();
    let record = lab.host.store.path(&lab.name);
    fs::remove_file(record).unwrap();
    fs::remove_file(lab.dir.path().join("state/names/e1.json")).unwrap();
    let devices = lab.file("dm");
    assert!(devices.contains("p2v-e1-0"));
    // The next machine is e1.
    let mac = MacAddr::new(0, 0x0c, 0x29, 7, 7, 7);
    let facts = lab.host.store.menu(mac, None, Timestamp::now()).unwrap();
    assert_eq!(facts.name, lab.name);
    {
        let mut machine = lab.machine();
        machine.inventory.menu_id = facts.menu_id;
        machine.inventory.nics[0].mac = mac;
        machine.inventory.boot_id = "another".into();
    }
    fs::write(lab.dir.path().join("domains"), "").unwrap();
    let error = text(lab.start());
    assert!(
        error.contains("not made by p2v for this machine"),
        "{error}"
    );
    assert_eq!(lab.file("dm"), devices);
    // Nor by the other's config, when that device is gone.
    fs::write(lab.dir.path().join("dm"), "").unwrap();
    let error = text(lab.start());
    assert!(error.contains("the config of another domain"), "{error}");
    lab.assert_clean();
}

#[test]
fn a_machine_is_forgotten_when_nothing_of_it_is_left() {
    let lab = lab(1);
    let forget = |gone| forget(lab.context(), &lab.name, gone);
    assert!(text(forget(true)).contains("its shelf e1 answers"));
    lab.copy("vg").unwrap();
    lab.cutover().unwrap();
    lab.release().unwrap();
    let error = text(forget(true));
    for left in [
        "its domain runs",
        "dmsetup remove p2v-e1-0",
        "e1.cfg",
        "lvremove vg/e1-disk0",
    ] {
        assert!(error.contains(left), "{left}: {error}");
    }
    assert!(!error.contains("answers"));
    for file in ["domains", "dm", "lv"] {
        fs::write(lab.dir.path().join(file), "").unwrap();
    }
    assert!(text(forget(true)).contains("e1.cfg"));
    fs::remove_file(lab.host.settings.xen_dir.join("e1.cfg")).unwrap();
    // It keeps the old machine from starting a second server.
    assert!(text(forget(false)).contains("--gone"));
    let kept = forget(true).unwrap();
    let history = fs::read_to_string(kept.join("record.json")).unwrap();
    assert!(history.contains("\"released\""));
    assert!(kept.join("e1-disk0.certificate.txt").exists());
    assert!(lab.host.store.get(&lab.name).is_err());
}

/// The records are the boot service's user's, who answers strangers.
#[test]
fn root_takes_no_copy_from_a_record_that_it_did_not_write_there() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    let path = lab.host.store.path(&lab.name);
    let own = fs::read_to_string(&path).unwrap();
    let precious = lab.obstacle("precious");
    let mut forged: serde_json::Value = serde_json::from_str(&own).unwrap();
    forged["disks"]["0"]["copy"]["destination"] = serde_json::json!({
        "kind": "device", "path": precious, "identity": "",
    });
    fs::write(&path, forged.to_string()).unwrap();
    for refused in [
        text(lab.copy("vg")),
        text(lab.cutover()),
        text(lab.start()),
        text(lab.stop()),
    ] {
        assert!(refused.contains("never copied disk 0 to"), "{refused}");
    }
    assert_eq!(fs::read(&precious).unwrap(), b"");
    // Nor another machine's name.
    let mut renamed: serde_json::Value = serde_json::from_str(&own).unwrap();
    renamed["boot_mac"] = "00:0c:29:09:09:09".into();
    fs::write(&path, renamed.to_string()).unwrap();
    assert!(text(lab.cutover()).contains("boots from"));
    fs::write(&path, own).unwrap();
    lab.cutover().unwrap();
}

#[test]
fn a_moved_machine_whose_record_is_lost_is_not_started_from_its_old_disk() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    lab.cutover().unwrap();
    let path = lab.host.store.path(&lab.name);
    let record = fs::read(&path).unwrap();
    // The host restarted: no domain, and no device.
    for file in ["domains", "dm"] {
        fs::write(lab.dir.path().join(file), "").unwrap();
    }
    fs::remove_file(&path).unwrap();
    // The machine asks for its menu, and is what it was, as far as that was noted.
    let mac = lab.machine().inventory.nics[0].mac;
    let facts = lab.host.store.menu(mac, None, Timestamp::now()).unwrap();
    assert_eq!(facts.name, lab.name);
    lab.machine().inventory.menu_id = facts.menu_id;
    for refused in [text(lab.start()), text(lab.copy("vg"))] {
        assert!(
            refused.contains("was copied to volume vg/e1-disk0 once"),
            "{refused}"
        );
    }
    assert!(text(forget(lab.context(), &lab.name, true)).contains("lvremove vg/e1-disk0"));
    // The record is put back, and what was noted for it is gone.
    fs::write(&path, record).unwrap();
    fs::remove_file(lab.dir.path().join("state/names/e1.json")).unwrap();
    assert!(text(lab.stop()).contains("p2v trust e1"));
    lab.host.store.trust(&lab.name).unwrap();
    let made = crate::workflow::devices_up(&lab.host, &Silent).unwrap();
    assert_eq!(made[0].result.as_ref().unwrap(), &"made");
}

#[test]
fn what_was_noted_of_a_lost_record_is_forgotten_too() {
    let lab = lab(1);
    lab.start().unwrap();
    lab.stop().unwrap();
    lab.machine().on = false;
    fs::remove_file(lab.host.store.path(&lab.name)).unwrap();
    let config = lab.host.settings.xen_dir.join("e1.cfg");
    assert!(text(forget(lab.context(), &lab.name, false)).contains("e1.cfg"));
    fs::remove_file(config).unwrap();
    forget(lab.context(), &lab.name, false).unwrap();
    assert!(text(forget(lab.context(), &lab.name, false)).contains("no machine"));
}
