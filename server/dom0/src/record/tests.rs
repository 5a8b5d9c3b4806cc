use p2v_contract::inventory::{PartitionTable, TableKind};

use super::*;

fn record() -> Record {
    Record::new("e7".parse().unwrap(), MacAddr::new(2, 0, 0, 0, 0, 1), 7)
}

fn verified(boot: &str) -> CopyRecord {
    CopyRecord {
        destination: Destination::Volume {
            vg: "vg".into(),
            lv: "lv".into(),
            uuid: String::new(),
        },
        begun: Timestamp::from_unix(0),
        unguarded: false,
        stage: Stage::Verified {
            journal: None,
            verified: Verified {
                spots: Vec::new(),
                how: Verify::Both,
                at: Timestamp::from_unix(1),
                boot_id: boot.into(),
                unreadable: vec![],
            },
        },
    }
}

#[test]
fn another_disk_under_the_same_address_is_refused() {
    let mut record = record();
    let a = Disk {
        sectors: 10,
        serial: "A".into(),
        ..Disk::default()
    };
    let b = Disk {
        sectors: 10,
        serial: "B".into(),
        ..Disk::default()
    };
    let address = Address::new(7, 0);
    record.use_disk(address, &a).unwrap();
    record.use_disk(address, &a).unwrap();
    let error = record.use_disk(address, &b).unwrap_err().to_string();
    assert!(error.contains("e7.0") && error.contains("`B`"), "{error}");
}

/// Two disks of one size and model that have no serial numbers: by what their partition tables are called.
#[test]
fn disks_without_serial_numbers_that_changed_places_are_refused() {
    let [a, b] = [Address::new(7, 0), Address::new(7, 1)];
    let disk = |address, id: &str| Disk {
        address: Some(address),
        sectors: 10,
        table: Some(PartitionTable {
            kind: TableKind::Mbr,
            id: id.to_owned(),
            partitions: Vec::new(),
        }),
        ..Disk::default()
    };
    let inventory = |ids: [&str; 2]| {
        Some(Inventory {
            disks: vec![disk(a, ids[0]), disk(b, ids[1])],
            ..Inventory::default()
        })
    };
    // `first` was used, `ids` is what there is now: whether they can be used now.
    let usable = |first: &[Address], ids: [&str; 2]| {
        let mut record = record();
        record.inventory = inventory(["0a", "0b"]);
        for address in first {
            let id = if *address == a { "0a" } else { "0b" };
            record.use_disk(*address, &disk(*address, id)).unwrap();
        }
        record.inventory = inventory(ids);
        [a, b].map(|address| {
            let id = ids[usize::from(address.slot)];
            record.clone().use_disk(address, &disk(address, id)).is_ok()
        })
    };
    assert_eq!(usable(&[a, b], ["0a", "0b"]), [true, true]);
    assert_eq!(usable(&[a, b], ["0b", "0a"]), [false, false]);
    // Only one was used: the other is not taken for it, nor it for the other.
    assert_eq!(usable(&[a], ["0b", "0a"]), [false, false]);
    // Partitioned anew, erased, or a mirror of the other: not known to have changed places.
    assert_eq!(usable(&[a, b], ["0c", "0b"]), [true, true]);
    assert_eq!(usable(&[a, b], ["", ""]), [true, true]);
    assert_eq!(usable(&[a, b], ["0a", "0a"]), [true, true]);
    // One of two mirrored disks is left, and comes up as the first.
    let mut record = record();
    record.inventory = inventory(["0a", "0a"]);
    for address in [a, b] {
        record.use_disk(address, &disk(address, "0a")).unwrap();
    }
    record.inventory = inventory(["0a", ""]);
    record.use_disk(a, &disk(a, "0a")).unwrap();
}

#[test]
fn copied_means_every_disk_in_one_boot_and_nothing_since() {
    let mut record = record();
    let disks = [Address::new(7, 0), Address::new(7, 1)];
    for address in disks {
        record.use_disk(address, &Disk::default()).unwrap();
    }
    assert!(record.verified_copies(&[]).is_err());
    record.disks.get_mut(&0).unwrap().copy = Some(verified("one"));
    assert!(record.verified_copies(&disks).is_err());
    record.disks.get_mut(&1).unwrap().copy = Some(verified("two"));
    assert!(
        record
            .verified_copies(&disks)
            .unwrap_err()
            .contains("different boots")
    );
    record.disks.get_mut(&1).unwrap().copy = Some(verified("one"));
    assert_eq!(record.verified_copies(&disks).unwrap(), "one");
    record.forget_verified();
    assert!(record.verified_copies(&disks).is_err());
}

#[test]
fn a_disk_that_did_not_come_up_is_missed() {
    let mut record = record();
    let inventory = |slots: &[u8]| Inventory {
        disks: slots
            .iter()
            .map(|slot| Disk {
                address: Some(Address::new(7, *slot)),
                ..Disk::default()
            })
            .collect(),
        ..Inventory::default()
    };
    let now = Timestamp::from_unix(0);
    record.inventory = Some(inventory(&[0, 1, 2]));
    assert!(record.missing().is_empty());
    // However often the smaller inventory was read.
    for _ in 0..2 {
        record.take_inventory(inventory(&[0, 2]), now);
        assert_eq!(record.missing(), BTreeSet::from([1]));
    }
    record.take_inventory(inventory(&[0, 1, 2]), now);
    assert!(record.missing().is_empty());
}

#[test]
fn what_older_records_say_of_copies_is_read_as_it_was() {
    let file = r#"{"kind": "file", "path": "/x.qcow2", "identity": "inode 7"}"#;
    let file: Destination = serde_json::from_str(file).unwrap();
    assert!(matches!(&file, Destination::File { identity, .. } if identity == "inode 7"));
    // The journal knows its destination by this.
    assert_eq!(
        format!("{file:?}"),
        r#"File { path: "/x.qcow2", identity: "inode 7" }"#
    );
    let image = Destination::Qcow2 {
        path: "/x.qcow2".into(),
        identity: "inode 7".into(),
    };
    let json = serde_json::to_string(&image).unwrap();
    assert!(json.contains(r#""kind":"qcow2""#), "{json}");
    assert_eq!(serde_json::from_str::<Destination>(&json).unwrap(), image);
}

#[test]
fn history_is_bounded() {
    let mut record = record();
    for i in 0..2 * HISTORY_KEPT {
        record.note(Timestamp::from_unix(0), i.to_string());
    }
    assert_eq!(record.history.len(), HISTORY_KEPT);
    assert_eq!(
        record.history.last().unwrap().what,
        (2 * HISTORY_KEPT - 1).to_string()
    );
}

#[test]
fn a_device_is_the_same_by_what_it_is_known_by() {
    let device = |path: &str, identity: &str| Destination::Device {
        path: path.into(),
        identity: identity.into(),
    };
    let one = device("/dev/disk/by-id/wwn-0x600", "naa.600");
    assert!(one.is_same(&device("/dev/disk/by-id/scsi-3600", "naa.600")));
    assert!(!one.is_same(&device("/dev/disk/by-id/wwn-0x600", "naa.601")));
    assert!(!one.is_same(&device("/dev/disk/by-id/wwn-0x600", "")));
    // Nothing but the name, as of a file.
    assert!(device("/dev/nbd0", "").is_same(&device("/dev/nbd0", "")));
    assert!(!device("/dev/nbd0", "").is_same(&device("/dev/nbd1", "")));
}
