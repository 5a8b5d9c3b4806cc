//! Old disks that start nothing, and that start again.

use super::*;
use crate::record::{Mapping, Stage};

const ESP: u64 = 2048;

/// A moved machine. Its first disk has code to start and an EFI system partition, its second nothing of that.
fn moved() -> Lab {
    let lab = lab(2);
    {
        let mut machine = lab.machine();
        // The MBR's first entry.
        machine.data[0][446..510].fill(0);
        machine.data[0][450] = 0xEF;
        machine.data[0][454..458].copy_from_slice(&(ESP as u32).to_le_bytes());
        machine.data[0][510..512].copy_from_slice(&[0x55, 0xAA]);
        machine.data[1][510..512].copy_from_slice(&[0, 0]);
    }
    lab.copy("vg").unwrap();
    lab.cutover().unwrap();
    lab
}

fn kept(lab: &Lab) -> PathBuf {
    lab.host.store.copy_file(&lab.name, 0, "disarmed.json")
}

/// The sectors in which two states of a disk differ.
fn differ(one: &[u8], other: &[u8]) -> Vec<u64> {
    let sectors = one.chunks(512).zip(other.chunks(512));
    let different = (0..).zip(sectors).filter(|(_, (a, b))| a != b);
    different.map(|(lba, _)| lba).collect()
}

#[test]
fn a_moved_machines_disks_start_nothing_until_they_are_rearmed() {
    let lab = moved();
    let before = lab.machine().data.clone();
    let disks = vec![Address::new(1, 0)];
    assert_eq!(disarm(lab.context(), &lab.name, &[]).unwrap(), disks);
    let after = lab.machine().data.clone();
    assert_eq!(differ(&before[0], &after[0]), [0, ESP]);
    assert!(before[1] == after[1]);
    assert!(!lab.machine().writable);
    let told = discover(lab.context()).unwrap()[0].disarmed.clone();
    assert_eq!(told, [(0, true)].into());

    // Once more changes nothing; and ends what one that was killed has left.
    lab.machine().writable = true;
    let orders = lab.machine().orders.len();
    assert_eq!(disarm(lab.context(), &lab.name, &[]).unwrap(), disks);
    assert!(lab.machine().data == after && !lab.machine().writable);
    assert_eq!(lab.machine().orders[orders..], ["ReadOnly"]);

    assert_eq!(rearm(lab.context(), &lab.name).unwrap(), disks);
    assert!(lab.machine().data == before);
    assert!(!lab.machine().writable && !kept(&lab).exists());
    assert!(text(rearm(lab.context(), &lab.name)).contains("no old disk of e1 is disarmed"));
}

#[test]
fn one_that_goes_back_to_its_old_disk_can_start_from_it() {
    let lab = moved();
    let before = lab.machine().data.clone();
    disarm(lab.context(), &lab.name, &[]).unwrap();
    let after = lab.machine().data.clone();
    fs::write(lab.dir.path().join("domains"), "").unwrap();
    fs::write(lab.dir.path().join("dm"), "").unwrap();
    let obstacle = lab.obstacle("fail-xl-create");
    let error = text(start(lab.context(), &lab.name, FORCE));
    assert!(
        error.contains("taken back") && !error.contains("NOT"),
        "{error}"
    );
    assert!(lab.machine().data == after, "disarmed again");
    assert!(!lab.machine().writable);
    fs::remove_file(obstacle).unwrap();
    start(lab.context(), &lab.name, FORCE).unwrap();
    assert!(lab.machine().data == before);
    assert!(!kept(&lab).exists());
}

#[test]
fn only_a_moved_machine_is_disarmed_and_a_disarmed_disk_is_not_copied() {
    let lab = lab(1);
    lab.machine().data[0][510..512].copy_from_slice(&[0x55, 0xAA]);
    assert!(text(disarm(lab.context(), &lab.name, &[])).contains("not moved"));
    lab.copy("vg").unwrap();
    assert!(text(disarm(lab.context(), &lab.name, &[])).contains("not moved"));
    lab.cutover().unwrap();
    disarm(lab.context(), &lab.name, &[]).unwrap();
    // As a start that was killed leaves it.
    fs::write(lab.dir.path().join("domains"), "").unwrap();
    let store = &lab.host.store;
    let back = |record: &mut Record| {
        record.state = State::Exported;
        Ok::<_, Error>(())
    };
    store.update(&lab.name, back).unwrap();
    assert!(text(lab.copy("vg")).contains("`p2v rearm e1`"));
    // Also by another record, or after that was forgotten.
    let away = lab.host.store.copies().join("gone-disk7.disarmed.json");
    fs::rename(kept(&lab), &away).unwrap();
    for refused in [text(lab.copy("vg")), text(lab.start())] {
        assert!(refused.contains("`p2v rearm e1`"), "{refused}");
    }
    rearm(lab.context(), &lab.name).unwrap();
    assert_ne!(lab.machine().data[0][0], 0x31);
    lab.start().unwrap();
}

