//! The target engine: serves disks to the initiators on its list.
//!
//! One thread does it all, and waits for nothing but the next event: a frame, or a disk request that
//! ended. Frames come and go in batches, neighbours are read and written together, what is in memory is
//! answered at once, and the kernel has all other disk requests at the same time, so that a slow one
//! holds up nobody else. Long scans have a thread for each disk. Failures of the disk are ATA status,
//! never the AoE error flag: the Linux driver throws a reply with that flag away and asks again for
//! three minutes (AOE.md).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pnet::util::MacAddr;
use xxhash_rust::xxh3::xxh3_64;

use crate::acl::{MacMask, Reserve};
use crate::address::{Address, SECTOR};
use crate::ata::{self, ATA_LEN, Registers, opcode};
use crate::config::{QueryConfig, sub};
use crate::frame::{self, ErrorCode, FrameError, HEADER_LEN, Header, command};
use crate::token::Token;
use crate::vendor::{
    Access, Control, DIGEST_SECTORS_MAX, Finish, Reply, Request, Stats, Status, ZERO_MAP_BITS_MAX,
    ZERO_MAP_SECTORS_MAX,
};
use crate::wire::Wire;

mod announce;
mod buffer;
mod control;
mod disk;
mod engine;
mod export;
mod late;
mod operation;
mod outbox;
mod paths;
mod pool;
mod ring;
mod scan;
mod schedule;
mod stream;

pub use announce::{Conflict, announce, conflicts};
pub use disk::{Disk, FileDisk, Files, Look};
pub use export::{Durability, Export};

use control::{ControlState, Decision};
use engine::Engine;
use export::{ConfigRefused, Count, Served};
use paths::Paths;
use scan::{Scan, ScanJob};
use schedule::{Piece, ReplyTo, Request as Waiting, Work};

/// Requests that one initiator may have outstanding: the Linux driver uses no more than 64
/// (`aoe_maxout`), and the socket's buffer holds many times that.
pub const BUFFER_COUNT: u16 = 64;
/// Sectors in a frame that every Ethernet carries. More are not advertised before frames of that
/// size have made the round trip, because no initiator falls back (AOE.md).
pub const SECTORS_PER_FRAME: u8 = 2;
/// Waits for something to do are no longer than this.
const TICK: Duration = Duration::from_millis(500);
/// How often the interfaces are looked at anew.
const LOOK: Duration = Duration::from_secs(1);
/// Firmware version in config replies.
const FIRMWARE: u16 = 1;

/// What to serve and to whom.
pub struct TargetConfig {
    /// The disks.
    pub exports: Vec<Export>,
    /// MAC addresses that are answered for data; empty: everybody.
    pub hosts: Vec<MacAddr>,
    /// The boot token; without it control requests are refused.
    pub token: Option<Token>,
    /// The inventory document, as JSON.
    pub inventory: Vec<u8>,
    /// The inventory's `boot_id`, which control requests are bound to.
    pub boot_id: String,
}

/// Something worth a line on the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The export's state was changed by an authorised request.
    Access {
        /// Which export.
        address: Address,
        /// Its state now.
        access: Access,
        /// By whom.
        by: MacAddr,
    },
    /// The machine is to power off or restart, by an authorised request. The reply has been sent.
    Finish {
        /// Which of the two.
        finish: Finish,
        /// By whom.
        by: MacAddr,
    },
    /// A control request was refused.
    ControlRefused {
        /// Which export.
        address: Address,
        /// Why.
        status: Status,
        /// Who sent it.
        by: MacAddr,
    },
    /// A disk failed at something other than a single read or write, which are counted.
    DiskFailed {
        /// Which export.
        address: Address,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        error: String,
    },
}

/// Where events go.
pub trait Events: Send + Sync {
    /// Called on the target's own threads: must not take long.
    fn event(&self, event: Event);
}

/// The state of one export, for a status screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportStatus {
    /// Its address.
    pub address: Address,
    /// Read-only or read-write.
    pub access: Access,
    /// Its counters.
    pub stats: Stats,
}

/// The engine. Dropping it ends its disk threads after the work they have.
pub struct Target {
    exports: Vec<Arc<Served>>,
    engine: Mutex<Engine>,
    paths: Mutex<Paths>,
    /// Requests without an answer, for tests that wait for the last one.
    pending: AtomicUsize,
    control: Arc<ControlState>,
    inventory: Vec<u8>,
    events: Arc<dyn Events>,
}

