//! Whether the destination holds what was rescued, and whether that is what the disk holds.
//!
//! Everything is synced and read back from the destination's medium. The second reading of the
//! source is weighed against what it costs a dying disk:
//!
//! - A stretch that read well is compared with the agent's digest of it. The agent reads it for that
//!   once more: direct reads leave nothing in its page cache. That is milliseconds, and it is done
//!   within seconds of the first reading, not at the end of all, when the disk may be gone and a saved
//!   map would have called sectors finished that nobody compared.
//! - The digest goes through the agent's page cache, so in whole pages: beside a bad sector it would
//!   have the disk try that one again. A stretch is therefore cut to whole pages where it touches
//!   what is not there, and the few sectors outside are read a second time as they were the first
//!   time, and compared here.
//! - What came only in a retry is not asked for again: it may not come again, and each attempt can
//!   take half a minute. It has the checksums of the wire's frames, and is counted as unchecked.
//! - Nor is anything asked for a third time because the second reading failed.
//! - When the disk or the wire is gone before the second reading, what was read last stays: it may
//!   be the last that the disk ever gave, and the next run would begin by filling what is not there.

use std::ops::Range;

use p2v_contract::SECTOR;

use crate::map::{Map, Status};
use crate::{CopyError, RANGE_SECTORS, Sink, Source, SourceError};

/// Sectors of a page of the agent's memory: 4 KiB (x86).
const PAGE: u64 = 8;

/// What was written, and is not yet known to be right.
#[derive(Default)]
pub(super) struct Unchecked(Vec<Written>);

struct Written {
    lba: u64,
    count: u64,
    blake3: blake3::Hash,
    /// The status before.
    was: Status,
    /// It was read by a retry.
    hard_won: bool,
}

/// What a second reading of the source says.
enum Second {
    Agrees,
    Differs,
    /// It could not be had.
    None,
}

impl Unchecked {
    pub(super) fn add(&mut self, lba: u64, data: &[u8], was: Status, hard_won: bool) {
        self.0.push(Written {
            lba,
            count: data.len() as u64 / SECTOR,
            blake3: blake3::hash(data),
            was,
            hard_won,
        });
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|written| written.count * SECTOR).sum()
    }

    /// Has the map say of all of it what it said before.
    pub(super) fn take_back(&mut self, map: &mut Map) {
        for written in self.0.drain(..) {
            map.mark(written.lba, written.count, written.was);
        }
    }

    /// Leaves it as it is, in the destination and the map; returns how many sectors that are.
    pub(super) fn accept(&mut self) -> u64 {
        self.0.drain(..).map(|written| written.count).sum()
    }

    /// Checks all of it; returns how many sectors had no second reading. After an error what was not
    /// hard won is unchecked still, all of it.
    pub(super) fn settle(
        &mut self,
        source: &mut dyn Source,
        sink: &dyn Sink,
        map: &Map,
    ) -> Result<u64, CopyError> {
        let hard_won = self.0.iter().filter(|written| written.hard_won);
        let mut unsure = hard_won.map(|written| written.count).sum();
        self.check_sink(sink)?;
        for stretch in self.stretches() {
            let pages = whole_pages(&stretch, map);
            let parts = [
                (stretch.start..pages.start, false),
                (pages.clone(), true),
                (pages.end..stretch.end, false),
            ];
            for (part, by_digest) in parts.into_iter().filter(|(part, _)| !part.is_empty()) {
                if !check(source, sink, &part, by_digest)? {
                    unsure += part.end - part.start;
                }
            }
        }
        self.0.clear();
        Ok(unsure)
    }

    /// Syncs the destination and compares what it holds with what was written. For what was hard won
    /// that is all there is to check; the rest is unchecked still.
    pub(super) fn check_sink(&mut self, sink: &dyn Sink) -> Result<(), CopyError> {
        let Some(first) = self.0.first() else {
            return Ok(());
        };
        sync(sink, first.lba)?;
        for written in &self.0 {
            let back = read_back(sink, written.lba, written.count)?;
            if blake3::hash(&back) != written.blake3 {
                return Err(CopyError::SinkDisagrees {
                    lba: written.lba,
                    last: written.lba + written.count - 1,
                });
            }
        }
        self.0.retain(|written| !written.hard_won);
        Ok(())
    }

    /// What is to be compared with the source, in order; neighbours merged, up to what one digest takes.
    fn stretches(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = self
            .0
            .iter()
            .map(|written| written.lba..written.lba + written.count)
            .collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last)
                    if last.end == range.start
                        && range.end - last.start <= u64::from(RANGE_SECTORS) =>
                {
                    last.end = range.end;
                }
                _ => merged.push(range),
            }
        }
        merged
    }
}

