//! What may be done with a disk now, and in what order: pure decisions, no disk.
//!
//! Requests that do not touch each other are done at once, so that a slow one holds up nobody else;
//! neighbours are merged into one operation. Requests that touch each other, one of them a write,
//! are done in the order they came. A request that is sent again while its first copy is at work
//! joins it. A write is answered when a flush that began after it has ended; one flush stands for all
//! writes that were done by then.

use std::collections::VecDeque;
use std::time::Instant;

use p2v_contract::address::SECTOR;
use p2v_contract::operation::Access;

use super::buffer::{Buffer, LARGEST};
use crate::ata::Registers;
use crate::frame::Header;

/// Sectors of a page: what the kernel keeps in memory as one. A read through the page cache beside a
/// direct write in the same page could leave the page as it was before the write, so reads and
/// writes of one page count as touching each other.
const PAGE: u64 = 8;
/// Operations of one disk at work at the most, so that a disk that does not answer leaves the others
/// room: a disk's own queue is no deeper than 31 (SATA NCQ), of an array a few times that.
pub(super) const AT_WORK_MAX: usize = 64;
/// Answers to one request at the most: its first copy and those that came while it was at work.
const COPIES_MAX: usize = 8;

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplyTo {
    /// Index of the wire.
    pub(super) wire: usize,
    /// Headers of the reply.
    pub(super) header: Header,
}

/// The data of a write.
pub(super) struct Piece {
    pub(super) buffer: Buffer,
    pub(super) bytes: usize,
}

impl Piece {
    pub(super) fn data(&self) -> &[u8] {
        &self.buffer[..self.bytes]
    }
}

/// What is asked for.
pub(super) enum Work {
    Read,
    /// The data goes to the operation when it starts.
    Write(Option<Piece>),
    Flush,
    /// An authorised change of access, with its counter.
    Access(Access, u64),
}

/// A request that has no answer yet.
pub(super) struct Request {
    pub(super) to: ReplyTo,
    /// The same request, sent again meanwhile.
    pub(super) copies: Vec<ReplyTo>,
    pub(super) registers: Registers,
    pub(super) lba: u64,
    pub(super) sectors: u64,
    pub(super) work: Work,
    /// Hash of a write's data, by which a second copy is known.
    pub(super) hash: u64,
    pub(super) arrived: Instant,
}

impl Request {
    fn end(&self) -> u64 {
        self.lba + self.sectors
    }

    /// Whether `other` is this request, sent again.
    fn is_copy(&self, other: &Request) -> bool {
        self.lba == other.lba
            && self.registers == other.registers
            && self.hash == other.hash
            && self.to.header.destination == other.to.header.destination
    }

    /// Everybody who waits for the answer.
    pub(super) fn everybody(&self) -> impl Iterator<Item = &ReplyTo> {
        std::iter::once(&self.to).chain(&self.copies)
    }
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    /// Fetches a range into memory; nobody waits for it.
    Ahead,
    Access(Access, u64),
}

/// Requests that are to be done as one operation, in the order of their addresses.
pub(super) struct Start {
    pub(super) kind: Kind,
    pub(super) lba: u64,
    pub(super) sectors: u64,
    pub(super) requests: Vec<Request>,
}

impl Start {
    fn end(&self) -> u64 {
        self.lba + self.sectors
    }
}

/// Name of an operation at work.
pub(super) type OpId = usize;

/// The requests of one disk.
#[derive(Default)]
pub(super) struct Schedule {
    waiting: VecDeque<Request>,
    /// How many of them are writes.
    waiting_writes: usize,
    /// Operations at work by their name; `None`: the name is free.
    active: Vec<Option<Start>>,
    active_count: usize,
    /// Writes that are done, and flushes: they wait for the next flush to begin.
    done: Vec<Request>,
    /// Those that the flush at work will have made stable.
    syncing: Option<Vec<Request>>,
    /// Set while a change of access is at work: nothing else is.
    changing: bool,
    spare: Vec<Vec<Request>>,
}

/// Whether two ranges of sectors have one in common.
fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.1 && b.0 < a.1
}

/// The pages that a range touches, in sectors.
fn pages((from, to): (u64, u64)) -> (u64, u64) {
    (from - from % PAGE, to.next_multiple_of(PAGE))
}

