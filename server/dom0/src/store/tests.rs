use super::*;
use std::collections::BTreeSet;
use std::sync::Mutex;

fn mac(n: u8) -> MacAddr {
    MacAddr::new(0x52, 0x54, 0, 0, 0, n)
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(1_700_000_000 + seconds)
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

/// As root only: nobody else would be let change the directory, or mount.
#[test]
fn a_state_directory_that_cannot_be_changed_is_used_as_it_is() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    Store::open(dir.path()).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let path = dir.path().to_owned();
    // A thread, and its mounts with it, ends with the closure.
    let opened = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        let bind = MsFlags::MS_BIND;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).unwrap();
        mount(Some(&path), &path, none, bind, none).unwrap();
        let read_only = bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, &path, none, read_only, none).unwrap();
        assert!(let_others_pass(&path).is_err());
        Store::open_for_boot_service(&path).map(drop)
    });
    opened.join().unwrap().unwrap();
}

#[test]
fn shelf_and_name_are_stable_and_first_free() {
    let (dir, store) = store();
    let a = store.menu(mac(1), None, at(0)).unwrap();
    let b = store
        .menu(mac(2), Some(&"web".parse().unwrap()), at(1))
        .unwrap();
    assert_eq!((a.shelf, a.name.as_str()), (1, "e1"));
    assert_eq!((b.shelf, b.name.as_str()), (2, "web"));
    // One that the settings called as the next would be called by its shelf.
    store
        .menu(mac(13), Some(&"e4".parse().unwrap()), at(1))
        .unwrap();
    let next = store.menu(mac(14), None, at(1)).unwrap();
    assert_eq!((next.shelf, next.name.as_str()), (5, "e5"));
    // Another p2v on the same directory, later, with another wish.
    let again = Store::open(dir.path()).unwrap();
    let b2 = again
        .menu(mac(2), Some(&"other".parse().unwrap()), at(500))
        .unwrap();
    assert_eq!((b2.shelf, b2.name.as_str()), (2, "web"));
    assert_ne!(b2.menu_id, b.menu_id);
    fs::remove_file(store.path(&a.name)).unwrap();
    assert_eq!(store.menu(mac(3), None, at(2)).unwrap().shelf, 1);
    assert!(matches!(
        store.menu(mac(4), Some(&"web".parse().unwrap()), at(3)),
        Err(StoreError::NameTaken { .. })
    ));
}

