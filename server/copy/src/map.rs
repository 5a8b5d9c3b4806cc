//! What is known of each sector of a disk that is rescued, in GNU ddrescue's terms.

use std::ops::Range;

use rangemap::RangeMap;

/// What became of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// `?`: not asked for yet.
    NonTried,
    /// `*`: part of a large range that failed as a whole.
    NonTrimmed,
    /// `/`: part of a small piece that failed; not yet asked for on its own.
    NonScraped,
    /// `-`: asked for on its own (or with its physical sector), and not readable.
    Bad,
    /// `+`: the destination has it.
    Finished,
}

impl Status {
    /// All of them, in the order of [`Sums`].
    pub const ALL: [Status; 5] = [
        Status::NonTried,
        Status::NonTrimmed,
        Status::NonScraped,
        Status::Bad,
        Status::Finished,
    ];

    /// Its character in a map file (ddrescue's manual, "Mapfile structure").
    pub fn as_char(self) -> char {
        match self {
            Status::NonTried => '?',
            Status::NonTrimmed => '*',
            Status::NonScraped => '/',
            Status::Bad => '-',
            Status::Finished => '+',
        }
    }

    /// The status with this character.
    pub fn from_char(c: char) -> Option<Status> {
        Status::ALL.into_iter().find(|s| s.as_char() == c)
    }
}

/// What is being done, as in the status line of a map file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// `?`: large pieces.
    #[default]
    Copying,
    /// `*`: the edges of failed pieces.
    Trimming,
    /// `/`: what is between the edges.
    Scraping,
    /// `-`: bad sectors once more.
    Retrying,
    /// `F`: ddrescue's fill mode.
    Filling,
    /// `G`: ddrescue's generate mode.
    Generating,
    /// `+`: nothing any more.
    Finished,
}

impl Phase {
    const ALL: [(Phase, char); 7] = [
        (Phase::Copying, '?'),
        (Phase::Trimming, '*'),
        (Phase::Scraping, '/'),
        (Phase::Retrying, '-'),
        (Phase::Filling, 'F'),
        (Phase::Generating, 'G'),
        (Phase::Finished, '+'),
    ];

    /// Its character in a map file.
    pub fn as_char(self) -> char {
        Phase::ALL
            .into_iter()
            .find(|(phase, _)| *phase == self)
            .map_or('?', |(_, c)| c)
    }

    /// The phase with this character.
    pub fn from_char(c: char) -> Option<Phase> {
        Phase::ALL
            .into_iter()
            .find(|(_, other)| *other == c)
            .map(|(phase, _)| phase)
    }
}

/// Where the work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// Sector at which it goes on: the first of what is next, or one past it when going backwards.
    pub lba: u64,
    /// What is being done.
    pub phase: Phase,
    /// Which time, from 1 on.
    pub pass: u32,
}

impl Default for Current {
    fn default() -> Current {
        Current {
            lba: 0,
            phase: Phase::default(),
            pass: 1,
        }
    }
}

/// Sectors of each status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums([u64; 5]);

impl Sums {
    /// Sectors of this status.
    pub fn of(&self, status: Status) -> u64 {
        self.0[status as usize]
    }

    /// Sectors that may still come: everything but finished and bad ones.
    pub fn open(&self) -> u64 {
        self.of(Status::NonTried) + self.of(Status::NonTrimmed) + self.of(Status::NonScraped)
    }
}

/// The status of every sector of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    sectors: u64,
    /// All of the disk.
    areas: RangeMap<u64, Status>,
    sums: Sums,
    /// Where the work is. Kept here because it goes into the map file.
    pub current: Current,
}

impl Map {
    /// A disk of `sectors` 512-byte sectors, all of `status`.
    pub fn new(sectors: u64, status: Status) -> Map {
        let mut sums = Sums::default();
        sums.0[status as usize] = sectors;
        Map {
            sectors,
            areas: (sectors > 0)
                .then_some((0..sectors, status))
                .into_iter()
                .collect(),
            sums,
            current: Current::default(),
        }
    }

    /// Size of the disk in 512-byte sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Sectors of each status.
    pub fn sums(&self) -> Sums {
        self.sums
    }

    /// Gives `count` sectors from `lba` on a status. What lies past the end of the disk is left out.
    pub fn mark(&mut self, lba: u64, count: u64, status: Status) {
        let end = lba.saturating_add(count).min(self.sectors);
        if lba >= end {
            return;
        }
        let mut sums = self.sums;
        for (range, old) in self.within(lba..end) {
            sums.0[old as usize] -= range.end - range.start;
        }
        sums.0[status as usize] += end - lba;
        self.sums = sums;
        self.areas.insert(lba..end, status);
    }

