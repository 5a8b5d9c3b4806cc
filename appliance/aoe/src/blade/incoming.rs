//! One request as it came: for which exports it is, whether its sender is answered, and the commands of
//! standard AoE.

use std::sync::Arc;

use p2v_contract::address::SECTOR;
use p2v_contract::operation::Access;
use xxhash_rust::xxh3::xxh3_64;

use super::engine::Engine;
use super::export::{ConfigRefused, Count, Served};
use super::schedule::{Piece, ReplyTo, Request as Waiting, Work};
use super::{BUFFER_COUNT, Event, FIRMWARE, Target};
use crate::acl::{MacMask, Reserve};
use crate::ata::{self, ATA_LEN, Registers, opcode};
use crate::config::{QueryConfig, sub};
use crate::frame::{self, ErrorCode, FrameError, HEADER_LEN, Header, command};
use crate::wire::Wire;

mod vendor;

impl Target {
    /// Handles one frame: replies that need no disk are put out, disk work goes to the engine. Returns
    /// an event that must be told after the replies were sent.
    pub(super) fn accept(
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
            // Who gets no answer asks again; who gets a wrong one gives up.
            opcode::READ
            | opcode::READ_EXT
            | opcode::WRITE
            | opcode::WRITE_EXT
            | opcode::FLUSH
            | opcode::FLUSH_EXT
                if self.export.access() == Access::Waiting =>
            {
                None
            }
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
