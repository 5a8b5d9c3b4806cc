use super::*;
use p2v_contract::inventory::Inventory;
use p2v_netboot::MenuKind;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing_subscriber::prelude::*;

fn records() -> (tempfile::TempDir, Records) {
    let dir = tempfile::tempdir().unwrap();
    let records = records_in(dir.path());
    (dir, records)
}

/// As a service that starts there.
fn records_in(dir: &Path) -> Records {
    records_of(Store::open(dir).unwrap(), dir)
}

fn records_of(store: Store, dir: &Path) -> Records {
    let policy = Policy {
        hosts: Hosts::new(vec![mac(0xaa)], "", vec![]),
        machines: BTreeMap::new(),
        // Of all machines here; what is asked as not listed is so by other lists.
        lists: p2v_netboot::Settings {
            allow: vec!["52:54:*".parse().unwrap()],
            ..Default::default()
        },
        shared_uuids: Vec::new(),
        once: false,
    };
    Records::open(store, dir, dir, policy, |_| {})
}

fn mac(n: u8) -> MacAddr {
    MacAddr::new(0x52, 0x54, 0, 0, 0, n)
}

fn record(dir: &tempfile::TempDir, name: &str) -> PathBuf {
    dir.path().join(format!("machines/{name}.json"))
}

fn append(decision: BootDecision) -> String {
    match decision {
        BootDecision::Agent { append, .. } => append,
        other => panic!("{other:?}"),
    }
}

fn held(decision: BootDecision) -> String {
    match decision {
        BootDecision::Hold { message } => message,
        other => panic!("{other:?}"),
    }
}

/// As the operator does it, `at` seconds since 1970.
fn say(records: &Records, n: u8, word: Word, at: u64) {
    let at = Timestamp::from_unix(at);
    let said = Approval { word, at };
    records.approvals.set(mac(n), said).unwrap();
}

fn fetched(file: &str) -> BootEvent {
    BootEvent::Fetched {
        file: file.into(),
        bytes: 1,
        elapsed: Some(Default::default()),
    }
}

#[test]
fn without_allow_nobody_is_booted_who_is_not_approved() {
    let (dir, mut records) = records();
    records.policy.lists.allow.clear();
    assert_eq!(records.boot_at_first(mac(1), false), None);
    assert_eq!(records.boot_unlisted(mac(1)), None);
    assert!(!record(&dir, "e1").exists());
    // From the next question on, without a restart.
    say(&records, 1, Word::Always, 1000);
    let told = records.boot_at_first(mac(1), false).unwrap();
    assert!(matches!(told, BootDecision::Agent { .. }));
    append(records.boot_unlisted(mac(1)).unwrap());
    assert_eq!(records.boot_unlisted(mac(2)), None);
    // `boot = "agent"` is as good, and `deny` wins over both.
    let agent = toml::from_str("boot = 'agent'").unwrap();
    records.policy.machines.insert(mac(2), agent);
    append(records.boot_unlisted(mac(2)).unwrap());
    records.policy.lists.deny = vec!["52:54:*".parse().unwrap()];
    for n in [1, 2] {
        assert_eq!(records.boot_unlisted(mac(n)), None);
    }
    records.policy.lists.deny.clear();
    // What cannot be read approves nobody; nobody's word sends a server that is here to its disk.
    fs::write(dir.path().join("approved/52-54-00-00-00-01.json"), "{").unwrap();
    assert_eq!(records.boot_unlisted(mac(1)), None);
    say(&records, 1, Word::Revoked, 1001);
    assert_eq!(records.boot_unlisted(mac(1)), None);
    set_state(&records, "e1", State::Exported);
    assert_eq!(records.boot_unlisted(mac(1)), None);
    set_state(&records, "e1", State::Running);
    append(records.boot_unlisted(mac(1)).unwrap());
    set_state(&records, "e1", State::Moved);
    held(records.boot_unlisted(mac(1)).unwrap());
}

#[test]
fn a_machine_that_was_exported_before_needs_no_word() {
    let (_dir, mut records) = records();
    with_second_card(&records, 1, State::Seen);
    records.policy.lists.allow.clear();
    assert_eq!(records.boot_unlisted(mac(1)), None);
    set_state(&records, "e1", State::Exported);
    append(records.boot_unlisted(mac(1)).unwrap());
    // Its other card is another machine's, for all that is known, until something is begun.
    assert_eq!(records.boot_unlisted(mac(11)), None);
    set_state(&records, "e1", State::Copied);
    held(records.boot_unlisted(mac(11)).unwrap());
}

