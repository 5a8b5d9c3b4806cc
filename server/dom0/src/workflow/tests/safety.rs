//! What must not happen to data when something else goes wrong.

use super::*;

#[test]
fn one_disk_that_takes_no_orders_does_not_keep_the_others_writable() {
    let lab = lab(2);
    lab.start().unwrap();
    lab.machine().deaf = Some(0);
    lab.machine().orders.clear();
    let error = text(lab.stop());
    assert!(error.contains("e1.0: does not answer"), "{error}");
    assert_eq!(lab.machine().orders, ["ReadOnly"], "disk 1 is read-only");

    // And write access is not given to what comes after a disk that refuses it.
    lab.machine().orders.clear();
    let error = text(lab.start());
    assert!(error.contains("does not answer"), "{error}");
    assert!(!lab.machine().orders.contains(&"ReadWrite".to_owned()));
}

#[test]
fn no_orders_to_a_machine_that_restarted_since_it_was_contacted() {
    let lab = lab(1);
    lab.machine().restarts_after = Some(1);
    let error = text(lab.start());
    assert!(error.contains("restarted just now"), "{error}");
    assert!(lab.machine().orders.is_empty());
    assert!(!lab.machine().writable);
}

/// A domain `other` with this disk.
fn other_domain(lab: &Lab, disk: &std::path::Path) {
    let domain = serde_json::json!([{
        "domid": 9,
        "config": {"c_info": {"name": "other"}, "disks": [{"pdev_path": disk}]},
    }]);
    fs::write(lab.dir.path().join("long"), domain.to_string()).unwrap();
}

/// AoE knows a sender by its address alone, and a guest on the bridge can have any.
#[test]
fn guests_on_the_bridge_are_kept_off_the_old_disk_while_a_domain_has_it() {
    let lab = lab(1);
    let bridge = lab.host.paths.sys_net.join("xenbr0/bridge");
    fs::create_dir_all(bridge).unwrap();
    let table = lab.dir.path().join("ruleset");
    let failing = lab.obstacle("no-nft");
    let error = text(lab.start());
    assert!(error.contains("guests on xenbr0 could write"), "{error}");
    assert!(!lab.machine().orders.contains(&"ReadWrite".to_owned()));
    lab.assert_clean();
    fs::remove_file(failing).unwrap();
    lab.start().unwrap();
    let rules = fs::read_to_string(&table).unwrap();
    assert!(
        rules.contains("\"xenbr0\"") && rules.contains("0x88a2"),
        "{rules}"
    );
    // The site's own rules were loaded over it, or the host restarted.
    fs::remove_file(&table).unwrap();
    crate::workflow::watch_once(lab.context(), &|_| None).unwrap();
    assert_eq!(fs::read_to_string(&table).unwrap(), rules);
    lab.stop().unwrap();
    assert!(!table.exists(), "guests' AoE is their own affair again");
}

#[test]
fn a_running_domains_disk_is_neither_copied_to_nor_started_from() {
    let lab = lab(1);
    let file = lab.dir.path().join("image");
    for (to, path) in [
        ("vg", lab.dir.path().join("dev/vg/e1-disk0")),
        (file.to_str().unwrap(), file.clone()),
    ] {
        lab.copy(to).unwrap();
        lab.machine().data[0][0] ^= 1;
        let before = fs::read(&path).unwrap();
        // By the same path, and by another name of it.
        let link = lab.dir.path().join("link");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for disk in [&path, &link] {
            other_domain(&lab, disk);
            let error = text(lab.cutover());
            assert!(error.contains("domain other (number 9"), "{error}");
            let error = text(lab.copy(to));
            assert!(error.contains("domain other (number 9"), "{error}");
            assert!(fs::read(&path).unwrap() == before);
        }
        lab.assert_clean();
        fs::write(lab.dir.path().join("long"), "[]").unwrap();
        lab.copy(to).unwrap();
    }
    lab.cutover().unwrap();
}

