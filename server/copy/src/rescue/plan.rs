//! What is read next: decided from the map alone, without I/O.
//!
//! The order is that of GNU ddrescue: what may still read well comes first, what is known to fail
//! last, because a dying disk may not live to the end. All that has to outlast an interruption is
//! in the map:
//!
//! - `*` becomes `+` or `/` by large pieces ([`PIECE`]): forwards, jumping ahead after failures;
//!   then backwards, the same; then forwards until none is left.
//! - `/` is read in units (physical sectors): first from the edges inwards until one fails, which
//!   is known from the `-` beside it, then all that is between.
//! - `-` is read sector by sector, as often as was asked for, each time in the other direction.
//!   How far that went is [`Map::current`].
//!
//! Pieces that fail are not halved: every half that fails costs the disk's own tries, up to half a
//! minute each, and units that read well cost milliseconds. So a bad sector is asked for once in a
//! piece, once in a unit, and once for each try after that.

use std::ops::Range;

use crate::map::{Current, Map, Phase, Status};

/// Sectors of a large piece: 64 KiB, as ddrescue's default `--cluster-size` of 128.
pub const PIECE: u64 = 128;
/// Most sectors that are jumped over at once: 4 MiB, what the first pass leaves as one range.
const JUMP_MAX: u64 = 8192;
/// Passes over `*` that jump ahead after failures.
const JUMPING_PASSES: u32 = 2;

/// One read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it is part of.
    pub phase: Phase,
    /// Which pass of that, from 1 on.
    pub pass: u32,
    /// First sector.
    pub lba: u64,
    /// Sectors, at least one.
    pub count: u64,
}

impl Step {
    /// Past its last sector.
    pub fn end(&self) -> u64 {
        self.lba + self.count
    }

    /// Whether the work goes from high sectors to low ones.
    pub fn backwards(&self) -> bool {
        match self.phase {
            Phase::Copying => self.pass.is_multiple_of(2),
            Phase::Retrying => self.pass % 2 == 1,
            _ => false,
        }
    }
}

/// Decides what is read next.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Sectors of a physical sector.
    unit: u64,
    retries: u32,
    /// Pass over `*`, from 1 on.
    pass: u32,
    /// Where that goes on.
    position: u64,
    /// Sectors to jump over at the next failure.
    jump: u64,
}

impl Plan {
    /// A plan for a disk whose physical sectors are of `unit` 512-byte sectors, with `retries`
    /// tries for each bad sector after the first.
    pub fn new(unit: u64, retries: u32) -> Plan {
        Plan {
            unit: unit.max(1),
            retries,
            pass: 1,
            position: 0,
            jump: PIECE,
        }
    }

    /// What is read next; `None`: all is done that can be.
    pub fn next(&mut self, map: &Map) -> Option<Step> {
        let sums = map.sums();
        if sums.of(Status::NonTrimmed) > 0 {
            return self.next_piece(map);
        }
        if sums.of(Status::NonScraped) > 0 {
            return self.next_unit(map);
        }
        self.next_retry(map)
    }

    /// Takes note of how a step went, before the map is asked for the next one. `hard`: it failed,
    /// or took as long as if it had.
    pub fn done(&mut self, step: &Step, hard: bool, map: &mut Map) {
        let backwards = step.backwards();
        let mut position = if backwards { step.lba } else { step.end() };
        map.current = Current {
            lba: position,
            phase: step.phase,
            pass: step.pass,
        };
        if step.phase != Phase::Copying {
            return;
        }
        if !hard || step.pass > JUMPING_PASSES {
            self.jump = PIECE;
        } else if let Some(rest) = self.rest(map, position, backwards) {
            // Not into another area: nothing is known against that one.
            let jump = self.jump.min(rest);
            self.jump = (self.jump * 2).min(JUMP_MAX);
            position = if backwards {
                position - jump
            } else {
                position + jump
            };
        }
        self.position = position;
    }

    /// Sectors of the area of `*` that begins (ends, when going backwards) at `position`.
    fn rest(&self, map: &Map, position: u64, backwards: bool) -> Option<u64> {
        let area = if backwards {
            map.previous(Status::NonTrimmed, position)
                .filter(|area| area.end == position)
        } else {
            map.next(Status::NonTrimmed, position)
                .filter(|area| area.start == position)
        };
        area.map(|area| area.end - area.start)
    }

    fn next_piece(&mut self, map: &Map) -> Option<Step> {
        let area = loop {
            let backwards = self.pass.is_multiple_of(2);
            let area = if backwards {
                map.previous(Status::NonTrimmed, self.position)
            } else {
                map.next(Status::NonTrimmed, self.position)
            };
            match area {
                Some(area) => break cut(area, PIECE, backwards),
                None => {
                    // The other end is where the next pass begins.
                    self.position = if backwards { 0 } else { map.sectors() };
                    self.pass += 1;
                    self.jump = PIECE;
                }
            }
        };
        Some(step(Phase::Copying, self.pass, area))
    }