#[test]
fn one_that_is_approved_once_boots_one_time() {
    let (dir, mut first) = records();
    first.policy.lists.allow.clear();
    say(&first, 1, Word::Once, 1000);
    for file in ["vmlinuz", "initrd"] {
        append(first.boot_unlisted(mac(1)).unwrap());
        first.seen(mac(1), &fetched(file));
    }
    let mut again = records_in(dir.path());
    again.policy.lists.allow.clear();
    for records in [&first, &again] {
        assert_eq!(records.boot_unlisted(mac(1)), None);
    }
    // Also when its agent was heard; not in the middle of a copy.
    set_state(&again, "e1", State::Exported);
    assert_eq!(again.boot_unlisted(mac(1)), None);
    set_state(&again, "e1", State::Copying);
    append(again.boot_unlisted(mac(1)).unwrap());
    set_state(&again, "e1", State::Exported);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    say(&again, 1, Word::Once, now.as_secs() + 1);
    append(again.boot_unlisted(mac(1)).unwrap());
}

#[test]
fn the_operators_word_makes_room_for_a_machine() {
    let (_dir, mut records) = records();
    records.policy.lists.seen_max = 1;
    for n in [1, 2] {
        say(&records, n, Word::Always, 1000);
        append(records.boot(mac(n)));
    }
    held(records.boot(mac(3)));
}

#[test]
fn a_bad_record_holds_its_machine_and_no_other() {
    let (dir, records) = records();
    for n in 1..=4 {
        append(records.boot(mac(n)));
    }
    fs::write(record(&dir, "e2"), "{").unwrap();
    let text = fs::read_to_string(record(&dir, "e4")).unwrap();
    let shared = text.replace("\"shelf\": 4", "\"shelf\": 3");
    fs::write(record(&dir, "e4"), shared).unwrap();
    assert!(append(records.boot(mac(1))).contains("p2v.shelf=1 "));
    assert!(held(records.boot(mac(2))).contains("e2.json"));
    for n in [3, 4] {
        assert!(held(records.boot(mac(n))).contains("shelf 3"));
    }
}

