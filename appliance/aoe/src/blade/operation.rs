//! One operation on a disk, and how it is done by a thread that may wait for the disk.

use std::io;
use std::sync::Arc;

use p2v_contract::address::SECTOR;

use super::buffer::Buffer;
use super::disk::Disk;
use super::schedule::{OpId, Piece};

/// Something to do with a disk. It owns all memory that it needs.
pub(super) struct Operation {
    /// Index of the export.
    pub(super) volume: usize,
    /// Its name in the export's schedule.
    pub(super) id: OpId,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) lba: u64,
    pub(super) action: Action,
}

/// What to do.
pub(super) enum Action {
    Read {
        buffer: Buffer,
        bytes: usize,
        /// Through the page cache.
        cached: bool,
    },
    /// Reads requests of these sizes one by one, to find out which of them fail and where.
    ReadEach {
        buffer: Buffer,
        sizes: Vec<u64>,
    },
    Write {
        pieces: Vec<Piece>,
        /// Stable when it ends, so that no flush is needed after it.
        stable: bool,
    },
    /// Writes piece by piece, to find out which fail.
    WriteEach {
        pieces: Vec<Piece>,
    },
    Sync,
    Ahead {
        sectors: u64,
    },
    /// Allows or forbids writes.
    SetWritable(bool),
}

/// How it ended.
pub(super) enum Outcome {
    /// All of it, or none that is known.
    Whole(io::Result<()>),
    /// Request by request: done, or the first sector that failed.
    Each(Vec<Result<(), u64>>),
}

/// An operation that ended.
pub(super) struct Ended {
    pub(super) operation: Operation,
    pub(super) outcome: Outcome,
}

impl Operation {
    /// Does it, however long that takes.
    pub(super) fn run(mut self) -> Ended {
        let (disk, lba) = (&self.disk, self.lba);
        let outcome = match &mut self.action {
            Action::Read {
                buffer,
                bytes,
                cached,
            } => {
                let data = &mut buffer[..*bytes];
                Outcome::Whole(if *cached {
                    disk.read_through_cache(lba, data)
                } else {
                    disk.read(lba, data)
                })
            }
            Action::ReadEach { buffer, sizes } => {
                Outcome::Each(read_each(&**disk, lba, buffer, sizes))
            }
            Action::Write { pieces, stable } => Outcome::Whole(
                write_all(&**disk, lba, pieces)
                    .and_then(|()| if *stable { disk.flush() } else { Ok(()) }),
            ),
            Action::WriteEach { pieces } => Outcome::Each(write_each(&**disk, lba, pieces)),
            Action::Sync => Outcome::Whole(disk.flush()),
            Action::Ahead { sectors } => {
                disk.will_need(lba, (*sectors * SECTOR) as usize);
                Outcome::Whole(Ok(()))
            }
            Action::SetWritable(writable) => Outcome::Whole(disk.set_writable(*writable)),
        };
        Ended {
            operation: self,
            outcome,
        }
    }
}

fn read_each(disk: &dyn Disk, lba: u64, buffer: &mut [u8], sizes: &[u64]) -> Vec<Result<(), u64>> {
    let mut from = 0;
    let mut results = Vec::with_capacity(sizes.len());
    for sectors in sizes {
        let part = &mut buffer[(from * SECTOR) as usize..((from + sectors) * SECTOR) as usize];
        results.push(read_sectors(disk, lba + from, part));
        from += sectors;
    }
    results
}

/// Reads a range, and if that fails, sector by sector; the error is the first sector that fails.
pub(super) fn read_sectors(disk: &dyn Disk, lba: u64, data: &mut [u8]) -> Result<(), u64> {
    if disk.read(lba, data).is_ok() {
        return Ok(());
    }
    // A dying disk may take half a minute to fail: it is not asked twice for one sector.
    if data.len() <= SECTOR as usize {
        return Err(lba);
    }
    for (sector, data) in (lba..).zip(data.chunks_mut(SECTOR as usize)) {
        disk.read(sector, data).map_err(|_| sector)?;
    }
    Ok(())
}

fn write_all(disk: &dyn Disk, mut lba: u64, pieces: &[Piece]) -> io::Result<()> {
    for piece in pieces {
        disk.write(lba, piece.data())?;
        lba += piece.bytes as u64 / SECTOR;
    }
    Ok(())
}

fn write_each(disk: &dyn Disk, mut lba: u64, pieces: &[Piece]) -> Vec<Result<(), u64>> {
    pieces
        .iter()
        .map(|piece| {
            let at = lba;
            lba += piece.bytes as u64 / SECTOR;
            disk.write(at, piece.data()).map_err(|_| at)
        })
        .collect()
}
