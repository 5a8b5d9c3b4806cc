//! The target and the initiator against each other on a segment in memory: the bench for tests by subject.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread::JoinHandle;

use p2v_contract::address::SECTOR;
use p2v_contract::inventory::Inventory;
use p2v_contract::key::SecretKey;
use p2v_contract::operation::Request;

use super::*;
use crate::ata::{self, Registers};
use crate::config::{QueryConfig, sub};
use crate::frame::{self, Header, command};
use crate::initiator::{Error, Initiator, Session};
use crate::wire::memory::{Fate, Segment, Station};

mod control;
mod data;
mod hosts;
mod input;
mod order;
mod paths;

const AGENT: MacAddr = MacAddr(2, 0, 0, 0, 0, 7);
const HOST: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
const STRANGER: MacAddr = MacAddr(2, 0, 0, 0, 0, 9);
const E7_0: Address = Address::new(7, 0);
const SECTORS: u64 = 1000;

fn key() -> SecretKey {
    SecretKey::from_bytes(&[42; 32])
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

/// The document of an agent of this start.
fn document(boot_id: &str) -> Vec<u8> {
    let inventory = Inventory {
        agent: "test".into(),
        boot_id: boot_id.into(),
        ..Inventory::default()
    };
    inventory.to_document(&key()).unwrap()
}

/// One export, read-only, for one host.
fn config(disk: Arc<dyn Disk>) -> TargetConfig {
    TargetConfig {
        exports: vec![Export {
            address: E7_0,
            disk,
            identify: Default::default(),
            access: Access::ReadOnly,
            durability: Durability::Stable,
        }],
        hosts: vec![HOST],
        keys: vec![key().public()],
        inventory: document("this start"),
        boot_id: "this start".into(),
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
        Bench::of(config(served), disk, fate)
    }

    fn of(
        config: TargetConfig,
        disk: Arc<MemoryDisk>,
        fate: impl Fn(u64) -> Fate + Send + Sync + 'static,
    ) -> Bench {
        let segment = Segment::new(fate);
        let told = Arc::new(Told::default());
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