#[test]
fn a_host_that_cannot_write_gives_the_boot_id_again() {
    let (dir, records) = records();
    let before = append(records.boot(mac(1)));
    // As with a full file system, every write fails: root may write anywhere else.
    let lock = dir.path().join("machines/.lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    assert_eq!(append(records.boot(mac(1))), before);
    assert!(held(records.boot(mac(2))).contains(".lock"));
}

fn set_state(records: &Records, name: &str, state: State) {
    let name = name.parse().unwrap();
    let changed = records.store.update(&name, |record| {
        record.state = state;
        Ok::<_, StoreError>(())
    });
    changed.unwrap();
}

#[test]
fn a_machine_whose_server_is_here_stays_where_it_is_whatever_the_lists_say() {
    let (dir, records) = records();
    append(records.boot(mac(1)));
    for (state, words) in [
        (State::Released, "Switch this machine off"),
        (State::Moved, "was moved to the Xen host"),
    ] {
        set_state(&records, "e1", state);
        assert!(held(records.boot(mac(1))).contains(words));
        assert!(held(records.boot_unlisted(mac(1)).unwrap()).contains(words));
    }
    set_state(&records, "e1", State::Running);
    let running = append(records.boot_unlisted(mac(1)).unwrap());
    assert!(running.contains("p2v.access=wait"), "{running}");
    set_state(&records, "e1", State::Exported);
    assert!(append(records.boot(mac(1))).contains("p2v.access=ro"));
    assert_eq!(records.boot_unlisted(mac(1)), None);
    // Its record is broken, so nobody knows; a stranger is none of our business.
    let text = fs::read_to_string(record(&dir, "e1")).unwrap();
    fs::write(record(&dir, "e1"), &text[..text.len() / 2]).unwrap();
    assert!(held(records.boot_unlisted(mac(1)).unwrap()).contains("e1.json"));
    assert_eq!(records.boot_unlisted(mac(9)), None);
}

/// Machine `n` with a second card, `10 + n`.
fn with_second_card(records: &Records, n: u8, state: State) {
    append(records.boot(mac(n)));
    let inventory = serde_json::json!({
        "nics": [{"name": "eth0", "mac": mac(n)}, {"name": "eth1", "mac": mac(10 + n)}],
    });
    let name = format!("e{n}").parse().unwrap();
    let changed = records.store.update(&name, |record| {
        record.state = state;
        record.inventory = Some(serde_json::from_value(inventory).unwrap());
        Ok::<_, StoreError>(())
    });
    changed.unwrap();
}

#[test]
fn a_machine_whose_server_is_here_is_held_by_its_other_card() {
    let (dir, records) = records();
    with_second_card(&records, 1, State::Exported);
    assert_eq!(records.boot_unlisted(mac(11)), None);
    for state in [State::Running, State::Copied, State::Moved, State::Released] {
        set_state(&records, "e1", state);
        for decision in [
            records.boot(mac(11)),
            records.boot_unlisted(mac(11)).unwrap(),
        ] {
            let message = held(decision);
            assert!(message.contains("This is e1") && message.contains(&mac(1).to_string()));
        }
    }
    assert!(!record(&dir, "e2").exists());
    // Also while another record is broken.
    let other = format!("{{\"boot_mac\": \"{}\"", mac(3));
    fs::write(record(&dir, "e3"), other).unwrap();
    assert!(held(records.boot_unlisted(mac(11)).unwrap()).contains("This is e1"));
    assert_eq!(records.boot_unlisted(mac(9)), None);
}

#[test]
fn a_copied_machine_whose_record_is_lost_is_held() {
    let (dir, records) = records();
    append(records.boot(mac(1)));
    fs::remove_file(record(&dir, "e1")).unwrap();
    assert_eq!(records.boot_unlisted(mac(1)), None);
    let claim = serde_json::json!({
        "name": "e1", "boot_mac": mac(1), "shelf": 1,
        "copies": [[0, {"kind": "device", "path": "/dev/drbd0", "identity": "drbd"}]],
    });
    let names = dir.path().join("names");
    fs::create_dir_all(&names).unwrap();
    fs::write(names.join("e1.json"), claim.to_string()).unwrap();
    for decision in [records.boot(mac(1)), records.boot_unlisted(mac(1)).unwrap()] {
        assert!(held(decision).contains("whose record is lost"));
    }
    assert_eq!(records.boot_unlisted(mac(2)), None);
}

/// A card that the agent had no driver for is in no inventory; the firmware tells the machine's UUID with each.
#[test]
fn a_machine_whose_server_is_here_is_held_by_a_card_that_was_never_seen() {
    let (dir, mut records) = records();
    append(records.boot(mac(1)));
    let uuid = "4c4c4544-0042-3510-8052-b4c04f4a3732";
    let changed = records.store.update(&"e1".parse().unwrap(), |record| {
        record.inventory = Some(Inventory::default());
        record.inventory.as_mut().unwrap().dmi.uuid = uuid.to_owned();
        Ok::<_, StoreError>(())
    });
    changed.unwrap();
    let id = uuid.parse().unwrap();
    assert_eq!(records.boot_unlisted(mac(11)), None);
    records.identified(mac(11), id);
    // Not begun: it is a machine like others.
    assert_eq!(records.boot_unlisted(mac(11)), None);
    for state in [State::Running, State::Copied, State::Moved, State::Released] {
        set_state(&records, "e1", state);
        for decision in [
            records.boot(mac(11)),
            records.boot_unlisted(mac(11)).unwrap(),
            records.boot_at_first(mac(11), false).unwrap(),
        ] {
            let message = held(decision);
            assert!(message.contains("SMBIOS UUID of e1") && message.contains("shared_uuids"));
        }
        // Another machine, and one that told nothing.
        records.identified(
            mac(12),
            "4c4c4544-0042-3510-8052-b4c04f4a3733".parse().unwrap(),
        );
        assert_eq!(records.boot_unlisted(mac(12)), None);
        assert_eq!(records.boot_unlisted(mac(13)), None);
        assert!(!record(&dir, "e2").exists());
    }
    // Nor is it by a card that it asked by before, and has a record of: its agent was never heard by that one.
    append(records.boot(mac(14)));
    records.identified(mac(14), id);
    records.policy.once = true;
    records.policy.lists.allow = vec![mac(99).into()];
    assert!(held(records.boot_unlisted(mac(14)).unwrap()).contains("SMBIOS UUID of e1"));
    records.policy.once = false;
    records.policy.lists.allow.clear();
    // What others tell in its place does not take its own away.
    for n in 0..3 {
        let other = format!("4c4c4544-0042-3510-8052-00000000000{n}");
        records.identified(mac(11), other.parse().unwrap());
    }
    assert!(held(records.boot_unlisted(mac(11)).unwrap()).contains("SMBIOS UUID of e1"));
    // Its own card is its own, whatever it tells; and two machines with one UUID are told apart by the settings.
    records.identified(mac(1), id);
    assert!(held(records.boot(mac(1))).contains("Switch this machine off"));
    records.policy.shared_uuids = vec![id];
    assert_eq!(records.boot_unlisted(mac(11)), None);
    append(records.boot(mac(11)));
}

#[test]
fn a_machine_with_a_record_for_each_card_is_held_where_one_would_let_it_go() {
    let (_dir, mut records) = records();
    // e1 by eth0, e2 by eth1, of one machine.
    append(records.boot(mac(1)));
    append(records.boot(mac(11)));
    with_second_card(&records, 1, State::Exported);
    let not_served = BootEvent::Relayed;
    assert_eq!(records.boot_unlisted(mac(11)), None);
    assert_eq!(records.warning(mac(11), &not_served), None);
    for state in [State::Running, State::Moved, State::Released] {
        set_state(&records, "e1", state);
        let message = held(records.boot_unlisted(mac(11)).unwrap());
        assert!(message.contains("This is e1, whose server is on the Xen host"));
        let warning = records.warning(mac(11), &not_served).unwrap();
        assert!(warning.contains("(e1)"), "{warning}");
        // The agent exports read-only, and takes policy of its own record.
        append(records.boot(mac(11)));
        for wish in [boot_policy::Wish::Local, boot_policy::Wish::Ignore] {
            let machine = Machine {
                boot: Some(wish),
                ..Machine::default()
            };
            records.policy.machines.insert(mac(11), machine);
            assert!(held(records.boot(mac(11))).contains("This is e1"));
        }
        records.policy.machines.clear();
    }
    records.policy.once = true;
    records.note_the_one_boot(mac(11), None);
    assert!(held(records.boot(mac(11))).contains("This is e1"));
    // Its server runs on its own disks, wherever they were copied to.
    set_state(&records, "e1", State::Copied);
    assert_eq!(records.boot_unlisted(mac(11)), None);
    assert_eq!(records.warning(mac(11), &not_served), None);
    // Its own server is here, too.
    set_state(&records, "e1", State::Running);
    set_state(&records, "e2", State::Moved);
    assert!(held(records.boot_unlisted(mac(11)).unwrap()).contains("This is e1"));
    set_state(&records, "e1", State::Moved);
    assert!(held(records.boot_unlisted(mac(11)).unwrap()).contains("(e2) was moved"));
}

#[test]
fn a_server_that_was_copied_on_trial_is_held_only_where_its_first_card_starts_the_agent() {
    let (dir, mut records) = records();
    let machine = |text: &str| toml::from_str::<Machine>(text).unwrap();
    with_second_card(&records, 1, State::Copying);
    // As root notes it.
    let claim = serde_json::json!({
        "name": "e1", "boot_mac": mac(1), "shelf": 1, "cards": [mac(1), mac(11)],
        "copies": [[0, {"kind": "device", "path": "/dev/drbd0", "identity": "drbd"}]],
    });
    let names = dir.path().join("names");
    fs::create_dir_all(&names).unwrap();
    fs::write(names.join("e1.json"), claim.to_string()).unwrap();
    for (state, words) in [
        (State::Copying, "whose disks are being copied"),
        (State::Copied, "whose disks were copied"),
    ] {
        with_second_card(&records, 1, state);
        assert!(held(records.boot_unlisted(mac(11)).unwrap()).contains(words));
        assert_eq!(records.warning(mac(11), &BootEvent::Relayed), None);
        for wish in ["boot='local'", "boot='ignore'"] {
            records.policy.machines.insert(mac(1), machine(wish));
            assert_eq!(records.boot_unlisted(mac(11)), None);
        }
        records.policy.machines.clear();
        records.policy.lists.deny = vec![mac(1).to_string().parse().unwrap()];
        assert_eq!(records.boot_unlisted(mac(11)), None);
        // One whose server is here is held whatever the settings say.
        set_state(&records, "e1", State::Running);
        records
            .policy
            .machines
            .insert(mac(1), machine("boot='local'"));
        assert!(held(records.boot_unlisted(mac(11)).unwrap()).contains("server is on"));
        assert!(records.warning(mac(11), &BootEvent::Relayed).is_some());
        records.policy.machines.clear();
        records.policy.lists.deny.clear();
    }
}

#[test]
fn records_that_cannot_be_read_let_no_machine_of_theirs_go() {
    let (dir, records) = records();
    for n in [1, 2, 3] {
        with_second_card(&records, n, State::Running);
    }
    let whole = fs::read_to_string(record(&dir, "e3")).unwrap();
    let mine = |n| held(records.boot_unlisted(mac(n)).unwrap());
    let strangers_go = || assert_eq!(records.boot_unlisted(mac(9)), None);
    strangers_go();
    // One shelf, or one address, in two records.
    fs::write(
        record(&dir, "e3"),
        whole.replace("\"shelf\": 3", "\"shelf\": 2"),
    )
    .unwrap();
    assert!(mine(3).contains("shelf 2"));
    let (theirs, ours) = (mac(3).to_string(), mac(2).to_string());
    fs::write(record(&dir, "e3"), whole.replace(&theirs, &ours)).unwrap();
    assert!(mine(2).contains(&ours));
    fs::write(record(&dir, "e3"), &whole).unwrap();
    strangers_go();
    // Nothing is left in the text, or there is no text to read.
    fs::write(record(&dir, "e1"), "").unwrap();
    fs::remove_file(record(&dir, "e2")).unwrap();
    fs::create_dir(record(&dir, "e2")).unwrap();
    for n in [1, 11, 2, 12] {
        assert!(mine(n).contains("machine record"));
    }
    strangers_go();
    // Nothing can be listed.
    let aside = dir.path().join("aside");
    fs::rename(dir.path().join("machines"), &aside).unwrap();
    for n in [1, 11, 2, 12, 3, 13] {
        assert!(mine(n).contains("machines"));
    }
    strangers_go();
    fs::rename(&aside, dir.path().join("machines")).unwrap();
    // What was moved away is a stranger.
    fs::remove_file(record(&dir, "e1")).unwrap();
    fs::remove_dir(record(&dir, "e2")).unwrap();
    assert_eq!(records.boot_unlisted(mac(1)), None);
}

#[test]
fn a_machine_whose_server_is_here_and_that_cannot_be_given_a_menu_is_held() {
    let (dir, records) = records();
    let name = "web".parse().unwrap();
    let mut known = Record::new(name, mac(1), 1);
    known.state = State::Running;
    let text = serde_json::to_vec(&known).unwrap();
    fs::write(record(&dir, "web"), text).unwrap();
    fs::create_dir(dir.path().join("machines/.lock")).unwrap();
    assert!(held(records.boot_unlisted(mac(1)).unwrap()).contains(".lock"));
}

#[test]
fn a_machine_that_is_not_answered_although_its_server_is_here_is_warned_of() {
    let (dir, records) = records();
    with_second_card(&records, 1, State::Exported);
    let not_served = BootEvent::NotServed {
        client: p2v_netboot::ClientKind::HttpBoot(0x10),
        why: "no loader".to_owned(),
    };
    let warned = |n| records.warning(mac(n), &not_served);
    assert_eq!((warned(1), warned(11), warned(9)), (None, None, None));
    set_state(&records, "e1", State::Moved);
    for n in [1, 11] {
        assert!(warned(n).unwrap().contains("(e1)"));
    }
    assert!(records.warning(mac(1), &BootEvent::Relayed).is_some());
    assert_eq!(records.warning(mac(1), &BootEvent::Released), None);
    fs::write(record(&dir, "e1"), "{").unwrap();
    assert!(warned(11).unwrap().contains("cannot be read"));
    assert_eq!(warned(9), None);
}

#[test]
fn a_machine_with_a_second_record_that_cannot_be_read_does_not_start_its_disk() {
    let (dir, mut records) = records();
    // One record for each card it has booted from: the server of the one that has both cards in its
    // inventory is here.
    with_second_card(&records, 1, State::Moved);
    append(records.boot(mac(9)));
    let text = fs::read_to_string(record(&dir, "e1")).unwrap();
    let also = text.replace(&mac(11).to_string(), &mac(9).to_string());
    fs::write(record(&dir, "e1"), &also).unwrap();
    // It has had its one boot, and would go on with its disk.
    records.policy.once = true;
    records.seen(mac(9), &fetched("initrd"));
    fs::write(
        record(&dir, "e1"),
        also.replace("\"moved\"", "\"no state\""),
    )
    .unwrap();
    match records.boot(mac(9)) {
        BootDecision::Hold { message } => assert!(message.contains("cannot read"), "{message}"),
        other => panic!("{other:?}"),
    }
    // What is moved away is in nobody's way.
    fs::remove_file(record(&dir, "e1")).unwrap();
    assert!(matches!(
        records.boot(mac(9)),
        BootDecision::LocalDisk { .. }
    ));
}

#[test]
fn a_strangers_name_is_not_taken_down() {
    let (dir, records) = records();
    assert_eq!(records.boot_unlisted(mac(1)), None);
    assert!(!record(&dir, "e1").exists());
}

#[test]
fn once_is_once_also_after_a_restart() {
    let (dir, mut first) = records();
    first.policy.once = true;
    append(first.boot(mac(1)));
    append(first.boot(mac(1)));
    first.seen(mac(1), &fetched("vmlinuz"));
    append(first.boot(mac(1)));
    first.seen(mac(1), &fetched("initrd"));
    // By another image it is as much of a boot.
    append(first.boot(mac(3)));
    first.seen(mac(3), &fetched("image/old/initrd"));
    let mut again = records_in(dir.path());
    again.policy.once = true;
    for records in [&first, &again] {
        assert!(matches!(
            records.boot(mac(1)),
            BootDecision::LocalDisk { .. }
        ));
        let other = records.boot(mac(3));
        assert!(matches!(other, BootDecision::LocalDisk { .. }));
        append(records.boot(mac(2)));
    }
    set_state(&again, "e1", State::Running);
    append(again.boot(mac(1)));

    // The usual image in the place of the machine's own may not have got it anywhere.
    let machine = toml::from_str("image = 'old'").unwrap();
    first.policy.machines.insert(mac(4), machine);
    for (file, counts) in [("initrd", false), ("image/old/initrd", true)] {
        append(first.boot(mac(4)));
        first.seen(mac(4), &fetched(file));
        let local = matches!(first.boot(mac(4)), BootDecision::LocalDisk { .. });
        assert_eq!(local, counts, "{file}");
    }
}

#[test]
fn a_machines_own_settings() {
    let (_dir, mut records) = records();
    let machine = |text: &str| toml::from_str::<Machine>(text).unwrap();
    let known = [
        (mac(1), machine("boot='local'")),
        (mac(2), machine("boot='ignore'")),
        (
            mac(3),
            machine("console=['ttyS1,9600']\nappend='noapic'\nname='web'"),
        ),
    ];
    records.policy.machines.extend(known);
    assert!(matches!(
        records.boot(mac(1)),
        BootDecision::LocalDisk { .. }
    ));
    assert!(matches!(records.boot(mac(2)), BootDecision::Ignore { .. }));
    assert!(append(records.boot(mac(3))).starts_with("console=ttyS1,9600 noapic p2v.shelf=1 "));
    // An operator's line does not outweigh what is running.
    append(records.boot(mac(3)));
    set_state(&records, "web", State::Moved);
    let settings = records.policy.machines.get_mut(&mac(3)).unwrap();
    settings.boot = Some(boot_policy::Wish::Local);
    held(records.boot(mac(3)));
}

/// An image changes what the agent is started from, and nothing about who gets it.
#[test]
fn an_image_is_for_whoever_gets_the_agent_and_lets_nobody_else_have_it() {
    let (_dir, mut records) = records();
    let image = "old".parse().unwrap();
    records.policy.machines.insert(
        mac(1),
        Machine {
            image: Some(image),
            ..Machine::default()
        },
    );
    append(records.boot(mac(1)));
    append(records.boot(mac(2)));
    for state in State::ALL {
        set_state(&records, "e1", state);
        set_state(&records, "e2", state);
        let told = |n| records.boot(mac(n));
        match (told(1), told(2)) {
            (BootDecision::Agent { image: one, .. }, BootDecision::Agent { image: two, .. }) => {
                assert_eq!((one, two), (Image::Named(image), Image::Usual), "{state}");
            }
            (BootDecision::Hold { .. }, BootDecision::Hold { .. }) => {}
            told => panic!("{state}: {told:?}"),
        }
    }
}

#[test]
fn nothing_is_made_for_a_machine_before_it_asks_for_its_menu() {
    let (dir, records) = records();
    for _ in 0..2 {
        let told = records.boot_at_first(mac(1), true).unwrap();
        assert!(matches!(told, BootDecision::Agent { .. }));
    }
    assert!(!record(&dir, "e1").exists());
    append(records.boot(mac(1)));
    // One that is known is told what it would be, and gets no boot id for asking.
    let before = fs::read(record(&dir, "e1")).unwrap();
    set_state(&records, "e1", State::Moved);
    for listed in [true, false] {
        held(records.boot_at_first(mac(1), listed).unwrap());
    }
    set_state(&records, "e1", State::Seen);
    records.boot_at_first(mac(1), true);
    assert_eq!(fs::read(record(&dir, "e1")).unwrap(), before);
    assert_eq!(records.boot_at_first(mac(1), false), None);
}

#[test]
fn made_up_addresses_take_no_more_shelves_than_the_settings_say() {
    let (dir, mut records) = records();
    records.policy.lists.seen_max = 3;
    for n in 1..=3 {
        append(records.boot(mac(n)));
    }
    let files = || fs::read_dir(dir.path().join("machines")).unwrap().count();
    let before = files();
    for n in 4..100 {
        let message = held(records.boot(mac(n)));
        assert!(message.contains("3 machines were seen"), "{message}");
        assert!(message.contains("[machines]") && message.contains("`seen_max`"));
        assert!(!message.contains("its server may be running"), "{message}");
    }
    assert_eq!(files(), before);
    // Those that are known go on, and those that the settings name by their whole address.
    append(records.boot(mac(2)));
    records.policy.machines.insert(mac(4), Machine::default());
    append(records.boot(mac(4)));
    records.policy.lists.allow = vec![
        "52:54:00:*".parse().unwrap(),
        "52:54:00:00:00:05".parse().unwrap(),
    ];
    append(records.boot(mac(5)));
    held(records.boot(mac(6)));
    // Every agent that was heard makes room for one more machine.
    for name in ["e1", "e2", "e3"] {
        set_state(&records, name, State::Exported);
    }
    append(records.boot(mac(6)));
    held(records.boot(mac(7)));
}

#[test]
fn the_cards_of_a_record_that_cannot_be_read_are_known_after_a_restart() {
    let (dir, records) = records();
    for n in [1, 2] {
        with_second_card(&records, n, State::Running);
    }
    assert_eq!(records.boot_unlisted(mac(9)), None);
    let again = || records_in(dir.path());
    // As after a crash: no text is left.
    fs::write(record(&dir, "e1"), "").unwrap();
    for _ in 0..2 {
        let records = again();
        for n in [1, 11] {
            assert!(held(records.boot_unlisted(mac(n)).unwrap()).contains("e1.json"));
        }
        assert!(append(records.boot_unlisted(mac(2)).unwrap()).contains("p2v.shelf=2 "));
        assert_eq!(records.boot_unlisted(mac(9)), None);
    }
    // Nothing can be listed from the start on.
    let unlistable = || {
        let store = Store::open(dir.path()).unwrap();
        fs::remove_dir_all(dir.path().join("machines")).unwrap();
        records_of(store, dir.path())
    };
    let records = unlistable();
    held(records.boot_unlisted(mac(12)).unwrap());
    assert_eq!(records.boot_unlisted(mac(9)), None);
    // And nothing is known of earlier starts: it may be anybody's.
    fs::remove_file(dir.path().join("cards.json")).unwrap();
    held(unlistable().boot_unlisted(mac(9)).unwrap());
}

#[test]
fn a_record_of_which_nothing_is_known_may_be_anybodys() {
    let (dir, records) = records();
    let file = record(&dir, "e1");
    let mine = format!("{{ \"boot_mac\" : \"{}\", ", mac(1));
    for (text, strangers_go) in [
        ("", false),
        ("{", false),
        ("{\"boot_mac\": \"52:54\"", false),
        (mine.as_str(), true),
    ] {
        fs::write(&file, text).unwrap();
        assert_eq!(
            records.boot_unlisted(mac(9)).is_none(),
            strangers_go,
            "{text}"
        );
        assert!(held(records.boot_unlisted(mac(1)).unwrap()).contains("e1.json"));
    }
}

/// It is held by the card alone, and its medium is what leads on.
#[test]
fn another_machine_that_got_a_card_of_a_moved_one_boots_from_a_medium_and_never_its_disk() {
    let (_dir, mut records) = records();
    with_second_card(&records, 1, State::Moved);
    let told = held(records.boot(mac(11)));
    let iso = format!("`p2v image iso FILE --machine {}`", mac(11));
    assert!(told.contains(&iso), "{told}");
    let now = Timestamp::now();
    let (other, _) = records.store.menu_in_files(mac(11), None, now).unwrap();
    assert_eq!(other.shelf, 2);
    assert!(append(records.boot(mac(11))).contains("p2v.shelf=2 "));
    records.policy.lists.allow.clear();
    held(records.boot_unlisted(mac(11)).unwrap());
    say(&records, 11, Word::Always, 1000);
    append(records.boot_unlisted(mac(11)).unwrap());
}

/// A machine that was booted by each of its two cards, in all the states that two records can have.
#[test]
fn two_records_of_one_machine_leave_it_a_way_to_the_agent_and_none_to_its_disk() {
    let (_dir, records) = records();
    for n in [1, 2] {
        append(records.boot(mac(n)));
        let inventory = serde_json::json!({
            "nics": [{"name": "eth0", "mac": mac(1)}, {"name": "eth1", "mac": mac(2)}],
        });
        let name = format!("e{n}").parse().unwrap();
        let changed = records.store.update(&name, |record| {
            record.inventory = Some(serde_json::from_value(inventory).unwrap());
            Ok::<_, StoreError>(())
        });
        changed.unwrap();
    }
    for one in State::ALL {
        for two in State::ALL {
            set_state(&records, "e1", one);
            set_state(&records, "e2", two);
            for (own, other, n) in [(one, two, 1), (two, one, 2)] {
                let case = format!("{own} here, {other} by the other card");
                match (records.boot(mac(n)), own, other) {
                    (
                        BootDecision::Hold { message },
                        State::Moved | State::Released,
                        State::Running,
                    ) => {
                        let card = mac(3 - n).to_string();
                        assert!(message.contains("boots from its network card"), "{case}");
                        assert!(message.contains(&card), "{case}");
                    }
                    (BootDecision::Hold { message }, State::Moved | State::Released, _) => {
                        assert!(message.contains("Switch this machine off"), "{case}");
                    }
                    (BootDecision::Agent { append, .. }, _, _) => {
                        assert!(append.contains(&format!("p2v.shelf={n} ")), "{case}");
                        assert!(!matches!(own, State::Moved | State::Released), "{case}");
                    }
                    (decision, _, _) => panic!("{case}: {decision:?}"),
                }
                // Whatever the lists say: only a machine whose server is nowhere here is left alone.
                let here = |state| matches!(state, State::Running | State::Moved | State::Released);
                let left_alone = records.boot_unlisted(mac(n)).is_none();
                assert_eq!(left_alone, !here(own) && !here(other), "{case}");
            }
        }
    }
}

/// What is logged meanwhile, each line with its fields.
fn logged(what: impl FnOnce()) -> Vec<String> {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let log = tracing_subscriber::registry().with(Log(Arc::clone(&lines)));
    tracing::subscriber::with_default(log, what);
    std::mem::take(&mut *lines.lock().unwrap())
}

struct Log(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let mut line = event.metadata().level().to_string();
        event.record(
            &mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                line += &format!(" {field}={value:?}");
            },
        );
        self.0.lock().unwrap().push(line);
    }
}

