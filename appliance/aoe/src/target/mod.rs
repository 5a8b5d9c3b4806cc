//! The target engine: serves disks to the initiators on its list.
//!
//! One thread for each interface receives and answers what needs no disk; each disk has a thread
//! that does its work in the order it came, and one for long scans, so that a slow disk holds up
//! nobody else. Failures of the disk are ATA status, never the AoE error flag: the Linux driver
//! throws a reply with that flag away and asks again for three minutes (AOE.md).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pnet::util::MacAddr;

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
mod control;
mod disk;
mod export;
mod work;

pub use announce::{Conflict, announce, conflicts};
pub use disk::{Disk, FileDisk};
pub use export::{Durability, Export};

use control::{ControlState, Decision};
use export::{ConfigRefused, Count, Served};
use work::{Job, Work};

/// Requests that one initiator may have outstanding: the Linux driver uses no more than 64
/// (`aoe_maxout`), and the socket's buffer holds many times that.
pub const BUFFER_COUNT: u16 = 64;
/// Sectors in a frame that every Ethernet carries. More are not advertised before frames of that
/// size have made the round trip, because no initiator falls back (AOE.md).
pub const SECTORS_PER_FRAME: u8 = 2;
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
    exports: Vec<Arc<Served<Job>>>,
    control: Arc<ControlState>,
    inventory: Vec<u8>,
    events: Arc<dyn Events>,
}

impl Drop for Target {
    fn drop(&mut self) {
        for export in &self.exports {
            export.io.close();
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
            let (served, state, told) = (export.clone(), control.clone(), events.clone());
            std::thread::Builder::new()
                .name(format!("{name} disk"))
                .spawn(move || work::disk_thread(&served, &state, &*told))?;
            let served = export.clone();
            std::thread::Builder::new()
                .name(format!("{name} scan"))
                .spawn(move || work::scan_thread(&served))?;
            exports.push(export);
        }
        Ok(Target {
            exports,
            control,
            inventory: config.inventory,
            events,
        })
    }