impl Drop for Target {
    fn drop(&mut self) {
        for export in &self.exports {
            export.scan.close();
        }
    }
}

impl Target {
    /// Starts the disk threads. A disk that may be written from the start is opened for that.
    pub fn new(config: TargetConfig, events: Arc<dyn Events>) -> io::Result<Target> {
        let control = Arc::new(ControlState::new(config.token, config.boot_id));
        let mut exports = Vec::new();
        for export in config.exports {
            if export.access == Access::ReadWrite {
                export.disk.set_writable(true)?;
            }
            let export = Arc::new(Served::new(export, &config.hosts));
            let name = export.address.to_string();
            let served = export.clone();
            std::thread::Builder::new()
                .name(format!("{name} scan"))
                .spawn(move || scan::scan_thread(&served))?;
            exports.push(export);
        }
        let engine = Engine::new(&exports, control.clone(), events.clone())?;
        Ok(Target {
            exports,
            engine: Mutex::new(engine),
            paths: Mutex::default(),
            pending: AtomicUsize::new(0),
            control,
            inventory: config.inventory,
            events,
        })
    }

    /// Serves what comes over `wires` until `stop` is set (looked at twice a second) or one of them
    /// fails, which is the error: its interface is gone. What was being done goes on when serving is
    /// taken up again. One caller at a time serves; another one waits.
    pub fn serve(&self, wires: &[Arc<dyn Wire>], stop: &AtomicBool) -> io::Result<()> {
        let mut engine = self
            .engine
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        // What is known of the ways is known by the wires' places, which may be others now.
        *self.paths() = Paths::default();
        let served = self.serve_with(&mut engine, wires, stop);
        engine.leave();
        served
    }

    fn serve_with(
        &self,
        engine: &mut Engine,
        wires: &[Arc<dyn Wire>],
        stop: &AtomicBool,
    ) -> io::Result<()> {
        let mut looked = Instant::now();
        while !stop.load(Ordering::Acquire) {
            let mut finish = None;
            engine.receive(wires, TICK, &mut |engine, index, bytes| {
                let told = self.accept(engine, bytes, index, &wires[index]);
                finish = told.or(finish.take());
            })?;
            let pending = engine.go_on();
            self.pending.store(pending, Ordering::Release);
            engine.send(wires)?;
            if let Some(event) = finish {
                self.events.event(event);
            }
            if engine.now().duration_since(looked) > LOOK {
                looked = engine.now();
                for wire in wires {
                    wire.refresh();
                }
                let dropped = wires.iter().map(|wire| wire.dropped()).sum();
                for export in &self.exports {
                    export.dropped(dropped);
                }
            }
        }
        Ok(())
    }

    /// The exports' states, in the order of their addresses.
    pub fn status(&self) -> Vec<ExportStatus> {
        self.exports
            .iter()
            .map(|export| ExportStatus {
                address: export.address,
                access: export.access(),
                stats: export.stats(),
            })
            .collect()
    }

    /// Handles one frame: replies that need no disk are put out, disk work goes to the engine. Returns
    /// an event that must be told after the replies were sent.
    fn accept(
        &self,
        engine: &mut Engine,
        bytes: &[u8],
        index: usize,
        wire: &Arc<dyn Wire>,
    ) -> Option<Event> {
        let (header, body, version_ok) = match frame::parse(bytes) {
            Ok((header, body)) => (header, body, true),
            Err(FrameError::Version { header, .. }) => (header, &bytes[HEADER_LEN..], false),
            Err(_) => return None,
        };
        // A group address cannot be a sender, and our own frames are no requests.
        let sender = header.source;
        if header.response || sender.is_multicast() || sender.is_zero() || sender == wire.mac() {
            return None;
        }
        let mut event = None;
        for (volume, export) in self.exports.iter().enumerate() {
            if !header.address.covers(export.address) {
                continue;
            }
            let mut request = Incoming {
                export,
                volume,
                header,
                reply: header.reply(export.address, wire.mac()),
                wire,
                index,
                engine: &mut *engine,
            };
            export.count(Count::Requests, 1);
            let reply = if version_ok {
                let (reply, told) = self.dispatch(&mut request, body);
                event = told.or(event);
                reply
            } else {
                export.count(Count::Malformed, 1);
                export
                    .knows(sender)
                    .then(|| request.error(ErrorCode::UnsupportedVersion))
            };
            if let Some(reply) = reply {
                engine.out.frame(index, reply);
            }
        }
        event
    }

