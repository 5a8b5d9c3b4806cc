//! The disk side of the target: takes requests, starts what may start, and answers what has ended.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::buffer::Buffers;
use super::control::ControlState;
use super::export::{Count, Durability, Served};
use super::late::{Recent, Write};
use super::operation::{Action, Ended, Operation, Outcome};
use super::outbox::Outbox;
use super::pool::Pool;
use super::ring::Ring;
use super::schedule::{Kind, OpId, Request, Schedule, Start, Work};
use super::stream::Streams;
use super::{Event, Events};
use crate::address::SECTOR;
use crate::ata::{self, Registers};
use crate::vendor::{Access, Reply, Status, op};
use crate::wire::Wire;

/// Requests of one export without an answer: several hosts' windows. More are dropped and counted,
/// and the initiator asks again.
const QUEUE_MAX: usize = 1024;
/// An operation of which nobody asks by name.
const UNNAMED: OpId = OpId::MAX;

/// One export and its requests.
struct Volume {
    export: Arc<Served>,
    schedule: Schedule,
    streams: Streams,
    recent: Recent,
    /// Requests without an answer, those at work among them: memory for them is bounded.
    unanswered: usize,
}

/// All disks, and what does their work.
pub(super) struct Engine {
    volumes: Vec<Volume>,
    control: Arc<ControlState>,
    events: Arc<dyn Events>,
    ring: Option<Ring>,
    pool: Pool,
    pub(super) buffers: Buffers,
    pub(super) out: Outbox,
    ended: Vec<Ended>,
    now: Instant,
    one_processor: bool,
}

impl Engine {
    pub(super) fn new(
        exports: &[Arc<Served>],
        control: Arc<ControlState>,
        events: Arc<dyn Events>,
    ) -> io::Result<Engine> {
        let volumes = exports
            .iter()
            .map(|export| Volume {
                export: export.clone(),
                schedule: Schedule::default(),
                streams: Streams::default(),
                recent: Recent::default(),
                unanswered: 0,
            })
            .collect();
        Ok(Engine {
            volumes,
            control,
            events,
            ring: Ring::new(),
            pool: Pool::new()?,
            buffers: Buffers::default(),
            out: Outbox::default(),
            ended: Vec::new(),
            now: Instant::now(),
            one_processor: std::thread::available_parallelism().is_ok_and(|n| n.get() == 1),
        })
    }

    fn is_busy(&self) -> bool {
        self.volumes.iter().any(|v| v.schedule.is_busy())
    }

    /// The time of the batch at hand: what came with it, came now.
    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// Waits until a frame has come or an operation has ended, and no longer than `most`; hands the
    /// frames to `each` with the index of their wire.
    pub(super) fn receive(
        &mut self,
        wires: &[Arc<dyn Wire>],
        most: Duration,
        each: &mut dyn FnMut(&mut Engine, usize, &[u8]),
    ) -> io::Result<()> {
        // With nothing at work there is nothing else to wait for.
        if let ([wire], false) = (wires, self.is_busy()) {
            // On the only processor looking for a frame would keep a scan from its work.
            let scans = |volume: &Volume| volume.export.scanning.load(Ordering::Relaxed);
            wire.may_look(!self.one_processor || !self.volumes.iter().any(scans));
            let mut first = true;
            wire.receive(most, &mut |bytes| {
                if std::mem::take(&mut first) {
                    self.now = Instant::now();
                }
                each(self, 0, bytes);
            })?;
            if first {
                self.now = Instant::now();
            }
            return Ok(());
        }
        let sockets: Vec<BorrowedFd<'_>> = wires.iter().map(|w| w.readiness()).collect();
        let mut readable = vec![true; wires.len()];
        match &mut self.ring {
            Some(ring) => {
                let mut watched = sockets;
                watched.push(self.pool.readiness());
                ring.watch(&watched);
                ring.enter(Some(most))?;
                ring.reap(&mut self.ended);
                for (index, readable) in readable.iter_mut().enumerate() {
                    *readable = ring.may_be_readable(index);
                }
            }
            None => {
                let mut polled: Vec<PollFd<'_>> = sockets
                    .into_iter()
                    .chain([self.pool.readiness()])
                    .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                    .collect();
                let timeout = PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX);
                match poll(&mut polled, timeout) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.now = Instant::now();
        // An interface that is no more is never readable; it says so when it is asked.
        if self.ended.is_empty() && !readable.contains(&true) {
            readable.fill(true);
        }
        for (index, wire) in wires.iter().enumerate() {
            if readable[index] {
                wire.receive(Duration::ZERO, &mut |bytes| each(self, index, bytes))?;
            }
        }
        Ok(())
    }

    /// Lets go of the wires' sockets.
    pub(super) fn leave(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.unwatch();
        }
    }