    /// Serves what comes over `wire` until `stop` is set (looked at twice a second) or the
    /// interface is gone, which is the error.
    pub fn serve(&self, wire: &Arc<dyn Wire>, stop: &AtomicBool) -> io::Result<()> {
        let mut replies = Vec::new();
        while !stop.load(Ordering::Acquire) {
            let mut finish = None;
            wire.receive(Duration::from_millis(500), &mut |bytes| {
                if let Some(event) = self.accept(bytes, wire, &mut replies) {
                    finish = Some(event);
                }
            })?;
            wire.send(&replies)?;
            replies.clear();
            if let Some(event) = finish {
                self.events.event(event);
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

    /// Handles one frame: replies that need no disk go to `replies`, disk work to its queue.
    /// Returns an event that must be told after the replies were sent.
    fn accept(
        &self,
        bytes: &[u8],
        wire: &Arc<dyn Wire>,
        replies: &mut Vec<Vec<u8>>,
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
        for export in self
            .exports
            .iter()
            .filter(|export| header.address.covers(export.address))
        {
            let request = Incoming {
                export,
                header,
                reply: header.reply(export.address, wire.mac()),
                wire,
            };
            export.count(Count::Requests, 1);
            if !version_ok {
                export.count(Count::Malformed, 1);
                if export.knows(sender) {
                    replies.push(request.error(ErrorCode::UnsupportedVersion));
                }
                continue;
            }
            let (reply, told) = self.dispatch(&request, body);
            replies.extend(reply);
            event = told.or(event);
        }
        event
    }

    fn dispatch(&self, request: &Incoming<'_>, body: &[u8]) -> (Option<Vec<u8>>, Option<Event>) {
        let export = request.export;
        let known = export.knows(request.header.source);
        if request.header.command == command::CONFIG {
            return (request.query_config(body, known), None);
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

    fn vendor(&self, request: &Incoming<'_>, body: &[u8]) -> (Option<Vec<u8>>, Option<Event>) {
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
            Request::Digest { lba, sectors } => {
                if sectors > DIGEST_SECTORS_MAX || !in_range(lba, u64::from(sectors)) {
                    return (refuse(Status::BadArgument), None);
                }
                (request.scan(Work::Digest { lba, sectors }), None)
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
                    request.scan(Work::ZeroMap {
                        lba,
                        sectors_per_bit,
                        bits,
                    }),
                    None,
                )
            }
            Request::Access(control) => match Access::from_argument(control.argument) {
                None => (refuse(Status::BadArgument), None),
                Some(access) => self.controlled(request, operation, &control, |target| {
                    target.change_access(request, access, &control);
                    (None, None)
                }),
            },
            Request::Finish(control) => match Finish::from_argument(control.argument) {
                None => (refuse(Status::BadArgument), None),
                Some(finish) => self.controlled(request, operation, &control, |target| {
                    target.finish(request, finish, &control)
                }),
            },
        }
    }

    /// Lets an authorised, new request through; answers the others.
    fn controlled(
        &self,
        request: &Incoming<'_>,
        operation: u8,
        control: &Control,
        carry_out: impl FnOnce(&Target) -> (Option<Vec<u8>>, Option<Event>),
    ) -> (Option<Vec<u8>>, Option<Event>) {
        let export = request.export;
        // Control of "all" would let one request stand for several.
        if request.header.address != export.address {
            return (None, None);
        }
        let by = request.header.source;
        match self.control.decide(by, export.address, operation, control) {
            Decision::CarryOut => carry_out(self),
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

    fn change_access(&self, request: &Incoming<'_>, access: Access, control: &Control) {
        // In the queue with the reads and writes, so that writes which came before are done before.
        if !request.queue_io(Work::Access(access, control.counter)) {
            let busy = Reply::Refused {
                operation: crate::vendor::op::ACCESS,
                status: Status::Busy,
                lba: 0,
            };
            self.control.finished(control.counter, &busy.to_bytes());
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
    export: &'a Arc<Served<Job>>,
    header: Header,
    /// Headers of the reply.
    reply: Header,
    wire: &'a Arc<dyn Wire>,
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

    fn queue_io(&self, work: Work) -> bool {
        let queued = self.export.io.push(Job {
            wire: self.wire.clone(),
            reply: self.reply,
            work,
        });
        if !queued {
            self.export.count(Count::QueueFull, 1);
        }
        queued
    }

    fn scan(&self, work: Work) -> Option<Vec<u8>> {
        // A scan takes long, so the initiator may ask again meanwhile: once is enough.
        if self.export.scan.any(|job| job.same_request(&self.reply)) {
            return None;
        }
        let queued = self.export.scan.push(Job {
            wire: self.wire.clone(),
            reply: self.reply,
            work,
        });
        if !queued {
            self.export.count(Count::QueueFull, 1);
        }
        None
    }

    fn query_config(&self, body: &[u8], known: bool) -> Option<Vec<u8>> {
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
            .query_config(query, known, BUFFER_COUNT, SECTORS_PER_FRAME, FIRMWARE)
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

    fn ata(&self, body: &[u8]) -> Option<Vec<u8>> {
        let Ok((registers, data)) = Registers::parse(body) else {
            return Some(self.malformed(ErrorCode::BadArgument));
        };
        let exact = self.header.address == self.export.address;
        let answer = |registers: Registers, data: &[u8]| {
            Some(self.reply.frame(&[&registers.to_bytes(), data]))
        };
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
                self.queue_io(Work::Flush(registers));
                None
            }
            _ => answer(registers.failed(ata::ERROR_ABORT), &[]),
        }
    }

    fn transfer(&self, registers: Registers, data: &[u8], write: bool) -> Option<Vec<u8>> {
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
        self.queue_io(if write {
            Work::Write(registers, data[..bytes].to_vec())
        } else {
            Work::Read(registers)
        });
        None
    }
}

#[cfg(test)]
mod tests;
