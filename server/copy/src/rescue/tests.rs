//! Rescues from disks that are bad in many ways.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use proptest::prelude::*;

use super::*;
use crate::map::Phase;
use crate::{Digest, FileSink, mapfile};

/// A disk in memory.
#[derive(Clone, Default)]
struct Disk {
    data: Vec<u8>,
    bad: BTreeSet<u64>,
    /// Sectors that read well after this many failures.
    shaky: BTreeMap<u64, u32>,
    /// Sectors of a request, as over AoE; 0: the whole piece is one.
    request: u64,
    /// Reads of this sector give other data than its digest says, this many times.
    lies: Option<(u64, u32)>,
    /// After this many reads the disk is gone: every read fails.
    dies_after: Option<u32>,
    /// After this many reads the wire is gone.
    cut_after: Option<u32>,
    /// Pages of 8 sectors that the agent has in memory for digests.
    cached: BTreeSet<u64>,
    /// Attempts at each sector that could not be read at that time.
    failed: BTreeMap<u64, u32>,
    /// Attempts at each sector.
    tried: BTreeMap<u64, u32>,
    reads: u32,
}

impl Disk {
    fn new(sectors: u64) -> Disk {
        let data = (0..sectors * SECTOR)
            .map(|i| ((i.wrapping_mul(2_654_435_761) >> 13) | 1) as u8)
            .collect();
        Disk {
            data,
            ..Disk::default()
        }
    }

    fn sector(&self, lba: u64) -> &[u8] {
        &self.data[(lba * SECTOR) as usize..((lba + 1) * SECTOR) as usize]
    }

    /// One request to the medium.
    fn request(&mut self, lba: u64, count: u64) -> bool {
        let dead = self.dies_after.is_some_and(|after| self.reads > after);
        let mut good = !dead;
        for lba in lba..lba + count {
            *self.tried.entry(lba).or_default() += 1;
            let shaky = self.shaky.get_mut(&lba).filter(|left| **left > 0);
            let fails = self.bad.contains(&lba) || shaky.is_some();
            if let Some(left) = shaky {
                *left -= 1;
            }
            if fails {
                *self.failed.entry(lba).or_default() += 1;
                good = false;
            }
        }
        good
    }
}

impl Source for Disk {
    fn sectors(&self) -> u64 {
        self.data.len() as u64 / SECTOR
    }

    fn read(&mut self, _: u64, _: &mut [u8]) -> Result<(), SourceError> {
        panic!("a rescue reads once");
    }

    fn read_once(&mut self, lba: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        self.reads += 1;
        if self.cut_after.is_some_and(|after| self.reads > after) {
            return Err(SourceError::Failed("no answer".into()));
        }
        let end = lba + buffer.len() as u64 / SECTOR;
        let size = if self.request == 0 { end } else { self.request };
        let mut bad = Vec::new();
        for from in (lba..end).step_by(size as usize) {
            let to = end.min(from + size);
            let part =
                &mut buffer[((from - lba) * SECTOR) as usize..((to - lba) * SECTOR) as usize];
            if self.request(from, to - from) {
                part.copy_from_slice(&self.data[(from * SECTOR) as usize..(to * SECTOR) as usize]);
            } else {
                bad.extend(from..to);
                part.fill(0xBB);
            }
        }
        if let Some((liar, times)) = &mut self.lies
            && *times > 0
            && (lba..end).contains(liar)
        {
            *times -= 1;
            buffer[((*liar - lba) * SECTOR) as usize] ^= 2;
        }
        if bad.is_empty() {
            return Ok(());
        }
        Err(SourceError::Unreadable { bad })
    }

    fn digest(&mut self, lba: u64, sectors: u32) -> Result<Digest, SourceError> {
        if self.cut_after.is_some_and(|after| self.reads > after) {
            return Err(SourceError::Failed("no answer".into()));
        }
        let count = u64::from(sectors);
        // Through the agent's page cache, in whole pages.
        for page in lba / 8..(lba + count).div_ceil(8) {
            let size = 8.min(self.sectors() - page * 8);
            if !self.cached.contains(&page) && !self.request(page * 8, size) {
                return Err(SourceError::Unreadable { bad: vec![lba] });
            }
            self.cached.insert(page);
        }
        let data = &self.data[(lba * SECTOR) as usize..((lba + count) * SECTOR) as usize];
        Ok(Digest {
            zero: false,
            blake3: *blake3::hash(data).as_bytes(),
        })
    }
}

fn destination(sectors: u64) -> (tempfile::NamedTempFile, FileSink) {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    std::fs::write(file.path(), vec![0xEE; (sectors * SECTOR) as usize]).unwrap();
    let sink = FileSink::open(file.path(), false).unwrap();
    (file, sink)
}

