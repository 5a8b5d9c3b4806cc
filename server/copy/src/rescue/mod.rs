//! Reads again, in small pieces, what could not be read at first, as GNU ddrescue does.
//!
//! [`plan`] decides what is read next; here it is read, and what reads well is written to the
//! destination at once. Every few seconds what was written is synced, read back and checked against
//! the source (`check`); only then is the map given out to be saved. So a saved map never says `+`
//! of a sector that the destination could lose, and an interrupted rescue goes on from it.
//!
//! What cannot be read is filled before the first read, not after the last one ([`fill`]): a rescue
//! may take days and be ended by anything, and a fresh volume must not show what it held in a former
//! life.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::map::{Current, Map, Phase, Status, Sums};
use super::{CopyError, Sink, Source, SourceError};
use check::Unchecked;
use p2v_contract::SECTOR;

mod check;
pub mod fill;
pub mod plan;

pub use fill::Fill;
use plan::{Plan, Step};

/// Steps that fail in a row after which a sector is read that could be read before.
const PROBE_AFTER: usize = 32;
/// Bytes written after which they are checked, however little time has passed.
const CHECK_BYTES: u64 = 64 << 20;

/// How to rescue.
#[derive(Clone, Copy, Debug)]
pub struct RescueOptions {
    /// Sectors of 512 bytes in a physical sector: 1, or 8 of a 512e disk.
    pub physical: u64,
    /// Tries for each bad sector after the first one, each pass in the other direction.
    pub retries: u32,
    /// What the destination gets where the disk cannot be read.
    pub fill: Fill,
    /// A large piece that takes longer is jumped ahead of like one that fails.
    pub slow: Duration,
    /// Time after which no further piece is begun; what is left stays as it is in the map.
    pub time_limit: Option<Duration>,
    /// Time between two maps that are given out to be saved.
    pub save_every: Duration,
}

impl Default for RescueOptions {
    /// One retry, as is worth its time on most disks; nothing of the destination is overwritten
    /// but by what was read.
    fn default() -> RescueOptions {
        RescueOptions {
            physical: 1,
            retries: 1,
            fill: Fill::Keep,
            slow: Duration::from_secs(2),
            time_limit: None,
            save_every: Duration::from_secs(5),
        }
    }
}

/// How far a rescue is, after a step.
#[derive(Clone, Copy, Debug)]
pub struct RescueProgress {
    /// The step that ended.
    pub step: Step,
    /// How long the disk took for it.
    pub took: Duration,
    /// Of its sectors: those that failed.
    pub failed: u64,
    /// Sectors of each status, of the whole disk.
    pub sums: Sums,
    /// Sectors rescued since the rescue began.
    pub rescued: u64,
    /// Reads since then.
    pub reads: u64,
    /// Of these: those that failed, in part or whole.
    pub failures: u64,
    /// Time since then.
    pub elapsed: Duration,
    /// Time since something could be read.
    pub since_success: Duration,
}

/// What a rescue tells.
#[derive(Debug)]
pub enum RescueEvent<'a> {
    /// A step ended.
    Step(RescueProgress),
    /// All that the map says is true and on stable storage: this is the moment to save it.
    Save {
        /// What is to be saved.
        map: &'a Map,
        /// What the rescue did until now.
        done: Rescued,
    },
}

/// What a rescue did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Sectors that were read and written.
    pub sectors: u64,
    /// Of these: those of which there was no second reading to compare with, because asking a dying
    /// disk again is not worth it (`check`).
    pub unchecked: u64,
    /// The time limit ended it: the map has what was not tried.
    pub timed_out: bool,
}

