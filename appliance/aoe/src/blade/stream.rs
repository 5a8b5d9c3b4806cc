//! Who reads on and on: what such a reader will ask for next is fetched before it asks. Readers that
//! jump about pay nothing for it.

/// Readers that are followed at once.
const STREAMS: usize = 8;
/// Sectors read in a row before anything is fetched ahead: a file of some kilobytes, read whole, is
/// not yet a stream.
const PATIENCE: u64 = 128;
/// How far ahead of the reader the disk is, in sectors (2 MiB): more than the window of the fastest
/// wire (64 jumbo frames, 0.5 MiB), and with all streams at work little enough for a machine with
/// 128 MB.
const AHEAD: u64 = 4096;
/// Frames of one window may come in any order: so far from the expected place is still in a row.
const DISORDER: u64 = 1280;
/// Reads of others after which a steady reader that is silent may be forgotten.
const STEADY_KEPT: u64 = 4096;

#[derive(Clone, Copy, Default)]
struct Stream {
    /// The first sector read.
    start: u64,
    /// The sector after the last one read.
    next: u64,
    /// Sectors read since it began.
    read: u64,
    /// Everything from the reader up to this sector was asked of the disk, if anything was.
    fetched: u64,
    /// When it was last of use.
    used: u64,
}

impl Stream {
    /// It reads on and on, and leaves little out.
    fn is_steady(&self) -> bool {
        self.read >= PATIENCE && self.read * 2 >= self.next - self.start
    }
}

/// The readers of one disk.
#[derive(Default)]
pub(super) struct Streams {
    streams: [Stream; STREAMS],
    clock: u64,
}

/// What to make of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// It lies in what is being fetched: through the page cache it waits for that, rather than ask the
    /// disk a second time.
    pub(super) fetching: bool,
    /// First sector and number of sectors to fetch now; 0: nothing.
    pub(super) fetch: (u64, u64),
}

impl Streams {
    /// Notes a read of `sectors` from `lba` on, on a disk of `size` sectors. `missed`: not all of it was
    /// in memory already. Who finds everything there needs nothing fetched.
    pub(super) fn note(&mut self, lba: u64, sectors: u64, size: u64, missed: bool) -> Plan {
        self.clock += 1;
        let end = lba + sectors;
        let follows = |s: &Stream| s.used > 0 && lba.abs_diff(s.next) <= DISORDER;
        let exact = self
            .streams
            .iter()
            .position(|s| s.used > 0 && s.next == lba);
        let Some(at) = exact.or_else(|| self.streams.iter().position(follows)) else {
            // A steady reader is not forgotten for one that jumps about.
            let oldest = self
                .streams
                .iter_mut()
                .min_by_key(|s| (s.is_steady() && s.used + STEADY_KEPT > self.clock, s.used));
            if let Some(stream) = oldest {
                *stream = Stream {
                    start: lba,
                    next: end,
                    read: sectors,
                    fetched: 0,
                    used: self.clock,
                };
            }
            return Plan::default();
        };
        let stream = &mut self.streams[at];
        let advanced = end > stream.next;
        stream.used = self.clock;
        stream.start = stream.start.min(lba);
        stream.next = stream.next.max(end);
        stream.read += sectors;
        let mut plan = Plan {
            fetching: lba < stream.fetched,
            fetch: (0, 0),
        };
        // In halves: not a few sectors with every frame.
        let wanted = missed || stream.fetched > lba;
        if wanted && advanced && stream.is_steady() && stream.fetched < stream.next + AHEAD / 2 {
            let from = stream.fetched.max(stream.next).min(size);
            let to = (stream.next + AHEAD).min(size);
            if from < to {
                stream.fetched = to;
                plan.fetch = (from, to - from);
            }
        }
        plan
    }

    /// What was said to be fetched could not be, or is out of date.
    pub(super) fn forget(&mut self, from: u64) {
        for stream in self.streams.iter_mut().filter(|s| s.fetched > from) {
            stream.fetched = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 30;

    #[test]
    fn a_reader_in_a_row_finds_its_data_fetched() {
        let mut streams = Streams::default();
        let (mut fetched, mut asked) = (0, 0);
        for i in 0..100_000 {
            let plan = streams.note(i * 2, 2, SIZE, i * 2 >= fetched);
            assert_eq!(plan.fetching, i * 2 < fetched);
            if plan.fetch.1 > 0 {
                assert!(
                    fetched == 0 || plan.fetch.0 == fetched,
                    "no gap, nothing twice"
                );
                fetched = plan.fetch.0 + plan.fetch.1;
                asked += 1;
            }
            assert!(i * 2 < PATIENCE || fetched >= i * 2 + AHEAD / 2);
        }
        assert!(asked < 110, "{asked} times for 200000 sectors");
    }

    #[test]
    fn several_readers_are_kept_apart_and_the_end_of_the_disk_is_the_end() {
        let mut streams = Streams::default();
        let mut last = [0; 4];
        for i in 0..2000u64 {
            for reader in 0..4u64 {
                let plan = streams.note(reader * 1_000_000 + i * 2, 2, 3_003_000, true);
                if plan.fetch.1 > 0 {
                    assert_eq!(plan.fetch.0 / 1_000_000, reader);
                    last[reader as usize] = plan.fetch.0 + plan.fetch.1;
                }
            }
        }
        assert!(last[0] > 4000 + AHEAD / 2);
        assert_eq!(last[3], 3_003_000);
    }

    #[test]
    fn a_reader_that_jumps_about_fetches_nothing() {
        let mut streams = Streams::default();
        let mut place = 1u64;
        // A small disk, where a jump often lands near another.
        for _ in 0..100_000 {
            // A full-period generator (Knuth's constants).
            place = place
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let plan = streams.note((place >> 43) & !1, 2, 1 << 21, true);
            assert_eq!(plan.fetch, (0, 0));
        }
    }
}
