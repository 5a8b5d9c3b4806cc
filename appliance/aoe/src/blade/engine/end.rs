//! What has ended: the answers to the requests of an operation, each with its own result.

use std::io;

use p2v_contract::operation::{Reply, Status, op};

use super::Engine;
use crate::ata::{self, Registers};
use crate::blade::Event;
use crate::blade::buffer::Buffer;
use crate::blade::export::{Count, Durability};
use crate::blade::operation::{Action, Ended, Outcome};
use crate::blade::schedule::{Kind, OpId, Piece, Request};

impl Engine {
    /// One operation has ended.
    pub(super) fn end(&mut self, ended: Ended) {
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

    fn give_back(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            self.buffers.give(piece.buffer);
        }
    }

    fn end_read(
        &mut self,
        index: usize,
        id: OpId,
        lba: u64,
        buffer: Buffer,
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
            self.control.finished(by, counter, &body);
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
    pub(super) fn answer_read(
        &mut self,
        index: usize,
        request: &Request,
        buffer: usize,
        from: u64,
    ) {
        let export = &self.volumes[index].export;
        export.count(Count::SectorsRead, request.sectors);
        export.latency(self.now.saturating_duration_since(request.arrived));
        let registers = request.registers.done();
        for to in request.everybody() {
            self.out.data(to, registers, buffer, from, request.sectors);
        }
    }
}