    fn dispatch(
        &self,
        request: &mut Incoming<'_>,
        body: &[u8],
    ) -> (Option<Vec<u8>>, Option<Event>) {
        let export = request.export;
        let known = export.knows(request.header.source);
        if request.header.command == command::CONFIG {
            let sectors =
                self.paths()
                    .sectors(request.index, request.header.source, request.wire.mtu());
            return (request.query_config(body, known, sectors), None);
        }
        if !known {
            export.count(Count::Strangers, 1);
            return (None, None);
        }
        match request.header.command {
            command::ATA => (request.ata(body), None),
            command::MAC_MASK => (request.mac_mask(body), None),
            command::RESERVE => (request.reserve(body), None),
            command::P2V => self.vendor(request, body),
            _ => (
                Some(request.malformed(ErrorCode::UnrecognisedCommand)),
                None,
            ),
        }
    }

    fn paths(&self) -> MutexGuard<'_, Paths> {
        self.paths
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn vendor(&self, request: &mut Incoming<'_>, body: &[u8]) -> (Option<Vec<u8>>, Option<Event>) {
        let export = request.export;
        let operation = body.first().copied().unwrap_or(0);
        let refuse = |status| {
            Some(request.vendor_reply(&Reply::Refused {
                operation,
                status,
                lba: 0,
            }))
        };
        let in_range = |lba: u64, sectors: u64| {
            sectors > 0
                && lba
                    .checked_add(sectors)
                    .is_some_and(|end| end <= export.sectors)
        };
        let parsed = match Request::parse(body) {
            Ok(parsed) => parsed,
            Err(status) => {
                export.count(Count::Malformed, 1);
                return (refuse(status), None);
            }
        };
        match parsed {
            Request::Inventory { offset } => (self.inventory_piece(request, offset), None),
            Request::Stats => (
                Some(request.vendor_reply(&Reply::Stats(export.stats()))),
                None,
            ),
            Request::Probe(probe) => {
                let (host, mtu) = (request.header.source, request.wire.mtu());
                match self.paths().probed(request.index, host, mtu, probe) {
                    Some(probe) => (Some(request.vendor_reply(&Reply::Probe(probe))), None),
                    None => (refuse(Status::BadArgument), None),
                }
            }
            Request::Digest { lba, sectors } => {
                if sectors > DIGEST_SECTORS_MAX || !in_range(lba, u64::from(sectors)) {
                    return (refuse(Status::BadArgument), None);
                }
                (request.scan(Scan::Digest { lba, sectors }), None)
            }
            Request::ZeroMap {
                lba,
                sectors_per_bit,
                bits,
            } => {
                let sectors = u64::from(sectors_per_bit) * u64::from(bits);
                // The last range may reach past the end of the disk.
                let last = lba.saturating_add(sectors.saturating_sub(u64::from(sectors_per_bit)));
                if bits == 0
                    || bits > ZERO_MAP_BITS_MAX
                    || sectors_per_bit == 0
                    || sectors > ZERO_MAP_SECTORS_MAX
                    || !in_range(last, 1)
                {
                    return (refuse(Status::BadArgument), None);
                }
                (
                    request.scan(Scan::ZeroMap {
                        lba,
                        sectors_per_bit,
                        bits,
                    }),
                    None,
                )
            }
            Request::Access(control) => match Access::from_argument(control.argument) {
                None => (refuse(Status::BadArgument), None),
                Some(access) => self.controlled(request, operation, &control, |_, request| {
                    // In a row with the reads and writes, so that those which came before are done
                    // before.
                    let work = Work::Access(access, control.counter);
                    request.queue(Registers::default(), work, 0);
                    (None, None)
                }),
            },
            Request::Finish(control) => match Finish::from_argument(control.argument) {
                None => (refuse(Status::BadArgument), None),
                Some(finish) => self.controlled(request, operation, &control, |target, request| {
                    target.finish(request, finish, &control)
                }),
            },
        }
    }

