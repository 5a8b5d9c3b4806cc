//! The target and the initiator against each other on a segment in memory, and the target against
//! frames that no initiator sends.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread::JoinHandle;

use proptest::prelude::*;

use super::*;
use crate::config::STRING_MAX;
use crate::initiator::{Error, Initiator, Session};
use crate::vendor::{control_tag, op};
use crate::wire::memory::{Fate, Segment, Station};

mod order;
mod paths;

const AGENT: MacAddr = MacAddr(2, 0, 0, 0, 0, 7);
const HOST: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
const STRANGER: MacAddr = MacAddr(2, 0, 0, 0, 0, 9);
const E7_0: Address = Address::new(7, 0);
const SECTORS: u64 = 1000;

fn token() -> Token {
    Token::from_bytes([42; 32])
}

/// A disk in memory that knows what was flushed and can have bad sectors.
#[derive(Default)]
struct MemoryDisk {
    data: Mutex<Vec<u8>>,
    bad: BTreeSet<u64>,
    writable: AtomicBool,
    unflushed: AtomicBool,
}

impl MemoryDisk {
    fn new(bad: impl IntoIterator<Item = u64>) -> Arc<MemoryDisk> {
        let data = (0..SECTORS * SECTOR)
            .map(|i| (i / SECTOR * 31 + i) as u8)
            .collect();
        Arc::new(MemoryDisk {
            data: Mutex::new(data),
            bad: bad.into_iter().collect(),
            ..MemoryDisk::default()
        })
    }
}

impl Disk for MemoryDisk {
    fn sectors(&self) -> u64 {
        SECTORS
    }

    fn read(&self, lba: u64, data: &mut [u8]) -> io::Result<()> {
        if self
            .bad
            .range(lba..lba + data.len() as u64 / SECTOR)
            .next()
            .is_some()
        {
            return Err(io::Error::other("bad sector"));
        }
        let at = (lba * SECTOR) as usize;
        data.copy_from_slice(&self.data.lock().unwrap()[at..at + data.len()]);
        Ok(())
    }