fn options(fill: Fill, retries: u32) -> RescueOptions {
    RescueOptions {
        fill,
        retries,
        // Disks in memory are not slow, and machines that test may be.
        slow: Duration::from_secs(1000),
        ..RescueOptions::default()
    }
}

fn run(
    disk: &mut Disk,
    sink: &dyn Sink,
    map: &mut Map,
    options: &RescueOptions,
) -> Result<Rescued, CopyError> {
    let stop = AtomicBool::new(false);
    rescue(disk, sink, map, options, &stop, &mut |_| ())
}

/// Every `+` has the disk's data, everything else what the fill says.
fn assert_truthful(disk: &Disk, map: &Map, file: &tempfile::NamedTempFile, fill: Fill) {
    let copy = std::fs::read(file.path()).unwrap();
    for (range, status) in map.areas() {
        for lba in range {
            let have = &copy[(lba * SECTOR) as usize..((lba + 1) * SECTOR) as usize];
            match (status, fill.sector(lba)) {
                (Status::Finished, _) => assert!(have == disk.sector(lba), "sector {lba}"),
                (Status::NonTried, _) | (_, None) => {
                    assert!(have.iter().all(|b| *b == 0xEE), "sector {lba}");
                }
                (_, Some(filled)) => assert!(have == filled, "sector {lba}"),
            }
        }
    }
}

#[test]
fn a_bad_sector_costs_three_reads_and_its_neighbours_at_most_four() {
    for request in [0, 2, 17] {
        let mut disk = Disk::new(3 * 8192);
        disk.bad = BTreeSet::from([9000, 12_001]);
        disk.request = request;
        let (file, sink) = destination(disk.sectors());
        let mut map = Map::new(disk.sectors(), Status::NonTried);
        map.mark(8192, 8192, Status::NonTrimmed);
        let done = run(&mut disk, &sink, &mut map, &options(Fill::Zeros, 1)).unwrap();
        assert_eq!(done.sectors, 8190);
        assert_eq!(done.unchecked, 0);
        assert!(!done.timed_out);
        assert_eq!(
            map.areas_of(Status::Bad).flatten().collect::<Vec<_>>(),
            [9000, 12_001]
        );
        assert_eq!(map.current.phase, Phase::Finished);
        assert_eq!(map.sums().of(Status::NonTried), 2 * 8192);
        assert_eq!(disk.failed, BTreeMap::from([(9000, 3), (12_001, 3)]));
        assert!(
            disk.tried.values().all(|times| *times <= 4),
            "{:?}",
            disk.tried
        );
        assert!(disk.tried.keys().all(|lba| (8192..16_384).contains(lba)));
        assert_truthful(&disk, &map, &file, Fill::Zeros);
    }
}

#[test]
fn what_reads_at_the_third_try_is_had_by_retries_only() {
    let mut disk = Disk::new(8192);
    disk.shaky = BTreeMap::from([(100, 2), (5000, 3), (5001, 4)]);
    let (file, sink) = destination(8192);
    let mut map = Map::new(8192, Status::NonTrimmed);
    run(&mut disk, &sink, &mut map, &options(Fill::Keep, 0)).unwrap();
    assert_eq!(map.missing(), [(100, 1), (5000, 2)]);
    assert_truthful(&disk, &map, &file, Fill::Keep);
    // Asked again, the bad ones are tried again, as often as is said.
    let done = run(&mut disk, &sink, &mut map, &options(Fill::Keep, 2)).unwrap();
    assert_eq!(map.missing(), [(5001, 1)]);
    assert_eq!((done.sectors, done.unchecked), (2, 2));
    let done = run(&mut disk, &sink, &mut map, &options(Fill::Keep, 1)).unwrap();
    assert_eq!((done.sectors, map.missing().len()), (1, 0));
    assert_truthful(&disk, &map, &file, Fill::Keep);
}

#[test]
fn slow_pieces_are_jumped_ahead_of_and_kept() {
    let mut disk = Disk::new(8192);
    let (file, sink) = destination(8192);
    let mut map = Map::new(8192, Status::NonTrimmed);
    let slow = RescueOptions {
        slow: Duration::ZERO,
        ..options(Fill::Keep, 1)
    };
    let mut order = Vec::new();
    let stop = AtomicBool::new(false);
    rescue(&mut disk, &sink, &mut map, &slow, &stop, &mut |event| {
        if let RescueEvent::Step(progress) = event {
            order.push(progress.step.lba / 128);
        }
    })
    .unwrap();
    assert_eq!(order[..5], [0, 2, 5, 10, 19]);
    assert_eq!(order.len(), 64);
    assert!(map.missing().is_empty());
    assert_truthful(&disk, &map, &file, Fill::Keep);
}

