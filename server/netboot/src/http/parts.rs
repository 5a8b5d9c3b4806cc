//! Which parts of a file a client has: one that came in parts is told of once, when it is all there. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::boot_menu::BootFile;

/// Files in parts at most, of all clients; then the one that is oldest is forgotten.
const FILES_MAX: usize = 1024;
/// Gaps in a file at most. One that comes in more is not told of when it is whole.
const GAPS_MAX: usize = 64;
/// Of a client that asks for no part for so long, the next part is of another boot.
const PAUSE: Duration = Duration::from_secs(60);

/// What clients have of files that they fetch in parts.
#[derive(Debug, Default)]
pub(super) struct Parts(BTreeMap<(IpAddr, BootFile), Had>);

#[derive(Debug)]
struct Had {
    begun: Instant,
    last: Instant,
    /// In order, with a gap between each two.
    parts: Vec<Range<u64>>,
}

/// What a client has of a file by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes.
    pub bytes: u64,
    /// That is all of it.
    pub whole: bool,
    /// Since its first part was asked for.
    pub elapsed: Duration,
}

impl Parts {
    /// Takes down that `client` has `part` of a file of `size` bytes, which it had asked for at `begun`. A
    /// file that is whole is forgotten, and one that is asked for as a whole (`anew`) begins anew.
    pub fn take(
        &mut self,
        client: (IpAddr, BootFile),
        size: u64,
        part: Range<u64>,
        anew: bool,
        begun: Instant,
        now: Instant,
    ) -> Progress {
        let known = self.0.remove(&client);
        let mut had = known
            .filter(|had| !anew && now.saturating_duration_since(had.last) < PAUSE)
            .unwrap_or(Had {
                begun,
                last: now,
                parts: Vec::new(),
            });
        had.last = now;
        had.begun = had.begun.min(begun);
        had.add(part);
        let progress = Progress {
            bytes: had.parts.iter().map(|part| part.end - part.start).sum(),
            whole: had.parts.first() == Some(&(0..size)),
            elapsed: now.saturating_duration_since(had.begun),
        };
        if !progress.whole && had.parts.len() <= GAPS_MAX {
            if self.0.len() >= FILES_MAX {
                let oldest = self.0.iter().min_by_key(|(_, had)| had.last);
                if let Some(oldest) = oldest.map(|(client, _)| *client) {
                    self.0.remove(&oldest);
                }
            }
            self.0.insert(client, had);
        }
        progress
    }
}

impl Had {
    fn add(&mut self, part: Range<u64>) {
        if part.is_empty() {
            return;
        }
        let (apart, touching): (Vec<_>, Vec<_>) = self
            .parts
            .drain(..)
            .partition(|had| had.end < part.start || part.end < had.start);
        let joined = touching.iter().fold(part, |joined, had| {
            joined.start.min(had.start)..joined.end.max(had.end)
        });
        self.parts = apart;
        let place = self.parts.partition_point(|had| had.start < joined.start);
        self.parts.insert(place, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(n: u16) -> (IpAddr, BootFile) {
        let [high, low] = n.to_be_bytes();
        (IpAddr::from([10, 0, high, low]), BootFile::Kernel)
    }

    #[test]
    fn a_file_is_whole_once_whatever_the_order_of_its_parts() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut parts = Parts::default();
        let mut take = |part: Range<u64>, seconds| {
            let (begun, now) = (at(seconds), at(seconds + 1));
            let progress = parts.take(client(1), 100, part, false, begun, now);
            (progress.bytes, progress.whole, progress.elapsed.as_secs())
        };
        assert_eq!(take(50..100, 0), (50, false, 1));
        assert_eq!(take(0..20, 1), (70, false, 2));
        // What broke off is asked for again.
        assert_eq!(take(10..50, 8), (100, true, 9));
        // Another boot.
        assert_eq!(take(0..50, 9), (50, false, 1));
        assert_eq!(take(50..100, 100), (50, false, 1));
        assert_eq!(take(0..0, 101), (50, false, 2));
        assert_eq!(take(0..100, 102), (100, true, 3));
        assert_eq!(take(0..30, 110), (30, false, 1));
        // It was switched off and on, and asks for all.
        let whole = parts.take(client(1), 100, 0..20, true, at(120), at(121));
        assert_eq!((whole.bytes, whole.elapsed.as_secs()), (20, 1));
    }

    #[test]
    fn strangers_do_not_fill_the_memory() {
        let now = Instant::now();
        let mut parts = Parts::default();
        for n in 0..3000 {
            parts.take(
                client(n),
                10,
                0..1,
                false,
                now,
                now + Duration::from_millis(n.into()),
            );
        }
        assert_eq!(parts.0.len(), FILES_MAX);
        for n in 0..1000 {
            parts.take(client(2999), 10_000, 2 * n..2 * n + 1, false, now, now);
        }
        assert!(parts.0.values().all(|had| had.parts.len() <= GAPS_MAX));
    }

    proptest! {
        #[test]
        fn as_many_bytes_as_there_are_different_ones(all in prop::collection::vec((0..60_u64, 0..20_u64), 1..20)) {
            let now = Instant::now();
            let mut parts = Parts::default();
            let mut have = [false; 80];
            for (start, length) in all {
                have[start as usize..][..length as usize].fill(true);
                let progress = parts.take(client(1), 1000, start..start + length, false, now, now);
                prop_assert_eq!(progress.bytes, have.iter().filter(|had| **had).count() as u64);
            }
        }
    }
}
