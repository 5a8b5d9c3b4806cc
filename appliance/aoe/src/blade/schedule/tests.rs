//! The schedule against a plain array: whatever the order in which operations end, every reader sees
//! what the order of arrival says, and nothing is answered before its flush.

use p2v_contract::address::Address;
use pnet::util::MacAddr;
use proptest::prelude::*;

use super::*;
use crate::blade::buffer::Buffers;
use crate::frame::{Header, command};

const SIZE: u64 = 64;

fn request(tag: u32, lba: u64, sectors: u64, work: Work, hash: u64) -> Request {
    let host = MacAddr::new(2, 0, 0, 0, 0, 1);
    let header = Header::request(host, host, Address::new(1, 0), command::ATA, tag);
    let write = matches!(work, Work::Write(_));
    Request {
        to: ReplyTo { wire: 0, header },
        copies: Vec::new(),
        registers: Registers::transfer(write, lba, sectors as u8),
        lba,
        sectors,
        work,
        hash,
        arrived: Instant::now(),
    }
}

fn piece(sectors: u64, fill: u8) -> Work {
    let bytes = (sectors * SECTOR) as usize;
    let mut buffer = Buffers::default().take(bytes);
    buffer[..bytes].fill(fill);
    Work::Write(Some(Piece { buffer, bytes }))
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64, u64),
    Write(u64, u64),
    /// The request before last comes again, with a tag of its own.
    Again,
    Flush,
    /// What may start, starts.
    Start,
    /// The operation at work with this number (of those there are) ends.
    End(prop::sample::Index),
    EndSync,
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..SIZE - 8, 1u64..8);
    prop_oneof![
        4 => range.clone().prop_map(|(lba, count)| Step::Read(lba, count)),
        4 => range.prop_map(|(lba, count)| Step::Write(lba, count)),
        1 => Just(Step::Again),
        1 => Just(Step::Flush),
        3 => Just(Step::Start),
        5 => any::<prop::sample::Index>().prop_map(Step::End),
        2 => Just(Step::EndSync),
    ]
}

/// An operation at work: its requests' data, and what a read has taken already.
type AtWork = (OpId, Kind, u64, Vec<Option<Piece>>, Option<Vec<u8>>);

/// A disk whose operations take effect at a moment between their start and their end.
struct World {
    schedule: Schedule,
    disk: Vec<u8>,
    /// Operations at work: a read has its data from the moment of its start or of its end, by turns.
    at_work: Vec<AtWork>,
    /// What a reader must see: by tag.
    expected: std::collections::HashMap<u32, Vec<u8>>,
    /// The array after all that has arrived.
    model: Vec<u8>,
    answered: std::collections::HashSet<u32>,
    /// Tags of writes on the disk, and of those that a flush has covered.
    on_disk: std::collections::HashSet<u32>,
    stable: std::collections::HashSet<u32>,
    sync_covers: Vec<u32>,
    turn: bool,
}

impl World {
    fn start(&mut self) {
        for mut start in self.schedule.ready() {
            let pieces: Vec<Option<Piece>> = start
                .requests
                .iter_mut()
                .map(|r| match &mut r.work {
                    Work::Write(piece) => piece.take(),
                    _ => None,
                })
                .collect();
            let sectors: u64 = start.requests.iter().map(|r| r.sectors).sum();
            assert_eq!(sectors, start.sectors, "neighbours only");
            let (kind, lba) = (start.kind, start.lba);
            let from = lba as usize;
            self.turn = !self.turn;
            let early = (kind == Kind::Read && self.turn)
                .then(|| self.disk[from..from + start.sectors as usize].to_vec());
            let id = self.schedule.activate(start);
            self.at_work.push((id, kind, lba, pieces, early));
        }
        if self.schedule.begin_sync() {
            self.sync_covers = self.on_disk.iter().copied().collect();
        }
    }

    fn answer(&mut self, request: &Request) {
        for to in request.everybody() {
            assert!(self.answered.insert(to.header.tag), "answered twice");
        }
    }

    fn end(&mut self, at: usize) {
        let (id, kind, lba, pieces, early) = self.at_work.swap_remove(at);
        let start = self.schedule.finish(id).unwrap();
        let mut from = lba as usize;
        let mut at = 0;
        for (request, piece) in start.requests.into_iter().zip(pieces) {
            let to = from + request.sectors as usize;
            match kind {
                Kind::Read => {
                    let data = match &early {
                        Some(early) => early[at..at + request.sectors as usize].to_vec(),
                        None => self.disk[from..to].to_vec(),
                    };
                    for reply in request.everybody() {
                        if let Some(expected) = self.expected.get(&reply.header.tag) {
                            assert_eq!(&data, expected, "tag {}", reply.header.tag);
                        }
                    }
                    self.answer(&request);
                }
                _ => {
                    let piece = piece.unwrap();
                    for (sector, byte) in self.disk[from..to].iter_mut().enumerate() {
                        *byte = piece.data()[sector * SECTOR as usize];
                    }
                    self.on_disk.insert(request.to.header.tag);
                    self.schedule.wait_for_sync(request);
                }
            }
            at += to - from;
            from = to;
        }
        if self.schedule.begin_sync() {
            self.sync_covers = self.on_disk.iter().copied().collect();
        }
    }

