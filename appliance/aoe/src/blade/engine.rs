//! The disk side of the target: waits for frames and for disks, takes requests, and has what may start
//! started and what has ended answered.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use p2v_contract::operation::{Reply, Status, op};

use super::Events;
use super::buffer::Buffers;
use super::control::ControlState;
use super::export::{Count, Served};
use super::late::{Recent, Write};
use super::operation::Ended;
use super::outbox::Outbox;
use super::pool::Pool;
use super::ring::Ring;
use super::schedule::{OpId, Request, Schedule, Work};
use super::stream::Streams;
use crate::wire::Wire;

mod end;
mod start;

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
            wire.may_busy_poll(!self.one_processor || !self.volumes.iter().any(scans));
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
                let by = request.to.header.destination;
                self.control.finished(by, counter, &busy.to_bytes());
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
}