/// Whether two accesses must keep their order.
fn touch(a: (u64, u64), a_writes: bool, b: (u64, u64), b_writes: bool) -> bool {
    match (a_writes, b_writes) {
        (false, false) => false,
        (true, true) => overlap(a, b),
        _ => overlap(pages(a), pages(b)),
    }
}

impl Schedule {
    /// Requests without an answer.
    pub(super) fn len(&self) -> usize {
        let active: usize = self.active.iter().flatten().map(|s| s.requests.len()).sum();
        self.waiting.len()
            + active
            + self.done.len()
            + self.syncing.as_ref().map_or(0, |syncing| syncing.len())
    }

    /// Sectors of each request of an operation.
    pub(super) fn sizes(&self, id: OpId) -> Vec<u64> {
        let start = self.active.get(id).and_then(Option::as_ref);
        start.map_or_else(Vec::new, |start| {
            start.requests.iter().map(|r| r.sectors).collect()
        })
    }

    /// Whether operations are at work.
    pub(super) fn is_busy(&self) -> bool {
        self.active_count > 0 || self.syncing.is_some() || self.changing
    }

    /// Takes a request; false if it is one that is at work already, whose answer it will share.
    pub(super) fn push(&mut self, request: Request) -> bool {
        if self.joins(&request) {
            return false;
        }
        self.waiting_writes += usize::from(matches!(request.work, Work::Write(_)));
        self.waiting.push_back(request);
        true
    }

    fn joins(&mut self, request: &Request) -> bool {
        if !matches!(request.work, Work::Read | Work::Write(_)) {
            return false;
        }
        let at_work = self
            .active
            .iter_mut()
            .flatten()
            .flat_map(|start| &mut start.requests);
        let settled = self
            .done
            .iter_mut()
            .chain(self.syncing.iter_mut().flatten());
        let writes = matches!(request.work, Work::Write(_));
        let range = (request.lba, request.end());
        let newer = |waiting: &Request| {
            matches!(waiting.work, Work::Write(_)) && overlap((waiting.lba, waiting.end()), range)
        };
        if !writes && self.waiting_writes > 0 && self.waiting.iter().any(newer) {
            // What it reads may be newer than what its twin does.
            return false;
        }
        // Two equal reads of one batch are done twice, which harms nobody.
        let waiting = self
            .waiting
            .iter_mut()
            .take_while(|waiting| writes || waiting.arrived != request.arrived);
        let Some(twin) = at_work
            .chain(settled)
            .chain(waiting)
            .find(|r| r.is_copy(request))
        else {
            return false;
        };
        if !twin.everybody().any(|to| *to == request.to) {
            if twin.copies.len() == COPIES_MAX {
                twin.copies.remove(0);
            }
            twin.copies.push(request.to);
        }
        true
    }

    /// The operations that may start now. The caller either does one at once or hands it to
    /// [`Schedule::activate`].
    pub(super) fn ready(&mut self) -> Vec<Start> {
        if self.waiting.is_empty() || self.changing {
            return Vec::new();
        }
        let mut chosen: Vec<Request> = Vec::with_capacity(self.waiting.len());
        let mut starts = Vec::new();
        // Ranges that what follows must not touch: at work, or waiting before it.
        let mut writes: Vec<(u64, u64)> = Vec::new();
        let mut reads: Vec<(u64, u64)> = Vec::new();
        for start in self.active.iter().flatten() {
            let range = (start.lba, start.end());
            match start.kind {
                Kind::Write => writes.push(range),
                _ => reads.push(range),
            }
        }
        let mut passed_over = VecDeque::new();
        // Neighbours will be one operation.
        let mut room = AT_WORK_MAX.saturating_sub(self.active_count);
        while let Some(request) = self.waiting.pop_front() {
            let range = (request.lba, request.end());
            let free = match request.work {
                Work::Read => !writes.iter().any(|w| touch(*w, true, range, false)),
                Work::Write(_) => {
                    !writes.iter().any(|w| touch(*w, true, range, true))
                        && !reads.iter().any(|r| touch(*r, false, range, true))
                }
                // It stands for the writes that were answered before it was sent: those are done.
                Work::Flush => {
                    self.done.push(request);
                    continue;
                }
                Work::Access(access, counter) => {
                    let quiet = passed_over.is_empty()
                        && chosen.is_empty()
                        && self.done.is_empty()
                        && !self.is_busy();
                    if quiet {
                        self.changing = true;
                        starts.push(Start {
                            kind: Kind::Access(access, counter),
                            lba: 0,
                            sectors: 0,
                            requests: vec![request],
                        });
                    } else {
                        self.waiting.push_front(request);
                    }
                    // Nothing overtakes a change of access.
                    break;
                }
            };
            match request.work {
                Work::Read => reads.push(range),
                _ => writes.push(range),
            }
            let neighbour = chosen.last().is_some_and(|last| {
                last.end() == request.lba
                    && matches!(last.work, Work::Read) == matches!(request.work, Work::Read)
            });
            if free && (room > 0 || neighbour) {
                room -= usize::from(!neighbour);
                self.waiting_writes -= usize::from(matches!(request.work, Work::Write(_)));
                chosen.push(request);
            } else {
                passed_over.push_back(request);
            }
        }
        passed_over.append(&mut self.waiting);
        self.waiting = passed_over;
        self.merge(chosen, &mut starts);
        starts
    }

