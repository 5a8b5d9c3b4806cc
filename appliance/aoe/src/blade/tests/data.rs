//! What is read and written: all of it right, whatever the wire and the disk do.

use proptest::prelude::*;

use super::*;

#[test]
fn a_disk_is_found_read_written_and_told_of() {
    let bench = Bench::quiet();
    let found = bench
        .initiator(HOST)
        .discover(Duration::from_millis(100))
        .unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].address, found[0].mac), (E7_0, AGENT));

    let mut session = bench.session();
    assert_eq!(session.sectors(), SECTORS);
    assert_eq!(session.inventory().unwrap().agent, "test");
    let mut data = vec![0; (SECTORS * SECTOR) as usize];
    session.read(0, &mut data).unwrap();
    assert_eq!(data, *bench.disk.data.lock().unwrap());

    session.access(&key(), 1, Access::ReadWrite).unwrap();
    session.write(17, &[0xab; 4096]).unwrap();
    assert!(
        !bench.disk.unflushed.load(Ordering::Relaxed),
        "acknowledged before it was flushed"
    );
    data[17 * 512..17 * 512 + 4096].fill(0xab);
    assert_eq!(data, *bench.disk.data.lock().unwrap());

    let digest = session.digest(0, 1000).unwrap();
    assert_eq!(digest.blake3, *blake3::hash(&data).as_bytes());
    assert!(!digest.zero);
    session.write(100, &[0; 512 * 10]).unwrap();
    assert!(session.digest(100, 10).unwrap().zero);
    assert_eq!(
        session.zero_map(96, 4, 4).unwrap(),
        [false, true, true, false]
    );
    let stats = session.stats().unwrap();
    assert_eq!(stats.get("sectors_written"), Some(18));
    let events = bench.told.0.lock().unwrap().clone();
    assert_eq!(
        events,
        [Event::Access {
            address: E7_0,
            access: Access::ReadWrite,
            by: HOST
        }]
    );
}

#[test]
fn loss_and_duplication_change_nothing() {
    // Every seventh frame is lost, every fifth comes twice.
    let bench = Bench::new(MemoryDisk::new([]), |n| match n {
        n if n % 7 == 3 => Fate::Lost,
        n if n % 5 == 0 => Fate::Doubled,
        _ => Fate::Arrives,
    });
    let mut session = bench.session();
    session.access(&key(), 1, Access::ReadWrite).unwrap();
    let data: Vec<u8> = (0..200 * 512).map(|i| (i % 251) as u8).collect();
    session.write(5, &data).unwrap();
    let mut read = vec![0; data.len()];
    session.read(5, &mut read).unwrap();
    assert_eq!(read, data);
    assert_eq!(
        session.digest(5, 200).unwrap().blake3,
        *blake3::hash(&data).as_bytes()
    );
}

#[test]
fn bad_sectors_are_named_and_their_neighbours_arrive() {
    let bench = Bench::new(MemoryDisk::new([11, 12, 500]), |_| Fate::Arrives);
    let mut session = bench.session();
    let mut data = vec![0xee; (SECTORS * SECTOR) as usize];
    match session.read(0, &mut data) {
        Err(Error::Unreadable { bad, .. }) => assert_eq!(bad, [11, 12, 500]),
        other => panic!("{other:?}"),
    }
    let mut expected = bench.disk.data.lock().unwrap().clone();
    for lba in [11, 12, 500] {
        expected[lba * 512..(lba + 1) * 512].fill(0);
    }
    assert_eq!(data, expected);
    assert!(matches!(
        session.digest(0, 1000),
        Err(Error::Vendor {
            status: Status::DiskError,
            lba: 11,
            ..
        })
    ));
}

#[test]
fn read_once_names_whole_requests_and_asks_for_nothing_twice() {
    let bench = Bench::new(MemoryDisk::new([11, 12, 500]), |_| Fate::Arrives);
    let mut session = bench.session();
    let frame = usize::from(session.sectors_per_frame());
    assert!(frame > 1);
    let mut data = vec![0xee; (SECTORS * SECTOR) as usize];
    let before = session.counters().requests;
    let bad = match session.read_once(0, &mut data) {
        Err(Error::Unreadable { bad, .. }) => bad,
        other => panic!("{other:?}"),
    };
    let requests = (SECTORS as usize).div_ceil(frame) as u64;
    // On a busy machine it is asked once whether it is still the same disk. Two frames or more failed.
    let made = session.counters().requests - before;
    assert!(
        made == requests || made == requests + 1,
        "{made} {requests}"
    );
    let hit: BTreeSet<usize> = [11, 12, 500].into_iter().map(|lba| lba / frame).collect();
    let expected: Vec<u64> = (0..SECTORS)
        .filter(|lba| hit.contains(&(*lba as usize / frame)))
        .collect();
    assert_eq!(bad, expected);
    let mut read = bench.disk.data.lock().unwrap().clone();
    for lba in bad {
        read[lba as usize * 512..][..512].fill(0);
    }
    assert_eq!(data, read);
    // What is good among them is had by asking for it alone.
    let mut sector = [0; 512];
    session.read_once(501, &mut sector).unwrap();
    assert_eq!(sector, bench.disk.data.lock().unwrap()[501 * 512..][..512]);
}

#[derive(Clone, Debug)]
enum Op {
    Read(u64, u64),
    Write(u64, u64, u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let range = (0..SECTORS, 1u64..40).prop_map(|(lba, count)| (lba, count.min(SECTORS - lba)));
    let op = (range, any::<Option<u8>>()).prop_map(|((lba, count), fill)| match fill {
        Some(fill) => Op::Write(lba, count, fill),
        None => Op::Read(lba, count),
    });
    proptest::collection::vec(op, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Random reads and writes over a faulty wire against a plain array.
    #[test]
    fn as_a_plain_disk(ops in ops(), seed in 2u64..11) {
        let bench = Bench::new(MemoryDisk::new([]), move |n| match n {
            n if n % (seed * 7) == 3 => Fate::Lost,
            n if n % seed == 1 => Fate::Doubled,
            _ => Fate::Arrives,
        });
        let mut model = bench.disk.data.lock().unwrap().clone();
        let mut session = bench.session();
        session.access(&key(), 1, Access::ReadWrite).unwrap();
        for (n, op) in ops.into_iter().enumerate() {
            match op {
                Op::Read(lba, count) => {
                    let (from, to) = ((lba * SECTOR) as usize, ((lba + count) * SECTOR) as usize);
                    let mut data = vec![0; to - from];
                    session.read(lba, &mut data).unwrap();
                    prop_assert_eq!(&data, &model[from..to]);
                }
                Op::Write(lba, count, fill) => {
                    let data = vec![fill ^ n as u8; (count * SECTOR) as usize];
                    session.write(lba, &data).unwrap();
                    let from = (lba * SECTOR) as usize;
                    model[from..from + data.len()].copy_from_slice(&data);
                }
            }
        }
        prop_assert!(*bench.disk.data.lock().unwrap() == model);
    }
}