#[test]
fn a_domain_that_may_still_run_keeps_its_old_disks() {
    let lab = lab(2);
    let dies = lab.obstacle("create-dies");
    for stuck in ["fail-xl-destroy", "fail-xl-list"] {
        // A listing that works before the domain is made, and not after.
        let script = lab.dir.path().join("xl");
        let whole = fs::read_to_string(&script).unwrap();
        if stuck == "fail-xl-list" {
            let late = whole.replace("create) ", "create) touch $D/fail-xl-list; ");
            fs::write(&script, late).unwrap();
        } else {
            lab.obstacle(stuck);
        }
        let error = text(lab.start());
        for wanted in [
            "NOT everything",
            "domain e1",
            "p2v stop e1 --destroy",
            "left as they are: making the exports read-only, /dev/mapper/p2v-e1-1",
        ] {
            assert!(error.contains(wanted), "{wanted:?} is not in {error}");
        }
        assert!(lab.machine().writable);
        assert_eq!(lab.file("dm").lines().count(), 2);
        assert_eq!(lab.state(), State::Running);

        // The advice helps.
        fs::remove_file(lab.dir.path().join(stuck)).unwrap();
        fs::write(&script, whole).unwrap();
        stop(lab.context(), &lab.name, StopOptions { destroy: true }).unwrap();
        lab.assert_clean();
        assert_eq!(lab.state(), State::Exported);
    }
    fs::remove_file(dies).unwrap();
    lab.start().unwrap();
}

#[test]
fn a_domain_that_may_still_run_keeps_its_copies() {
    let lab = lab(2);
    lab.copy("vg").unwrap();
    lab.obstacle("create-dies");
    lab.obstacle("fail-xl-destroy");
    let options = CutoverOptions {
        autostart: true,
        ..CutoverOptions::default()
    };
    let error = text(cutover(lab.context(), &lab.name, options));
    assert!(
        error.contains("NOT everything") && error.contains("p2v stop e1 --destroy"),
        "{error}"
    );
    assert_eq!(lab.state(), State::Moved);
    assert_eq!(lab.file("lv").matches("p2v.moved").count(), 2);
    assert_eq!(lab.file("dm").lines().count(), 2);
    // So nothing is copied over what the domain writes, and nothing is started beside it.
    assert!(text(lab.copy("vg")).contains("moved"));
    assert!(text(lab.start()).contains("moved"));
}

#[test]
fn what_was_done_stays_done_if_its_history_cannot_be_written() {
    for moved in [false, true] {
        let lab = lab(1);
        if moved {
            lab.copy("vg").unwrap();
        }
        lab.obstacle("no-record");
        let warnings = Warnings::default();
        let context = Context {
            report: &warnings,
            ..lab.context()
        };
        if moved {
            cutover(context, &lab.name, CutoverOptions::default()).unwrap();
            assert!(lab.file("lv").contains("p2v.moved"));
        } else {
            start(context, &lab.name, StartOptions::default()).unwrap();
            assert!(lab.machine().writable);
        }
        assert_eq!(lab.file("domains"), "e1\n");
        let warnings = warnings.0.into_inner().unwrap();
        assert!(
            warnings.iter().any(|w| w.contains("record")),
            "{warnings:?}"
        );
    }
}

#[test]
fn a_disk_that_another_host_may_write_needs_the_operators_word_twice() {
    let lab = lab(1);
    let ours = lab.machine().inventory.clone();
    let other_host_boots_it = || {
        let mut machine = lab.machine();
        machine.inventory.menu_id = "0123456789abcdef".into();
        machine.inventory.host_keys = vec![SecretKey::from_bytes(&[9; 32]).public()];
    };
    other_host_boots_it();
    let error = text(lab.copy("vg"));
    assert!(error.contains("--not-booted-by-this-host"), "{error}");
    assert_eq!(lab.file("lv"), "", "nothing was made for it");
    lab.copy_with("vg", |r| r.not_booted_by_this_host = true)
        .unwrap();
    let error = text(lab.cutover());
    assert!(error.contains("--accept-unguarded"), "{error}");

    // This host boots it: the copy is still of a disk that was not guarded, until it is compared again.
    lab.machine().inventory = ours;
    assert!(text(lab.cutover()).contains("--accept-unguarded"));
    lab.copy("vg").unwrap();
    other_host_boots_it();
    // Nothing can be ordered now, though the copy was made with the disk guarded.
    let error = text(lab.cutover());
    assert!(
        error.contains("not started by a boot menu of this host"),
        "{error}"
    );
    lab.assert_clean();
    let options = CutoverOptions {
        accept_unguarded: true,
        ..CutoverOptions::default()
    };
    cutover(lab.context(), &lab.name, options).unwrap();
}

