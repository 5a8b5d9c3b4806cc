//! Command 0xF0: requests of p2v's host. Who may give orders is decided by [`ControlState`], long ranges are
//! read by the export's scan thread.
//!
//! [`ControlState`]: crate::blade::control::ControlState

use p2v_contract::operation::{
    Access, Control, DIGEST_SECTORS_MAX, Finish, Reply, Request, Reservation, Status,
    ZERO_MAP_BITS_MAX, ZERO_MAP_SECTORS_MAX,
};
use pnet::util::MacAddr;

use super::Incoming;
use crate::ata::Registers;
use crate::blade::control::Decision;
use crate::blade::export::Count;
use crate::blade::scan_job::{Scan, ScanJob};
use crate::blade::schedule::Work;
use crate::blade::{Event, Target};

impl Target {
    pub(super) fn vendor(
        &self,
        request: &mut Incoming<'_>,
        body: &[u8],
    ) -> (Option<Vec<u8>>, Option<Event>) {
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
                Some(access) => self.controlled(request, operation, &control, &[], |_, request| {
                    // In a row with the reads and writes, so that those which came before are done
                    // before.
                    let work = Work::Access(access, control.counter);
                    request.queue(Registers::default(), work, 0);
                    (None, None)
                }),
            },
            Request::Finish(control) => match Finish::from_argument(control.argument) {
                None => (refuse(Status::BadArgument), None),
                Some(finish) => {
                    self.controlled(request, operation, &control, &[], |target, request| {
                        target.finish(request, finish, &control)
                    })
                }
            },
            Request::Reserve { control, stations } => {
                match Reservation::from_argument(control.argument) {
                    None => (refuse(Status::BadArgument), None),
                    Some(reservation) => self.controlled(
                        request,
                        operation,
                        &control,
                        &stations,
                        |target, request| {
                            let macs = match reservation {
                                Reservation::Take => stations.as_slice(),
                                Reservation::End => &[],
                            };
                            (target.reserve(request, macs, &control), None)
                        },
                    ),
                }
            }
        }
    }

    /// Lets an authorised, new request through; answers the others.
    fn controlled(
        &self,
        request: &mut Incoming<'_>,
        operation: u8,
        control: &Control,
        stations: &[MacAddr],
        carry_out: impl FnOnce(&Target, &mut Incoming<'_>) -> (Option<Vec<u8>>, Option<Event>),
    ) -> (Option<Vec<u8>>, Option<Event>) {
        let export = request.export;
        // Control of "all" would let one request stand for several.
        if request.header.address != export.address {
            return (None, None);
        }
        let by = request.header.source;
        let decision = self
            .control
            .decide(by, export.address, operation, control, stations);
        match decision {
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
        let operation = p2v_contract::operation::op::FINISH;
        let in_use = self
            .exports
            .iter()
            .any(|export| export.access() != Access::ReadOnly);
        let reply = if in_use {
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
        let by = request.header.source;
        self.control
            .finished(by, control.counter, &reply.to_bytes());
        let event = (!in_use).then_some(Event::Finish { finish, by });
        (Some(request.vendor_reply(&reply)), event)
    }

    fn reserve(
        &self,
        request: &Incoming<'_>,
        macs: &[MacAddr],
        control: &Control,
    ) -> Option<Vec<u8>> {
        let operation = p2v_contract::operation::op::RESERVE;
        let by = request.header.source;
        let reply = match request.export.reserve_by_order(macs, by) {
            true => Reply::Done {
                operation,
                argument: control.argument,
                counter: control.counter,
            },
            false => Reply::Refused {
                operation,
                status: Status::Reserved,
                lba: 0,
            },
        };
        self.control
            .finished(by, control.counter, &reply.to_bytes());
        Some(request.vendor_reply(&reply))
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

impl Incoming<'_> {
    fn vendor_reply(&self, reply: &Reply) -> Vec<u8> {
        self.reply.frame(&[&reply.to_bytes()])
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
}