/// Reads what is `*`, `/` and (in retries) `-` in `map`; what reads well is written to `sink` and
/// becomes `+`. It returns when all has been tried, with the map's phase [`Phase::Finished`]; when
/// called with such a map it retries what is bad. Sectors that are `?` are left alone.
///
/// The last event is [`RescueEvent::Save`], also before an error. What a disk gave before it was gone
/// for good counts as finished when the destination holds it, though nobody could compare it.
///
/// # Errors
/// [`CopyError`]; the map says what is there, and a new call goes on from it. Sectors that cannot be
/// read are no error. [`CopyError::Source`] also when the disk no longer reads what it read before.
pub fn rescue(
    source: &mut dyn Source,
    sink: &dyn Sink,
    map: &mut Map,
    options: &RescueOptions,
    stop: &AtomicBool,
    event: &mut dyn FnMut(RescueEvent<'_>),
) -> Result<Rescued, CopyError> {
    if map.sectors() != source.sectors() {
        let (map, disk) = (map.sectors(), source.sectors());
        let why = format!("the map is of a disk of {map} sectors, and this one has {disk}");
        return Err(CopyError::Source { lba: 0, why });
    }
    let need = map.sectors() * SECTOR;
    if sink.bytes() < need {
        return Err(CopyError::Short {
            have: sink.bytes(),
            need,
        });
    }
    let now = Instant::now();
    let mut work = Work {
        source,
        sink,
        map,
        options,
        stop,
        event,
        unchecked: Unchecked::default(),
        since_success: Vec::new(),
        current_at_success: Current::default(),
        failures_in_row: 0,
        done: Rescued::default(),
        reads: 0,
        failures: 0,
        began: now,
        succeeded: now,
        saved: now,
    };
    let ended = work.run();
    let mut settled = match &ended {
        Ok(()) | Err(CopyError::Interrupted) => work.settle(),
        Err(_) => Ok(()),
    };
    if let Err(CopyError::Source { .. }) = ended.as_ref().and(settled.as_ref()) {
        // There is nobody to compare with, and may never be again.
        match work.unchecked.check_sink(sink) {
            Ok(()) => work.done.unchecked += work.unchecked.accept(),
            Err(error) => settled = Err(error),
        }
    }
    work.unchecked.take_back(work.map);
    if ended.is_ok() && settled.is_ok() && !work.done.timed_out {
        work.map.current = Current {
            lba: work.map.sectors(),
            phase: Phase::Finished,
            pass: 1,
        };
    }
    work.save();
    match (ended, settled) {
        // Also who stops it, or has lost the disk, must hear of a check that failed.
        (Ok(()) | Err(CopyError::Interrupted | CopyError::Source { .. }), Err(error)) => Err(error),
        (ended, _) => ended.map(|()| work.done),
    }
}

struct Work<'a> {
    source: &'a mut dyn Source,
    sink: &'a dyn Sink,
    map: &'a mut Map,
    options: &'a RescueOptions,
    stop: &'a AtomicBool,
    event: &'a mut dyn FnMut(RescueEvent<'_>),
    /// Written, and not yet checked.
    unchecked: Unchecked,
    /// What failed since something could be read, and what it was before.
    since_success: Vec<(u64, u64, Status)>,
    /// Where the work was then.
    current_at_success: Current,
    /// Steps that failed since then, or since the disk was found alive.
    failures_in_row: usize,
    done: Rescued,
    reads: u64,
    failures: u64,
    began: Instant,
    succeeded: Instant,
    saved: Instant,
}