    fn end_sync(&mut self) {
        let settled = self.schedule.end_sync();
        self.stable.extend(self.sync_covers.drain(..));
        for request in settled {
            if matches!(request.work, Work::Write(_)) {
                assert!(
                    self.stable.contains(&request.to.header.tag),
                    "answered before a flush that began after it"
                );
            }
            self.answer(&request);
        }
        if self.schedule.begin_sync() {
            self.sync_covers = self.on_disk.iter().copied().collect();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn as_if_one_after_the_other(steps in proptest::collection::vec(step(), 1..80)) {
        let mut world = World {
            schedule: Schedule::default(),
            disk: vec![0; SIZE as usize],
            at_work: Vec::new(),
            expected: Default::default(),
            model: vec![0; SIZE as usize],
            answered: Default::default(),
            on_disk: Default::default(),
            stable: Default::default(),
            sync_covers: Vec::new(),
            turn: false,
        };
        let mut tag = 0;
        let mut last = None;
        for step in steps {
            match step {
                Step::Read(lba, count) => {
                    tag += 1;
                    let range = lba as usize..(lba + count) as usize;
                    world.expected.insert(tag, world.model[range].to_vec());
                    world.schedule.push(request(tag, lba, count, Work::Read, 0));
                    last = None;
                }
                Step::Write(lba, count) => {
                    tag += 1;
                    let fill = tag as u8;
                    world.model[lba as usize..(lba + count) as usize].fill(fill);
                    world.schedule.push(request(tag, lba, count, piece(count, fill), u64::from(fill)));
                    last = Some((lba, count, fill));
                }
                // Nothing came between, so that doing it twice or once is the same.
                Step::Again => if let Some((lba, count, fill)) = last {
                    tag += 1;
                    world.schedule.push(request(tag, lba, count, piece(count, fill), u64::from(fill)));
                },
                Step::Flush => {
                    tag += 1;
                    world.schedule.push(request(tag, 0, 0, Work::Flush, 0));
                }
                Step::Start => world.start(),
                Step::End(index) => if !world.at_work.is_empty() {
                    world.end(index.index(world.at_work.len()));
                },
                Step::EndSync => world.end_sync(),
            }
        }
        for _ in 0..1000 {
            world.start();
            if let Some(at) = world.at_work.len().checked_sub(1) {
                world.end(at);
            }
            world.end_sync();
        }
        prop_assert_eq!(world.schedule.len(), 0);
        prop_assert!(!world.schedule.is_busy());
        prop_assert_eq!(world.answered.len() as u32, tag, "everybody is answered");
        prop_assert_eq!(world.disk, world.model);
    }
}

#[test]
fn neighbours_are_merged_and_a_change_of_access_is_overtaken_by_nobody() {
    let mut schedule = Schedule::default();
    for lba in [6, 0, 2, 4, 20] {
        schedule.push(request(lba as u32, lba, 2, Work::Read, 0));
    }
    schedule.push(request(50, 0, 0, Work::Access(Access::ReadWrite, 1), 0));
    schedule.push(request(51, 8, 2, Work::Read, 0));
    let starts = schedule.ready();
    let ranges: Vec<_> = starts.iter().map(|s| (s.lba, s.sectors)).collect();
    assert_eq!(ranges, [(0, 8), (20, 2)]);
    let names: Vec<OpId> = starts.into_iter().map(|s| schedule.activate(s)).collect();
    assert!(schedule.ready().is_empty());
    for name in names {
        schedule.finish(name).unwrap();
    }
    let starts = schedule.ready();
    assert_eq!(starts.len(), 1);
    assert_eq!(starts[0].kind, Kind::Access(Access::ReadWrite, 1));
    assert!(schedule.ready().is_empty());
    let name = schedule.activate(starts.into_iter().next().unwrap());
    assert!(schedule.ready().is_empty());
    schedule.finish(name).unwrap();
    assert_eq!(schedule.ready().len(), 1);
}

#[test]
fn a_disk_that_does_not_answer_has_its_share_of_the_machine_and_no_more() {
    let mut schedule = Schedule::default();
    let scattered = 3 * AT_WORK_MAX as u64;
    for lba in 0..scattered {
        schedule.push(request(lba as u32, lba * 8, 1, Work::Read, 0));
    }
    // Neighbours of one that starts go along.
    schedule.push(request(9000, (scattered - 1) * 8 + 1, 1, Work::Read, 0));
    let mut seen = 0;
    while seen < scattered as usize + 1 {
        let names: Vec<OpId> = schedule
            .ready()
            .into_iter()
            .map(|start| schedule.activate(start))
            .collect();
        assert_eq!(names.len(), AT_WORK_MAX);
        assert!(schedule.ready().is_empty(), "no room");
        for name in names {
            seen += schedule.finish(name).unwrap().requests.len();
        }
    }
    assert_eq!(schedule.len(), 0);
}