    /// Lets an authorised, new request through; answers the others.
    fn controlled(
        &self,
        request: &mut Incoming<'_>,
        operation: u8,
        control: &Control,
        carry_out: impl FnOnce(&Target, &mut Incoming<'_>) -> (Option<Vec<u8>>, Option<Event>),
    ) -> (Option<Vec<u8>>, Option<Event>) {
        let export = request.export;
        // Control of "all" would let one request stand for several.
        if request.header.address != export.address {
            return (None, None);
        }
        let by = request.header.source;
        match self.control.decide(by, export.address, operation, control) {
            Decision::CarryOut => carry_out(self, request),
            Decision::Again(body) => (Some(request.reply.frame(&[&body])), None),
            Decision::UnderWay => (None, None),
            Decision::Refuse(status) => {
                export.count(Count::ControlRefused, 1);
                self.events.event(Event::ControlRefused {
                    address: export.address,
                    status,
                    by,
                });
                (
                    Some(request.vendor_reply(&Reply::Refused {
                        operation,
                        status,
                        lba: 0,
                    })),
                    None,
                )
            }
        }
    }

    fn finish(
        &self,
        request: &Incoming<'_>,
        finish: Finish,
        control: &Control,
    ) -> (Option<Vec<u8>>, Option<Event>) {
        let operation = crate::vendor::op::FINISH;
        let writable = self
            .exports
            .iter()
            .any(|export| export.access() == Access::ReadWrite);
        let reply = if writable {
            Reply::Refused {
                operation,
                status: Status::StillWritable,
                lba: 0,
            }
        } else {
            Reply::Done {
                operation,
                argument: control.argument,
                counter: control.counter,
            }
        };
        self.control.finished(control.counter, &reply.to_bytes());
        let event = (!writable).then_some(Event::Finish {
            finish,
            by: request.header.source,
        });
        (Some(request.vendor_reply(&reply)), event)
    }

    fn inventory_piece(&self, request: &Incoming<'_>, offset: u32) -> Option<Vec<u8>> {
        // Header, operation and the piece's own fields fit the smallest MTU with room to spare.
        let room = request.wire.mtu().min(1500).saturating_sub(64);
        let from = (offset as usize).min(self.inventory.len());
        let to = (from + room).min(self.inventory.len());
        Some(request.vendor_reply(&Reply::Inventory {
            total: self.inventory.len() as u32,
            offset: from as u32,
            data: self.inventory[from..to].to_vec(),
        }))
    }
}

/// A request for one export.
struct Incoming<'a> {
    export: &'a Arc<Served>,
    /// Its index.
    volume: usize,
    header: Header,
    /// Headers of the reply.
    reply: Header,
    wire: &'a Arc<dyn Wire>,
    /// The wire's index.
    index: usize,
    engine: &'a mut Engine,
}