#[test]
fn half_a_record_is_named_and_left_alone() {
    let (_dir, store) = store();
    let facts = store.menu(mac(1), None, at(0)).unwrap();
    let path = store.path(&facts.name);
    let whole = fs::read(&path).unwrap();
    for broken in [&whole[..whole.len() / 2], b"", b"{}", b"{\"version\": 99}"] {
        fs::write(&path, broken).unwrap();
        let error = store.get(&facts.name).unwrap_err().to_string();
        assert!(error.contains("e1.json"), "{error}");
        // Nothing gets a shelf while it could be the lost one's, and nothing is overwritten.
        assert!(store.menu(mac(2), None, at(1)).is_err());
        assert!(store.menu(mac(1), None, at(1)).is_err());
        assert!(store.next_counter(&facts.name).is_err());
        assert_eq!(fs::read(&path).unwrap(), broken);
        let listing = store.list().unwrap();
        assert_eq!((listing.records.len(), listing.unreadable.len()), (0, 1));
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(store.get(&facts.name).unwrap().boot_mac, mac(1));
}

#[test]
fn the_records_of_others_do_not_matter_to_a_known_machine() {
    let (dir, store) = store();
    for n in 1..=4 {
        store.menu(mac(n), None, at(0)).unwrap();
    }
    let path = |n| dir.path().join(format!("machines/e{n}.json"));
    fs::write(path(2), "{").unwrap();
    // Machines 3 and 4 claim one shelf.
    let text = fs::read_to_string(path(4)).unwrap();
    fs::write(path(4), text.replace("\"shelf\": 4", "\"shelf\": 3")).unwrap();
    assert_eq!(store.menu(mac(1), None, at(500)).unwrap().shelf, 1);
    assert!(store.by_mac(mac(1)).unwrap().is_some());
    assert!(store.by_shelf(1).unwrap().is_some());
    for n in [2, 3, 4, 9] {
        assert!(store.menu(mac(n), None, at(500)).is_err(), "{n}");
        assert!(store.by_mac(mac(n)).is_err(), "{n}");
    }
    // Two records of one machine.
    fs::write(
        path(2),
        text.replace("e4", "e2")
            .replace("\"shelf\": 4", "\"shelf\": 2"),
    )
    .unwrap();
    let error = store.by_mac(mac(4)).unwrap_err().to_string();
    assert!(error.contains("e2") && error.contains("e4"), "{error}");
}

#[test]
fn what_was_last_given_is_read_without_writing() {
    let (dir, store) = store();
    assert!(store.last_menu(mac(1)).unwrap().is_none());
    let first = store.menu(mac(1), None, at(0)).unwrap();
    let second = store.menu(mac(1), None, at(500)).unwrap();
    assert_ne!(first.menu_id, second.menu_id);
    let path = dir.path().join("machines/e1.json");
    let before = fs::read(&path).unwrap();
    let last = store.last_menu(mac(1)).unwrap().unwrap();
    assert_eq!((last.shelf, last.menu_id), (1, second.menu_id));
    assert_eq!(fs::read(&path).unwrap(), before);
}

/// Anybody may ask for a machine's menu, and as often as he likes: each write waits for the disk, and so would the machine.
#[test]
fn a_menu_that_is_asked_for_again_within_a_second_writes_nothing() {
    use std::os::unix::fs::MetadataExt;
    let (_dir, store) = store();
    let menu = |seconds| store.menu(mac(1), None, at(seconds)).unwrap();
    let first = menu(0);
    // Each write puts a new file into the old one's place.
    let file = || fs::metadata(store.path(&first.name)).unwrap().ino();
    let before = file();
    assert_eq!(menu(0).menu_id, first.menu_id);
    assert_eq!(file(), before);
    assert_eq!(menu(1).menu_id, first.menu_id);
    assert_ne!(file(), before);
    let record = store.get(&first.name).unwrap();
    assert_eq!(record.menu_fetched, Some(at(1)));
}

#[test]
fn the_counter_is_on_disk_before_it_is_used() {
    let (dir, store) = store();
    let name = store.menu(mac(1), None, at(0)).unwrap().name;
    let first = store.next_counter(&name).unwrap();
    assert_eq!(
        Store::open(dir.path()).unwrap().get(&name).unwrap().counter,
        first
    );
    // A record that was lost or put back begins beyond what it had: it goes by the clock. One whose clock was set back
    // goes on from where it was.
    fs::remove_file(store.path(&name)).unwrap();
    let name = store.menu(mac(1), None, at(0)).unwrap().name;
    assert!(store.next_counter(&name).unwrap() > first);
    let ahead = u64::MAX - 2;
    store
        .update(&name, |record| {
            record.counter = ahead;
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(store.next_counter(&name).unwrap(), ahead + 1);
}

#[test]
fn a_failed_change_writes_nothing_and_both_writers_are_heard() {
    let (_dir, store) = store();
    let name = store.menu(mac(1), None, at(0)).unwrap().name;
    let failed: Result<(), StoreError> = store.update(&name, |r| {
        r.counter = 77;
        Err(StoreError::Full(Shelves::default()))
    });
    assert!(failed.is_err());
    assert_eq!(store.get(&name).unwrap().counter, 0);
    let given = Mutex::new(BTreeSet::new());
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for _ in 0..50 {
                    let counter = store.next_counter(&name).unwrap();
                    given.lock().unwrap().insert(counter);
                }
            });
        }
    });
    assert_eq!(given.lock().unwrap().len(), 200);
}

#[test]
fn a_closed_state_directory_of_roots_is_opened_to_pass_and_no_more() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    for (before, after) in [(0o700, 0o701), (0o750, 0o751), (0o755, 0o755)] {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(before)).unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(mode(dir.path()), after);
        assert_eq!(mode(store.machines()), 0o700);
    }
    // Another user's is his own affair.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(dir.path(), Some(1), Some(1)).unwrap();
    Store::open(dir.path()).unwrap();
    assert_eq!(mode(dir.path()), 0o700);
}