#[test]
fn a_disk_that_did_not_come_up_is_not_left_out_in_silence() {
    let lab = lab(2);
    lab.copy("vg").unwrap();
    let gone = lab.machine().inventory.disks.pop().unwrap();
    // Looking at it does not make it forgotten.
    let views = discover(lab.context()).unwrap();
    assert!(
        views[0].differences.iter().any(|d| d.contains("e1.1")),
        "{:?}",
        views[0].differences
    );
    for error in [
        text(lab.cutover()),
        text(lab.copy("vg")),
        text(start(lab.context(), &lab.name, FORCE)),
    ] {
        assert!(error.contains("--without-disk 1"), "{error}");
    }
    lab.assert_clean();

    let error = text(lab.copy_with("vg", |r| r.without = &[0, 1]));
    assert!(error.contains("--without-disk 0"), "{error}");
    lab.copy_with("vg", |r| r.without = &[1]).unwrap();
    let options = CutoverOptions {
        without: vec![1],
        ..CutoverOptions::default()
    };
    cutover(lab.context(), &lab.name, options).unwrap();
    assert_eq!(lab.file("dm").lines().count(), 1);
    assert_eq!(lab.file("lv").matches("p2v.moved").count(), 1);
    lab.machine().inventory.disks.push(gone);
}

#[test]
fn a_disk_that_did_not_come_up_before_anything_was_done_is_missed_too() {
    let lab = lab(2);
    discover(lab.context()).unwrap();
    lab.machine().inventory.disks.pop();
    for error in [text(lab.start()), text(lab.copy("vg"))] {
        assert!(error.contains("e1.1"), "{error}");
    }
    let options = StartOptions {
        without: vec![1],
        ..StartOptions::default()
    };
    start(lab.context(), &lab.name, options).unwrap();
}

#[test]
fn a_volume_of_another_machine_of_that_name_is_not_this_ones() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    let ours = lab.file("lv");
    assert!(ours.contains("p2v.e1.0."), "{ours}");
    // The record was moved away, and the next machine got its shelf and name.
    let lv = lab.dir.path().join("lv");
    let theirs = "p2v.e1.0.0123456789abcdef";
    fs::write(&lv, format!("vg e1-disk0 8388608 {theirs},keep.me\n")).unwrap();
    let before = lab.volume(0);
    lab.machine().data[0][0] ^= 1;
    let error = text(lab.copy("vg"));
    assert!(error.contains("may hold data"), "{error}");
    assert!(lab.volume(0) == before);

    // What the operator gives up is nobody's copy any more.
    lab.copy_with("vg", |r| r.may_go = &|name, _| name == "vg/e1-disk0")
        .unwrap();
    let now = lab.file("lv");
    assert!(now.contains("keep.me") && !now.contains(theirs), "{now}");
    // And another machine's copy over it is seen at cutover.
    fs::write(&lv, now.replace("p2v.e1.0.", "p2v.e9.0.")).unwrap();
    let error = text(lab.cutover());
    assert!(error.contains("not marked"), "{error}");
    fs::write(&lv, now).unwrap();

    // Another volume of that name, with the same bytes and tag, is not the one that was checked.
    let path = lab.dir.path().join("dev/vg/e1-disk0");
    fs::copy(&path, lab.dir.path().join("twin")).unwrap();
    fs::rename(&path, lab.dir.path().join("first")).unwrap();
    fs::rename(lab.dir.path().join("twin"), &path).unwrap();
    let error = text(lab.cutover());
    assert!(error.contains("UUID"), "{error}");
    lab.assert_clean();
    lab.copy("vg").unwrap();
    lab.cutover().unwrap();
}

#[test]
fn an_old_machine_that_is_heard_or_restarted_is_not_gone() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    let gone = || CutoverOptions {
        old_machine_gone: true,
        ..CutoverOptions::default()
    };
    // It answers, and then two do.
    for _ in 0..2 {
        let error = text(cutover(lab.context(), &lab.name, gone()));
        assert!(error.contains("is not gone"), "{error}");
        lab.machine().stations.push(MacAddr::new(2, 0, 0, 0, 0, 9));
    }
    lab.machine().stations.truncate(1);
    // It was heard in another boot after the copy, and then went.
    let first = lab.machine().inventory.boot_id.clone();
    lab.machine().inventory.boot_id = "second".into();
    discover(lab.context()).unwrap();
    lab.machine().on = false;
    let error = text(cutover(lab.context(), &lab.name, gone()));
    assert!(error.contains("restarted"), "{error}");
    lab.assert_clean();

    lab.machine().inventory.boot_id = first;
    lab.machine().on = true;
    discover(lab.context()).unwrap();
    lab.machine().on = false;
    assert!(text(lab.cutover()).contains("--old-machine-gone"));
    cutover(lab.context(), &lab.name, gone()).unwrap();
}

