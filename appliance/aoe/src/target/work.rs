//! The threads that touch the disk: one for reads, writes and changes of access in the order they
//! came, one for digests and zero maps.

use std::sync::Arc;

use pnet::util::MacAddr;

use super::control::ControlState;
use super::export::{Count, Durability, Served};
use super::{Event, Events};
use crate::address::SECTOR;
use crate::ata::{self, ATA_LEN, Registers};
use crate::frame::{FRAME_MIN, HEADER_LEN, Header};
use crate::vendor::{Access, Reply, Status};
use crate::wire::Wire;

/// Jobs that one flush may stand for.
const BATCH: usize = 64;
/// Bytes read at once for a digest.
const SCAN_CHUNK: usize = 256 << 10;

/// Something to do with the disk, and where its reply goes.
pub(super) struct Job {
    pub(super) wire: Arc<dyn Wire>,
    /// Headers of the reply.
    pub(super) reply: Header,
    pub(super) work: Work,
}

/// What to do.
pub(super) enum Work {
    Read(Registers),
    Write(Registers, Vec<u8>),
    Flush(Registers),
    /// An authorised change of access, with its counter.
    Access(Access, u64),
    Digest {
        lba: u64,
        sectors: u32,
    },
    ZeroMap {
        lba: u64,
        sectors_per_bit: u32,
        bits: u16,
    },
}

impl Job {
    /// Whether the two are the same request of the same initiator, sent again.
    pub(super) fn same_request(&self, reply: &Header) -> bool {
        self.reply.destination == reply.destination && self.reply.tag == reply.tag
    }

    fn frame(&self, registers: Registers) -> Vec<u8> {
        self.reply.frame(&[&registers.to_bytes()])
    }
}

/// Does the disk's work until the queue is closed.
pub(super) fn disk_thread(export: &Served<Job>, control: &ControlState, events: &dyn Events) {
    let mut batch = Vec::with_capacity(BATCH);
    while export.io.take(&mut batch, BATCH) {
        run_batch(export, control, events, &mut batch);
    }
}

/// Does one batch in order. Replies to writes are held until one flush for all of them has
/// returned: what is acknowledged is on stable storage.
fn run_batch(
    export: &Served<Job>,
    control: &ControlState,
    events: &dyn Events,
    batch: &mut Vec<Job>,
) {
    let mut unflushed: Vec<(Job, Registers)> = Vec::new();
    for job in batch.drain(..) {
        match &job.work {
            Work::Read(registers) => {
                let frame = read(export, &job, *registers);
                send(&job, frame);
            }
            Work::Write(registers, data) => {
                if let Some(refused) = write(export, *registers, data) {
                    send(&job, job.frame(refused));
                } else {
                    let done = registers.done();
                    unflushed.push((job, done));
                }
            }
            Work::Flush(registers) => {
                let done = registers.done();
                unflushed.push((job, done));
            }
            Work::Access(access, counter) => {
                // Everything that came before is settled before the state changes.
                settle(export, &mut unflushed);
                let (access, counter) = (*access, *counter);
                let body = change_access(export, events, job.reply.destination, access, counter)
                    .to_bytes();
                control.finished(counter, &body);
                send(&job, job.reply.frame(&[&body]));
            }
            Work::Digest { .. } | Work::ZeroMap { .. } => {}
        }
    }
    settle(export, &mut unflushed);
}

/// One flush, then the replies that waited for it.
fn settle(export: &Served<Job>, unflushed: &mut Vec<(Job, Registers)>) {
    if unflushed.is_empty() {
        return;
    }
    let asked = unflushed
        .iter()
        .any(|(job, _)| matches!(job.work, Work::Flush(_)));
    let flushed = if asked || export.durability == Durability::Stable {
        export.disk.flush()
    } else {
        Ok(())
    };
    if flushed.is_err() {
        export.count(Count::DiskErrors, 1);
    }
    for (job, done) in unflushed.drain(..) {
        let registers = if flushed.is_ok() {
            done
        } else {
            done.failed(ata::ERROR_ABORT)
        };
        let frame = job.frame(registers);
        send(&job, frame);
    }
}

fn send(job: &Job, frame: Vec<u8>) {
    // A reply that cannot be sent is lost as on the wire; the initiator asks again.
    let _ = job.wire.send(&[frame]);
}

fn read(export: &Served<Job>, job: &Job, registers: Registers) -> Vec<u8> {
    let bytes = usize::from(registers.count) * SECTOR as usize;
    let data_at = HEADER_LEN + ATA_LEN;
    let mut frame = vec![0; (data_at + bytes).max(FRAME_MIN)];
    job.reply.write(&mut frame);
    let data = &mut frame[data_at..data_at + bytes];
    if export.disk.read(registers.lba(), data).is_ok() {
        export.count(Count::SectorsRead, u64::from(registers.count));
        frame[HEADER_LEN..data_at].copy_from_slice(&registers.done().to_bytes());
        return frame;
    }
    export.count(Count::DiskErrors, 1);
    let bad = first_bad(export, registers.lba(), u64::from(registers.count));
    let [l0, l1, l2, l3, l4, l5, ..] = bad.to_le_bytes();
    let failed = Registers {
        lba: [l0, l1, l2, l3, l4, l5],
        ..registers.failed(ata::ERROR_UNCORRECTABLE)
    };
    job.frame(failed)
}