#[test]
fn without_what_was_kept_the_operator_is_told_where_to_look() {
    let lab = moved();
    disarm(lab.context(), &lab.name, &[]).unwrap();
    fs::remove_file(kept(&lab)).unwrap();
    let error = text(rearm(lab.context(), &lab.name));
    assert!(error.contains("not kept on this host"), "{error}");
}

/// One that is gone for good keeps nobody from the others.
#[test]
fn a_disarmed_disk_that_is_gone_is_no_obstacle() {
    let lab = moved();
    disarm(lab.context(), &lab.name, &[]).unwrap();
    let path = lab.host.store.copy_file(&lab.name, 1, "disarmed.json");
    fs::copy(kept(&lab), path).unwrap();
    for file in ["domains", "dm"] {
        fs::write(lab.dir.path().join(file), "").unwrap();
    }
    lab.machine().inventory.disks.truncate(1);
    assert_eq!(
        lab.context()
            .host
            .store
            .slots_with(&lab.name, "disarmed.json")
            .unwrap(),
        [0, 1]
    );
    let error = text(rearm(lab.context(), &lab.name));
    assert!(error.contains("e1.1 is not exported now"), "{error}");
    let without = StartOptions {
        without: vec![1],
        ..FORCE
    };
    start(lab.context(), &lab.name, without).unwrap();
    lab.stop().unwrap();
    let copied = lab.copy_with("vg/again", |request| request.without = &[1]);
    assert_eq!(copied.unwrap().len(), 1);
}

/// The old disk of a moved machine and the copy of another one are of different times.
#[test]
fn no_domain_gets_an_old_disk_beside_a_copy() {
    let lab = moved();
    for file in ["domains", "dm"] {
        fs::write(lab.dir.path().join(file), "").unwrap();
    }
    lab.machine().inventory.disks.truncate(1);
    let error = text(start(lab.context(), &lab.name, FORCE));
    assert!(error.contains("had the disk e1.1 before"), "{error}");
    assert!(text(disarm(lab.context(), &lab.name, &[])).contains("had the disk e1.1 before"));
    let without = StartOptions {
        without: vec![1],
        ..FORCE
    };
    let obstacle = lab.obstacle("fail-xl-create");
    start(lab.context(), &lab.name, without.clone()).unwrap_err();
    assert_eq!(lab.state(), State::Moved);
    let back = lab.host.store.get(&lab.name).unwrap();
    assert_eq!(back.inventory.unwrap().disks.len(), 2);
    assert!(
        back.disks
            .values()
            .all(|disk| disk.mapping == Some(Mapping::Copy))
    );
    fs::remove_file(obstacle).unwrap();
    let config = start(lab.context(), &lab.name, without).unwrap();
    let config = fs::read_to_string(config).unwrap();
    assert!(
        config.contains("p2v-e1-0") && !config.contains("p2v-e1-1"),
        "{config}"
    );
    assert_eq!(lab.file("dm").lines().count(), 1);
}

#[test]
fn a_disk_that_was_not_moved_is_left_alone() {
    let lab = moved();
    let mut other = lab.machine().inventory.disks[0].clone();
    (other.address, other.serial) = (Some(Address::new(1, 2)), "S2".into());
    lab.machine().inventory.disks.push(other);
    let data = lab.machine().data[0].clone();
    lab.machine().data.push(data.clone());
    assert_eq!(
        disarm(lab.context(), &lab.name, &[]).unwrap(),
        [Address::new(1, 0)]
    );
    assert!(lab.machine().data[2] == data);
}

