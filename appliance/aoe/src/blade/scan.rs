//! Digests and zero maps: long reads of the disk, on a thread of their own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use p2v_contract::address::SECTOR;
use p2v_contract::operation::{Reply, Status};

use super::buffer::Buffers;
use super::export::{Count, Served};
use super::operation::read_sectors;
use super::scan_job::Scan;

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// Bytes that are fetched while the ones before them are hashed.
const AHEAD: u64 = 1 << 20;

/// Answers digests and zero maps until the queue is closed, also after one that panicked.
pub(super) fn scan_thread(export: &Served) {
    let mut jobs = Vec::with_capacity(1);
    let mut of_zeros = (0, *blake3::hash(&[]).as_bytes());
    while export.scan.take(&mut jobs, 1) {
        for job in jobs.drain(..) {
            export.now_scans(Some(job.reply));
            // The only thread that does it: without it, no digest is answered as long as the agent runs.
            let scanned = AssertUnwindSafe(|| answer(export, &job.scan, &mut of_zeros));
            let reply = catch_unwind(scanned).unwrap_or_else(|_| {
                export.count(Count::DiskErrors, 1);
                nothing_known(&job.scan)
            });
            let frame = job.reply.frame(&[&reply.to_bytes()]);
            // Before the reply: who has that and asks the same again is answered again.
            export.now_scans(None);
            // A reply that cannot be sent is lost as on the wire; the initiator asks again.
            let _ = job.wire.send(&[frame]);
        }
    }
}

fn answer(export: &Served, scan: &Scan, of_zeros: &mut (usize, [u8; 32])) -> Reply {
    match *scan {
        Scan::Digest { lba, sectors } => digest(export, lba, sectors, of_zeros),
        Scan::ZeroMap {
            lba,
            sectors_per_bit,
            bits,
        } => zero_map(export, lba, sectors_per_bit, bits),
    }
}

/// The answer to a scan that failed altogether: the range is read over the wire then.
fn nothing_known(scan: &Scan) -> Reply {
    match *scan {
        Scan::Digest { lba, .. } => bad_sector(lba),
        Scan::ZeroMap {
            lba,
            sectors_per_bit,
            bits,
        } => Reply::ZeroMap {
            lba,
            sectors_per_bit,
            bits,
            map: vec![0; usize::from(bits).div_ceil(8)],
        },
    }
}

/// The answer where this sector cannot be read.
fn bad_sector(lba: u64) -> Reply {
    Reply::Refused {
        operation: p2v_contract::operation::op::DIGEST,
        status: Status::DiskError,
        lba,
    }
}

/// Calls `each` with the bytes of a range, in order, in pieces. Nothing outside of it is fetched: what is on
/// its way into memory when the last piece is read was read itself.
fn scan(export: &Served, lba: u64, sectors: u64, mut each: impl FnMut(&[u8])) -> Result<(), u64> {
    let mut buffers = Buffers::default();
    let mut buffer = buffers.take(CHUNK.min((sectors * SECTOR) as usize));
    let (mut lba, mut asked, end) = (lba, lba, lba + sectors);
    while lba < end {
        let count = (end - lba).min(CHUNK as u64 / SECTOR);
        let piece = &mut buffer[..(count * SECTOR) as usize];
        let want = (lba + count + AHEAD / SECTOR).min(end);
        let ahead = asked..want;
        asked = want;
        if export.disk.scan(lba, piece, ahead).is_err() {
            export.count(Count::DiskErrors, 1);
            // What fails once and is then read well is not a bad sector. Not as a whole once more: each read
            // that fails may take a failing disk minutes.
            for (sector, data) in (lba..).zip(piece.chunks_mut(SECTOR as usize)) {
                read_sectors(&*export.disk, sector, data)?;
            }
        }
        each(piece);
        lba += count;
    }
    Ok(())
}

/// Whether all bytes are zero, eight at a time.
fn is_zero(bytes: &[u8]) -> bool {
    let words = bytes.chunks_exact(8);
    let tail = words.remainder();
    words.into_iter().all(|word| word == [0; 8]) && tail.iter().all(|b| *b == 0)
}

/// Hashes so many zeros.
fn hash_zeros(hasher: &mut blake3::Hasher, bytes: usize) {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        let part = left.min(ZEROS.len());
        hasher.update(&ZEROS[..part]);
        left -= part;
    }
}

/// The digest of a range. What is all zeros need not be hashed each time: `of_zeros` is the hash of so many.
fn digest(export: &Served, lba: u64, sectors: u32, of_zeros: &mut (usize, [u8; 32])) -> Reply {
    let mut hasher = blake3::Hasher::new();
    let mut zero = true;
    let mut zeros = 0;
    let scanned = scan(export, lba, u64::from(sectors), |piece| {
        if zero && is_zero(piece) {
            zeros += piece.len();
            return;
        }
        if zero {
            hash_zeros(&mut hasher, zeros);
            zero = false;
        }
        hasher.update(piece);
    });
    if zero && scanned.is_ok() {
        let bytes = sectors as usize * SECTOR as usize;
        if of_zeros.0 != bytes {
            hash_zeros(&mut hasher, bytes);
            *of_zeros = (bytes, *hasher.finalize().as_bytes());
        }
        return Reply::Digest {
            lba,
            sectors,
            zero,
            blake3: of_zeros.1,
        };
    }
    match scanned {
        Ok(()) => Reply::Digest {
            lba,
            sectors,
            zero,
            blake3: *hasher.finalize().as_bytes(),
        },
        Err(lba) => bad_sector(lba),
    }
}

fn zero_map(export: &Served, lba: u64, sectors_per_bit: u32, bits: u16) -> Reply {
    let mut map = vec![0; usize::from(bits).div_ceil(8)];
    for bit in 0..bits {
        let from = lba + u64::from(bit) * u64::from(sectors_per_bit);
        let sectors = u64::from(sectors_per_bit).min(export.sectors.saturating_sub(from));
        let mut zero = sectors > 0;
        // A range that cannot be read is not known to be zero.
        let scanned = scan(export, from, sectors, |piece| {
            zero = zero && is_zero(piece);
        });
        if zero && scanned.is_ok() {
            map[usize::from(bit / 8)] |= 1 << (bit % 8);
        }
    }
    Reply::ZeroMap {
        lba,
        sectors_per_bit,
        bits,
        map,
    }
}
