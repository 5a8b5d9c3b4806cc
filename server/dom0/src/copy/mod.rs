//! The copy: every range of the old disk compared by digest, moved if it differs, and read back.
//!
//! There is no state file to distrust. For every range the agent's digest is asked for; a range
//! that the destination already holds is left alone, so a run after an interruption (or after the
//! old system ran on) moves only what differs. What is written is synced and read back from the
//! medium, and must have the agent's digest again.
//!
//! Reading from the wire and writing to the destination overlap; memory is bounded by
//! [`IN_FLIGHT`] ranges of [`RANGE_SECTORS`].

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use p2v_aoe::SECTOR;

use crate::report::Progress;

pub mod destination;
pub mod files_hit;
pub mod map;
pub mod mapfile;
pub mod rescue;
pub mod sink;

pub use sink::{FileSink, Sink};

/// Sectors of one range: 4 MiB. Large enough for the disk to stream, small enough that a change
/// of one sector does not move much.
pub const RANGE_SECTORS: u32 = 8192;
/// Ranges between reader and writer: 8 of 4 MiB.
pub const IN_FLIGHT: usize = 8;
/// Ranges that are synced and read back together.
const BATCH: usize = 8;

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
}

/// What a copy did. Bytes count the disk's own; each byte is in exactly one of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes that came over the wire.
    pub moved: u64,
    /// Bytes the destination had already.
    pub equal: u64,
    /// Bytes that are zero, written without crossing the wire.
    pub zeroed: u64,
    /// Sectors that could not be read: first LBA and count, ascending, not touching.
    pub unreadable: Vec<(u64, u64)>,
}

impl Summary {
    /// Whether the destination holds every byte of the source.
    pub fn is_complete(&self) -> bool {
        self.unreadable.is_empty()
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
    #[error(
        "stopped by the operator; run the same command again to go on: what is there already is not moved again"
    )]
    Interrupted,
    /// The source failed.
    #[error(
        "reading the old disk at sector {lba} failed: {why}. Run the same command again to go on"
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
    #[error("cannot {doing} the destination at sector {lba}: {source}")]
    Sink {
        /// What was being done.
        doing: &'static str,
        /// Where.
        lba: u64,
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

/// How to copy.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The destination was made for this run: nothing in it is worth comparing first or keeping.
    pub fresh: bool,
    /// Sectors per range; [`RANGE_SECTORS`] but for tests.
    pub range_sectors: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            fresh: false,
            range_sectors: RANGE_SECTORS,
        }
    }
}

enum Content {
    Equal,
    Zero,
    Data(Vec<u8>),
}

struct Job {
    lba: u64,
    bytes: usize,
    expected: blake3::Hash,
    content: Content,
}

/// Copies `source` to `sink`, until `stop` is set. `progress` is called from another thread.
///
/// Unreadable sectors do not end the copy: they are in the summary, and the destination keeps what
/// it had there (zeros in a fresh one).
///
/// # Errors
/// [`CopyError`]; everything checked until then is in place.
pub fn run(
    source: &mut dyn Source,
    sink: &dyn Sink,
    options: Options,
    stop: &AtomicBool,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Summary, CopyError> {
    let total = source.sectors() * SECTOR;
    if sink.bytes() < total {
        return Err(CopyError::Short {
            have: sink.bytes(),
            need: total,
        });
    }
    let (jobs, queue) = sync_channel(IN_FLIGHT);
    let (read, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(move || write_all(sink, &queue, total, progress));
        let read = read_all(source, sink, options, stop, jobs);
        let written = writer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (read, written)
    });
    // The writer's error is the cause when both failed: it hung up on the reader.
    let done = written?;
    let unreadable = read?;
    Ok(Summary {
        moved: done.moved,
        equal: done.equal,
        zeroed: done.zeroed,
        unreadable,
    })
}