/// What is there cannot be read: firmware cannot start from it, and a write may put it right.
#[test]
fn sectors_that_cannot_be_read_are_no_dead_end() {
    let lab = moved();
    let before = lab.machine().data.clone();
    lab.machine().bad = vec![ESP];
    disarm(lab.context(), &lab.name, &[]).unwrap();
    let after = lab.machine().data.clone();
    assert_eq!(differ(&before[0], &after[0]), [0]);
    lab.machine().bad = vec![0];
    rearm(lab.context(), &lab.name).unwrap();
    assert!(lab.machine().data == before);
    assert!(lab.machine().bad.is_empty(), "it was written");
    lab.machine().bad = vec![0];
    let error = text(disarm(lab.context(), &lab.name, &[]));
    assert!(error.contains("cannot read sector 0 of e1.0"), "{error}");
}

#[test]
fn an_old_disk_that_stays_writable_is_told_of() {
    let lab = moved();
    let said = || discover(lab.context()).unwrap()[0].differences.join("\n");
    assert!(!said().contains("WRITTEN"));
    lab.machine().writable = true;
    assert!(said().contains("`p2v release e1` ends it"), "{}", said());
    disarm(lab.context(), &lab.name, &[]).unwrap();
    lab.machine().writable = true;
    assert!(said().contains("`p2v disarm e1` ends it"), "{}", said());
}

#[test]
fn cutover_says_beforehand_that_a_disk_cannot_be_disarmed() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    lab.machine().inventory.host_keys.clear();
    let options = CutoverOptions {
        will_disarm: true,
        accept_unguarded: true,
        ..CutoverOptions::default()
    };
    let error = text(cutover(lab.context(), &lab.name, options));
    assert!(error.contains("without this host's key"), "{error}");
    assert_eq!(lab.state(), State::Copied);
}

/// Killed, or the wire cut, after any number of writes.
#[test]
fn what_was_half_done_is_finished_or_taken_back() {
    for writes in 0..2 {
        for finish in [true, false] {
            let lab = moved();
            let before = lab.machine().data.clone();
            lab.machine().writes_left = Some(writes);
            let error = text(disarm(lab.context(), &lab.name, &[]));
            assert!(error.contains("does not answer"), "{error}");
            assert!(!lab.machine().writable);
            lab.machine().writes_left = None;
            if finish {
                disarm(lab.context(), &lab.name, &[]).unwrap();
                let after = lab.machine().data.clone();
                assert_eq!(differ(&before[0], &after[0]), [0, ESP]);
                lab.machine().writes_left = Some(writes);
                text(rearm(lab.context(), &lab.name));
                assert!(!lab.machine().writable);
                lab.machine().writes_left = None;
            }
            rearm(lab.context(), &lab.name).unwrap();
            assert!(lab.machine().data == before);
        }
    }
}

#[test]
fn what_somebody_else_wrote_is_left_alone_and_the_rest_is_put_back() {
    let lab = moved();
    let before = lab.machine().data.clone();
    disarm(lab.context(), &lab.name, &[]).unwrap();
    lab.machine().data[0][(ESP * SECTOR) as usize] ^= 1;
    let changed = lab.machine().data.clone();
    let refused = text(disarm(lab.context(), &lab.name, &[]));
    assert!(
        refused.contains(&format!("sector {ESP} of e1.0")),
        "{refused}"
    );
    assert!(!refused.contains("  "), "{refused}");
    assert!(lab.machine().data == changed);
    let warnings = Warnings::default();
    let context = Context {
        report: &warnings,
        ..lab.context()
    };
    rearm(context, &lab.name).unwrap();
    let said = warnings.0.into_inner().unwrap().concat();
    assert!(said.contains(&format!("sector {ESP} of e1.0")), "{said}");
    assert_eq!(differ(&before[0], &lab.machine().data[0]), [ESP]);
    assert_eq!(differ(&changed[0], &lab.machine().data[0]), [0]);
    assert!(!lab.machine().writable && !kept(&lab).exists());
    assert!(kept(&lab).with_file_name("e1-disk0.rearmed.json").exists());
}