#[test]
fn records_are_for_root_only() {
    let (_dir, store) = store();
    let name = store.menu(mac(1), None, at(0)).unwrap().name;
    let mode = fs::metadata(store.path(&name))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn new_machines_get_shelves_of_the_range_and_known_ones_keep_theirs() {
    let (dir, store) = store();
    store.menu(mac(1), None, at(0)).unwrap();
    let range = serde_json::from_str(r#"{"first": 2048, "last": 2049}"#).unwrap();
    let store = Store::open(dir.path()).unwrap().with_shelves(range);
    let shelf = |card| store.menu(mac(card), None, at(1)).map(|facts| facts.shelf);
    assert_eq!((shelf(2).unwrap(), shelf(1).unwrap()), (2048, 1));
    assert_eq!(shelf(3).unwrap(), 2049);
    let full = shelf(4).unwrap_err().to_string();
    assert!(full.contains("2048 to 2049"), "{full}");
    for wrong in [(0, 5), (6, 5), (1, 4095)] {
        let text = format!(r#"{{"first": {}, "last": {}}}"#, wrong.0, wrong.1);
        assert!(serde_json::from_str::<Shelves>(&text).is_err(), "{text}");
    }
}

#[test]
fn adopting_takes_no_shelf_that_is_taken() {
    let (_dir, store) = store();
    store.menu(mac(1), None, at(0)).unwrap();
    assert_eq!(store.adopt(mac(2), 9, at(1)).unwrap().name.as_str(), "e9");
    assert!(matches!(
        store.adopt(mac(3), 1, at(1)),
        Err(StoreError::SharedShelf(..))
    ));
    assert!(matches!(
        store.adopt(mac(2), 1, at(1)),
        Err(StoreError::SharedShelf(..))
    ));
}

/// The directory may be another user's, and root reads what is there.
#[test]
fn only_a_file_of_ones_own_is_read_as_a_record() {
    use std::os::unix::fs::symlink;
    let (dir, store) = store();
    let name = store.menu(mac(1), None, at(0)).unwrap().name;
    let path = store.path(&name);
    let aside = dir.path().join("e1.json");
    fs::rename(&path, &aside).unwrap();
    let unreadable = || {
        let error = store.get(&name).unwrap_err().to_string();
        assert!(error.contains("machines/e1.json"), "{error}");
        assert_eq!(store.list().unwrap().unreadable.len(), 1);
        fs::remove_file(&path).unwrap();
        error
    };
    symlink(&aside, &path).unwrap();
    unreadable();
    symlink("/dev/zero", &path).unwrap();
    unreadable();
    // Nobody writes into it: a read would wait for ever.
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(unreadable().contains("not a regular file"));
    let endless = fs::File::create(&path).unwrap();
    endless.set_len(file::RECORD_BYTES_MAX + 1).unwrap();
    assert!(unreadable().contains("larger than"));
    let text = fs::read_to_string(&aside).unwrap();
    let nobodys = text.replace(&mac(1).to_string(), "01:00:5e:00:00:01");
    fs::write(&path, nobodys).unwrap();
    assert!(unreadable().contains("no network card"));
    fs::rename(&aside, &path).unwrap();
    let before = store.get(&name).unwrap();
    // And none is written that could not be read.
    let change = |record: &mut Record| {
        record.boot_mac = MacAddr::broadcast();
        Ok::<_, StoreError>(())
    };
    let error = store.update(&name, change).unwrap_err().to_string();
    assert!(error.contains("no network card"), "{error}");
    assert_eq!(store.get(&name).unwrap(), before);
}

#[test]
fn a_name_that_something_was_made_for_is_no_other_machines() {
    let (dir, store) = store();
    let first = store.menu(mac(1), None, at(0)).unwrap();
    store.claim(&store.get(&first.name).unwrap()).unwrap();
    // Its record is lost, or was moved away: what was made for it is still there.
    fs::remove_file(store.path(&first.name)).unwrap();
    let next = store.menu(mac(2), None, at(1)).unwrap();
    assert_eq!((next.shelf, next.name.as_str()), (2, "e2"));
    assert!(matches!(
        store.menu(mac(3), Some(&"e1".parse().unwrap()), at(1)),
        Err(StoreError::NameTaken { owner, .. }) if owner == mac(1)
    ));
    assert!(matches!(
        store.adopt(mac(3), 1, at(1)),
        Err(StoreError::SharedShelf(..))
    ));
    // The machine itself is what it was, whatever the settings call it now.
    let again = store.menu(mac(1), Some(&"web".parse().unwrap()), at(2));
    let again = again.unwrap();
    assert_eq!((again.shelf, again.name.as_str()), (1, "e1"));
    // A claim that cannot be read may be of any name.
    let claim = dir.path().join("names/e1.json");
    let text = fs::read(&claim).unwrap();
    fs::write(&claim, "{").unwrap();
    assert!(store.menu(mac(9), None, at(3)).is_err());
    fs::write(&claim, text).unwrap();
    // Retired, it is free.
    let copies = dir.path().join("copies");
    fs::write(copies.join("e1-disk0.journal"), "x").unwrap();
    fs::write(copies.join("e10-disk0.journal"), "y").unwrap();
    let record = store.get(&first.name).unwrap();
    let kept = store.retire(&record, at(4)).unwrap();
    assert!(kept.join("record.json").exists() && kept.join("e1-disk0.journal").exists());
    assert!(copies.join("e10-disk0.journal").exists());
    assert_eq!(store.menu(mac(9), None, at(5)).unwrap().shelf, 1);
}

/// A record of a machine with two cards and a UUID, one disk of which was copied.
fn copied(store: &Store) -> MachineName {
    let name = store.menu(mac(1), None, at(0)).unwrap().name;
    let copied = serde_json::json!({
        "sectors": 9, "model": "m", "serial": "s",
        "copy": {
            "destination": {"kind": "volume", "vg": "vg0", "lv": "e1-disk0", "uuid": "u"},
            "begun": "2026-11-20T22:16:40Z", "stage": {"begun": {}},
        },
    });
    let change = |record: &mut Record| {
        record.cards = BTreeSet::from([mac(1), mac(2)]);
        record.uuids = BTreeSet::from(["44454c4c-ffff".to_owned()]);
        let disk = serde_json::from_value(copied).unwrap();
        record.disks.insert(0, disk);
        Ok::<_, StoreError>(())
    };
    store.update(&name, change).unwrap();
    name
}

#[test]
fn a_trust_that_fails_leaves_what_was_noted() {
    let (dir, store) = store();
    let name = copied(&store);
    // What is written beside the note, and then put in its place, cannot be made.
    let note = format!(".{name}.json.{}.new", std::process::id());
    fs::create_dir_all(dir.path().join("names").join(note)).unwrap();
    let mut text = fs::read_to_string(store.path(&name)).unwrap();
    text = text.replace("e1-disk0", "other");
    fs::write(store.path(&name), text).unwrap();
    store.trust(&name).unwrap_err();
    assert_eq!(store.copied_by_mac(mac(1)).unwrap(), Some(name));
}

#[test]
fn a_machine_whose_record_does_not_tell_is_known_by_all_its_cards_and_its_uuid() {
    let (dir, store) = store();
    let name = copied(&store);
    let served = Store::open_for_boot_service(dir.path()).unwrap();
    let whole = fs::read(store.path(&name)).unwrap();
    let said = || {
        let listing = served.list().unwrap();
        let by_card = [1, 2, 3].map(|n| listing.names_in_unreadable(mac(n)));
        let by_id = |id: &str| listing.names_id_in_unreadable(&[id.to_owned()]);
        let lost: Vec<String> = listing.lost().map(ToString::to_string).collect();
        (by_card, by_id("44454c4c-ffff"), by_id("other"), lost)
    };
    assert_eq!(said(), ([false; 3], false, false, vec![]));
    // Half of it is there, and not the half with these.
    fs::write(store.path(&name), &whole[..20]).unwrap();
    assert_eq!(said(), ([true, true, false], true, false, vec![]));
    fs::remove_file(store.path(&name)).unwrap();
    assert_eq!(
        said(),
        ([true, true, false], true, false, vec!["e1".to_owned()])
    );
    assert_eq!(served.copied_by_mac(mac(2)).unwrap(), Some(name.clone()));
    assert_eq!(served.copied_by_mac(mac(3)).unwrap(), None);
    // Others get their shelves all the same.
    assert_eq!(store.menu(mac(9), None, at(1)).unwrap().shelf, 2);

    // One whose domain is on its old disk was copied nowhere, and its server is here too.
    fs::write(store.path(&name), &whole).unwrap();
    let runs = |state| {
        let change = |record: &mut Record| {
            record.disks.clear();
            record.state = state;
            record.config = Some(crate::record::WrittenConfig {
                path: "/etc/xen/e1.cfg".into(),
                blake3: String::new(),
                at: at(0),
            });
            Ok::<_, StoreError>(())
        };
        store.update(&name, change).unwrap();
        store.trust(&name).unwrap();
        // A record that is there tells more.
        assert_eq!(store.copied_by_mac(mac(2)).unwrap(), None);
        let record = fs::read(store.path(&name)).unwrap();
        fs::remove_file(store.path(&name)).unwrap();
        let is_held = store.copied_by_mac(mac(2)).unwrap().is_some();
        fs::write(store.path(&name), record).unwrap();
        is_held
    };
    assert!(runs(State::Running));
    assert!(!runs(State::Exported));
}

#[test]
fn notes_that_cannot_be_listed_may_be_of_any_machine() {
    let (dir, store) = store();
    let name = copied(&store);
    let names = dir.path().join("names");
    fs::rename(&names, dir.path().join("away")).unwrap();
    // No directory at all: nothing was made yet.
    assert!(Store::list(&store).is_ok_and(|there| there.hidden.is_empty()));
    fs::write(&names, "").unwrap();
    let served = Store::open_for_boot_service(dir.path()).unwrap();
    let mut listing = served.list().unwrap();
    assert_eq!(listing.records.len(), 1);
    assert_eq!(listing.silent().collect::<Vec<_>>(), [names]);
    // Its own record tells all; another machine may be one whose record is lost.
    assert_eq!(listing.by_mac(mac(1)).unwrap().unwrap().name, name);
    listing.by_mac(mac(9)).unwrap_err();
}
