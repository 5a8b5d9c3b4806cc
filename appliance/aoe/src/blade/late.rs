//! Writes that come late. A frame can be doubled or delayed on its way: a copy of an old write that
//! arrives after a newer write to the same place must not undo it, and cannot be told from a new
//! request by what it asks for. It can be told by its tag.
//!
//! Two things are known of tags. The same request with the same tag is a copy, if this initiator does
//! not use its tags again and again. And the Linux driver counts: the upper half of its tags is a
//! number of 15 bits that goes up by one with each request, also when one is repeated (`newtag` in
//! `drivers/block/aoe/aoecmd.c`), so a number behind that of a newer write to the same place is late.
//! What an initiator does is watched; nothing is concluded of one that keeps to no rule. A late write
//! is passed over without an answer: if it is wanted after all, it comes again with a newer tag.
//!
//! Passing over a write that was no copy would be worse than anything that is prevented here, so it
//! must end by itself: only writes of the last moments are compared with, and an initiator of which
//! nothing but late writes comes has begun to count anew (a driver that was loaded again).

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use pnet::util::MacAddr;

/// Writes that are remembered: a seventh of a second of a full gigabit wire at two sectors a frame,
/// many times what a frame is held up on a LAN.
const REMEMBERED: usize = 16_384;
/// How long a frame may be held up on its way. What is older is nobody's copy.
const HELD_UP: Duration = Duration::from_secs(2);
/// Late writes in a row, with none in order between, after which it is the rule that was wrong.
const IN_A_ROW: u32 = 8;
/// Initiators that are watched.
const STATIONS: usize = 64;
/// Requests of an initiator that are watched before anything is concluded.
const WATCHED: u32 = 64;
/// How far a number of 15 bits goes up between two requests that come in order, at the most.
const STEP_MAX: u16 = 1024;

/// A write that was done or is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) from: MacAddr,
    pub(super) tag: u32,
    pub(super) lba: u64,
    pub(super) sectors: u64,
    pub(super) hash: u64,
}

impl Write {
    fn overlaps(&self, other: &Write) -> bool {
        self.lba < other.lba + other.sectors && other.lba < self.lba + self.sectors
    }
}

/// What is known of an initiator's tags.
#[derive(Clone, Copy, Default)]
struct Habits {
    /// Requests watched, up to [`WATCHED`].
    watched: u32,
    /// The newest number in the upper half of its tags.
    newest: u16,
    /// Steps of that number that were not a small one upwards.
    jumps: u32,
    /// It gave one tag to two requests.
    reuses: bool,
    /// Writes passed over since the last that was done.
    passed_over: u32,
}

/// The number in the upper half of a tag.
fn number(tag: u32) -> u16 {
    (tag >> 16) as u16 & 0x7fff
}

/// How far `to` is after `from`, in numbers of 15 bits; negative: before it.
fn step(from: u16, to: u16) -> i16 {
    // Shifted up, the sign bit of 16 bits is that of 15.
    ((to << 1).wrapping_sub(from << 1) as i16) >> 1
}

impl Habits {
    fn counts(&self) -> bool {
        self.watched >= WATCHED && self.jumps * 16 <= self.watched
    }

    fn watch(&mut self, tag: u32) {
        let step = step(self.newest, number(tag));
        if self.watched > 0 && !(1..=STEP_MAX as i16).contains(&step) {
            self.jumps += 1;
        }
        if self.watched == 0 || step > 0 {
            self.newest = number(tag);
        }
        self.watched += 1;
        if self.watched >= 2 * WATCHED {
            // Old habits fade.
            self.watched /= 2;
            self.jumps /= 2;
        }
    }
}

/// The recent writes of one disk.
#[derive(Default)]
pub(super) struct Recent {
    writes: VecDeque<(Write, Instant)>,
    /// How many of `writes` a station sent with a tag.
    tags: HashMap<(MacAddr, u32), u32>,
    habits: HashMap<MacAddr, Habits>,
}

impl Recent {
    /// Whether `write`, which came at `now`, is a late copy that must not be done. One that is not is
    /// remembered.
    pub(super) fn is_late(&mut self, write: Write, now: Instant) -> bool {
        if self.habits.len() >= STATIONS && !self.habits.contains_key(&write.from) {
            self.habits.clear();
        }
        let mut habits = self.habits.get(&write.from).copied().unwrap_or_default();
        let mut late = self.comes_late(&write, &mut habits, now);
        if late {
            habits.passed_over += 1;
            if habits.passed_over > IN_A_ROW {
                habits = Habits::default();
                late = false;
            }
        }
        if !late {
            habits.passed_over = 0;
            habits.watch(write.tag);
            self.remember(write, now);
        }
        self.habits.insert(write.from, habits);
        late
    }

    fn comes_late(&self, write: &Write, habits: &mut Habits, now: Instant) -> bool {
        let seen = !habits.reuses && self.tags.contains_key(&(write.from, write.tag));
        // Far behind is not late: reads are counted too, and not watched here.
        let steps = step(habits.newest, number(write.tag));
        let behind = habits.counts() && (-(STEP_MAX as i16)..0).contains(&steps);
        if !seen && !behind {
            return false;
        }
        let mut newer = Vec::new();
        let (mut same, mut overwritten) = (false, false);
        for (other, at) in self.writes.iter().rev() {
            if now.saturating_duration_since(*at) > HELD_UP || same {
                break;
            }
            if other == write {
                same = true;
            } else if other.from == write.from && other.tag == write.tag {
                // One that counts has sent a page again that was changed meanwhile; it is one frame, and
                // not the initiator, that keeps to no rule.
                habits.reuses |= !habits.counts();
            } else if other.overlaps(write) {
                // By whomever: a host may send from several interfaces, and a domain may move.
                overwritten = true;
                if other.from == write.from {
                    newer.push(other.tag);
                }
            }
        }
        // It was done, and something newer is there now.
        let copy = seen && same && overwritten;
        let overtaken = behind
            && newer
                .iter()
                .any(|tag| step(number(write.tag), number(*tag)) > 0);
        copy || overtaken
    }

