//! What begins: reads and writes that the schedule lets start become operations on the disk.
use p2v_contract::address::SECTOR;
use p2v_contract::operation::Access;

use super::{Engine, UNNAMED};
use crate::ata;
use crate::blade::export::{Count, Durability};
use crate::blade::operation::{Action, Operation};
use crate::blade::schedule::{Kind, OpId, Request, Start, Work};

impl Engine {
    pub(super) fn start(&mut self, index: usize) {
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
        if volume.export.access() != Access::ReadWrite {
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

    pub(super) fn submit(&mut self, index: usize, id: OpId, lba: u64, action: Action) {
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
}
