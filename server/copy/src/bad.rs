//! What of a disk cannot be read: its map file, and the work on it.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use p2v_contract::SECTOR;

use super::journal::{Done, Kind};
use super::map::{Current, Map, Phase, Status};
use super::pool::Buffer;
use super::rescue::{Fill, RescueEvent, RescueOptions, RescueProgress};
use super::{CopyError, Job, Journal, Piece, Sink, Source, Summary, lock, mapfile, pieces, rescue};
use crate::atomic_file;

/// Time between two lines that tell how far the work is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How bad areas are worked on.
#[derive(Clone, Copy, Debug)]
pub struct Salvage {
    /// Further tries for each bad sector.
    pub retries: u32,
    /// What is put where nothing can be read; by itself: zeros in a new destination, and in another what is
    /// there.
    pub fill: Option<Fill>,
    /// Time after which no further try is begun.
    pub time_limit: Option<Duration>,
}

impl Default for Salvage {
    fn default() -> Salvage {
        Salvage {
            retries: 1,
            fill: None,
            time_limit: None,
        }
    }
}

impl Salvage {
    /// The options for a disk whose physical sectors have `physical` bytes, and a destination that was made
    /// for this copy, or not.
    pub fn options(self, physical: u32, fresh: bool) -> RescueOptions {
        RescueOptions {
            physical: (u64::from(physical) / SECTOR).max(1),
            retries: self.retries,
            fill: self.fill.unwrap_or(Fill::suits(fresh)),
            time_limit: self.time_limit,
            ..RescueOptions::default()
        }
    }
}

/// What came of the work on bad areas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Bytes that were read after all.
    pub moved: u64,
    /// Sectors of these of which there was no second reading to compare with.
    pub unchecked: u64,
    /// The time limit ended it.
    pub timed_out: bool,
    /// What could not be read: first sector and number of them.
    pub unreadable: Vec<(u64, u64)>,
}

impl Summary {
    /// Takes in what became of the pieces that could not be read at first.
    pub fn take_in(&mut self, salvaged: Salvaged) {
        self.moved += salvaged.moved;
        self.unchecked += salvaged.unchecked;
        self.unreadable = salvaged.unreadable;
    }
}

/// The map of a disk, and the file in which it is kept.
#[derive(Debug)]
pub struct BadAreas {
    /// None: it is not kept.
    path: Option<PathBuf>,
    comment: String,
    map: Map,
}

impl BadAreas {
    /// The map in the file at `path`, if it is that of the copy that `what` names; else a new one, that is
    /// not written before something is known to be bad.
    pub fn open(path: PathBuf, what: &str, sectors: u64) -> BadAreas {
        let comment = format!(" p2v copy {what}");
        let read = std::fs::read_to_string(&path).ok();
        let known = read.and_then(|text| mapfile::parse(&text, sectors).ok());
        let own = known.filter(|file| file.comments.contains(&comment));
        BadAreas {
            map: own.map_or_else(|| Map::new(sectors, Status::NonTried), |file| file.map),
            path: Some(path),
            comment,
        }
    }

    /// An empty map of a disk of so many sectors that is not kept.
    pub fn forgotten(sectors: u64) -> BadAreas {
        BadAreas {
            path: None,
            comment: String::new(),
            map: Map::new(sectors, Status::NonTried),
        }
    }

    /// Whether a piece was found to have what cannot be read, though all of it may have been read since:
    /// it is left to [`BadAreas::work`].
    pub(super) fn is_known(&self, piece: Piece) -> bool {
        let range = piece.lba..piece.last() + 1;
        self.map
            .within(range)
            .any(|(_, status)| status != Status::NonTried)
    }

    /// Whether something of a piece is missing still.
    fn is_missing(&self, piece: Piece) -> bool {
        let range = piece.lba..piece.last() + 1;
        self.map
            .within(range)
            .any(|(_, status)| status != Status::Finished)
    }

    /// A piece cannot be read.
    pub(super) fn note(&mut self, piece: Piece) -> Result<(), CopyError> {
        if !self.is_known(piece) {
            self.map
                .mark(piece.lba, piece.count.into(), Status::NonTrimmed);
            // There is new work of the first kind.
            self.map.current = Current::default();
            self.save()?;
        }
        Ok(())
    }