    /// Takes a request for the export with this index.
    pub(super) fn take(&mut self, index: usize, request: Request) {
        let volume = &mut self.volumes[index];
        let full = volume.unanswered >= QUEUE_MAX;
        let late = match &request.work {
            Work::Write(_) if !full => {
                let write = Write {
                    from: request.to.header.destination,
                    tag: request.to.header.tag,
                    lba: request.lba,
                    sectors: request.sectors,
                    hash: request.hash,
                };
                volume.recent.is_late(write, request.arrived)
            }
            _ => false,
        };
        if full || late {
            let why = if full { Count::QueueFull } else { Count::Late };
            volume.export.count(why, 1);
            if let Work::Access(_, counter) = request.work {
                let busy = Reply::Refused {
                    operation: op::ACCESS,
                    status: Status::Busy,
                    lba: 0,
                };
                self.control.finished(counter, &busy.to_bytes());
            }
            return;
        }
        if volume.schedule.push(request) {
            volume.unanswered += 1;
        } else {
            volume.export.count(Count::Joined, 1);
        }
    }

    /// Answers what has ended and starts what may start. Returns how many requests have no answer
    /// then.
    pub(super) fn go_on(&mut self) -> usize {
        for volume in &self.volumes {
            volume.export.in_flight(volume.schedule.len());
        }
        self.pool.reap(&mut self.ended);
        if let Some(ring) = &mut self.ring {
            ring.reap(&mut self.ended);
        }
        let mut ended = std::mem::take(&mut self.ended);
        for ended in ended.drain(..) {
            self.end(ended);
        }
        self.ended = ended;
        for index in 0..self.volumes.len() {
            self.start(index);
        }
        let mut all = 0;
        for volume in &mut self.volumes {
            volume.unanswered = volume.schedule.len();
            all += volume.unanswered;
        }
        all
    }