/// The part of a stretch whose pages have nothing in them that is not there. Empty, at its start, if
/// there is no such part.
fn whole_pages(stretch: &Range<u64>, map: &Map) -> Range<u64> {
    let there = |page: u64| {
        map.within(page * PAGE..(page + 1) * PAGE)
            .all(|(_, status)| status == Status::Finished)
    };
    let (mut start, mut end) = (stretch.start, stretch.end);
    if !there(start / PAGE) {
        start = (start / PAGE + 1) * PAGE;
    }
    if start < end && !there((end - 1) / PAGE) {
        end = (end - 1) / PAGE * PAGE;
    }
    if start < end {
        start..end
    } else {
        stretch.start..stretch.start
    }
}

/// Compares a part with a second reading, and if they differ, with a third and a fourth. Returns
/// whether there was a second one.
fn check(
    source: &mut dyn Source,
    sink: &dyn Sink,
    part: &Range<u64>,
    by_digest: bool,
) -> Result<bool, CopyError> {
    let (lba, count) = (part.start, part.end - part.start);
    let lost = |why| CopyError::Source { lba, why };
    let disagrees = || CopyError::SourceDisagrees {
        lba,
        last: lba + count - 1,
    };
    let mut have = read_back(sink, lba, count)?;
    match second(source, lba, &have, by_digest).map_err(lost)? {
        Second::Agrees => return Ok(true),
        Second::None => return Ok(false),
        Second::Differs => {}
    }
    match source.read_once(lba, &mut have) {
        Ok(()) => {}
        Err(SourceError::Unreadable { .. }) => return Err(disagrees()),
        Err(SourceError::Failed(why)) => return Err(lost(why)),
    }
    match second(source, lba, &have, by_digest).map_err(lost)? {
        Second::Agrees => {}
        _ => return Err(disagrees()),
    }
    sink.write_at(lba * SECTOR, &have)
        .map_err(|source| CopyError::Sink {
            doing: "write",
            lba,
            source,
        })?;
    sync(sink, lba)?;
    if read_back(sink, lba, count)? != have {
        return Err(CopyError::SinkDisagrees {
            lba,
            last: lba + count - 1,
        });
    }
    Ok(true)
}

/// Compares `have` with what the source says now. The error is that of a source that is gone.
fn second(
    source: &mut dyn Source,
    lba: u64,
    have: &[u8],
    by_digest: bool,
) -> Result<Second, String> {
    let same = if by_digest {
        let count = have.len() as u64 / SECTOR;
        source
            .digest(lba, count as u32)
            .map(|digest| digest.blake3 == *blake3::hash(have).as_bytes())
    } else {
        let mut again = vec![0; have.len()];
        source
            .read_once(lba, &mut again)
            .map(|()| again.as_slice() == have)
    };
    match same {
        Ok(true) => Ok(Second::Agrees),
        Ok(false) => Ok(Second::Differs),
        Err(SourceError::Unreadable { .. }) => Ok(Second::None),
        Err(SourceError::Failed(why)) => Err(why),
    }
}

fn sync(sink: &dyn Sink, lba: u64) -> Result<(), CopyError> {
    sink.sync().map_err(|source| CopyError::Sink {
        doing: "sync",
        lba,
        source,
    })
}

fn read_back(sink: &dyn Sink, lba: u64, count: u64) -> Result<Vec<u8>, CopyError> {
    let mut back = vec![0; (count * SECTOR) as usize];
    sink.read_back(lba * SECTOR, &mut back)
        .map_err(|source| CopyError::Sink {
            doing: "read back",
            lba,
            source,
        })?;
    Ok(back)
}