#[test]
fn ten_thousand_strangers_have_few_lines_and_a_known_machine_among_them_has_its_own() {
    let (_dir, records) = records();
    with_second_card(&records, 1, State::Running);
    records.boot(mac(2));
    let strangers = |from: u16| {
        for n in from..from + 5_000 {
            let [high, low] = n.to_be_bytes();
            let stranger = MacAddr::new(0x52, 0x54, 0, 0xff, high, low);
            let peer = std::net::IpAddr::from([10, 0, high, low]);
            records.seen(stranger, &BootEvent::Relayed);
            records.seen(stranger, &fetched("initrd"));
            records.noticed(&Notice::NotFound {
                peer,
                name: n.to_string(),
            });
            let event = BootEvent::Released;
            records.noticed(&Notice::Transfer { peer, event });
        }
    };
    let lines = logged(|| {
        // A question of whoever it is tells which machines there are.
        records.boot_at_first(mac(3), true);
        strangers(0);
        records.seen(mac(1), &BootEvent::Relayed);
        records.seen(mac(1), &fetched("initrd"));
        strangers(5_000);
        records.lines.tell_left_out();
    });
    let of = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert!(lines.len() < 110, "{} lines", lines.len());
    let known = format!("mac={}", mac(1));
    for part in ["relay", "WARN", "initrd", "has booted"] {
        let of_it = |line: &&String| line.contains(&known) && line.contains(part);
        assert!(lines.iter().any(|line| of_it(&line)), "{part}: {lines:#?}");
    }
    assert!(of("9980 lines \"file not served\"") == 1, "{lines:#?}");
    // Others may speak in its name. What they say hides nothing else of it.
    let lines = logged(|| {
        (0..10_000).for_each(|_| records.seen(mac(1), &BootEvent::Released));
        let usual = MenuKind::Agent {
            image: Image::Usual,
        };
        records.seen(mac(1), &BootEvent::Menu { kind: usual });
        records.lines.tell_left_out();
    });
    assert!(lines.len() < 40, "{} lines", lines.len());
    let has = |part: &str| lines.iter().any(|line| line.contains(part));
    assert!(has("menu sent") && has("9970 lines"), "{lines:#?}");
}

