//! The copy: every piece of the old disk compared by digest, moved if it differs, and read back.
//!
//! Four steps overlap, each on a thread of its own: the agent's digest of a piece is asked for; the
//! piece is compared with the destination, or read; it is written; what was written is synced, read back
//! from the medium, and must have the agent's digest. Pieces are handled in the order of the disk, so
//! that one with heads streams. Memory is bounded by a fixed number of buffers.
//!
//! What is done is noted in a [`Journal`], so that a copy that was killed resumes: what is
//! noted is read back from the destination, and the old disk is not asked for it. What is not noted is
//! compared: a run after the old system ran on moves only what differs.
//!
//! Pieces that cannot be read are passed over, and [`BadAreas`] comes back to them at the end.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, MutexGuard, PoisonError};

use p2v_contract::SECTOR;
use serde::{Deserialize, Serialize};

mod ahead;
pub mod allowance;
pub mod atomic_file;
pub mod bad;
#[cfg(feature = "boundary")]
pub mod boundary;
pub mod compare;
mod fetch;
pub mod journal;
pub mod limit;
pub mod map;
pub mod mapfile;
pub mod pieces;
pub mod pool;
pub mod rescue;
mod session;
pub mod sink;
mod write;

pub use allowance::Allowance;
pub use bad::{BadAreas, Salvage};
pub use journal::Journal;
pub use limit::Limit;
pub use pieces::Piece;
pub use sink::{FileSink, Sink};

/// Sectors of one range: 4 MiB. Large enough for the disk to stream, small enough that a change
/// of one sector does not move much.
pub const RANGE_SECTORS: u32 = 8192;
/// Memory that a copy uses unless told otherwise: 128 MiB.
pub const MEMORY: usize = 128 << 20;
/// Digests known ahead of the piece that is read: so many pieces lie in the old machine's memory,
/// which may be as little as 128 MB.
const AHEAD: usize = 4;
/// Pieces that are zeros, or need no digest, between the first step and the second.
const QUEUE: usize = 64;
/// Buffers without which the steps would wait for each other.
const BUFFERS_MIN: usize = 4;
/// Bytes that a copy needs beside its buffers: two sessions with what the kernel hands them at once,
/// stacks, the program itself.
const BESIDE: usize = 8 << 20;
/// Bytes of memory without which a disk is not copied: the fewest buffers of the largest pieces, and what is
/// beside them.
pub const MEMORY_MIN: usize = BESIDE + (BUFFERS_MIN + 1) * RANGE_SECTORS as usize * 512;

/// Digest of a range, as the agent computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Every byte is zero.
    pub zero: bool,
    /// BLAKE3 of the range.
    pub blake3: [u8; 32],
}

/// Why a range could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The disk cannot read these sectors; there may be more of them in the range.
    #[error("sectors that cannot be read: {bad:?}")]
    Unreadable {
        /// LBAs, ascending; at least one.
        bad: Vec<u64>,
    },
    /// Anything else: the wire, the agent.
    #[error("{0}")]
    Failed(String),
}

/// The disk that is copied.
pub trait Source {
    /// Its size in 512-byte sectors.
    fn sectors(&self) -> u64;

    /// Fills `buffer` (whole sectors) from `lba` on.
    ///
    /// # Errors
    /// [`SourceError::Unreadable`] names bad sectors.
    fn read(&mut self, lba: u64, buffer: &mut [u8]) -> Result<(), SourceError>;

    /// As [`Source::read`], but without asking again for what failed: for a disk that takes long
    /// over each sector that it cannot read.
    ///
    /// # Errors
    /// [`SourceError::Unreadable`] names all sectors of the requests that failed; of those some may
    /// be readable. The rest of `buffer` is right. A source that does not know which requests failed
    /// names all sectors.
    fn read_once(&mut self, lba: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        self.read(lba, buffer).map_err(|error| match error {
            SourceError::Unreadable { .. } => SourceError::Unreadable {
                bad: (lba..lba + buffer.len() as u64 / SECTOR).collect(),
            },
            other => other,
        })
    }

    /// The digest of `sectors` sectors from `lba` on.
    ///
    /// # Errors
    /// As [`Source::read`].
    fn digest(&mut self, lba: u64, sectors: u32) -> Result<Digest, SourceError>;

    /// Which of `bits` stretches of `sectors` sectors each, from `lba` on, read as zeros. A source that
    /// cannot tell says that none does.
    ///
    /// # Errors
    /// As [`Source::read`].
    fn zeros(&mut self, lba: u64, sectors: u32, bits: u16) -> Result<Vec<bool>, SourceError> {
        let _ = (lba, sectors);
        Ok(vec![false; bits.into()])
    }
}

/// Progress of one copy, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the disk dealt with so far (moved, zeroed or found equal) **and** checked.
    pub checked: u64,
    /// Bytes of the disk in all.
    pub total: u64,
    /// Of `checked`: bytes that came over the wire.
    pub moved: u64,
    /// Of `checked`: bytes the destination already had.
    pub equal: u64,
    /// Of `checked`: bytes written as zeros without crossing the wire.
    pub zeroed: u64,
    /// Of `checked`: bytes that an earlier run had copied and checked.
    pub before: u64,
    /// Bytes that cannot be read so far; not in `checked`.
    pub unreadable: u64,
}

