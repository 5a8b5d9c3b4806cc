//! Several ways to one target, and a target that falls silent.

use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::ata::Identify;
use crate::initiator::Silence;

const AGENT_B: MacAddr = MacAddr(2, 0, 0, 0, 1, 7);
const HOST_B: MacAddr = MacAddr(2, 0, 0, 0, 1, 1);

/// A segment whose cable can be pulled.
struct Cable {
    segment: Arc<Segment>,
    cut: Arc<AtomicBool>,
    carried: Arc<AtomicUsize>,
}

impl Cable {
    fn new() -> Cable {
        let (cut, carried) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (cut_, carried_) = (cut.clone(), carried.clone());
        let segment = Segment::new(move |_| {
            if cut_.load(Ordering::Relaxed) {
                return Fate::Lost;
            }
            carried_.fetch_add(1, Ordering::Relaxed);
            Fate::Arrives
        });
        Cable {
            segment,
            cut,
            carried,
        }
    }

    fn initiator(&self, mac: MacAddr) -> Initiator {
        let segment = self.segment.clone();
        Initiator::over("cable".into(), move || {
            Ok(segment.station(mac) as Arc<dyn Wire>)
        })
        .unwrap()
    }
}

/// A machine at work on cables.
struct Machine {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
    wake: Arc<Station>,
    mac: MacAddr,
}