    /// Sends the replies there are, after the disks were given what they have to do.
    pub(super) fn send(&mut self, wires: &[Arc<dyn Wire>]) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        if let Some(ring) = &mut self.ring {
            ring.enter(None)?;
        }
        self.out.send(wires, &mut self.buffers)
    }

    fn start(&mut self, index: usize) {
        let starts = self.volumes[index].schedule.ready();
        let writes = starts.iter().filter(|s| s.kind == Kind::Write).count();
        let mut fetches = Vec::new();
        for start in starts {
            match start.kind {
                Kind::Read => fetches.push(self.start_read(index, start)),
                Kind::Write => self.start_write(index, start, writes == 1),
                Kind::Access(access, _) => {
                    // Forbidding comes first in its order, allowing last: no moment with too much
                    // allowed.
                    let volume = &mut self.volumes[index];
                    if access == Access::ReadOnly {
                        volume.export.set_access(access);
                    }
                    let id = volume.schedule.activate(start);
                    let action = Action::SetWritable(access == Access::ReadWrite);
                    self.submit(index, id, 0, action);
                }
                Kind::Ahead => {}
            }
        }
        // When the writes of this round are known to be at work: what is fetched beside one of them could
        // stay in memory as it was before it.
        for (from, sectors) in fetches {
            if sectors > 0 {
                self.fetch(index, from, sectors);
            }
        }
        if self.volumes[index].schedule.begin_sync() {
            self.submit(index, UNNAMED, 0, Action::Sync);
        }
    }

    /// Starts a read; returns what is to be fetched ahead for it: first sector and number of them.
    fn start_read(&mut self, index: usize, start: Start) -> (u64, u64) {
        let volume = &mut self.volumes[index];
        let size = volume.export.sectors;
        let bytes = (start.sectors * SECTOR) as usize;
        let mut buffer = self.buffers.take(bytes);
        let look = volume
            .export
            .disk
            .read_cached(start.lba, &mut buffer[..bytes]);
        let there = start.lba + (look.bytes as u64) / SECTOR;
        let missed = there < start.lba + start.sectors;
        let plan = volume.streams.note(start.lba, start.sectors, size, missed);
        let Start {
            lba, mut requests, ..
        } = start;
        let split = requests
            .iter()
            .position(|r| r.lba + r.sectors > there)
            .unwrap_or(requests.len());
        let rest: Vec<Request> = requests.drain(split..).collect();
        if requests.is_empty() {
            self.buffers.give(buffer);
        } else {
            let kept = self.out.keep(buffer);
            for request in &requests {
                self.answer_read(index, request, kept, request.lba - lba);
            }
        }
        let volume = &mut self.volumes[index];
        volume.schedule.recycle(requests);
        if let (Some(first), Some(last)) = (rest.first(), rest.last()) {
            let (lba, sectors) = (first.lba, last.lba + last.sectors - first.lba);
            let bytes = (sectors * SECTOR) as usize;
            let id = volume.schedule.activate(Start {
                kind: Kind::Read,
                lba,
                sectors,
                requests: rest,
            });
            let read = Action::Read {
                buffer: self.buffers.take(bytes),
                bytes,
                cached: plan.fetching || look.begun,
            };
            self.submit(index, id, lba, read);
        }
        plan.fetch
    }

    /// Has a range fetched into memory.
    fn fetch(&mut self, index: usize, lba: u64, sectors: u64) {
        let volume = &mut self.volumes[index];
        if !volume.schedule.may_fetch(lba, sectors) {
            volume.streams.forget(lba);
            return;
        }
        let id = volume.schedule.activate(Start {
            kind: Kind::Ahead,
            lba,
            sectors,
            requests: Vec::new(),
        });
        self.submit(index, id, lba, Action::Ahead { sectors });
    }

    fn start_write(&mut self, index: usize, mut start: Start, alone: bool) {
        let volume = &mut self.volumes[index];
        if volume.export.access() == Access::ReadOnly {
            for request in &start.requests {
                volume.export.count(Count::WritesRefused, 1);
                let refused = request.registers.failed(ata::ERROR_ABORT);
                for to in request.everybody() {
                    self.out.registers(to, refused);
                }
            }
            volume.schedule.recycle(start.requests);
            return;
        }
        let pieces = start
            .requests
            .iter_mut()
            .filter_map(|request| match &mut request.work {
                Work::Write(piece) => piece.take(),
                _ => None,
            })
            .collect();
        let durable = volume.export.durability == Durability::Stable;
        let write = Action::Write {
            pieces,
            // One operation that is stable when it ends is quicker than a write and a flush; many
            // writes share one flush.
            stable: durable && alone && !volume.schedule.is_busy(),
        };
        let lba = start.lba;
        volume.streams.forget(lba);
        let id = volume.schedule.activate(start);
        self.submit(index, id, lba, write);
    }

    fn submit(&mut self, index: usize, id: OpId, lba: u64, action: Action) {
        let operation = Operation {
            volume: index,
            id,
            disk: self.volumes[index].export.disk.clone(),
            lba,
            action,
        };
        let left = match &mut self.ring {
            Some(ring) => ring.submit(operation).err(),
            None => Some(Box::new(operation)),
        };
        if let Some(operation) = left {
            self.pool.submit(*operation);
        }
    }

    /// One operation has ended.
    fn end(&mut self, ended: Ended) {
        let Ended { operation, outcome } = ended;
        let (index, id, lba) = (operation.volume, operation.id, operation.lba);
        match (operation.action, outcome) {
            (Action::Read { buffer, .. }, Outcome::Whole(Ok(()))) => {
                let results = Vec::new();
                self.end_read(index, id, lba, buffer, &results);
            }
            (Action::Read { buffer, .. }, _) => {
                // Which of the requests fail? The good ones still get their data.
                let sizes = self.volumes[index].schedule.sizes(id);
                self.submit(index, id, lba, Action::ReadEach { buffer, sizes });
            }
            (Action::ReadEach { buffer, .. }, Outcome::Each(results)) => {
                self.end_read(index, id, lba, buffer, &results);
            }
            (Action::Write { pieces, stable }, Outcome::Whole(Ok(()))) => {
                self.end_write(index, id, &[], stable);
                self.give_back(pieces);
            }
            (Action::Write { pieces, .. }, _) => {
                self.submit(index, id, lba, Action::WriteEach { pieces });
            }
            (Action::WriteEach { pieces }, Outcome::Each(results)) => {
                self.end_write(index, id, &results, false);
                self.give_back(pieces);
            }
            (Action::Sync, Outcome::Whole(result)) => self.end_sync(index, result.is_ok()),
            (Action::SetWritable(_), Outcome::Whole(result)) => {
                self.end_access(index, id, result);
            }
            _ => {
                self.volumes[index].schedule.finish(id);
            }
        }
    }

    fn give_back(&mut self, pieces: Vec<super::schedule::Piece>) {
        for piece in pieces {
            self.buffers.give(piece.buffer);
        }
    }

    fn end_read(
        &mut self,
        index: usize,
        id: OpId,
        lba: u64,
        buffer: super::buffer::Buffer,
        results: &[Result<(), u64>],
    ) {
        let Some(start) = self.volumes[index].schedule.finish(id) else {
            return;
        };
        let kept = self.out.keep(buffer);
        for (at, request) in start.requests.iter().enumerate() {
            match results.get(at) {
                None | Some(Ok(())) => {
                    self.answer_read(index, request, kept, request.lba - lba);
                }
                Some(Err(bad)) => {
                    let [l0, l1, l2, l3, l4, l5, ..] = bad.to_le_bytes();
                    let failed = Registers {
                        lba: [l0, l1, l2, l3, l4, l5],
                        ..request.registers.failed(ata::ERROR_UNCORRECTABLE)
                    };
                    self.volumes[index].export.count(Count::DiskErrors, 1);
                    self.answer(index, request, failed);
                }
            }
        }
        self.volumes[index].schedule.recycle(start.requests);
    }

    fn end_write(&mut self, index: usize, id: OpId, results: &[Result<(), u64>], stable: bool) {
        let Some(mut start) = self.volumes[index].schedule.finish(id) else {
            return;
        };
        let settled = stable || self.volumes[index].export.durability == Durability::Fast;
        for (at, request) in start.requests.drain(..).enumerate() {
            let export = &self.volumes[index].export;
            match results.get(at) {
                None | Some(Ok(())) => {
                    export.count(Count::SectorsWritten, request.sectors);
                    if settled {
                        self.answer(index, &request, request.registers.done());
                    } else {
                        self.volumes[index].schedule.wait_for_sync(request);
                    }
                }
                Some(Err(_)) => {
                    export.count(Count::DiskErrors, 1);
                    self.answer(index, &request, request.registers.failed(ata::ERROR_ABORT));
                }
            }
        }
        self.volumes[index].schedule.recycle(start.requests);
    }

    fn end_sync(&mut self, index: usize, stable: bool) {
        if !stable {
            self.volumes[index].export.count(Count::DiskErrors, 1);
        }
        let mut settled = self.volumes[index].schedule.end_sync();
        for request in settled.drain(..) {
            let registers = if stable {
                request.registers.done()
            } else {
                request.registers.failed(ata::ERROR_ABORT)
            };
            self.answer(index, &request, registers);
        }
        self.volumes[index].schedule.recycle(settled);
    }

    fn end_access(&mut self, index: usize, id: OpId, result: io::Result<()>) {
        let Some(start) = self.volumes[index].schedule.finish(id) else {
            return;
        };
        let Kind::Access(access, counter) = start.kind else {
            return;
        };
        let export = &self.volumes[index].export;
        for request in &start.requests {
            let by = request.to.header.destination;
            let reply = match &result {
                Ok(()) => {
                    export.set_access(access);
                    self.events.event(Event::Access {
                        address: export.address,
                        access,
                        by,
                    });
                    Reply::Done {
                        operation: op::ACCESS,
                        argument: access as u8,
                        counter,
                    }
                }
                Err(error) => {
                    self.events.event(Event::DiskFailed {
                        address: export.address,
                        what: "change its access",
                        error: error.to_string(),
                    });
                    Reply::Refused {
                        operation: op::ACCESS,
                        status: Status::Impossible,
                        lba: 0,
                    }
                }
            };
            let body = reply.to_bytes();
            self.control.finished(counter, &body);
            self.out
                .frame(request.to.wire, request.to.header.frame(&[&body]));
        }
    }

    /// Answers a request with registers alone.
    fn answer(&mut self, index: usize, request: &Request, registers: Registers) {
        let waited = self.now.saturating_duration_since(request.arrived);
        self.volumes[index].export.latency(waited);
        for to in request.everybody() {
            self.out.registers(to, registers);
        }
    }

    /// Answers a read with what is in a buffer, from sector `from` of it on.
    fn answer_read(&mut self, index: usize, request: &Request, buffer: usize, from: u64) {
        let export = &self.volumes[index].export;
        export.count(Count::SectorsRead, request.sectors);
        export.latency(self.now.saturating_duration_since(request.arrived));
        let registers = request.registers.done();
        for to in request.everybody() {
            self.out.data(to, registers, buffer, from, request.sectors);
        }
    }
}