/// What a copy did. Bytes count the disk's own; each byte is in one of the four, or unreadable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes that came over the wire.
    pub moved: u64,
    /// Bytes the destination had already.
    pub equal: u64,
    /// Bytes that are zero, written without crossing the wire.
    pub zeroed: u64,
    /// Bytes that an earlier run had copied and checked.
    pub before: u64,
    /// Sectors that a failing disk gave once, with no second reading to compare with.
    pub unchecked: u64,
    /// What could not be read: first LBA and count, ascending.
    pub unreadable: Vec<(u64, u64)>,
}

impl Summary {
    /// Whether the destination holds every byte that was to be copied.
    pub fn is_complete(&self) -> bool {
        self.unreadable.is_empty()
    }

    /// What could not be read, in words.
    pub fn unreadable_words(&self) -> String {
        let bytes = self.unreadable_sectors() * SECTOR;
        let places = self.unreadable.len();
        format!("{} KiB in {places} places", bytes / 1024)
    }

    /// Number of sectors that could not be read.
    pub fn unreadable_sectors(&self) -> u64 {
        self.unreadable.iter().map(|(_, count)| count).sum()
    }
}

/// Why a copy ended early. What was written and checked stays; a new run goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The operator stopped it.
    #[error("interrupted. Run the same command again to resume; finished ranges are skipped")]
    Interrupted,
    /// The source failed.
    #[error(
        "reading the old disk at sector {lba} failed: {why}. Run the same command again to resume"
    )]
    Source {
        /// Where.
        lba: u64,
        /// What was said.
        why: String,
    },
    /// The digest and the data of a range do not agree, twice.
    #[error(
        "the old machine's digest of sectors {lba} to {last} is not the digest of the data it sent: the disk \
         is being written, or the machine's memory or network damages data. Stop whatever uses the disk, test \
         its memory, and run the copy again"
    )]
    SourceDisagrees {
        /// First sector of the range.
        lba: u64,
        /// Last sector of the range.
        last: u64,
    },
    /// The destination is too small.
    #[error(
        "the destination has {have} bytes and the disk needs {need}: make it larger or name another"
    )]
    Short {
        /// Size of the destination.
        have: u64,
        /// Size of the disk.
        need: u64,
    },
    /// The destination failed.
    #[error(
        "cannot {doing} the destination at sector {lba}: {source}{}",
        way_on(source)
    )]
    Sink {
        /// What was being done.
        doing: &'static str,
        /// Where.
        lba: u64,
        /// What the system said.
        source: io::Error,
    },
    /// What is done cannot be noted.
    #[error("cannot write the copy's journal {}: {source}. Run the same command again to resume", path.display())]
    Journal {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The destination does not hold what was written to it.
    #[error(
        "the destination does not hold what was written to it: sectors {lba} to {last} read back differently \
         after they were synced. Do not use this copy; check the destination's disk and its cable, and copy \
         to another one"
    )]
    SinkDisagrees {
        /// First sector of the range.
        lba: u64,
        /// Last sector of the range.
        last: u64,
    },
}

/// What an operator does about a destination that failed.
fn way_on(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ". Make room there, then run the same command again to resume"
        }
        _ => {
            ". Check the destination's disk (see `dmesg`), then run the same command again to resume"
        }
    }
}

/// What is checked of what was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// What the destination holds has the digest that the old machine computed.
    Both,
    /// What arrived has that digest.
    Source,
    /// The destination holds what was written to it.
    Written,
    /// Nothing.
    None,
}

impl Verify {
    /// The old machine's digest counts.
    pub fn source(self) -> bool {
        matches!(self, Verify::Both | Verify::Source)
    }

    /// What was written is read back.
    pub fn written(self) -> bool {
        matches!(self, Verify::Both | Verify::Written)
    }
}

impl fmt::Display for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verify::Both => "both",
            Verify::Source => "source",
            Verify::Written => "written",
            Verify::None => "none",
        })
    }
}

/// How to copy.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The destination was made for this run: nothing in it is worth comparing first or keeping.
    pub fresh: bool,
    /// The destination is known to read as zeros where nothing was written yet.
    pub blank: bool,
    /// What is checked.
    pub verify: Verify,
    /// The disk is written meanwhile: what its digest says may be out of date a moment later, and what
    /// comes of it is no copy to start from.
    pub changing: bool,
    /// Bytes of memory for pieces on their way.
    pub memory: usize,
    /// Limit on what crosses the wire.
    pub limit: Option<&'a Limit>,
    /// What may still be written to the thin pool that the destination is in.
    pub allowance: Option<&'a Allowance>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options {
            fresh: false,
            blank: false,
            verify: Verify::Both,
            changing: false,
            memory: MEMORY,
            limit: None,
            allowance: None,
        }
    }
}

/// A source for digests and one for data, so that neither waits for the other: two sessions with one
/// disk.
pub struct Sources<'a> {
    /// Is asked for digests.
    pub digests: &'a mut (dyn Source + Send),
    /// Is read.
    pub data: &'a mut (dyn Source + Send),
}