fn read_all(
    source: &mut dyn Source,
    sink: &dyn Sink,
    options: Options,
    stop: &AtomicBool,
    jobs: SyncSender<Job>,
) -> Result<Vec<(u64, u64)>, CopyError> {
    let sectors = source.sectors();
    let step = u64::from(options.range_sectors.max(1));
    let mut unreadable = Vec::new();
    let mut lba = 0;
    while lba < sectors {
        if stop.load(Ordering::Relaxed) {
            return Err(CopyError::Interrupted);
        }
        let count = step.min(sectors - lba) as u32;
        let mut range = Range {
            source,
            sink,
            lba,
            count,
            fresh: options.fresh,
        };
        let job = range.fetch(&mut unreadable)?;
        if jobs.send(job).is_err() {
            // The writer has failed, and says why.
            break;
        }
        lba += u64::from(count);
    }
    Ok(unreadable)
}

/// One range on its way from the source.
struct Range<'a> {
    source: &'a mut dyn Source,
    sink: &'a dyn Sink,
    lba: u64,
    count: u32,
    fresh: bool,
}

impl Range<'_> {
    fn bytes(&self) -> usize {
        self.count as usize * SECTOR as usize
    }

    fn fetch(&mut self, unreadable: &mut Vec<(u64, u64)>) -> Result<Job, CopyError> {
        match self.fetch_whole() {
            Ok(Some((expected, content))) => Ok(self.job(expected, content)),
            Ok(None) => Err(self.disagrees(self.lba, self.count)),
            Err(SourceError::Unreadable { .. }) => {
                let data = self.salvage(unreadable)?;
                Ok(self.job(blake3::hash(&data), Content::Data(data)))
            }
            Err(SourceError::Failed(why)) => Err(CopyError::Source { lba: self.lba, why }),
        }
    }

    fn job(&self, expected: blake3::Hash, content: Content) -> Job {
        Job {
            lba: self.lba,
            bytes: self.bytes(),
            expected,
            content,
        }
    }

    fn disagrees(&self, lba: u64, count: u32) -> CopyError {
        CopyError::SourceDisagrees {
            lba,
            last: lba + u64::from(count) - 1,
        }
    }

    /// The whole range by digest. `None`: digest and data disagreed twice.
    fn fetch_whole(&mut self) -> Result<Option<(blake3::Hash, Content)>, SourceError> {
        let mut compare = !self.fresh;
        for _ in 0..2 {
            let digest = self.source.digest(self.lba, self.count)?;
            let expected = blake3::Hash::from_bytes(digest.blake3);
            if digest.zero && expected != blake3::hash(&vec![0; self.bytes()]) {
                continue;
            }
            if compare {
                compare = false;
                let mut have = vec![0; self.bytes()];
                // A destination that cannot be read here is written, and then read back by the
                // writer, where failing again is an error.
                if self.sink.read_back(self.lba * SECTOR, &mut have).is_ok()
                    && blake3::hash(&have) == expected
                {
                    return Ok(Some((expected, Content::Equal)));
                }
            }
            if digest.zero {
                return Ok(Some((expected, Content::Zero)));
            }
            let mut data = vec![0; self.bytes()];
            self.source.read(self.lba, &mut data)?;
            if blake3::hash(&data) == expected {
                return Ok(Some((expected, Content::Data(data))));
            }
        }
        Ok(None)
    }

    /// Everything of the range that can be read, each readable part checked by its own digest;
    /// elsewhere what the destination had.
    fn salvage(&mut self, unreadable: &mut Vec<(u64, u64)>) -> Result<Vec<u8>, CopyError> {
        let mut data = vec![0; self.bytes()];
        let end = self.lba + u64::from(self.count);
        let mut parts = VecDeque::from([(self.lba, end)]);
        while let Some((from, to)) = parts.pop_front() {
            let (a, b) = (self.offset(from), self.offset(to));
            let mut agreed = false;
            let mut failed = None;
            for _ in 0..2 {
                let part = &mut data[a..b];
                let digest = self
                    .source
                    .read(from, part)
                    .and_then(|()| self.source.digest(from, (to - from) as u32));
                match digest {
                    Ok(digest) if *blake3::hash(part).as_bytes() == digest.blake3 => {
                        agreed = true;
                        break;
                    }
                    Ok(_) => {}
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            match failed {
                None if agreed => {}
                None => return Err(self.disagrees(from, (to - from) as u32)),
                Some(SourceError::Unreadable { bad })
                    if bad.iter().any(|lba| (from..to).contains(lba)) =>
                {
                    // The sectors between bad ones came by a request that failed as a whole: each
                    // stretch is read and compared again.
                    let mut next = from;
                    for lba in bad.into_iter().filter(|lba| (from..to).contains(lba)) {
                        self.keep_old(lba, &mut data)?;
                        note_unreadable(unreadable, lba);
                        if next < lba {
                            parts.push_back((next, lba));
                        }
                        next = next.max(lba + 1);
                    }
                    if next < to {
                        parts.push_back((next, to));
                    }
                }
                Some(error) => {
                    return Err(CopyError::Source {
                        lba: from,
                        why: error.to_string(),
                    });
                }
            }
        }
        Ok(data)
    }

    /// A sector that cannot be read: what the destination has there, zeros in a fresh one.
    fn keep_old(&self, lba: u64, data: &mut [u8]) -> Result<(), CopyError> {
        let sector = &mut data[self.offset(lba)..self.offset(lba + 1)];
        sector.fill(0);
        if self.fresh {
            return Ok(());
        }
        self.sink
            .read_back(lba * SECTOR, sector)
            .map_err(|source| CopyError::Sink {
                doing: "read",
                lba,
                source,
            })
    }

    fn offset(&self, lba: u64) -> usize {
        (lba - self.lba) as usize * SECTOR as usize
    }
}

/// Adds one sector to the list, keeping it ascending and merged.
fn note_unreadable(list: &mut Vec<(u64, u64)>, lba: u64) {
    let at = list.partition_point(|(first, _)| *first <= lba);
    list.insert(at, (lba, 1));
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(list.len());
    for (first, count) in list.drain(..) {
        match merged.last_mut() {
            Some((f, c)) if *f + *c >= first => *c = (*c).max(first + count - *f),
            _ => merged.push((first, count)),
        }
    }
    *list = merged;
}

fn write_all(
    sink: &dyn Sink,
    queue: &Receiver<Job>,
    total: u64,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Progress, CopyError> {
    let mut done = Progress {
        total,
        ..Progress::default()
    };
    let mut written: Vec<Job> = Vec::new();
    for job in queue {
        let failed = |source| CopyError::Sink {
            doing: "write",
            lba: job.lba,
            source,
        };
        match &job.content {
            Content::Equal => {
                done.equal += job.bytes as u64;
                done.checked += job.bytes as u64;
                progress(done);
                continue;
            }
            Content::Zero => sink
                .write_at(job.lba * SECTOR, &vec![0; job.bytes])
                .map_err(failed)?,
            Content::Data(data) => sink.write_at(job.lba * SECTOR, data).map_err(failed)?,
        }
        // The data itself is not kept: what counts from here on is the digest.
        let content = match job.content {
            Content::Data(_) => Content::Data(Vec::new()),
            other => other,
        };
        written.push(Job { content, ..job });
        if written.len() >= BATCH {
            check(sink, &mut written, &mut done)?;
            progress(done);
        }
    }
    check(sink, &mut written, &mut done)?;
    progress(done);
    Ok(done)
}

/// Syncs the destination and compares what it holds with the digests.
fn check(sink: &dyn Sink, written: &mut Vec<Job>, done: &mut Progress) -> Result<(), CopyError> {
    let at = written.first().map_or(0, |j| j.lba);
    // Also when nothing was written: what was found equal may still be in a volatile cache.
    sink.sync().map_err(|source| CopyError::Sink {
        doing: "sync",
        lba: at,
        source,
    })?;
    for job in written.drain(..) {
        let mut back = vec![0; job.bytes];
        sink.read_back(job.lba * SECTOR, &mut back)
            .map_err(|source| CopyError::Sink {
                doing: "read back",
                lba: job.lba,
                source,
            })?;
        if blake3::hash(&back) != job.expected {
            return Err(CopyError::SinkDisagrees {
                lba: job.lba,
                last: job.lba + job.bytes as u64 / SECTOR - 1,
            });
        }
        let bytes = job.bytes as u64;
        done.checked += bytes;
        match job.content {
            Content::Zero => done.zeroed += bytes,
            _ => done.moved += bytes,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