#[test]
fn a_disk_that_dies_does_not_turn_the_map_bad() {
    let mut disk = Disk::new(4 * 8192);
    disk.bad = (9000..9100).collect();
    disk.dies_after = Some(80);
    let (file, sink) = destination(disk.sectors());
    let mut map = Map::new(disk.sectors(), Status::NonTrimmed);
    let error = run(&mut disk, &sink, &mut map, &options(Fill::Zeros, 1)).unwrap_err();
    assert!(
        error.to_string().contains("Switch the old machine off"),
        "{error}"
    );
    // What it gave is kept, and nothing that only failed since is called bad.
    assert!(map.sums().of(Status::Finished) > 70 * 128);
    assert_eq!(map.sums().of(Status::Bad), 0);
    assert!(map.sums().of(Status::NonScraped) <= 256);
    assert_truthful(&disk, &map, &file, Fill::Zeros);
    disk.dies_after = None;
    run(&mut disk, &sink, &mut map, &options(Fill::Zeros, 1)).unwrap();
    assert_eq!(map.missing(), [(9000, 100)]);
    assert_truthful(&disk, &map, &file, Fill::Zeros);
}

#[test]
fn a_disk_that_reads_nothing_at_all_ends() {
    let mut disk = Disk::new(300);
    disk.bad = (0..300).collect();
    let (_file, sink) = destination(300);
    let mut map = Map::new(300, Status::NonTrimmed);
    run(&mut disk, &sink, &mut map, &options(Fill::Zeros, 1)).unwrap();
    assert_eq!(map.sums().of(Status::Bad), 300);
    assert!(disk.failed.values().all(|times| *times == 3));
}

#[test]
fn what_a_retry_won_stays_when_the_wire_is_cut() {
    let mut disk = Disk::new(64);
    disk.shaky = BTreeMap::from([(20, 1)]);
    disk.bad = BTreeSet::from([10]);
    let (file, sink) = destination(64);
    let mut map = Map::new(64, Status::Finished);
    map.mark(10, 1, Status::Bad);
    map.mark(20, 1, Status::Bad);
    sink.write_at(0, &disk.data[..10 * 512]).unwrap();
    sink.write_at(11 * 512, &disk.data[11 * 512..]).unwrap();
    disk.shaky.clear();
    disk.cut_after = Some(1);
    let error = run(&mut disk, &sink, &mut map, &options(Fill::Zeros, 1)).unwrap_err();
    assert!(
        matches!(error, CopyError::Source { lba: 10, .. }),
        "{error}"
    );
    assert_eq!(map.missing(), [(10, 1)]);
    assert_truthful(&disk, &map, &file, Fill::Zeros);
}

#[test]
fn a_source_that_lies_once_is_asked_again_and_then_refused() {
    // In the middle of a stretch, checked by digest, and beside a bad sector, by a second reading.
    // (Who lies beside a bad sector in the same way each time is not found out.)
    for (liar, lies) in [(1000, &[(1, false), (9, true)][..]), (501, &[(1, false)])] {
        for &(times, refused) in lies {
            let mut disk = Disk::new(2048);
            disk.bad = BTreeSet::from([500]);
            disk.lies = Some((liar, times));
            let (file, sink) = destination(2048);
            let mut map = Map::new(2048, Status::NonTrimmed);
            let result = run(&mut disk, &sink, &mut map, &options(Fill::Keep, 1));
            if refused {
                let error = result.unwrap_err();
                assert!(
                    matches!(error, CopyError::SourceDisagrees { .. }),
                    "{error}"
                );
                assert_eq!(map.status(liar), Some(Status::NonTrimmed));
            } else {
                result.unwrap();
                assert_eq!(map.missing(), [(500, 1)]);
                assert_truthful(&disk, &map, &file, Fill::Keep);
            }
        }
    }
}

/// A destination that does not keep what is written at a place.
struct Forgetful<'a>(&'a FileSink, u64);

impl Sink for Forgetful<'_> {
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if (offset..offset + data.len() as u64).contains(&self.1) {
            return Ok(());
        }
        self.0.write_at(offset, data)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_back(offset, buffer)
    }
}

#[test]
fn a_destination_that_loses_a_write_is_found_out() {
    for fill in [Fill::Keep, Fill::Zeros, Fill::Pattern] {
        let mut disk = Disk::new(2048);
        let (_file, sink) = destination(2048);
        let mut map = Map::new(2048, Status::NonTrimmed);
        let sink = Forgetful(&sink, 700 * SECTOR);
        let error = run(&mut disk, &sink, &mut map, &options(fill, 1)).unwrap_err();
        assert!(matches!(error, CopyError::SinkDisagrees { .. }), "{error}");
        assert_eq!(map.status(700), Some(Status::NonTrimmed));
    }
}

