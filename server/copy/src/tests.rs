//! The copy against sources and destinations that fail, lie and vanish.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

/// A disk in memory.
#[derive(Clone, Default)]
struct Memory {
    data: Vec<u8>,
    bad: BTreeSet<u64>,
    /// Reads of this sector give other data than its digest says, this many times.
    lies: Option<(u64, u32)>,
    /// Says that everything is zero.
    claims_zero: bool,
    /// How often it was asked for a digest.
    digests: u32,
    /// After this many reads the wire is gone.
    reads_left: Option<u32>,
    read_bytes: u64,
}

impl Memory {
    fn new(sectors: u64) -> Memory {
        let data = (0..sectors * SECTOR)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        Memory {
            data,
            ..Memory::default()
        }
    }

    fn span(&self, lba: u64, bytes: usize) -> Result<&[u8], SourceError> {
        let count = bytes as u64 / SECTOR;
        // One, two or all of them, as it happens: an agent's digest names only the first.
        let bad: Vec<u64> = self
            .bad
            .range(lba..lba + count)
            .copied()
            .take(1 + (lba % 3) as usize)
            .collect();
        if !bad.is_empty() {
            return Err(SourceError::Unreadable { bad });
        }
        Ok(&self.data[(lba * SECTOR) as usize..][..bytes])
    }
}

impl Source for Memory {
    fn sectors(&self) -> u64 {
        self.data.len() as u64 / SECTOR
    }

    fn read(&mut self, lba: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        if let Some(left) = &mut self.reads_left {
            if *left == 0 {
                return Err(SourceError::Failed("no answer".into()));
            }
            *left -= 1;
        }
        buffer.copy_from_slice(self.span(lba, buffer.len())?);
        self.read_bytes += buffer.len() as u64;
        if let Some((liar, times)) = &mut self.lies
            && *times > 0
            && (lba..lba + buffer.len() as u64 / SECTOR).contains(liar)
        {
            *times -= 1;
            buffer[((*liar - lba) * SECTOR) as usize] ^= 1;
        }
        Ok(())
    }

    fn digest(&mut self, lba: u64, sectors: u32) -> Result<Digest, SourceError> {
        self.digests += 1;
        let span = self.span(lba, sectors as usize * SECTOR as usize)?;
        Ok(Digest {
            zero: self.claims_zero || span.iter().all(|b| *b == 0),
            blake3: *blake3::hash(span).as_bytes(),
        })
    }

    fn zeros(&mut self, lba: u64, sectors: u32, bits: u16) -> Result<Vec<bool>, SourceError> {
        let (from, stretch) = ((lba * SECTOR) as usize, sectors as usize * SECTOR as usize);
        let stretches = self.data[from..].chunks(stretch).take(bits.into());
        let zeros = stretches.map(|stretch| stretch.iter().all(|byte| *byte == 0));
        Ok(zeros.collect())
    }
}

/// A destination that loses a write.
struct Forgetful {
    inner: FileSink,
    at: u64,
    hit: Mutex<bool>,
}

impl Sink for Forgetful {
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if (offset..offset + data.len() as u64).contains(&self.at) {
            *self.hit.lock().unwrap() = true;
            let keep = (self.at - offset) as usize;
            return self.inner.write_at(offset, &data[..keep]);
        }
        self.inner.write_at(offset, data)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_back(offset, buffer)
    }
}

const SMALL: u32 = 16;

/// One disk for both sessions.
#[derive(Clone)]
struct Both<'a>(&'a Mutex<Memory>);

impl Source for Both<'_> {
    fn sectors(&self) -> u64 {
        self.0.lock().unwrap().sectors()
    }
    fn read(&mut self, lba: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        self.0.lock().unwrap().read(lba, buffer)
    }
    fn digest(&mut self, lba: u64, sectors: u32) -> Result<Digest, SourceError> {
        self.0.lock().unwrap().digest(lba, sectors)
    }
    fn zeros(&mut self, lba: u64, sectors: u32, bits: u16) -> Result<Vec<bool>, SourceError> {
        self.0.lock().unwrap().zeros(lba, sectors, bits)
    }
}