/// The first sector of a range that cannot be read alone (or the range's first, if all can now).
fn first_bad(export: &Served<Job>, lba: u64, count: u64) -> u64 {
    let mut sector = [0; SECTOR as usize];
    (lba..lba + count)
        .find(|lba| export.disk.read(*lba, &mut sector).is_err())
        .unwrap_or(lba)
}

/// Writes, or says what to answer instead.
fn write(export: &Served<Job>, registers: Registers, data: &[u8]) -> Option<Registers> {
    if export.access() == Access::ReadOnly {
        export.count(Count::WritesRefused, 1);
        return Some(registers.failed(ata::ERROR_ABORT));
    }
    if export.disk.write(registers.lba(), data).is_err() {
        export.count(Count::DiskErrors, 1);
        return Some(registers.failed(ata::ERROR_ABORT));
    }
    export.count(Count::SectorsWritten, u64::from(registers.count));
    None
}

fn change_access(
    export: &Served<Job>,
    events: &dyn Events,
    by: MacAddr,
    access: Access,
    counter: u64,
) -> Reply {
    let operation = crate::vendor::op::ACCESS;
    // Forbidding comes first in its order, allowing last: no moment with too much allowed.
    if access == Access::ReadOnly {
        export.set_access(access);
    }
    if let Err(error) = export.disk.set_writable(access == Access::ReadWrite) {
        events.event(Event::DiskFailed {
            address: export.address,
            what: "change its access",
            error: error.to_string(),
        });
        return Reply::Refused {
            operation,
            status: Status::Impossible,
            lba: 0,
        };
    }
    export.set_access(access);
    events.event(Event::Access {
        address: export.address,
        access,
        by,
    });
    Reply::Done {
        operation,
        argument: access as u8,
        counter,
    }
}

/// Answers digests and zero maps until the queue is closed.
pub(super) fn scan_thread(export: &Served<Job>) {
    let mut jobs = Vec::with_capacity(1);
    while export.scan.take(&mut jobs, 1) {
        for job in jobs.drain(..) {
            let reply = match job.work {
                Work::Digest { lba, sectors } => digest(export, lba, sectors),
                Work::ZeroMap {
                    lba,
                    sectors_per_bit,
                    bits,
                } => zero_map(export, lba, sectors_per_bit, bits),
                _ => continue,
            };
            let frame = job.reply.frame(&[&reply.to_bytes()]);
            send(&job, frame);
        }
    }
}

/// Calls `each` with the bytes of a range, in order, in pieces.
fn scan(
    export: &Served<Job>,
    lba: u64,
    sectors: u64,
    mut each: impl FnMut(&[u8]),
) -> Result<(), u64> {
    let mut buffer = vec![0; SCAN_CHUNK.min((sectors * SECTOR) as usize)];
    let (mut lba, end) = (lba, lba + sectors);
    while lba < end {
        let count = (end - lba).min(SCAN_CHUNK as u64 / SECTOR);
        let piece = &mut buffer[..(count * SECTOR) as usize];
        if export.disk.read(lba, piece).is_err() {
            export.count(Count::DiskErrors, 1);
            return Err(first_bad(export, lba, count));
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

fn digest(export: &Served<Job>, lba: u64, sectors: u32) -> Reply {
    let mut hasher = blake3::Hasher::new();
    let mut zero = true;
    let scanned = scan(export, lba, u64::from(sectors), |piece| {
        zero = zero && is_zero(piece);
        hasher.update(piece);
    });
    match scanned {
        Ok(()) => Reply::Digest {
            lba,
            sectors,
            zero,
            blake3: *hasher.finalize().as_bytes(),
        },
        Err(lba) => Reply::Refused {
            operation: crate::vendor::op::DIGEST,
            status: Status::DiskError,
            lba,
        },
    }
}

fn zero_map(export: &Served<Job>, lba: u64, sectors_per_bit: u32, bits: u16) -> Reply {
    let mut map = vec![0; usize::from(bits).div_ceil(8)];
    for bit in 0..bits {
        let from = lba + u64::from(bit) * u64::from(sectors_per_bit);
        let sectors = u64::from(sectors_per_bit).min(export.sectors.saturating_sub(from));
        let mut zero = sectors > 0;
        // A range that cannot be read is not known to be zero.
        let scanned = scan(export, from, sectors, |piece| zero = zero && is_zero(piece));
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