impl Work<'_> {
    fn run(&mut self) -> Result<(), CopyError> {
        fill::fill(self.sink, self.map, self.options.fill, self.stop)?;
        let mut plan = Plan::new(self.options.physical, self.options.retries);
        if self.map.current.phase == Phase::Finished {
            self.map.current = Current::default();
        }
        self.current_at_success = self.map.current;
        while let Some(step) = plan.next(self.map) {
            if self.stop.load(Ordering::Relaxed) {
                return Err(CopyError::Interrupted);
            }
            let limit = self.options.time_limit;
            if limit.is_some_and(|limit| self.began.elapsed() >= limit) {
                self.done.timed_out = true;
                return Ok(());
            }
            let begun = Instant::now();
            let failed = self.take(&step)?;
            let took = begun.elapsed();
            plan.done(&step, failed > 0 || took >= self.options.slow, self.map);
            if failed < step.count {
                self.alive();
                self.succeeded = Instant::now();
            }
            self.tell(step, took, failed);
            if self.failures_in_row >= PROBE_AFTER {
                self.probe()?;
            }
            if self.saved.elapsed() >= self.options.save_every
                || self.unchecked.bytes() >= CHECK_BYTES
            {
                self.settle()?;
                self.save();
            }
        }
        Ok(())
    }

    /// Reads, writes what was read, and marks both that and what failed; returns how many sectors
    /// failed.
    fn take(&mut self, step: &Step) -> Result<u64, CopyError> {
        let mut data = vec![0; (step.count * SECTOR) as usize];
        self.reads += 1;
        let bad = match self.source.read_once(step.lba, &mut data) {
            Ok(()) => Vec::new(),
            Err(SourceError::Unreadable { mut bad }) => {
                bad.retain(|lba| (step.lba..step.end()).contains(lba));
                bad.sort_unstable();
                bad.dedup();
                if bad.is_empty() {
                    bad = (step.lba..step.end()).collect();
                }
                bad
            }
            Err(SourceError::Failed(why)) => {
                return Err(CopyError::Source { lba: step.lba, why });
            }
        };
        let was = self.map.status(step.lba).unwrap_or(Status::NonTried);
        let mut next = step.lba;
        for lba in bad.iter().copied().chain([step.end()]) {
            if next < lba {
                let part = &data
                    [((next - step.lba) * SECTOR) as usize..((lba - step.lba) * SECTOR) as usize];
                self.keep(next, part, was, step.phase)?;
            }
            next = lba + 1;
        }
        let failed = bad.len() as u64;
        if failed > 0 {
            self.failures += 1;
            self.failures_in_row += usize::from(failed == step.count);
            let status = match step.phase {
                Phase::Copying => Status::NonScraped,
                _ => Status::Bad,
            };
            for lba in bad {
                self.map.mark(lba, 1, status);
                match self.since_success.last_mut() {
                    Some((first, count, s)) if *s == was && *first + *count == lba => *count += 1,
                    _ => self.since_success.push((lba, 1, was)),
                }
            }
        }
        Ok(failed)
    }

    /// Writes what was read.
    fn keep(&mut self, lba: u64, data: &[u8], was: Status, phase: Phase) -> Result<(), CopyError> {
        self.sink
            .write_at(lba * SECTOR, data)
            .map_err(|source| CopyError::Sink {
                doing: "write",
                lba,
                source,
            })?;
        let count = data.len() as u64 / SECTOR;
        self.map.mark(lba, count, Status::Finished);
        self.unchecked.add(lba, data, was, phase == Phase::Retrying);
        self.done.sectors += count;
        Ok(())
    }

    fn settle(&mut self) -> Result<(), CopyError> {
        let unsure = self.unchecked.settle(self.source, self.sink, self.map)?;
        self.done.unchecked += unsure;
        Ok(())
    }

    fn save(&mut self) {
        (self.event)(RescueEvent::Save {
            map: self.map,
            done: self.done,
        });
        self.saved = Instant::now();
    }

    fn tell(&mut self, step: Step, took: Duration, failed: u64) {
        (self.event)(RescueEvent::Step(RescueProgress {
            step,
            took,
            failed,
            sums: self.map.sums(),
            rescued: self.done.sectors,
            reads: self.reads,
            failures: self.failures,
            elapsed: self.began.elapsed(),
            since_success: self.succeeded.elapsed(),
        }));
    }

    /// The disk can read: what failed until now is believed.
    fn alive(&mut self) {
        self.since_success.clear();
        self.failures_in_row = 0;
        self.current_at_success = self.map.current;
    }

    /// Is it the sectors, or the whole disk that is gone? A disk that has fallen off its bus fails
    /// every read, at once: without this the map would soon call all of it bad.
    fn probe(&mut self) -> Result<(), CopyError> {
        // Another place each time, so that the disk's own memory does not answer.
        let from = self.reads.wrapping_mul(0x9E37_79B9_7F4A_7C15) % self.map.sectors();
        let known = self.map.next(Status::Finished, from);
        let Some(known) = known.or_else(|| self.map.next(Status::Finished, 0)) else {
            // Nothing could ever be read.
            self.alive();
            return Ok(());
        };
        let lba = known.start;
        let mut sector = [0; SECTOR as usize];
        match self.source.read_once(lba, &mut sector) {
            Ok(()) => {
                self.alive();
                Ok(())
            }
            Err(error) => {
                for (lba, count, was) in self.since_success.drain(..).rev() {
                    self.map.mark(lba, count, was);
                }
                self.map.current = self.current_at_success;
                Err(CopyError::Source {
                    lba,
                    why: format!(
                        "{error}; it could be read before, and nothing since can be: the disk has given up. \
                         Switch the old machine off and on again, perhaps after the disk has cooled down"
                    ),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests;