impl Machine {
    fn start(
        disk: &Arc<MemoryDisk>,
        serial: &str,
        boot_id: &str,
        hosts: &[MacAddr],
        on: &[(&Cable, MacAddr)],
    ) -> Machine {
        let config = TargetConfig {
            exports: vec![Export {
                address: E7_0,
                disk: disk.clone(),
                identify: Identify {
                    serial: serial.into(),
                    firmware: boot_id.into(),
                    ..Identify::default()
                },
                access: Access::ReadWrite,
                durability: Durability::Stable,
            }],
            hosts: hosts.to_vec(),
            keys: vec![key().public()],
            inventory: document(boot_id),
            boot_id: boot_id.into(),
        };
        let target = Target::new(config, Arc::new(Told::default())).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let wires: Vec<Arc<dyn Wire>> = on
            .iter()
            .map(|(cable, mac)| cable.segment.station(*mac) as Arc<dyn Wire>)
            .collect();
        let stopped = stop.clone();
        let thread = Some(std::thread::spawn(move || target.serve(&wires, &stopped)));
        Machine {
            stop,
            thread,
            wake: on[0].0.segment.station(MacAddr(2, 0, 0, 0, 0, 0xee)),
            mac: on[0].1,
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let wake = Header::request(HOST, self.mac, E7_0, command::CONFIG, 0).frame(&[]);
        let _ = self.wake.send(&[wake]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn whole(session: &mut Session) -> Result<Vec<u8>, Error> {
    let mut data = vec![0; (SECTORS * SECTOR) as usize];
    session.read(0, &mut data).map(|()| data)
}

#[test]
fn two_ways_to_one_machine_are_both_used_and_one_may_break() {
    let (a, b) = (Cable::new(), Cable::new());
    let disk = MemoryDisk::new([]);
    let ways = [(&a, AGENT), (&b, AGENT_B)];
    let _machine = Machine::start(&disk, "S", "boot", &[HOST, HOST_B], &ways);
    let initiator = a.initiator(HOST).and(b.initiator(HOST_B));
    let mut session = initiator.attach(E7_0).unwrap();
    assert_eq!(session.paths(), 2);
    let expected = disk.data.lock().unwrap().clone();
    let carried = [&a, &b].map(|c| c.carried.load(Ordering::Relaxed));
    assert!(whole(&mut session).unwrap() == expected);
    for (cable, before) in [&a, &b].iter().zip(carried) {
        let carried = cable.carried.load(Ordering::Relaxed) - before;
        assert!(carried > 200, "{carried} of 1000 frames");
    }

    for (cable, other) in [(&a, &b), (&b, &a)] {
        cable.cut.store(true, Ordering::Relaxed);
        assert!(whole(&mut session).unwrap() == expected);
        // A write may have to wait for its own way; it does not wait for ever, and the next one takes
        // the way that is left.
        session.set_patience(Duration::from_millis(300));
        let written = (0..2).find(|_| session.write(3, &[9; 1024]).is_ok());
        assert!(written.is_some());
        session.write(3, &expected[3 * 512..5 * 512]).unwrap();
        session.set_patience(Duration::from_secs(60));
        cable.cut.store(false, Ordering::Relaxed);
        assert!(!other.cut.load(Ordering::Relaxed));
        // It is used again, though the other has room enough.
        let before = cable.carried.load(Ordering::Relaxed);
        let until = Instant::now() + Duration::from_secs(20);
        while cable.carried.load(Ordering::Relaxed) < before + 200 {
            assert!(
                Instant::now() < until,
                "the way that works again is not used"
            );
            assert!(whole(&mut session).unwrap() == expected);
        }
    }
}

#[test]
fn two_machines_on_two_ways_are_not_taken_for_one() {
    let (a, b) = (Cable::new(), Cable::new());
    let disk = MemoryDisk::new([]);
    let _first = Machine::start(&disk, "S", "one", &[HOST], &[(&a, AGENT)]);
    let _second = Machine::start(&disk, "S", "two", &[HOST_B], &[(&b, AGENT_B)]);
    let both = a.initiator(HOST).and(b.initiator(HOST_B));
    assert!(matches!(both.attach(E7_0), Err(Error::TwoStations { .. })));
}

#[test]
fn one_station_heard_twice_is_used_twice_and_a_way_that_is_not_on_the_list_is_left_out() {
    let a = Cable::new();
    let disk = MemoryDisk::new([]);
    let _machine = Machine::start(&disk, "S", "boot", &[HOST, HOST_B], &[(&a, AGENT)]);
    let session = |second: MacAddr| {
        let both = a.initiator(HOST).and(a.initiator(second));
        both.attach(E7_0).unwrap()
    };
    assert_eq!(session(HOST_B).paths(), 2);
    let mut one = session(STRANGER);
    assert_eq!(one.paths(), 1);
    assert!(whole(&mut one).unwrap() == *disk.data.lock().unwrap());
}

#[test]
fn a_disk_that_takes_long_is_waited_for_while_its_machine_answers() {
    let cable = Cable::new();
    let disk = MemoryDisk::new([]);
    let machine = Machine::start(&disk, "S", "one", &[HOST], &[(&cable, AGENT)]);
    let mut session = cable.initiator(HOST).attach(E7_0).unwrap();
    session.set_patience(Duration::from_secs(3));
    session.wait_for_disk(Duration::from_secs(60));
    let (tell, told) = std::sync::mpsc::channel();
    session.listen_for_silence(move |silence| tell.send(silence).unwrap());
    std::thread::scope(|scope| {
        let held = disk.data.lock().unwrap();
        let expected = held.clone();
        let reader = scope.spawn(|| whole(&mut session));
        // It is told of later than the patience with a silent machine ends.
        let first = told.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(
            matches!(first, Silence::OfDisk(after) if after > Duration::from_secs(3)),
            "{first:?}"
        );
        drop(held);
        assert!(reader.join().unwrap().unwrap() == expected);
    });
    // One that says nothing at all is given up as before.
    drop(machine);
    assert!(matches!(whole(&mut session), Err(Error::Silent { .. })));
}

/// It may be starting, with its network card not read yet.
#[test]
fn a_silent_machine_is_sent_one_request_now_and_then() {
    let cable = Cable::new();
    let disk = MemoryDisk::new([]);
    let _machine = Machine::start(&disk, "S", "one", &[HOST], &[(&cable, AGENT)]);
    let mut session = cable.initiator(HOST).attach(E7_0).unwrap();
    (0..3).for_each(|_| drop(whole(&mut session).unwrap()));
    session.set_patience(Duration::from_secs(5));
    let before = session.counters();
    cable.cut.store(true, Ordering::Relaxed);
    assert!(matches!(whole(&mut session), Err(Error::Silent { .. })));
    let now = session.counters();
    let (sent, again) = (
        now.requests - before.requests,
        now.repeated - before.repeated,
    );
    assert!(sent > 4, "{sent} in flight");
    assert!(
        (1..=3 * sent + 6).contains(&again),
        "{sent} requests, {again} repeated"
    );
    // It answers again: so do all that were in flight then.
    cable.cut.store(false, Ordering::Relaxed);
    assert!(whole(&mut session).unwrap() == *disk.data.lock().unwrap());
}

#[test]
fn a_machine_that_restarts_is_waited_for_and_one_with_other_disks_is_noticed() {
    let cable = Cable::new();
    let disk = MemoryDisk::new([]);
    let start = |serial: &str, boot_id: &str| {
        Machine::start(&disk, serial, boot_id, &[HOST], &[(&cable, AGENT)])
    };
    let machine = start("S", "one");
    let mut session = cable.initiator(HOST).attach(E7_0).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = told.clone();
    session.listen_for_silence(move |silence| heard.lock().unwrap().push(silence));
    drop(machine);
    let expected = disk.data.lock().unwrap().clone();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| whole(&mut session));
        // It comes back when the reader has told of the silence.
        while told.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        assert!(matches!(told.lock().unwrap()[0], Silence::Lasts(_)));
        let _machine = start("S", "two");
        assert!(reader.join().unwrap().unwrap() == expected);
    });
    assert!(matches!(
        told.lock().unwrap().last(),
        Some(Silence::Ended(_))
    ));

    // Nobody at all: what is known is said.
    session.set_patience(Duration::from_millis(100));
    let error = whole(&mut session).unwrap_err();
    assert!(
        matches!(&error, Error::Silent { now: Some(macs), .. } if macs.is_empty()),
        "{error}"
    );
    assert!(error.to_string().contains("nobody answers"), "{error}");

    // Another disk at the same address.
    session.set_patience(Duration::from_secs(60));
    let _machine = start("T", "three");
    for _ in 0..2 {
        let error = whole(&mut session).unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error}");
    }
}