#[test]
fn a_short_destination_another_disks_map_and_a_time_limit() {
    let mut disk = Disk::new(100);
    let (_file, sink) = destination(99);
    let mut map = Map::new(100, Status::NonTrimmed);
    let result = run(&mut disk, &sink, &mut map, &options(Fill::Zeros, 1));
    assert!(matches!(result, Err(CopyError::Short { .. })));
    let mut other = Map::new(99, Status::NonTrimmed);
    let result = run(&mut disk, &sink, &mut other, &options(Fill::Zeros, 1));
    assert!(matches!(result, Err(CopyError::Source { .. })));
    assert!(disk.tried.is_empty());
    let (file, sink) = destination(100);
    let limit = RescueOptions {
        time_limit: Some(Duration::ZERO),
        ..options(Fill::Pattern, 1)
    };
    assert!(run(&mut disk, &sink, &mut map, &limit).unwrap().timed_out);
    assert_eq!(map.missing(), [(0, 100)]);
    assert_ne!(map.current.phase, Phase::Finished);
    assert_truthful(&disk, &map, &file, Fill::Pattern);
    assert!(
        std::fs::read_to_string(file.path())
            .unwrap()
            .contains("sector LBA 99\n")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn everything_readable_is_rescued_and_interruptions_change_nothing(
        sectors in 1u64..2500,
        left in proptest::collection::vec((0u64..2500, 1u64..1500), 1..4),
        single in proptest::collection::vec(0u64..2500, 0..6),
        dead in proptest::collection::vec((0u64..2500, 1u64..300), 0..3),
        request in prop::sample::select(vec![0, 1, 2, 8, 17]),
        physical in prop::sample::select(vec![1, 8]),
        retries in 1u32..3,
        fill in prop::sample::select(vec![Fill::Keep, Fill::Zeros, Fill::Pattern]),
        stops in proptest::collection::vec(1u32..200, 0..6),
    ) {
        let mut disk = Disk::new(sectors);
        disk.request = request;
        let (file, sink) = destination(sectors);
        let mut map = Map::new(sectors, Status::NonTried);
        for (lba, count) in left {
            map.mark(lba, count, Status::NonTrimmed);
        }
        let start = map.clone();
        disk.bad = dead.into_iter().flat_map(|(l, c)| l..l + c).chain(single)
            .filter(|l| start.status(*l) == Some(Status::NonTrimmed)).collect();
        let options = RescueOptions { physical, save_every: Duration::ZERO, ..options(fill, retries) };
        for after in &stops {
            // Stopped, or the wire is cut; only the map file is left.
            let stop = AtomicBool::new(false);
            let steps = Cell::new(0);
            disk.cut_after = (after % 3 == 0).then_some(disk.reads + after);
            let mut saved = String::new();
            let result = rescue(&mut disk, &sink, &mut map, &options, &stop, &mut |event| match event {
                RescueEvent::Step(_) => {
                    steps.set(steps.get() + 1);
                    stop.store(steps.get() >= *after, Ordering::Relaxed);
                }
                RescueEvent::Save { map, .. } => saved = mapfile::format(&[], map),
            });
            disk.cut_after = None;
            let fine = matches!(
                result,
                Ok(_) | Err(CopyError::Interrupted | CopyError::Source { .. })
            );
            prop_assert!(fine, "{:?}", result);
            let read = mapfile::parse(&saved, sectors).unwrap().map;
            prop_assert_eq!(&read, &map);
            map = read;
            assert_truthful(&disk, &map, &file, fill);
        }
        run(&mut disk, &sink, &mut map, &options).unwrap();
        let found: BTreeSet<u64> = map.areas_of(Status::Bad).flatten().collect();
        prop_assert_eq!(&found, &disk.bad);
        prop_assert_eq!(map.sums().open(), start.sums().of(Status::NonTried));
        assert_truthful(&disk, &map, &file, fill);
        prop_assert!(disk.tried.keys().all(|l| start.status(*l) == Some(Status::NonTrimmed)
            || l / 8 * 8 < sectors && (l / 8 * 8..l / 8 * 8 + 8).any(|l| start.status(l) == Some(Status::NonTrimmed))));
        if stops.is_empty() {
            let alone = if physical == 1 { 2 } else { 9 };
            for (lba, times) in &disk.failed {
                prop_assert!(*times <= alone + retries, "sector {} failed {} times", lba, times);
            }
            for (lba, times) in disk.tried.iter().filter(|(l, _)| !disk.bad.contains(l)) {
                let probes = disk.reads / PROBE_AFTER as u32;
                prop_assert!(*times <= 4 + probes, "sector {} {} times", lba, times);
            }
        }
    }
}