#[test]
fn where_it_cannot_be_told_whose_disks_were_copied_nobody_starts_his_own() {
    let (dir, mut records) = records();
    records.policy.lists.allow.clear();
    assert_eq!(records.boot_unlisted(mac(9)), None);
    fs::write(dir.path().join("names"), "").unwrap();
    held(records.boot_unlisted(mac(9)).unwrap());
}

/// What is logged meanwhile waits for nothing that the question holds.
#[test]
fn where_the_approval_of_a_moved_machine_cannot_be_read_its_second_card_is_held() {
    let (dir, records) = records();
    with_second_card(&records, 1, State::Moved);
    let approved = dir.path().join("approved");
    fs::create_dir(&approved).unwrap();
    let of_its_card = mac(1).to_string().replace(':', "-");
    fs::write(approved.join(format!("{of_its_card}.json")), "{").unwrap();
    let (told, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let decisions = [records.boot_unlisted(mac(11)), Some(records.boot(mac(1)))];
        told.send(decisions).unwrap();
    });
    let limit = std::time::Duration::from_secs(60);
    let decisions = hears.recv_timeout(limit).expect("it is decided");
    for decision in decisions {
        held(decision.unwrap());
    }
}

#[test]
fn where_approvals_cannot_be_read_strangers_are_still_strangers() {
    let (dir, records) = records();
    fs::write(dir.path().join("approved"), "").unwrap();
    let lines = logged(|| {
        for n in 0..1_000u16 {
            let [high, low] = n.to_be_bytes();
            let stranger = MacAddr::new(0x52, 0x54, 0, 0xff, high, low);
            records.seen(stranger, &fetched("initrd"));
        }
    });
    assert!(lines.len() < 100, "{} lines", lines.len());
}
