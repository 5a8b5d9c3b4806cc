//! What waits for what: a disk that holds requests back until it is told to let them go.

use std::sync::Condvar;

use p2v_contract::operation::{Reply, op};

use super::*;
use crate::acl::Reserve;
use crate::frame::ErrorCode;

/// What a disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Did {
    Read(u64),
    Write(u64),
    Flush,
    Ahead(u64),
}

#[derive(Default)]
struct Gates {
    held: BTreeSet<Did>,
    /// What has come as far as the gate.
    begun: Vec<Did>,
    ended: Vec<Did>,
}

/// A disk with gates. Every operation is known by its first sector.
struct GatedDisk {
    inner: Arc<MemoryDisk>,
    gates: Mutex<Gates>,
    changed: Condvar,
}

impl GatedDisk {
    fn new() -> Arc<GatedDisk> {
        Arc::new(GatedDisk {
            inner: MemoryDisk::new([]),
            gates: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn hold(&self, what: Did) {
        self.gates.lock().unwrap().held.insert(what);
    }

    fn let_go(&self, what: Did) {
        self.gates.lock().unwrap().held.remove(&what);
        self.changed.notify_all();
    }

    fn wait_until(&self, is_so: impl Fn(&Gates) -> bool) {
        let gates = self.gates.lock().unwrap();
        let wait = self
            .changed
            .wait_timeout_while(gates, Duration::from_secs(10), |gates| !is_so(gates));
        assert!(!wait.unwrap().1.timed_out(), "it never came to that");
    }

    fn pass<T>(&self, what: Did, work: impl FnOnce() -> T) -> T {
        let mut gates = self.gates.lock().unwrap();
        gates.begun.push(what);
        self.changed.notify_all();
        while gates.held.contains(&what) {
            gates = self.changed.wait(gates).unwrap();
        }
        drop(gates);
        let result = work();
        self.gates.lock().unwrap().ended.push(what);
        self.changed.notify_all();
        result
    }
}

impl Disk for GatedDisk {
    fn sectors(&self) -> u64 {
        SECTORS
    }

    fn read(&self, lba: u64, data: &mut [u8]) -> io::Result<()> {
        self.pass(Did::Read(lba), || self.inner.read(lba, data))
    }

    fn write(&self, lba: u64, data: &[u8]) -> io::Result<()> {
        self.pass(Did::Write(lba), || self.inner.write(lba, data))
    }

    fn flush(&self) -> io::Result<()> {
        self.pass(Did::Flush, || self.inner.flush())
    }

    fn will_need(&self, lba: u64, _: usize) {
        self.pass(Did::Ahead(lba), || ());
    }

    fn set_writable(&self, writable: bool) -> io::Result<()> {
        self.inner.set_writable(writable)
    }
}

/// A target with that disk, read-write, and a station to ask it.
struct Asked {
    disk: Arc<GatedDisk>,
    station: Arc<Station>,
    bench: Bench,
}

impl Asked {
    fn new() -> Asked {
        let disk = GatedDisk::new();
        let bench = Bench::with(disk.clone(), disk.inner.clone(), |_| Fate::Arrives);
        bench
            .session()
            .access(&key(), 1, Access::ReadWrite)
            .unwrap();
        Asked {
            station: bench.segment.station(HOST),
            disk,
            bench,
        }
    }

    fn ask(&self, tag: u32, write: bool, lba: u64, count: u8, fill: u8) {
        let registers = Registers::transfer(write, lba, count).to_bytes();
        let data = vec![fill; if write { usize::from(count) * 512 } else { 0 }];
        let header = Header::request(HOST, AGENT, E7_0, command::ATA, tag);
        self.station
            .send(&[header.frame(&[&registers, &data])])
            .unwrap();
    }

    /// The tags of the next answers, in the order they come.
    fn answers(&self, count: usize) -> Vec<u32> {
        let mut tags = Vec::new();
        while tags.len() < count {
            let got = self.station.receive(Duration::from_secs(10), &mut |bytes| {
                let (header, body) = frame::parse(bytes).unwrap();
                assert_eq!(Registers::parse(body).unwrap().0.command, ata::STATUS_READY);
                tags.push(header.tag);
            });
            assert_ne!(got.unwrap(), 0, "no answer");
        }
        tags
    }

    /// That nothing is answered which came before this moment.
    fn silent(&self) {
        let query = Header::request(HOST, AGENT, E7_0, command::CONFIG, 0x777)
            .frame(&[&QueryConfig::default().to_bytes()]);
        self.station.send(&[query]).unwrap();
        let mut tags = Vec::new();
        self.station
            .receive(Duration::from_secs(10), &mut |bytes| {
                tags.push(frame::parse(bytes).unwrap().0.tag);
            })
            .unwrap();
        assert_eq!(tags, [0x777]);
    }
}

#[test]
fn a_slow_request_holds_up_nobody_else() {
    let asked = Asked::new();
    asked.disk.hold(Did::Read(100));
    asked.ask(1, false, 100, 2, 0);
    asked
        .disk
        .wait_until(|gates| gates.begun.contains(&Did::Read(100)));
    asked.ask(2, false, 500, 2, 0);
    asked.ask(3, true, 300, 2, 7);
    let mut others = asked.answers(2);
    others.sort_unstable();
    assert_eq!(others, [2, 3]);
    asked.disk.let_go(Did::Read(100));
    assert_eq!(asked.answers(1), [1]);
}

#[test]
fn a_write_is_answered_after_a_flush_that_began_after_it() {
    let asked = Asked::new();
    asked.disk.hold(Did::Flush);
    asked.ask(1, true, 10, 2, 1);
    asked
        .disk
        .wait_until(|gates| gates.begun.contains(&Did::Flush));
    // This one comes too late for the flush at work.
    asked.ask(2, true, 20, 2, 2);
    asked
        .disk
        .wait_until(|gates| gates.ended.contains(&Did::Write(20)));
    asked.silent();
    asked.disk.let_go(Did::Flush);
    let mut tags = asked.answers(2);
    tags.sort_unstable();
    assert_eq!(tags, [1, 2]);
    let flushes = |gates: &Gates| gates.ended.iter().filter(|d| **d == Did::Flush).count();
    asked.disk.wait_until(|gates| flushes(gates) >= 2);
}

#[test]
fn writes_that_overlap_keep_their_order_and_a_repeated_one_is_done_once() {
    let asked = Asked::new();
    asked.disk.hold(Did::Write(10));
    asked.ask(1, true, 10, 2, 1);
    asked
        .disk
        .wait_until(|gates| gates.begun.contains(&Did::Write(10)));
    // Newer, over a part of it; then the first one again, with a tag of its own as Linux does it.
    asked.ask(2, true, 11, 2, 2);
    asked.ask(3, true, 10, 2, 1);
    // And a read of what is being written.
    asked.ask(4, false, 11, 1, 0);
    asked.silent();
    asked.disk.let_go(Did::Write(10));
    let mut tags = asked.answers(4);
    tags.sort_unstable();
    assert_eq!(tags, [1, 2, 3, 4]);
    let sectors: Vec<u8> = (10..13)
        .map(|lba| asked.disk.inner.data.lock().unwrap()[lba * 512])
        .collect();
    assert_eq!(sectors, [1, 2, 2]);
    let gates = asked.disk.gates.lock().unwrap();
    let writes = gates.ended.iter().filter(|d| **d == Did::Write(10)).count();
    assert_eq!(writes, 1, "{:?}", gates.ended);
}

#[test]
fn a_copy_of_an_old_write_does_not_undo_a_newer_one() {
    let asked = Asked::new();
    for (tag, fill) in [(1, 0xaa), (2, 0xbb)] {
        asked.ask(tag, true, 40, 2, fill);
        assert_eq!(asked.answers(1), [tag]);
    }
    asked.ask(1, true, 40, 2, 0xaa);
    asked.ask(3, false, 40, 2, 0);
    assert_eq!(asked.answers(1), [3], "the copy is passed over in silence");
    assert_eq!(asked.disk.inner.data.lock().unwrap()[40 * 512], 0xbb);
}

#[test]
fn a_disk_in_use_cannot_be_reserved_by_another_host() {
    let asked = Asked::new();
    let reserve = Reserve {
        sub: crate::acl::reserve::FORCE_SET,
        macs: vec![MacAddr(2, 0, 0, 0, 0, 2)],
    };
    let frame =
        Header::request(HOST, AGENT, E7_0, command::RESERVE, 5).frame(&[&reserve.to_bytes()]);
    asked.station.send(&[frame]).unwrap();
    let mut error = None;
    asked
        .station
        .receive(Duration::from_secs(10), &mut |bytes| {
            error = frame::parse(bytes).unwrap().0.error;
        })
        .unwrap();
    assert_eq!(error, Some(ErrorCode::TargetReserved as u8));
    asked.ask(1, false, 0, 2, 0);
    assert_eq!(asked.answers(1), [1]);
}

#[test]
fn a_flood_of_requests_is_bounded_and_what_was_taken_is_answered() {
    let asked = Asked::new();
    let held: Vec<Did> = (0..SECTORS).map(Did::Read).collect();
    held.iter().for_each(|read| asked.disk.hold(*read));
    // More than it takes, and each another request than the others; so that the segment's ports do not
    // lose them, not all at once.
    let all: Vec<(u64, u8)> = (1..=2)
        .flat_map(|count| (0..SECTORS - 1).map(move |lba| (lba, count)))
        .collect();
    for (at, (lba, count)) in all.iter().enumerate() {
        asked.ask(at as u32, false, *lba, *count, 0);
        if at % 32 == 31 {
            asked.silent();
        }
    }
    asked.silent();
    let stats = || asked.bench.target.status()[0].stats;
    let refused = stats().get("queue_full").unwrap();
    assert!(refused >= all.len() as u64 - 1024, "{refused} refused");
    held.iter().for_each(|read| asked.disk.let_go(*read));
    // Not all answers fit the segment's ports; what was done is counted.
    let taken = all.len() as u64 - refused;
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while stats().get("sectors_read").unwrap() < taken {
        assert!(std::time::Instant::now() < until, "{:?}", stats());
        asked.station.receive(Duration::ZERO, &mut |_| {}).unwrap();
    }
    let drain = |_: &[u8]| {};
    while asked
        .station
        .receive(Duration::from_millis(100), &mut drain.clone())
        .unwrap()
        > 0
    {}
    // And there is room again.
    asked.ask(5000, false, 0, 1, 0);
    assert_eq!(asked.answers(1), [5000]);
}

#[test]
fn nothing_is_fetched_ahead_beside_a_write_to_it_that_starts_in_the_same_round() {
    let asked = Asked::new();
    // A reader that goes on and on, one frame short of being followed.
    for lba in (0..126).step_by(2) {
        asked.ask(lba as u32, false, lba, 2, 0);
        asked.answers(1);
    }
    // A change of access holds back what comes after it, so that it all starts at once. The session has
    // the station's address, so its answers come here too.
    let mut session = asked.bench.session();
    let wait_for = |pending: usize| {
        while asked.bench.target.pending.load(Ordering::Acquire) < pending {
            std::thread::yield_now();
        }
    };
    asked.disk.hold(Did::Write(10));
    asked.ask(1000, true, 10, 2, 1);
    wait_for(1);
    std::thread::scope(|scope| {
        let change = scope.spawn(|| session.access(&key(), 2, Access::ReadWrite));
        wait_for(2);
        asked.ask(1001, false, 126, 2, 0);
        asked.ask(1002, true, 500, 2, 7);
        wait_for(4);
        asked.disk.let_go(Did::Write(10));
        change.join().unwrap().unwrap();
    });
    let mut missing = BTreeSet::from([1000, 1001, 1002]);
    while !missing.is_empty() {
        let got = asked
            .station
            .receive(Duration::from_secs(10), &mut |bytes| {
                missing.remove(&frame::parse(bytes).unwrap().0.tag);
            });
        assert_ne!(got.unwrap(), 0, "no answer to {missing:?}");
    }
    let ahead = |gates: &Gates| gates.begun.iter().any(|did| matches!(did, Did::Ahead(_)));
    let begun = ahead(&asked.disk.gates.lock().unwrap());
    assert!(!begun, "fetched beside a write");
    // With nothing in the way it is.
    asked.ask(1003, false, 128, 2, 0);
    asked.answers(1);
    asked.disk.wait_until(ahead);
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

/// The first scan of it panics.
struct FailsOnce {
    inner: Arc<MemoryDisk>,
    failed: AtomicBool,
}

impl Disk for FailsOnce {
    fn sectors(&self) -> u64 {
        SECTORS
    }

    fn read(&self, lba: u64, data: &mut [u8]) -> io::Result<()> {
        assert!(self.failed.swap(true, Ordering::Relaxed), "as it should");
        self.inner.read(lba, data)
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_writable(&self, _: bool) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn after_a_scan_that_panicked_the_next_ones_are_answered() {
    let inner = MemoryDisk::new([]);
    let disk = Arc::new(FailsOnce {
        inner: inner.clone(),
        failed: AtomicBool::new(false),
    });
    let bench = Bench::with(disk, inner, |_| Fate::Arrives);
    let station = bench.segment.station(HOST);
    let ask = |request: Request| {
        let header = Header::request(HOST, AGENT, E7_0, command::P2V, 5);
        let frame = header.frame(&[&request.to_bytes()]);
        station.send(&[frame]).unwrap();
        let mut reply = None;
        // The panic prints a backtrace, which takes long where much else runs.
        let received = station.receive(Duration::from_secs(60), &mut |bytes| {
            let (_, body) = frame::parse(bytes).unwrap();
            reply = Some(Reply::parse(body).unwrap());
        });
        assert_ne!(received.unwrap(), 0, "the target is silent");
        reply.unwrap()
    };
    let digest = Request::Digest { lba: 8, sectors: 8 };
    let refused = Reply::Refused {
        operation: op::DIGEST,
        status: Status::DiskError,
        lba: 8,
    };
    assert_eq!(ask(digest.clone()), refused);
    assert!(matches!(ask(digest), Reply::Digest { lba: 8, .. }));
}