    fn next_unit(&self, map: &Map) -> Option<Step> {
        let bad = |lba: Option<u64>| lba.and_then(|lba| map.status(lba)) == Some(Status::Bad);
        for area in map.areas_of(Status::NonScraped) {
            if !bad(area.start.checked_sub(1)) {
                return Some(step(Phase::Trimming, 1, cut(area, self.unit, false)));
            }
            if !bad(Some(area.end)) {
                return Some(step(Phase::Trimming, 1, cut(area, self.unit, true)));
            }
        }
        let area = map.next(Status::NonScraped, 0)?;
        Some(step(Phase::Scraping, 1, cut(area, self.unit, false)))
    }

    fn next_retry(&self, map: &Map) -> Option<Step> {
        let Current { lba, phase, pass } = map.current;
        let (mut pass, mut position) = match phase {
            Phase::Retrying => (pass, Some(lba)),
            _ => (1, None),
        };
        while pass <= self.retries {
            let area = if pass % 2 == 1 {
                map.previous(Status::Bad, position.unwrap_or(map.sectors()))
                    .map(|area| area.end - 1)
            } else {
                map.next(Status::Bad, position.unwrap_or(0))
                    .map(|area| area.start)
            };
            if let Some(lba) = area {
                return Some(step(Phase::Retrying, pass, lba..lba + 1));
            }
            (pass, position) = (pass + 1, None);
        }
        None
    }
}

fn step(phase: Phase, pass: u32, range: Range<u64>) -> Step {
    Step {
        phase,
        pass,
        lba: range.start,
        count: range.end - range.start,
    }
}