/// A station whose interface can go, and that counts how often it is told to pass over data.
struct Removable {
    station: Arc<Station>,
    gone: Arc<AtomicBool>,
    told: Arc<AtomicUsize>,
}

impl Wire for Removable {
    fn mac(&self) -> MacAddr {
        self.station.mac()
    }

    fn mtu(&self) -> usize {
        self.station.mtu()
    }

    fn receive(&self, timeout: Duration, each: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        if self.gone.swap(false, Ordering::Relaxed) {
            return Err(io::Error::other("the interface is no more"));
        }
        self.station.receive(timeout, each)
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.station.readiness()
    }

    fn pass_over_data(&self) {
        self.told.fetch_add(1, Ordering::Relaxed);
    }

    fn send_parts(&self, frames: &[[&[u8]; 2]]) -> io::Result<()> {
        self.station.send_parts(frames)
    }
}

#[test]
fn a_session_without_data_stays_so_on_an_interface_that_is_opened_anew() {
    let bench = Bench::quiet();
    let (gone, told) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let (segment, gone_, told_) = (bench.segment.clone(), gone.clone(), told.clone());
    let open = move || {
        Ok(Arc::new(Removable {
            station: segment.station(HOST),
            gone: gone_.clone(),
            told: told_.clone(),
        }) as Arc<dyn Wire>)
    };
    let initiator = Initiator::over("cable".into(), open).unwrap();
    let mut session = initiator.attach(E7_0).unwrap();
    session.without_data();
    assert_eq!(told.load(Ordering::Relaxed), 1);
    gone.store(true, Ordering::Relaxed);
    session.digest(0, 8).unwrap();
    assert_eq!(told.load(Ordering::Relaxed), 2, "opened anew");
    assert!(matches!(
        session.read(0, &mut [0; 512]),
        Err(Error::Nonsense { .. })
    ));
}