#[test]
fn a_saved_image_of_the_domain_is_in_the_way() {
    let lab = lab(1);
    let image = lab.host.paths.xen_save.join("e1");
    fs::create_dir_all(&lab.host.paths.xen_save).unwrap();
    fs::write(&image, "").unwrap();
    assert!(text(lab.start()).contains("saved image"));
    lab.copy("vg").unwrap();
    assert!(text(lab.cutover()).contains("saved image"));
    lab.assert_clean();
    let findings = crate::doctor::examine(&lab.host);
    let named = |f: &crate::doctor::Finding| f.what == "saved domain e1";
    assert!(findings.iter().any(named), "{findings:?}");
    fs::remove_file(image).unwrap();
    lab.cutover().unwrap();
    assert!(!crate::doctor::examine(&lab.host).iter().any(named));
}

#[test]
fn no_copy_goes_over_a_file_that_an_unreadable_record_names() {
    let lab = lab(1);
    let file = lab.dir.path().join("other.img");
    fs::write(&file, "a system that was moved here").unwrap();
    let record = lab.host.store.path(&"moved".parse().unwrap());
    let path = file.display();
    fs::write(&record, format!("{{\"version\": 9, \"path\": \"{path}\"}}")).unwrap();
    let to = path.to_string();
    let go = |r: &mut CopyRequest<'_>| r.may_go = &|_, _| true;
    let error = text(lab.copy_with(&to, go));
    assert!(error.contains("moved.json cannot be read"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"a system that was moved here");
    fs::remove_file(record).unwrap();
    lab.copy_with(&to, go).unwrap();
}

/// As a cutover leaves it that is killed before `xl create`.
fn cut_off(lab: &Lab) {
    let root = lab.dir.path();
    lab.copy("vg").unwrap();
    let before = lab.host.store.get(&lab.name).unwrap();
    lab.cutover().unwrap();
    let cut_off = lab.host.store.update(&lab.name, |record| {
        record.served = before.served;
        record.history.pop();
        Ok::<_, Error>(())
    });
    cut_off.unwrap();
    for file in ["domains", "dm"] {
        fs::write(root.join(file), "").unwrap();
    }
    fs::remove_file(lab.host.settings.xen_dir.join("e1.cfg")).unwrap();
    lab.machine().orders.clear();
}

#[test]
fn the_old_machine_stays_on_until_a_domain_ran_from_the_copies() {
    let lab = lab(1);
    let domains = |text: &str| fs::write(lab.dir.path().join("domains"), text).unwrap();
    cut_off(&lab);
    let error = text(lab.release());
    for words in [
        "`p2v devices up`, `p2v config e1 --write`, then `xl create`",
        "`p2v release e1`",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert!(lab.machine().on && lab.machine().orders.is_empty());
    // One that p2v saw, whoever started it.
    domains("e1\n");
    discover(lab.context()).unwrap();
    domains("");
    lab.release().unwrap();
    assert!(!lab.machine().on);
}

#[test]
fn a_domain_that_runs_from_the_copies_lets_the_old_machine_go() {
    let lab = lab(1);
    cut_off(&lab);
    fs::write(lab.dir.path().join("domains"), "e1\n").unwrap();
    lab.release().unwrap();
}

/// What ran from an earlier copy tells nothing of the next one.
#[test]
fn a_machine_that_goes_back_to_its_old_disk_was_served_by_no_copy() {
    let lab = lab(1);
    let served = || lab.host.store.get(&lab.name).unwrap().served.is_some();
    lab.copy("vg").unwrap();
    lab.cutover().unwrap();
    assert!(served());
    for file in ["domains", "dm"] {
        fs::write(lab.dir.path().join(file), "").unwrap();
    }
    // A start that is taken back changes nothing.
    let obstacle = lab.obstacle("fail-xl-create");
    start(lab.context(), &lab.name, FORCE).unwrap_err();
    assert!(served());
    fs::remove_file(obstacle).unwrap();
    start(lab.context(), &lab.name, FORCE).unwrap();
    assert!(!served());
}