    /// Neighbours become one operation. In the order of their addresses, because that is what a disk
    /// with heads does best.
    fn merge(&mut self, mut chosen: Vec<Request>, starts: &mut Vec<Start>) {
        let writes = |request: &Request| matches!(request.work, Work::Write(_));
        if !chosen.is_sorted_by_key(|r| (writes(r), r.lba)) {
            chosen.sort_by_key(|r| (writes(r), r.lba));
        }
        for request in chosen {
            let kind = if writes(&request) {
                Kind::Write
            } else {
                Kind::Read
            };
            match starts.last_mut() {
                Some(last)
                    if last.kind == kind
                        && last.end() == request.lba
                        && (last.sectors + request.sectors) * SECTOR <= LARGEST as u64 =>
                {
                    last.sectors += request.sectors;
                    last.requests.push(request);
                }
                _ => {
                    let mut requests = self.spare.pop().unwrap_or_default();
                    let (lba, sectors) = (request.lba, request.sectors);
                    requests.push(request);
                    starts.push(Start {
                        kind,
                        lba,
                        sectors,
                        requests,
                    });
                }
            }
        }
    }

    /// Remembers an operation that was begun.
    pub(super) fn activate(&mut self, start: Start) -> OpId {
        self.active_count += 1;
        match self.active.iter().position(Option::is_none) {
            Some(free) => {
                self.active[free] = Some(start);
                free
            }
            None => {
                self.active.push(Some(start));
                self.active.len() - 1
            }
        }
    }

    /// The operation ended: its requests are the caller's again.
    pub(super) fn finish(&mut self, id: OpId) -> Option<Start> {
        let start = self.active.get_mut(id)?.take()?;
        self.active_count -= 1;
        if matches!(start.kind, Kind::Access(..)) {
            self.changing = false;
        }
        Some(start)
    }

    /// Whether a range may be fetched ahead now: no write touches it.
    pub(super) fn may_fetch(&self, lba: u64, sectors: u64) -> bool {
        let range = (lba, lba + sectors);
        let active = self
            .active
            .iter()
            .flatten()
            .filter(|start| start.kind == Kind::Write)
            .map(|start| (start.lba, start.end()));
        let waiting = self
            .waiting
            .iter()
            .filter(|r| matches!(r.work, Work::Write(_)))
            .map(|r| (r.lba, r.end()));
        !self.changing
            && !active
                .chain(waiting)
                .any(|write| touch(write, true, range, false))
    }

    /// A write was done and waits for a flush.
    pub(super) fn wait_for_sync(&mut self, request: Request) {
        self.done.push(request);
    }

    /// Begins a flush if something waits for one and none is at work.
    pub(super) fn begin_sync(&mut self) -> bool {
        if self.done.is_empty() || self.syncing.is_some() {
            return false;
        }
        self.syncing = Some(std::mem::take(&mut self.done));
        true
    }

    /// The flush ended: those that waited for it.
    pub(super) fn end_sync(&mut self) -> Vec<Request> {
        self.syncing.take().unwrap_or_default()
    }

    /// Takes an empty list back for reuse.
    pub(super) fn recycle(&mut self, mut requests: Vec<Request>) {
        requests.clear();
        if self.spare.len() < 128 {
            self.spare.push(requests);
        }
    }
}

#[cfg(test)]
mod tests;
