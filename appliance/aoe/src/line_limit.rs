//! How many lines of one kind a log gets: anybody on a network can send a million frames, and their lines must neither
//! fill a disk nor hide the others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Lets so many lines of each kind through in a period, and counts those that it leaves out.
///
/// The caller sees to it that there is a bound on the number of kinds.
#[derive(Debug)]
pub struct LineLimit<K> {
    lines: u32,
    period: Duration,
    kinds: BTreeMap<K, Kind>,
}

#[derive(Debug)]
struct Kind {
    /// The start of its period.
    since: Instant,
    /// Let through since then.
    lines: u32,
    /// Not told yet.
    left_out: u64,
}

impl<K: Ord + Clone> LineLimit<K> {
    /// At most `lines` of one kind in each `period`, which begins with the first of them.
    pub fn new(lines: u32, period: Duration) -> LineLimit<K> {
        LineLimit {
            lines,
            period,
            kinds: BTreeMap::new(),
        }
    }

    /// Whether a line of this kind is written now; else it is counted.
    pub fn admits(&mut self, kind: K, now: Instant) -> bool {
        let kind = self.kinds.entry(kind).or_insert(Kind {
            since: now,
            lines: 0,
            left_out: 0,
        });
        if now.saturating_duration_since(kind.since) >= self.period {
            (kind.since, kind.lines) = (now, 0);
        }
        let admitted = kind.lines < self.lines;
        match admitted {
            true => kind.lines += 1,
            false => kind.left_out += 1,
        }
        admitted
    }

    /// How many lines of each kind were left out since it was asked last; none of those with none.
    pub fn take_left_out(&mut self, now: Instant) -> Vec<(K, u64)> {
        let counts = self.kinds.iter_mut().filter(|(_, kind)| kind.left_out > 0);
        let counts = counts.map(|(name, kind)| (name.clone(), std::mem::take(&mut kind.left_out)));
        let counts = counts.collect();
        let period = self.period;
        self.kinds
            .retain(|_, kind| now.saturating_duration_since(kind.since) < period);
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_of_each_kind_in_a_period_and_the_others_are_counted() {
        let mut limit = LineLimit::new(3, Duration::from_secs(60));
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let admitted = |limit: &mut LineLimit<_>, kind, count: u32, seconds| {
            (0..count)
                .filter(|_| limit.admits(kind, at(seconds)))
                .count()
        };
        assert_eq!(admitted(&mut limit, "a", 10_000, 0), 3);
        assert_eq!(admitted(&mut limit, "b", 2, 59), 2);
        assert_eq!(admitted(&mut limit, "a", 1, 59), 0);
        assert_eq!(admitted(&mut limit, "a", 5, 60), 3);
        assert_eq!(limit.take_left_out(at(61)), [("a", 9_998 + 2)]);
        assert_eq!(limit.take_left_out(at(61)), []);
        // What is over takes no memory.
        assert_eq!(limit.take_left_out(at(200)), []);
        assert!(limit.kinds.is_empty());
    }
}