    fn save(&self) -> Result<(), CopyError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let text = mapfile::format(std::slice::from_ref(&self.comment), &self.map);
        let written: io::Result<()> = atomic_file::replace(path, text.as_bytes(), 0o600);
        written.map_err(|source| CopyError::Journal {
            path: path.clone(),
            source,
        })
    }

    /// Reads what can be read of the pieces that failed, and takes it into the summary.
    /// `tell` gets a line now and then, and the bytes that are missing.
    ///
    /// # Errors
    /// [`CopyError`]; the map is saved, and a new run goes on from it.
    pub fn work(
        &mut self,
        source: &mut dyn Source,
        sink: &dyn Sink,
        job: &Job<'_>,
        options: &RescueOptions,
        stop: &AtomicBool,
        tell: &mut dyn FnMut(&str, u64),
    ) -> Result<Salvaged, CopyError> {
        let pieces = job.pieces;
        let failed: Vec<(usize, Piece)> = pieces
            .iter()
            .copied()
            .enumerate()
            .filter(|(index, piece)| job.done(*index).is_none() && self.is_known(*piece))
            .collect();
        if failed.is_empty() {
            return Ok(Salvaged::default());
        }
        // All else is there.
        let known = std::mem::replace(&mut self.map, Map::new(source.sectors(), Status::NonTried));
        for piece in pieces {
            self.map
                .mark(piece.lba, piece.count.into(), Status::Finished);
        }
        for (_, piece) in &failed {
            for (range, status) in known.within(piece.lba..piece.last() + 1) {
                let status = match status {
                    Status::NonTried => Status::NonTrimmed,
                    other => other,
                };
                self.map.mark(range.start, range.end - range.start, status);
            }
        }
        self.map.current = known.current;
        let mut map = self.map.clone();
        let mut told = Instant::now();
        let mut unsaved = Ok(());
        let done = rescue::rescue(
            source,
            sink,
            &mut map,
            options,
            stop,
            &mut |event| match event {
                RescueEvent::Save { map, .. } => {
                    self.map = map.clone();
                    let saved = self.save();
                    if unsaved.is_ok() {
                        unsaved = saved;
                    }
                }
                RescueEvent::Step(step) if told.elapsed() >= TELL_EVERY => {
                    told = Instant::now();
                    tell(&words(&step), missing(&step));
                }
                RescueEvent::Step(_) => {}
            },
        );
        // Pieces of which nothing is missing are like the others, also when the work goes on another day.
        if let Some(journal) = job.journal {
            let whole = failed.iter().filter(|(_, piece)| !self.is_missing(*piece));
            note_whole(sink, journal, whole)?;
        }
        let done = done?;
        unsaved?;
        let there = |(range, status): (Range<u64>, Status)| {
            (status != Status::Finished).then(|| (range.start, range.end - range.start))
        };
        let unreadable = merged(failed.iter().flat_map(|(_, piece)| {
            self.map
                .within(piece.lba..piece.last() + 1)
                .filter_map(there)
                .collect::<Vec<_>>()
        }));
        Ok(Salvaged {
            moved: done.sectors * SECTOR,
            unchecked: done.unchecked,
            timed_out: done.timed_out,
            unreadable,
        })
    }
}

/// Stretches that touch, as one.
fn merged(stretches: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    pieces::join(&stretches.collect::<Vec<_>>(), 0)
}

fn note_whole<'a>(
    sink: &dyn Sink,
    journal: &Mutex<Journal>,
    whole: impl Iterator<Item = &'a (usize, Piece)>,
) -> Result<(), CopyError> {
    let mut noted = Vec::new();
    for (index, piece) in whole {
        let mut space = Buffer::new(piece.bytes());
        sink.read_back(piece.offset(), &mut space)
            .map_err(|source| CopyError::Sink {
                doing: "read back",
                lba: piece.lba,
                source,
            })?;
        let done = Done {
            hash: *blake3::hash(&space).as_bytes(),
            kind: Kind::Moved,
        };
        noted.push((*index, done));
    }
    let mut journal = lock(journal);
    let written = journal.note(&noted);
    written.map_err(|source| CopyError::Journal {
        path: journal.path().to_owned(),
        source,
    })
}

fn missing(step: &RescueProgress) -> u64 {
    (open(step) + step.sums.of(Status::Bad)) * SECTOR
}

/// Sectors that are still to be tried.
fn open(step: &RescueProgress) -> u64 {
    step.sums.of(Status::NonTrimmed) + step.sums.of(Status::NonScraped)
}

/// How far the work is, in a line.
fn words(step: &RescueProgress) -> String {
    let what = match step.step.phase {
        Phase::Retrying => "trying bad sectors again",
        Phase::Scraping => "reading sector by sector",
        Phase::Trimming => "finding the edges of bad areas",
        _ => "reading around bad areas",
    };
    format!(
        "{what}: {} sectors cannot be read, {} are still to be tried, {} were read well; the last good read was {} s ago",
        step.sums.of(Status::Bad),
        open(step),
        step.rescued,
        step.since_success.as_secs()
    )
}