    /// The status of a sector; `None` past the end.
    pub fn status(&self, lba: u64) -> Option<Status> {
        self.areas.get(&lba).copied()
    }

    /// All areas in order: their sectors and status. Neighbours differ.
    pub fn areas(&self) -> impl Iterator<Item = (Range<u64>, Status)> + '_ {
        self.within(0..self.sectors)
    }

    /// The areas of one status, in order.
    pub fn areas_of(&self, status: Status) -> impl Iterator<Item = Range<u64>> + '_ {
        self.areas()
            .filter(move |(_, s)| *s == status)
            .map(|(range, _)| range)
    }

    /// What the destination does not have: first sector and count, in order, not touching.
    pub fn missing(&self) -> Vec<(u64, u64)> {
        let mut missing: Vec<(u64, u64)> = Vec::new();
        for (range, _) in self.areas().filter(|(_, s)| *s != Status::Finished) {
            let count = range.end - range.start;
            match missing.last_mut() {
                Some((first, sum)) if *first + *sum == range.start => *sum += count,
                _ => missing.push((range.start, count)),
            }
        }
        missing
    }

    /// The areas in a range of sectors, those at its ends cut to it.
    pub fn within(
        &self,
        range: Range<u64>,
    ) -> impl DoubleEndedIterator<Item = (Range<u64>, Status)> + '_ {
        let range = range.start..range.end.max(range.start);
        self.areas
            .overlapping(range.clone())
            .map(move |(area, status)| {
                (
                    area.start.max(range.start)..area.end.min(range.end),
                    *status,
                )
            })
            .filter(|(area, _)| area.start < area.end)
    }

    /// The first area of `status` that has sectors at or after `lba`, cut to those.
    pub fn next(&self, status: Status, lba: u64) -> Option<Range<u64>> {
        self.within(lba..self.sectors)
            .find(|(_, s)| *s == status)
            .map(|(range, _)| range)
    }

    /// The last area of `status` that has sectors before `lba`, cut to those.
    pub fn previous(&self, status: Status, lba: u64) -> Option<Range<u64>> {
        self.within(0..lba)
            .rfind(|(_, s)| *s == status)
            .map(|(range, _)| range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn status() -> impl Strategy<Value = Status> {
        prop::sample::select(Status::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn the_same_as_an_array(
            sectors in 0u64..60,
            first in status(),
            marks in proptest::collection::vec((0u64..70, 0u64..70, status()), 0..20),
            at in 0u64..70,
        ) {
            let mut map = Map::new(sectors, first);
            let mut array = vec![first; sectors as usize];
            for (lba, count, status) in marks {
                map.mark(lba, count, status);
                for sector in lba..(lba + count).min(sectors) {
                    array[sector as usize] = status;
                }
            }
            let mut flat = Vec::new();
            let mut last = None;
            for (range, status) in map.areas() {
                prop_assert_eq!(range.start, flat.len() as u64);
                prop_assert!(last != Some(status), "neighbours are merged");
                last = Some(status);
                flat.extend(range.map(|_| status));
            }
            prop_assert_eq!(&flat, &array);
            let of = |s: Status| array.iter().filter(|x| **x == s).count() as u64;
            for s in Status::ALL {
                prop_assert_eq!(map.sums().of(s), of(s));
                // The first sector at or after `at`, and the last before it.
                let next = (at..sectors).find(|l| array[*l as usize] == s);
                prop_assert_eq!(map.next(s, at).map(|r| r.start), next);
                let previous = (0..at.min(sectors)).rev().find(|l| array[*l as usize] == s);
                prop_assert_eq!(map.previous(s, at).map(|r| r.end - 1), previous);
                for range in [map.next(s, at), map.previous(s, at)].into_iter().flatten() {
                    prop_assert!(range.clone().all(|l| array[l as usize] == s));
                }
            }
            let missing: Vec<u64> = map.missing().into_iter().flat_map(|(l, c)| l..l + c).collect();
            let expected: Vec<u64> = (0..sectors)
                .filter(|l| array[*l as usize] != Status::Finished)
                .collect();
            prop_assert_eq!(missing, expected);
            prop_assert!(map.missing().windows(2).all(|w| w[0].0 + w[0].1 < w[1].0));
            prop_assert_eq!(map.status(at), array.get(at as usize).copied());
            let cut: Vec<u64> = map.within(at..at + 9).flat_map(|(range, _)| range).collect();
            prop_assert_eq!(cut, (at..(at + 9).min(sectors)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn characters_go_both_ways() {
        for status in Status::ALL {
            assert_eq!(Status::from_char(status.as_char()), Some(status));
        }
        for (phase, c) in Phase::ALL {
            assert_eq!((phase.as_char(), Phase::from_char(c)), (c, Some(phase)));
        }
    }
}