/// What is to be copied.
pub struct Job<'a> {
    /// The pieces, ascending.
    pub pieces: &'a [Piece],
    /// What is done of them already.
    pub journal: Option<&'a Mutex<Journal>>,
    /// What of them cannot be read.
    pub bad: &'a Mutex<BadAreas>,
    /// How.
    pub options: Options<'a>,
}

impl Job<'_> {
    /// What an earlier run noted of this piece, which it copied and checked.
    fn done(&self, index: usize) -> Option<journal::Done> {
        self.journal.and_then(|journal| lock(journal).done(index))
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies the pieces of a job from a source to `sink`, until `stop` is set. `progress` is called from
/// other threads.
///
/// Pieces with unreadable sectors do not end the copy: they are in the summary and among the job's bad
/// areas, and [`BadAreas::work`] comes back to them. A fresh destination gets zeros there.
///
/// # Errors
/// [`CopyError`]; everything checked until then is in place.
pub fn run(
    sources: Sources<'_>,
    sink: &dyn Sink,
    job: &Job<'_>,
    stop: &AtomicBool,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Summary, CopyError> {
    let need = sources.data.sectors() * SECTOR;
    if sink.bytes() < need {
        return Err(CopyError::Short {
            have: sink.bytes(),
            need,
        });
    }
    let all: Vec<usize> = (0..job.pieces.len()).collect();
    let start = Progress {
        total: job.pieces.iter().map(|p| p.bytes() as u64).sum(),
        ..Progress::default()
    };
    let mut sources = sources;
    let first = Pass {
        sink,
        job,
        pieces: &all,
        careful: false,
        stop,
        progress,
    };
    let mut ended = first.run(&mut sources, start)?;
    if !ended.doubtful.is_empty() {
        // What arrived is not what the old machine read: asked once more, and compared on arrival.
        let again = std::mem::take(&mut ended.doubtful);
        let second = Pass {
            pieces: &again,
            careful: true,
            ..first
        };
        let more = second.run(&mut sources, ended.done)?;
        ended.done = more.done;
        ended.unreadable.extend(more.unreadable);
        ended.unreadable.sort_by_key(|piece| piece.lba);
    }
    let unreadable = ended.unreadable.iter();
    Ok(Summary {
        moved: ended.done.moved,
        equal: ended.done.equal,
        zeroed: ended.done.zeroed,
        before: ended.done.before,
        unchecked: 0,
        unreadable: unreadable.map(|p| (p.lba, p.count.into())).collect(),
    })
}

/// Some pieces, once from the first to the last.
#[derive(Clone, Copy)]
struct Pass<'a> {
    sink: &'a dyn Sink,
    job: &'a Job<'a>,
    /// Which of the job's pieces, by their index.
    pieces: &'a [usize],
    /// What arrives is compared with its digest at once, and asked for again if it differs.
    careful: bool,
    stop: &'a AtomicBool,
    progress: &'a (dyn Fn(Progress) + Sync),
}

struct Ended {
    done: Progress,
    unreadable: Vec<Piece>,
    /// Pieces that did not arrive as their digest says, by index.
    doubtful: Vec<usize>,
}

impl Pass<'_> {
    fn run(&self, sources: &mut Sources<'_>, start: Progress) -> Result<Ended, CopyError> {
        let pieces = self.pieces.iter().map(|index| self.job.pieces[*index]);
        let largest = pieces.map(Piece::bytes).max().unwrap_or(0);
        // One more is the checker's own.
        let count = (self.job.options.memory.saturating_sub(BESIDE) / largest.max(1))
            .saturating_sub(1)
            .clamp(BUFFERS_MIN, self.pieces.len().max(BUFFERS_MIN));
        // Half of the buffers are with the checker at the most, so that the others go on.
        let batch = (write::BATCH / largest.max(1)).min(count / 2).max(1);
        let (pool, giver) = pool::Pool::new(count, largest);
        let (digests, found) = sync_channel(QUEUE);
        let ahead = ahead::Ahead::new(AHEAD);
        let ahead = &ahead;
        let (fetched, to_write) = sync_channel(count);
        let (written, to_check) = sync_channel(count);
        let Sources {
            digests: asked,
            data,
        } = sources;
        let (asked, read, wrote, checked) = std::thread::scope(|scope| {
            let checker = write::Checker::new(self, largest, batch, giver, start);
            let checker = scope.spawn(move || checker.run(&to_check));
            let writer = scope.spawn(move || write::write_all(self, &to_write, &written));
            let fetcher = fetch::Fetcher::new(*data, self, pool);
            let fetcher = scope.spawn(move || fetcher.run(&found, ahead, &fetched));
            let asked = fetch::ask_all(*asked, self, ahead, &digests);
            drop(digests);
            (asked, joined(fetcher), joined(writer), joined(checker))
        });
        // The last step that failed is the cause: it hung up on those before it.
        let (done, doubtful) = checked?;
        wrote?;
        let unreadable = read?;
        asked?;
        Ok(Ended {
            done,
            unreadable,
            doubtful,
        })
    }
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests;