    fn write(&self, lba: u64, data: &[u8]) -> io::Result<()> {
        assert!(
            self.writable.load(Ordering::Relaxed),
            "written while read-only"
        );
        let at = (lba * SECTOR) as usize;
        self.data.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
        self.unflushed.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.unflushed.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn set_writable(&self, writable: bool) -> io::Result<()> {
        self.writable.store(writable, Ordering::Relaxed);
        Ok(())
    }
}

#[derive(Default)]
struct Told(Mutex<Vec<Event>>);

impl Events for Told {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

/// A target at work on a segment.
struct Bench {
    segment: Arc<Segment>,
    disk: Arc<MemoryDisk>,
    told: Arc<Told>,
    target: Arc<Target>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Bench {
    fn new(disk: Arc<MemoryDisk>, fate: impl Fn(u64) -> Fate + Send + Sync + 'static) -> Bench {
        Bench::with(disk.clone(), disk, fate)
    }

    /// Serves `served`, behind which is `disk`.
    fn with(
        served: Arc<dyn Disk>,
        disk: Arc<MemoryDisk>,
        fate: impl Fn(u64) -> Fate + Send + Sync + 'static,
    ) -> Bench {
        let segment = Segment::new(fate);
        let told = Arc::new(Told::default());
        let config = TargetConfig {
            exports: vec![Export {
                address: E7_0,
                disk: served,
                identify: Default::default(),
                access: Access::ReadOnly,
                durability: Durability::Stable,
            }],
            hosts: vec![HOST],
            token: Some(token()),
            inventory: br#"{"version":1,"agent":"test","boot_id":"this start"}"#.to_vec(),
            boot_id: "this start".into(),
        };
        let target = Arc::new(Target::new(config, told.clone()).unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let wire: Arc<dyn Wire> = segment.station(AGENT);
        let (served, stopped) = (target.clone(), stop.clone());
        let thread = Some(std::thread::spawn(move || served.serve(&[wire], &stopped)));
        Bench {
            segment,
            disk,
            told,
            target,
            stop,
            thread,
        }
    }

    fn quiet() -> Bench {
        Bench::new(MemoryDisk::new([]), |_| Fate::Arrives)
    }

    fn initiator(&self, mac: MacAddr) -> Initiator {
        let segment = self.segment.clone();
        Initiator::over("memory".into(), move || {
            Ok(segment.station(mac) as Arc<dyn Wire>)
        })
        .unwrap()
    }

    fn session(&self) -> Session {
        self.initiator(HOST).attach(E7_0).unwrap()
    }

    /// Sends one frame from a station and returns the replies to it; a config query behind it, which
    /// is always answered, tells when all have come.
    fn exchange(&self, station: &Station, frame: &[u8]) -> Vec<Vec<u8>> {
        let last = 0x7777_7777;
        let query = Header::request(station.mac(), AGENT, E7_0, command::CONFIG, last)
            .frame(&[&QueryConfig::default().to_bytes()]);
        // The disk's own thread answers reads and writes: let it come to rest between.
        station.send(&[frame.to_vec()]).unwrap();
        let mut replies = Vec::new();
        let mut quiet = false;
        while !quiet {
            station.send(std::slice::from_ref(&query)).unwrap();
            let mut done = false;
            while !done {
                let got = station.receive(Duration::from_secs(10), &mut |bytes| {
                    let tag = frame::parse(bytes).unwrap().0.tag;
                    if tag == last {
                        done = true
                    } else {
                        replies.push(bytes.to_vec())
                    }
                });
                assert_ne!(got.unwrap(), 0, "the target is silent");
            }
            quiet = self.target.pending.load(Ordering::Acquire) == 0
                && self.target.exports.iter().all(|e| e.scan.idle());
        }
        while station
            .receive(Duration::from_millis(20), &mut |bytes| {
                replies.push(bytes.to_vec())
            })
            .unwrap()
            > 0
        {}
        replies.retain(|bytes| frame::parse(bytes).unwrap().0.tag != last);
        replies
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Any frame wakes it.
        let wake = Header::request(HOST, AGENT, E7_0, command::CONFIG, 0).frame(&[]);
        let _ = self
            .segment
            .station(MacAddr(2, 0, 0, 0, 0, 0xee))
            .send(&[wake]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ata(address: Address, registers: Registers, data: &[u8]) -> Vec<u8> {
    Header::request(HOST, AGENT, address, command::ATA, 5).frame(&[&registers.to_bytes(), data])
}

fn registers_of(reply: &[u8]) -> Registers {
    let (header, body) = frame::parse(reply).unwrap();
    assert_eq!((header.error, header.tag, header.address), (None, 5, E7_0));
    Registers::parse(body).unwrap().0
}

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

    session.access(&token(), 1, Access::ReadWrite).unwrap();
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
    session.access(&token(), 1, Access::ReadWrite).unwrap();
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
fn read_only_until_authorised_and_again_after() {
    let bench = Bench::quiet();
    let before = bench.disk.data.lock().unwrap().clone();
    let mut session = bench.session();
    assert!(matches!(
        session.write(0, &[1; 512]),
        Err(Error::Ata {
            error: ata::ERROR_ABORT,
            ..
        })
    ));
    let wrong = Token::from_bytes([1; 32]);
    let refused = session.access(&wrong, 1, Access::ReadWrite);
    assert!(matches!(
        refused,
        Err(Error::Vendor {
            status: Status::NotAuthorised,
            ..
        })
    ));
    assert!(matches!(
        session.write(0, &[1; 512]),
        Err(Error::Ata { .. })
    ));
    assert_eq!(*bench.disk.data.lock().unwrap(), before);

    session.access(&token(), 5, Access::ReadWrite).unwrap();
    session.access(&token(), 6, Access::ReadOnly).unwrap();
    assert!(matches!(
        session.write(0, &[1; 512]),
        Err(Error::Ata { .. })
    ));
    assert!(!bench.disk.writable.load(Ordering::Relaxed));
    assert_eq!(*bench.disk.data.lock().unwrap(), before);
    assert_eq!(bench.target.status()[0].access, Access::ReadOnly);
}

#[test]
fn a_recorded_control_frame_does_not_work_again() {
    let bench = Bench::quiet();
    let station = bench.segment.station(HOST);
    let frame = |argument: u8, counter: u64| {
        let tag = *control_tag(
            &token(),
            "this start",
            HOST,
            E7_0,
            op::ACCESS,
            argument,
            counter,
        )
        .as_bytes();
        let request = Request::Access(Control {
            argument,
            counter,
            tag,
        });
        Header::request(HOST, AGENT, E7_0, command::P2V, 5).frame(&[&request.to_bytes()])
    };
    let status = |reply: &[u8]| Reply::parse(frame::parse(reply).unwrap().1).unwrap();
    let recorded = frame(2, 1);
    let first = bench.exchange(&station, &recorded);
    assert!(matches!(status(&first[0]), Reply::Done { counter: 1, .. }));
    // A retransmission is answered the same and does nothing.
    assert_eq!(bench.exchange(&station, &recorded), first);
    bench.exchange(&station, &frame(1, 2));
    let replayed = bench.exchange(&station, &recorded);
    assert!(matches!(
        status(&replayed[0]),
        Reply::Refused {
            status: Status::Replayed,
            ..
        }
    ));
    assert_eq!(bench.target.status()[0].access, Access::ReadOnly);
    assert_eq!(
        bench
            .told
            .0
            .lock()
            .unwrap()
            .iter()
            .filter(|e| matches!(e, Event::Access { .. }))
            .count(),
        2
    );
    // One altered bit anywhere in what is signed: argument, counter, hash.
    for bit in (0..8).chain(64..48 * 8).step_by(5) {
        let mut altered = frame(2, 3);
        altered[HEADER_LEN + 4 + bit / 8] ^= 1 << (bit % 8);
        bench.exchange(&station, &altered);
        assert_eq!(
            bench.target.status()[0].access,
            Access::ReadOnly,
            "bit {bit}"
        );
    }
}

#[test]
fn the_machine_ends_only_when_nothing_is_writable() {
    let bench = Bench::quiet();
    let mut session = bench.session();
    session.access(&token(), 1, Access::ReadWrite).unwrap();
    let refused = session.finish(&token(), 2, Finish::PowerOff);
    assert!(matches!(
        refused,
        Err(Error::Vendor {
            status: Status::StillWritable,
            ..
        })
    ));
    session.access(&token(), 3, Access::ReadOnly).unwrap();
    session.finish(&token(), 4, Finish::PowerOff).unwrap();
    // The event is told after the reply was sent, and before the next request is looked at.
    session.stats().unwrap();
    let events = bench.told.0.lock().unwrap().clone();
    assert_eq!(
        events
            .iter()
            .filter(|e| matches!(e, Event::Finish { .. }))
            .count(),
        1
    );
}

#[test]
fn a_stranger_sees_that_it_is_there_and_nothing_more() {
    let bench = Bench::quiet();
    let before = bench.disk.data.lock().unwrap().clone();
    assert!(matches!(
        bench.initiator(STRANGER).attach(E7_0),
        Err(Error::NotOnList { own: STRANGER, .. })
    ));
    let station = bench.segment.station(STRANGER);
    for command in [
        command::ATA,
        command::MAC_MASK,
        command::RESERVE,
        command::P2V,
        77,
    ] {
        let frame = Header::request(STRANGER, AGENT, E7_0, command, 5).frame(&[&[0; 32]]);
        assert_eq!(
            bench.exchange(&station, &frame),
            Vec::<Vec<u8>>::new(),
            "command {command}"
        );
    }
    let set = QueryConfig {
        sub: sub::FORCE_SET,
        string: b"mine".to_vec(),
        ..QueryConfig::default()
    };
    let frame =
        Header::request(STRANGER, AGENT, E7_0, command::CONFIG, 5).frame(&[&set.to_bytes()]);
    assert!(bench.exchange(&station, &frame).is_empty());
    assert_eq!(*bench.disk.data.lock().unwrap(), before);
    assert!(bench.target.status()[0].stats.get("strangers").unwrap() >= 5);
}

#[test]
fn a_scan_that_is_asked_for_again_while_it_is_at_work_is_done_once() {
    let bench = Bench::quiet();
    let station = bench.segment.station(HOST);
    let ask = |tag: u32| {
        let request = Request::Digest { lba: 0, sectors: 8 };
        let frame = Header::request(HOST, AGENT, E7_0, command::P2V, tag);
        station
            .send(&[frame.frame(&[&request.to_bytes()])])
            .unwrap();
    };
    let held = bench.disk.data.lock().unwrap();
    ask(5);
    while bench.target.exports[0].scanned.lock().unwrap().is_none() {
        std::thread::yield_now();
    }
    ask(5);
    // Done after the other, if that is done.
    ask(6);
    while !bench.target.exports[0].scan.any(|job| job.reply.tag == 6) {
        std::thread::yield_now();
    }
    drop(held);
    let mut tags = Vec::new();
    while tags.last() != Some(&6) {
        let received = station.receive(Duration::from_secs(10), &mut |bytes| {
            tags.push(frame::parse(bytes).unwrap().0.tag);
        });
        assert_ne!(received.unwrap(), 0, "the target is silent after {tags:?}");
    }
    assert_eq!(tags, [5, 6]);
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
    assert_eq!(session.counters().requests - before, requests);
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

#[test]
fn bad_input_gets_the_protocols_error_and_changes_nothing() {
    let bench = Bench::quiet();
    bench
        .session()
        .access(&token(), 1, Access::ReadWrite)
        .unwrap();
    let before = bench.disk.data.lock().unwrap().clone();
    let station = bench.segment.station(HOST);
    let status = |registers: Registers, data: &[u8]| {
        let replies = bench.exchange(&station, &ata(E7_0, registers, data));
        assert_eq!(replies.len(), 1, "{registers:?}");
        let answer = registers_of(&replies[0]);
        (answer.command, answer.feature)
    };
    // LBA past the end, by one and by much; wrap-around.
    for lba in [SECTORS, SECTORS - 1, (1 << 48) - 1] {
        assert_eq!(
            status(Registers::transfer(false, lba, 2), &[]),
            (0x41, ata::ERROR_ID_NOT_FOUND)
        );
        assert_eq!(
            status(Registers::transfer(true, lba, 2), &[7; 1024]),
            (0x41, ata::ERROR_ID_NOT_FOUND)
        );
    }
    // No sectors; more than a frame holds; less data than sectors.
    assert_eq!(
        status(Registers::transfer(false, 0, 0), &[]),
        (0x41, ata::ERROR_ABORT)
    );
    assert_eq!(
        status(Registers::transfer(false, 0, 255), &[]),
        (0x41, ata::ERROR_ABORT)
    );
    assert_eq!(
        status(Registers::transfer(true, 0, 2), &[7; 1023]),
        (0x41, ata::ERROR_ABORT)
    );
    // A command that does not exist, or that we do not do: SECURITY ERASE, TRIM.
    for command in [0xff, 0xf4, 0x06] {
        assert_eq!(
            status(
                Registers {
                    command,
                    ..Registers::default()
                },
                &[]
            ),
            (0x41, ata::ERROR_ABORT)
        );
    }
    let error = |frame: &[u8]| {
        frame::parse(&bench.exchange(&station, frame)[0])
            .unwrap()
            .0
            .error
    };
    assert_eq!(
        error(&Header::request(HOST, AGENT, E7_0, 9, 5).frame(&[])),
        Some(1)
    );
    let mut version = ata(E7_0, Registers::transfer(true, 0, 1), &[7; 512]);
    version[14] = 0x20;
    let replies = {
        station.send(&[version.clone()]).unwrap();
        bench.exchange(&station, &version)
    };
    assert!(
        replies.iter().all(|r| r[15] == 5 && r[14] & 0x0c == 0x0c),
        "{replies:?}"
    );
    // Truncated anywhere: an error, silence, but never a change.
    let whole = ata(E7_0, Registers::transfer(true, 0, 2), &[7; 1024]);
    for length in (0..36).chain([60, 1000, whole.len() - 1]) {
        bench.exchange(&station, &whole[..length.max(14)]);
    }
    // Writes for "all" are for nobody.
    for address in [Address::ALL, Address::new(7, 0xff), Address::new(0xffff, 0)] {
        assert!(
            bench
                .exchange(
                    &station,
                    &ata(address, Registers::transfer(true, 0, 1), &[7; 512])
                )
                .is_empty()
        );
    }
    // A response is never answered.
    let mut response = whole.clone();
    response[14] |= 8;
    assert!(bench.exchange(&station, &response).is_empty());
    assert_eq!(*bench.disk.data.lock().unwrap(), before);
}

#[test]
fn config_strings_by_all_five_sub_commands() {
    let bench = Bench::quiet();
    let station = bench.segment.station(HOST);
    let ask = |sub: u8, string: &[u8]| {
        let query = QueryConfig {
            sub,
            string: string.to_vec(),
            ..QueryConfig::default()
        };
        let frame =
            Header::request(HOST, AGENT, E7_0, command::CONFIG, 5).frame(&[&query.to_bytes()]);
        let replies = bench.exchange(&station, &frame);
        replies.first().map(|reply| {
            let (header, body) = frame::parse(reply).unwrap();
            header
                .error
                .map_or_else(|| Ok(QueryConfig::parse(body).unwrap().string), Err)
        })
    };
    assert_eq!(ask(sub::READ, b""), Some(Ok(vec![])));
    assert_eq!(
        ask(sub::SET_IF_EMPTY, b"host a"),
        Some(Ok(b"host a".to_vec()))
    );
    assert_eq!(ask(sub::SET_IF_EMPTY, b"host b"), Some(Err(4)));
    assert_eq!(ask(sub::TEST, b"host"), None);
    assert_eq!(ask(sub::TEST, b"host a"), Some(Ok(b"host a".to_vec())));
    assert_eq!(ask(sub::TEST_PREFIX, b"host"), Some(Ok(b"host a".to_vec())));
    assert_eq!(ask(sub::FORCE_SET, b"host b"), Some(Ok(b"host b".to_vec())));
    assert_eq!(ask(7, b""), Some(Err(2)));
    assert_eq!(ask(sub::READ, b"").unwrap().unwrap(), b"host b");
    assert_eq!(
        ask(sub::FORCE_SET, &[1; STRING_MAX]),
        Some(Ok(vec![1; STRING_MAX]))
    );
}

#[test]
fn a_reservation_keeps_the_other_host_out() {
    let bench = Bench::quiet();
    let other = MacAddr(2, 0, 0, 0, 0, 2);
    let mut session = bench.session();
    session.reserve().unwrap();
    let edit = MacMask {
        sub: 1,
        error: 0,
        directives: vec![crate::acl::Directive {
            directive: 1,
            mac: other,
        }],
    };
    let station = bench.segment.station(HOST);
    let frame = Header::request(HOST, AGENT, E7_0, command::MAC_MASK, 5).frame(&[&edit.to_bytes()]);
    let reply = bench.exchange(&station, &frame);
    let list = MacMask::parse(frame::parse(&reply[0]).unwrap().1).unwrap();
    assert_eq!(
        list.directives.iter().map(|d| d.mac).collect::<Vec<_>>(),
        [HOST, other]
    );

    assert!(matches!(
        bench.initiator(other).attach(E7_0),
        Err(Error::Reserved { .. })
    ));
    session.release().unwrap();
    let mut second = bench.initiator(other).attach(E7_0).unwrap();
    second.reserve().unwrap();
    assert!(matches!(session.reserve(), Err(Error::Reserved { .. })));
    assert!(matches!(session.release(), Err(Error::Reserved { .. })));
    assert!(matches!(
        session.read(0, &mut [0; 512]),
        Err(Error::Reserved { .. })
    ));
}

#[test]
fn two_stations_with_one_address_are_refused() {
    let bench = Bench::quiet();
    let wire: Arc<dyn Wire> = bench.segment.station(MacAddr(2, 0, 0, 0, 0, 8));
    let found = conflicts(
        &*wire,
        &[E7_0, Address::new(7, 1)],
        1,
        Duration::from_millis(100),
    )
    .unwrap();
    assert_eq!(
        found,
        [Conflict {
            address: E7_0,
            mac: AGENT
        }]
    );

    let config = TargetConfig {
        exports: vec![Export {
            address: E7_0,
            disk: MemoryDisk::new([]),
            identify: Default::default(),
            access: Access::ReadOnly,
            durability: Durability::Stable,
        }],
        hosts: vec![],
        token: None,
        inventory: vec![],
        boot_id: String::new(),
    };
    let target = Target::new(config, Arc::new(Told::default())).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| target.serve(std::slice::from_ref(&wire), &stop));
        let attached = bench.initiator(HOST).attach(E7_0);
        stop.store(true, Ordering::Release);
        match attached {
            Err(Error::TwoStations { macs, .. }) => assert_eq!(macs.len(), 2),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("attached to one of two"),
        }
    });
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
        session.access(&token(), 1, Access::ReadWrite).unwrap();
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

    /// Any frame whatever from a host on the list, while read-only: no panic, no change.
    #[test]
    fn any_frame_is_survived(
        command in prop_oneof![0u8..4, Just(command::P2V), any::<u8>()],
        body in proptest::collection::vec(any::<u8>(), 0..1400), flags in 0u8..16,
    ) {
        let bench = Bench::quiet();
        let before = bench.disk.data.lock().unwrap().clone();
        let station = bench.segment.station(HOST);
        let mut frame = Header::request(HOST, AGENT, E7_0, command, 5).frame(&[&body]);
        frame[14] = 0x10 | flags;
        bench.exchange(&station, &frame);
        prop_assert!(*bench.disk.data.lock().unwrap() == before);
    }
}