/// Another record of the machine whose server runs here.
#[test]
fn a_record_does_not_rearm_what_another_one_disarmed() {
    let lab = moved();
    disarm(lab.context(), &lab.name, &[]).unwrap();
    let store = &lab.host.store;
    let other = store.menu(MacAddr::new(2, 9, 9, 9, 9, 9), None, Timestamp::now());
    let other = other.unwrap().name;
    fs::rename(kept(&lab), store.copy_file(&other, 0, "disarmed.json")).unwrap();
    let is = |state| {
        let set = |record: &mut Record| {
            record.state = state;
            Ok::<_, Error>(())
        };
        store.update(&other, set).unwrap();
    };
    is(State::Moved);
    let disarmed = lab.machine().data.clone();
    for refused in [
        text(rearm(lab.context(), &lab.name)),
        text(disarm(lab.context(), &lab.name, &[])),
    ] {
        assert!(refused.contains("`p2v show e2`"), "{refused}");
    }
    assert!(lab.machine().data == disarmed);
    // One that has no server here gives it up.
    is(State::Exported);
    disarm(lab.context(), &lab.name, &[]).unwrap();
    assert!(lab.machine().data == disarmed);
    assert!(!store.copy_file(&other, 0, "disarmed.json").exists());
    // It does not take p2v's own code for what the disk starts from.
    fs::remove_file(kept(&lab)).unwrap();
    let refused = text(disarm(lab.context(), &lab.name, &[]));
    assert!(refused.contains("not kept on this host"), "{refused}");
}

#[test]
fn what_was_interrupted_is_not_called_disarmed() {
    let lab = moved();
    let told = || discover(lab.context()).unwrap()[0].disarmed.clone();
    lab.machine().writes_left = Some(1);
    disarm(lab.context(), &lab.name, &[]).unwrap_err();
    assert_eq!(told(), [(0, false)].into());
    lab.machine().writes_left = None;
    disarm(lab.context(), &lab.name, &[]).unwrap();
    assert_eq!(told(), [(0, true)].into());
    lab.machine().writes_left = Some(1);
    rearm(lab.context(), &lab.name).unwrap_err();
    assert_eq!(told(), [(0, false)].into());
}

#[test]
fn a_machine_that_waits_is_not_read_from_before_it_is_told_to_answer() {
    let lab = lab(1);
    lab.start().unwrap();
    fs::write(lab.dir.path().join("domains"), "").unwrap();
    lab.machine().writable = false;
    lab.machine().waits = true;
    lab.machine().on_read = None;
    lab.copy("vg").unwrap();
}

#[test]
fn a_damaged_file_is_not_written_to_a_disk() {
    let lab = moved();
    disarm(lab.context(), &lab.name, &[]).unwrap();
    let (path, disarmed) = (kept(&lab), lab.machine().data.clone());
    let whole = fs::read(&path).unwrap();
    for bit in (0..whole.len() * 8).step_by(331) {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &damaged).unwrap();
        if rearm(lab.context(), &lab.name).is_ok() {
            // White space.
            let json = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
            assert_eq!(json(&damaged), json(&whole), "bit {bit}");
            fs::write(&path, &whole).unwrap();
            lab.machine().data.clone_from(&disarmed);
        }
        assert!(lab.machine().data == disarmed, "bit {bit}");
    }
    for bytes in (0..whole.len()).step_by(97) {
        fs::write(&path, &whole[..bytes]).unwrap();
        text(rearm(lab.context(), &lab.name));
    }
    fs::write(&path, &whole).unwrap();
    rearm(lab.context(), &lab.name).unwrap();
}

#[test]
fn a_machine_that_restarts_just_then_is_not_written_to() {
    let lab = moved();
    let before = lab.machine().data.clone();
    lab.machine().restarts_after = Some(1);
    let error = text(disarm(lab.context(), &lab.name, &[]));
    assert!(error.contains("restarted"), "{error}");
    assert!(lab.machine().data == before && !lab.machine().writable);
}

#[test]
fn a_disk_that_fails_is_not_written() {
    let lab = moved();
    let before = lab.machine().data.clone();
    let unread = |record: &mut Record| {
        let copy = record.disks.get_mut(&0).unwrap().copy.as_mut().unwrap();
        match &mut copy.stage {
            Stage::Used {
                verified: Some(verified),
                ..
            } => verified.unreadable = vec![(7, 2)],
            other => panic!("{other:?}"),
        }
        Ok::<_, Error>(())
    };
    lab.host.store.update(&lab.name, unread).unwrap();
    let error = text(disarm(lab.context(), &lab.name, &[]));
    assert!(error.contains("2 sectors"), "{error}");
    assert!(lab.machine().data == before);
}