fn options(fresh: bool) -> Options<'static> {
    Options {
        fresh,
        ..Options::default()
    }
}

fn run_with(
    source: &mut Memory,
    sink: &dyn Sink,
    options: Options<'_>,
    journal: Option<&Mutex<Journal>>,
    stop: &AtomicBool,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Summary, CopyError> {
    let pieces = pieces::cut(source.sectors(), &[(0, source.sectors())], SMALL);
    run_pieces(source, sink, options, journal, &pieces, stop, progress)
}

fn run_pieces(
    source: &mut Memory,
    sink: &dyn Sink,
    options: Options<'_>,
    journal: Option<&Mutex<Journal>>,
    pieces: &[Piece],
    stop: &AtomicBool,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Summary, CopyError> {
    let both = Mutex::new(std::mem::take(source));
    let (mut digests, mut data) = (Both(&both), Both(&both));
    let sources = Sources {
        digests: &mut digests,
        data: &mut data,
    };
    let bad = Mutex::new(BadAreas::forgotten(both.lock().unwrap().sectors()));
    let job = Job {
        pieces,
        journal,
        bad: &bad,
        options,
    };
    let result = run(sources, sink, &job, stop, progress).and_then(|mut summary| {
        let options = Salvage::default().options(512, options.fresh);
        let mut bad = bad.lock().unwrap();
        let tell = &mut |_: &str, _: u64| ();
        summary.take_in(bad.work(&mut Both(&both), sink, &job, &options, stop, tell)?);
        Ok(summary)
    });
    *source = both.into_inner().unwrap();
    result
}

fn file(content: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

fn copy(source: &mut Memory, sink: &dyn Sink, fresh: bool) -> Result<Summary, CopyError> {
    run_with(
        source,
        sink,
        options(fresh),
        None,
        &AtomicBool::new(false),
        &|_| (),
    )
}

fn content(file: &tempfile::NamedTempFile) -> Vec<u8> {
    std::fs::read(file.path()).unwrap()
}

#[test]
fn equal_at_the_end_and_the_tail_is_untouched() {
    // An odd size, a stretch of zeros, and a volume that is larger.
    let mut source = Memory::new(1003);
    source.data[100 * 512..400 * 512].fill(0);
    let file = file(&vec![0xEE; 1024 * 512]);
    let sink = FileSink::open(file.path(), false).unwrap();
    let seen = Mutex::new(Vec::new());
    let summary = run_with(
        &mut source,
        &sink,
        options(true),
        None,
        &AtomicBool::new(false),
        &|p| {
            seen.lock().unwrap().push(p);
        },
    )
    .unwrap();
    let copied = content(&file);
    assert!(copied[..1003 * 512] == source.data[..]);
    assert!(copied[1003 * 512..].iter().all(|b| *b == 0xEE));
    assert_eq!(summary.moved + summary.zeroed, 1003 * 512);
    assert_eq!(summary.moved, source.read_bytes);
    // Ranges of 16 sectors that lie wholly in 100..400.
    assert_eq!(summary.zeroed, (400 / 16 - 112 / 16) * 16 * 512);
    assert!(summary.is_complete());
    let seen = seen.into_inner().unwrap();
    assert!(seen.windows(2).all(|w| w[0].checked <= w[1].checked));
    assert_eq!(seen.last().unwrap().checked, 1003 * 512);
}

#[test]
fn a_changing_disk_is_looked_at_once_and_the_last_pass_finds_what_changed() {
    // Four ranges: zeros, data and zeros, data, and a short one.
    let range = RANGE_SECTORS as usize * 512;
    let mut source = Memory::new(3 * u64::from(RANGE_SECTORS) + 77);
    source.data[..range].fill(0);
    source.data[range + (1 << 20)..2 * range].fill(0);
    // What another volume left there.
    let file = file(&vec![0xEE; source.data.len()]);
    let sink = FileSink::open(file.path(), false).unwrap();
    let pieces = pieces::cut(source.sectors(), &[(0, source.sectors())], RANGE_SECTORS);
    let pass = |source: &mut Memory, fresh, changing| {
        (source.digests, source.read_bytes) = (0, 0);
        let options = Options {
            changing,
            ..options(fresh)
        };
        let stop = AtomicBool::new(false);
        run_pieces(source, &sink, options, None, &pieces, &stop, &|_| ()).unwrap()
    };
    let first = pass(&mut source, true, true);
    assert!(content(&file) == source.data);
    assert_eq!(source.digests, 0);
    assert_eq!(source.read_bytes, (range + (1 << 20) + 77 * 512) as u64);
    assert!(first.zeroed >= range as u64);
    // Data where zeros were, and zeros where data was.
    source.data[5] = 1;
    source.data[2 * range..3 * range].fill(0);
    let last = pass(&mut source, false, false);
    assert!(content(&file) == source.data);
    assert_eq!(last.moved + last.zeroed, 2 * range as u64);
}

#[test]
fn after_an_interruption_only_what_differs_is_moved() {
    let mut source = Memory::new(800);
    let file = file(&vec![0; 800 * 512]);
    let sink = FileSink::open(file.path(), false).unwrap();
    source.reads_left = Some(20);
    let error = copy(&mut source, &sink, true).unwrap_err();
    assert!(
        matches!(&error, CopyError::Source { lba: 320, .. }),
        "{error}"
    );
    assert!(content(&file)[..320 * 512] == source.data[..320 * 512]);
    // The disk changed in one sector of what is there already, and so did the copy elsewhere.
    source.reads_left = None;
    source.read_bytes = 0;
    source.data[5 * 512] ^= 1;
    sink.write_at(64 * 512, &[1; 512]).unwrap();
    let summary = copy(&mut source, &sink, false).unwrap();
    assert_eq!(summary.moved, (480 + 16 + 16) * 512);
    assert_eq!(summary.equal, (320 - 32) * 512);
    assert_eq!(source.read_bytes, summary.moved);
    assert!(content(&file) == source.data);
    assert_eq!(copy(&mut source, &sink, false).unwrap().equal, 800 * 512);
}

#[test]
fn stopped_means_stopped_and_says_how_to_go_on() {
    let mut source = Memory::new(800);
    let file = file(&vec![0; 800 * 512]);
    let sink = FileSink::open(file.path(), false).unwrap();
    let stop = AtomicBool::new(true);
    let error = run_with(&mut source, &sink, options(false), None, &stop, &|_| ()).unwrap_err();
    assert!(matches!(error, CopyError::Interrupted));
    assert!(
        error
            .to_string()
            .contains("Run the same command again to resume")
    );
    assert_eq!(source.read_bytes, 0);
}

#[test]
fn a_destination_that_loses_a_write_is_found_out() {
    for lost in [0, 77 * 512, 799 * 512] {
        let mut source = Memory::new(800);
        let file = file(&vec![0; 800 * 512]);
        let sink = Forgetful {
            inner: FileSink::open(file.path(), false).unwrap(),
            at: lost,
            hit: Mutex::new(false),
        };
        let error = copy(&mut source, &sink, true).unwrap_err();
        assert!(*sink.hit.lock().unwrap());
        match error {
            CopyError::SinkDisagrees { lba, last } => {
                assert!((lba..=last).contains(&(lost / 512)));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_source_that_lies_once_is_asked_again_and_then_refused() {
    let file = file(&vec![0; 800 * 512]);
    let sink = FileSink::open(file.path(), false).unwrap();
    let mut source = Memory {
        lies: Some((100, 1)),
        ..Memory::new(800)
    };
    copy(&mut source, &sink, true).unwrap();
    assert!(content(&file) == source.data);
    for lying in [
        Memory {
            lies: Some((100, u32::MAX)),
            ..Memory::new(800)
        },
        Memory {
            claims_zero: true,
            ..Memory::new(800)
        },
    ] {
        let mut lying = lying;
        let error = copy(&mut lying, &sink, true).unwrap_err();
        assert!(
            matches!(error, CopyError::SourceDisagrees { .. }),
            "{error}"
        );
    }
}

#[test]
fn unreadable_sectors_are_listed_and_the_rest_is_there() {
    let mut source = Memory::new(800);
    source.bad = [0, 17, 18, 19, 40, 799].into();
    let file = file(&vec![0xAA; 800 * 512]);
    let sink = FileSink::open(file.path(), false).unwrap();
    for (fresh, filler) in [(true, 0), (false, 0)] {
        let summary = copy(&mut source, &sink, fresh).unwrap();
        assert_eq!(summary.unreadable, [(0, 1), (17, 3), (40, 1), (799, 1)]);
        assert_eq!(summary.unreadable_sectors(), 6);
        assert!(!summary.is_complete());
        let copied = content(&file);
        for lba in 0..800 {
            let at = lba as usize * 512;
            if source.bad.contains(&lba) {
                assert!(copied[at..at + 512].iter().all(|b| *b == filler), "{lba}");
            } else {
                assert!(copied[at..at + 512] == source.data[at..at + 512], "{lba}");
            }
        }
    }
    // What an earlier run could read is not lost when the sector goes bad.
    source.bad.clear();
    copy(&mut source, &sink, false).unwrap();
    source.bad = [5].into();
    let summary = copy(&mut source, &sink, false).unwrap();
    assert_eq!(summary.unreadable, [(5, 1)]);
    assert!(content(&file) == source.data);
}

#[test]
fn a_short_destination_is_refused_before_a_byte_is_written() {
    let mut source = Memory::new(800);
    let file = file(&vec![7; 799 * 512]);
    let sink = FileSink::open(file.path(), false).unwrap();
    let error = copy(&mut source, &sink, true).unwrap_err();
    assert!(matches!(
        error,
        CopyError::Short {
            have: 409_088,
            need: 409_600
        }
    ));
    assert!(content(&file).iter().all(|b| *b == 7));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_was_there_the_copy_is_equal(
        sectors in 1u64..200,
        spare in 0usize..5,
        zero in proptest::collection::vec(any::<prop::sample::Index>(), 0..100),
        stale in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        bad in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
        fresh in any::<bool>(),
    ) {
        let mut source = Memory::new(sectors);
        for i in zero {
            let at = i.index(sectors as usize) * 512;
            source.data[at..at + 512].fill(0);
        }
        let mut before = source.data.clone();
        for i in stale {
            before[i.index(sectors as usize) * 512] ^= 0xFF;
        }
        before.extend(vec![0xEE; spare * 512]);
        source.bad = bad.into_iter().map(|i| i.index(sectors as usize) as u64).collect();
        let file = file(&before);
        let sink = FileSink::open(file.path(), false).unwrap();
        let summary = copy(&mut source, &sink, fresh).unwrap();
        let after = content(&file);
        for lba in 0..sectors {
            let at = lba as usize * 512;
            let have = &after[at..at + 512];
            if !source.bad.contains(&lba) {
                prop_assert!(have == &source.data[at..at + 512]);
            } else if fresh {
                prop_assert!(have.iter().all(|b| *b == 0));
            } else {
                prop_assert!(have == &before[at..at + 512]);
            }
        }
        prop_assert!(after[sectors as usize * 512..].iter().all(|b| *b == 0xEE));
        prop_assert_eq!(summary.unreadable_sectors(), source.bad.len() as u64);
        let all = summary.moved + summary.equal + summary.zeroed + source.bad.len() as u64 * 512;
        prop_assert_eq!(all, sectors * 512);
    }
}
