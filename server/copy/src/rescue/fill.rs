//! What the destination gets where the disk cannot be read.

use std::sync::atomic::{AtomicBool, Ordering};

use p2v_contract::SECTOR;

use crate::map::{Map, Status};
use crate::{CopyError, Sink};

/// Sectors written at once: 1 MiB.
const CHUNK: u64 = 2048;

/// What a sector that cannot be read becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Stays what the destination had: the disk's own data of an earlier day, where this is a copy
    /// that is brought up to date.
    Keep,
    /// Zeros.
    Zeros,
    /// A text with the sector's number, by which a search finds files with holes.
    Pattern,
}

impl Fill {
    /// The safe one: zeros in a volume that was made for this copy, which may hold blocks of volumes
    /// that were removed; what is there in one that holds an older copy.
    pub fn suits(fresh: bool) -> Fill {
        if fresh { Fill::Zeros } else { Fill::Keep }
    }

    /// What sector `lba` is filled with; `None`: it is left alone.
    pub fn sector(self, lba: u64) -> Option<[u8; SECTOR as usize]> {
        let mut sector = [0; SECTOR as usize];
        match self {
            Fill::Keep => return None,
            Fill::Zeros => {}
            Fill::Pattern => {
                let line = format!("p2v: unreadable sector LBA {lba}\n");
                for (to, from) in sector.iter_mut().zip(line.bytes().cycle()) {
                    *to = from;
                }
            }
        }
        Some(sector)
    }
}

/// Fills everything that was tried and is not there, syncs it and reads it back.
///
/// # Errors
/// [`CopyError::Sink`], [`CopyError::SinkDisagrees`]; [`CopyError::Interrupted`] when `stop` is set.
pub fn fill(sink: &dyn Sink, map: &Map, fill: Fill, stop: &AtomicBool) -> Result<(), CopyError> {
    if fill == Fill::Keep {
        return Ok(());
    }
    let holes = || {
        map.areas()
            .filter(|(_, s)| !matches!(s, Status::NonTried | Status::Finished))
            .flat_map(|(range, _)| {
                let end = range.end;
                range
                    .step_by(CHUNK as usize)
                    .map(move |lba| (lba, CHUNK.min(end - lba)))
            })
    };
    let failed = |doing, lba| move |source| CopyError::Sink { doing, lba, source };
    for (lba, count) in holes() {
        go_on(stop)?;
        sink.write_at(lba * SECTOR, &content(fill, lba, count))
            .map_err(failed("fill", lba))?;
    }
    sink.sync().map_err(failed("sync", 0))?;
    for (lba, count) in holes() {
        go_on(stop)?;
        let mut back = vec![0; (count * SECTOR) as usize];
        sink.read_back(lba * SECTOR, &mut back)
            .map_err(failed("read back", lba))?;
        if back != content(fill, lba, count) {
            return Err(CopyError::SinkDisagrees {
                lba,
                last: lba + count - 1,
            });
        }
    }
    Ok(())
}

fn go_on(stop: &AtomicBool) -> Result<(), CopyError> {
    if stop.load(Ordering::Relaxed) {
        return Err(CopyError::Interrupted);
    }
    Ok(())
}

fn content(fill: Fill, lba: u64, count: u64) -> Vec<u8> {
    (lba..lba + count)
        .filter_map(|lba| fill.sector(lba))
        .flatten()
        .collect()
}