impl Incoming<'_> {
    fn error(&self, code: ErrorCode) -> Vec<u8> {
        self.reply.with_error(code).frame(&[])
    }

    fn malformed(&self, code: ErrorCode) -> Vec<u8> {
        self.export.count(Count::Malformed, 1);
        self.error(code)
    }

    fn vendor_reply(&self, reply: &Reply) -> Vec<u8> {
        self.reply.frame(&[&reply.to_bytes()])
    }

    fn queue(&mut self, registers: Registers, work: Work, hash: u64) {
        let sectors = match work {
            Work::Read | Work::Write(_) => u64::from(registers.count),
            _ => 0,
        };
        let request = Waiting {
            to: ReplyTo {
                wire: self.index,
                header: self.reply,
            },
            copies: Vec::new(),
            registers,
            lba: registers.lba(),
            sectors,
            work,
            hash,
            arrived: self.engine.now(),
        };
        self.engine.take(self.volume, request);
    }

    fn scan(&self, scan: Scan) -> Option<Vec<u8>> {
        // A scan takes long, so the initiator may ask again meanwhile: once is enough.
        if self.export.scans(&self.reply) {
            return None;
        }
        let queued = self.export.scan.push(ScanJob {
            wire: self.wire.clone(),
            reply: self.reply,
            scan,
        });
        if !queued {
            self.export.count(Count::QueueFull, 1);
        }
        None
    }

    fn query_config(&self, body: &[u8], known: bool, sectors: u8) -> Option<Vec<u8>> {
        let Ok(query) = QueryConfig::parse(body) else {
            return Some(self.malformed(ErrorCode::BadArgument));
        };
        // Only a read or a test may be for everybody: one frame must not set several targets.
        if self.header.address != self.export.address
            && !matches!(query.sub, sub::READ | sub::TEST | sub::TEST_PREFIX)
        {
            return None;
        }
        match self
            .export
            .query_config(query, known, BUFFER_COUNT, sectors, FIRMWARE)
        {
            Ok(answer) => answer.map(|config| self.reply.frame(&[&config.to_bytes()])),
            Err(ConfigRefused::BadArgument) => Some(self.malformed(ErrorCode::BadArgument)),
            Err(ConfigRefused::Present) => Some(self.error(ErrorCode::ConfigStringPresent)),
        }
    }

    fn mac_mask(&self, body: &[u8]) -> Option<Vec<u8>> {
        if self.header.address != self.export.address {
            return None;
        }
        let answer = MacMask::parse(body)
            .ok()
            .and_then(|request| self.export.mac_mask(&request));
        Some(match answer {
            Some(answer) => self.reply.frame(&[&answer.to_bytes()]),
            None => self.malformed(ErrorCode::BadArgument),
        })
    }

    fn reserve(&self, body: &[u8]) -> Option<Vec<u8>> {
        if self.header.address != self.export.address {
            return None;
        }
        let request = Reserve::parse(body).ok();
        Some(
            match request.and_then(|request| self.export.reserve(&request, self.header.source)) {
                Some((answer, false)) => self.reply.frame(&[&answer.to_bytes()]),
                Some((answer, true)) => self
                    .reply
                    .with_error(ErrorCode::TargetReserved)
                    .frame(&[&answer.to_bytes()]),
                None => self.malformed(ErrorCode::BadArgument),
            },
        )
    }

    fn ata(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let Ok((registers, data)) = Registers::parse(body) else {
            return Some(self.malformed(ErrorCode::BadArgument));
        };
        let exact = self.header.address == self.export.address;
        let reply = self.reply;
        let answer =
            |registers: Registers, data: &[u8]| Some(reply.frame(&[&registers.to_bytes(), data]));
        // Some initiators discover by IDENTIFY to everybody (WinAoE); nothing else is for all.
        if !exact && registers.command != opcode::IDENTIFY {
            return None;
        }
        if self.export.reserved_against(self.header.source) {
            return Some(self.error(ErrorCode::TargetReserved));
        }
        match registers.command {
            opcode::IDENTIFY => answer(
                Registers {
                    count: 1,
                    ..registers.done()
                },
                &self.export.identify,
            ),
            // Sector count 0xFF: active or idle.
            opcode::CHECK_POWER_MODE => answer(
                Registers {
                    count: 0xff,
                    ..registers.done()
                },
                &[],
            ),
            opcode::READ | opcode::READ_EXT => self.transfer(registers, data, false),
            opcode::WRITE | opcode::WRITE_EXT => self.transfer(registers, data, true),
            opcode::FLUSH | opcode::FLUSH_EXT => {
                self.queue(registers, Work::Flush, 0);
                None
            }
            _ => answer(registers.failed(ata::ERROR_ABORT), &[]),
        }
    }

    fn transfer(&mut self, registers: Registers, data: &[u8], write: bool) -> Option<Vec<u8>> {
        let count = u64::from(registers.count);
        let bytes = (count * SECTOR) as usize;
        // The AoE header (10 bytes), the registers and the data must fit a frame each way.
        let fits = HEADER_LEN - frame::ETHERNET_LEN + ATA_LEN + bytes <= self.wire.mtu();
        if count == 0 || !fits || (write && data.len() < bytes) {
            self.export.count(Count::Malformed, 1);
            return Some(
                self.reply
                    .frame(&[&registers.failed(ata::ERROR_ABORT).to_bytes()]),
            );
        }
        if registers.lba() + count > self.export.sectors {
            self.export.count(Count::Malformed, 1);
            return Some(
                self.reply
                    .frame(&[&registers.failed(ata::ERROR_ID_NOT_FOUND).to_bytes()]),
            );
        }
        if write {
            let data = &data[..bytes];
            let mut buffer = self.engine.buffers.take(bytes);
            buffer[..bytes].copy_from_slice(data);
            let hash = xxh3_64(data);
            self.queue(registers, Work::Write(Some(Piece { buffer, bytes })), hash);
        } else {
            self.queue(registers, Work::Read, 0);
        }
        None
    }
}

#[cfg(test)]
mod tests;