/// The first (last, when going backwards) part of an area that lies in one block of `unit` sectors.
fn cut(area: Range<u64>, unit: u64, backwards: bool) -> Range<u64> {
    if backwards {
        area.start.max((area.end - 1) / unit * unit)..area.end
    } else {
        area.start..area.end.min((area.start / unit + 1) * unit)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// Runs a plan against a disk of which `bad` cannot be read; returns the steps.
    fn play(map: &mut Map, bad: &BTreeSet<u64>, unit: u64, retries: u32) -> Vec<Step> {
        let mut plan = Plan::new(unit, retries);
        let mut steps = Vec::new();
        while let Some(step) = plan.next(map) {
            let fails = bad.range(step.lba..step.end()).next().is_some();
            let status = match (fails, step.phase) {
                (false, _) => Status::Finished,
                (true, Phase::Copying) => Status::NonScraped,
                (true, _) => Status::Bad,
            };
            map.mark(step.lba, step.count, status);
            plan.done(&step, fails, map);
            steps.push(step);
            assert!(steps.len() < 100_000, "it never ends");
        }
        steps
    }

    fn phases(steps: &[Step]) -> Vec<(Phase, u32)> {
        let mut phases: Vec<_> = steps.iter().map(|s| (s.phase, s.pass)).collect();
        phases.dedup();
        phases
    }

    #[test]
    fn one_bad_sector_costs_a_piece_a_unit_and_a_retry() {
        let mut map = Map::new(20_000, Status::Finished);
        map.mark(8192, 8192, Status::NonTrimmed);
        let steps = play(&mut map, &BTreeSet::from([9000]), 1, 1);
        let fails: Vec<_> = steps
            .iter()
            .filter(|s| (s.lba..s.end()).contains(&9000))
            .map(|s| (s.phase, s.count))
            .collect();
        assert_eq!(
            fails,
            [
                (Phase::Copying, 128),
                (Phase::Trimming, 1),
                (Phase::Retrying, 1)
            ]
        );
        // 64 pieces, 128 units and one retry.
        assert_eq!(steps.len(), 64 + 128 + 1);
        assert_eq!(map.missing(), [(9000, 1)]);
        assert_eq!(map.sums().of(Status::Finished), 19_999);
    }

    #[test]
    fn a_dead_stretch_is_jumped_over_and_then_closed_in_on() {
        let mut map = Map::new(100_000, Status::NonTrimmed);
        let dead: BTreeSet<u64> = (30_000..50_000).collect();
        let steps = play(&mut map, &dead, 1, 0);
        assert_eq!(
            phases(&steps),
            [
                (Phase::Copying, 1),
                (Phase::Copying, 2),
                (Phase::Copying, 3),
                (Phase::Trimming, 1),
                (Phase::Scraping, 1)
            ]
        );
        let failed = |from: usize, pass| {
            steps[from..]
                .iter()
                .filter(|s| s.phase == Phase::Copying && s.pass == pass)
                .filter(|s| dead.range(s.lba..s.end()).next().is_some())
                .count()
        };
        // Everything readable is there after the first two passes, at the price of few failures.
        assert!(failed(0, 1) <= 10, "{}", failed(0, 1));
        assert!(failed(0, 2) <= 40, "{}", failed(0, 2));
        let third = steps.iter().position(|s| s.pass == 3).unwrap();
        let read: u64 = steps[..third]
            .iter()
            .filter(|s| dead.range(s.lba..s.end()).next().is_none())
            .map(|s| s.count)
            .sum();
        assert!(read >= 80_000 - 2 * PIECE, "{read}");
        assert_eq!(map.missing(), [(30_000, 20000)]);
    }

    #[test]
    fn edges_are_trimmed_from_both_sides() {
        let mut map = Map::new(1000, Status::Finished);
        map.mark(256, 128, Status::NonScraped);
        let steps = play(&mut map, &(300..310).collect(), 1, 0);
        let trimmed: Vec<u64> = steps
            .iter()
            .filter(|s| s.phase == Phase::Trimming)
            .map(|s| s.lba)
            .collect();
        let expected: Vec<u64> = (256..=300).chain((309..384).rev()).collect();
        assert_eq!(trimmed, expected);
        assert_eq!(steps.len(), 128);
    }

    #[test]
    fn physical_sectors_are_read_whole() {
        let mut map = Map::new(1000, Status::NonTrimmed);
        let steps = play(&mut map, &(104..112).collect(), 8, 0);
        assert!(
            steps
                .iter()
                .filter(|s| s.phase != Phase::Copying)
                .all(|s| s.count == 8 && s.lba % 8 == 0)
        );
        assert_eq!(map.missing(), [(104, 8)]);
        assert_eq!(steps.len(), 8 + 16);
    }

    #[test]
    fn retries_turn_round_and_go_on_where_they_were() {
        let bad = BTreeSet::from([5, 6, 90]);
        let mut map = Map::new(100, Status::Finished);
        for lba in &bad {
            map.mark(*lba, 1, Status::Bad);
        }
        let order = |steps: &[Step]| steps.iter().map(|s| s.lba).collect::<Vec<_>>();
        let whole = play(&mut map.clone(), &bad, 1, 3);
        assert_eq!(order(&whole), [90, 6, 5, 5, 6, 90, 90, 6, 5]);
        map.current = Current {
            lba: 6,
            phase: Phase::Retrying,
            pass: 2,
        };
        assert_eq!(order(&play(&mut map, &bad, 1, 3)), [6, 90, 90, 6, 5]);
    }

    proptest! {
        #[test]
        fn everything_readable_and_each_bad_sector_a_few_times(
            sectors in 1u64..3000,
            left in proptest::collection::vec((0u64..3000, 1u64..1000), 1..4),
            dead in proptest::collection::vec((0u64..3000, 1u64..300), 0..6),
            retries in 0u32..3,
            cut in any::<prop::sample::Index>(),
        ) {
            let mut map = Map::new(sectors, Status::Finished);
            let before: BTreeSet<u64> = left
                .iter()
                .flat_map(|(l, c)| *l..(l + c).min(sectors))
                .collect();
            for (lba, count) in left {
                map.mark(lba, count, Status::NonTrimmed);
            }
            let bad: BTreeSet<u64> = dead
                .iter()
                .flat_map(|(l, c)| *l..l + c)
                .filter(|l| before.contains(l))
                .collect();
            let start = map.clone();
            let steps = play(&mut map, &bad, 1, retries);
            let found: BTreeSet<u64> = map.areas_of(Status::Bad).flatten().collect();
            prop_assert_eq!(&found, &bad);
            prop_assert_eq!(map.sums().of(Status::Finished), sectors - bad.len() as u64);
            let mut times: BTreeMap<u64, u32> = BTreeMap::new();
            for step in &steps {
                for lba in step.lba..step.end() {
                    *times.entry(lba).or_default() += 1;
                }
            }
            for (lba, times) in times {
                prop_assert!(before.contains(&lba));
                let most = if bad.contains(&lba) { 2 + retries } else { 2 };
                prop_assert!(times <= most, "sector {} {} times", lba, times);
            }
            // Ended anywhere and gone on with from the map: the same in the end.
            let mut again = start;
            let mut plan = Plan::new(1, retries);
            for _ in 0..cut.index(steps.len().max(1)) {
                let step = plan.next(&again).unwrap();
                let fails = bad.range(step.lba..step.end()).next().is_some();
                let status = match (fails, step.phase) {
                    (false, _) => Status::Finished,
                    (true, Phase::Copying) => Status::NonScraped,
                    (true, _) => Status::Bad,
                };
                again.mark(step.lba, step.count, status);
                plan.done(&step, fails, &mut again);
            }
            play(&mut again, &bad, 1, retries);
            prop_assert!(again.areas().eq(map.areas()));
        }
    }
}