    fn remember(&mut self, write: Write, now: Instant) {
        if self.writes.len() == REMEMBERED {
            self.forget_oldest();
        }
        *self.tags.entry((write.from, write.tag)).or_default() += 1;
        self.writes.push_back((write, now));
    }

    fn forget_oldest(&mut self) {
        let Some((oldest, _)) = self.writes.pop_front() else {
            return;
        };
        let key = (oldest.from, oldest.tag);
        if let Some(count) = self.tags.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.tags.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINUX: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);

    fn write(tag: u32, lba: u64, hash: u64) -> Write {
        Write {
            from: LINUX,
            tag,
            lba,
            sectors: 2,
            hash,
        }
    }

    fn now() -> Instant {
        Instant::now()
    }

    /// A tag as the Linux driver makes it: a count above, a clock below.
    fn linux(count: u32) -> u32 {
        (count & 0x7fff) << 16 | (count.wrapping_mul(7) & 0xffff)
    }

    #[test]
    fn a_doubled_frame_does_not_undo_a_newer_write() {
        let mut recent = Recent::default();
        assert!(!recent.is_late(write(100, 0, 1), now()));
        assert!(
            !recent.is_late(write(100, 0, 1), now()),
            "nothing newer: harmless"
        );
        assert!(!recent.is_late(write(101, 1, 2), now()));
        assert!(recent.is_late(write(100, 0, 1), now()));
        assert!(
            !recent.is_late(write(102, 0, 1), now()),
            "the same data, written again"
        );
    }

    #[test]
    fn a_first_copy_that_comes_after_its_repetition_is_known_by_its_number() {
        let mut recent = Recent::default();
        // Across the wrap of the 15 bits.
        let start = 0x7fff - 100;
        for count in 0..200 {
            assert!(!recent.is_late(write(linux(start + count), u64::from(count) * 2, 9), now()));
        }
        let (first, again, newer) = (linux(start + 200), linux(start + 201), linux(start + 202));
        assert!(!recent.is_late(write(again, 1000, 5), now()));
        assert!(!recent.is_late(write(newer, 1000, 6), now()));
        assert!(recent.is_late(write(first, 1000, 5), now()));
        // Late, but nothing newer is there: it is done.
        assert!(!recent.is_late(write(first, 5000, 5), now()));
    }

    #[test]
    fn nothing_is_concluded_of_an_initiator_without_rules() {
        // One tag for everything: A, B, A must end with A.
        let mut recent = Recent::default();
        for round in 0..300 {
            assert!(!recent.is_late(write(0, 0, round % 2), now()), "{round}");
        }
        // Tags at random.
        let mut recent = Recent::default();
        let mut tag = 1u32;
        for round in 0..3000 {
            tag = tag.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            assert!(!recent.is_late(write(tag, 0, round), now()), "{round}");
        }
    }

    #[test]
    fn a_driver_that_was_loaded_again_is_not_shut_out() {
        let mut recent = Recent::default();
        for count in 0..200 {
            assert!(!recent.is_late(
                write(linux(5000 + count), u64::from(count % 4) * 2, 9),
                now()
            ));
        }
        // It counts from the beginning again, and writes to the same places at once.
        let done = (1..=20).position(|count| !recent.is_late(write(linux(count), 0, 7), now()));
        assert!(done.is_some_and(|tries| tries <= IN_A_ROW as usize));
        for count in 21..300 {
            assert!(!recent.is_late(write(linux(count), u64::from(count % 4) * 2, 8), now()));
        }
        // And some seconds later nothing is late at all.
        let later = now() + HELD_UP + Duration::from_secs(1);
        assert!(!recent.is_late(write(linux(1), 0, 7), later));
    }

    #[test]
    fn a_copy_does_not_undo_what_another_station_has_written_since() {
        let mut recent = Recent::default();
        assert!(!recent.is_late(write(100, 0, 1), now()));
        let other = Write {
            from: MacAddr(2, 0, 0, 0, 0, 2),
            ..write(7, 0, 2)
        };
        assert!(!recent.is_late(other, now()));
        assert!(recent.is_late(write(100, 0, 1), now()));
    }

    #[test]
    fn many_reads_between_two_writes_make_neither_late() {
        let mut recent = Recent::default();
        for count in 0..200 {
            assert!(!recent.is_late(write(linux(count), u64::from(count % 4) * 2, 9), now()));
        }
        assert!(!recent.is_late(write(linux(200 + 20_000), 0, 10), now()));
    }

    #[test]
    fn memory_is_bounded() {
        let mut recent = Recent::default();
        for count in 0..3 * REMEMBERED as u32 {
            recent.is_late(write(count, u64::from(count), 0), now());
        }
        assert_eq!(recent.writes.len(), REMEMBERED);
        assert_eq!(recent.tags.len(), REMEMBERED);
    }
}
