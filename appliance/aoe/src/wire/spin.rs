//! When to look for a frame again and again instead of sleeping until it comes.
//!
//! A host that has one request in flight sends the next one soon after it has its answer. A processor
//! that sleeps meanwhile needs longer to wake than the frame is away; but one that looks in vain keeps
//! the others on the machine from working. So it looks only where that has paid before.

use std::time::Duration;

/// How long to look: about what it takes a processor to sleep and wake.
pub(super) const LOOK: Duration = Duration::from_micros(60);
/// A frame that came this soon, sleeping and waking included, would have been seen.
const SOON: Duration = Duration::from_micros(120);
/// Sleeps before looking is tried again double with each time that it was in vain, up to 2^10.
const MOST_DOUBLINGS: u32 = 10;

/// What was learned.
#[derive(Default)]
pub(super) struct Spin {
    /// Frames come soon.
    soon: bool,
    /// Sleeps until looking is tried again.
    sleeps: u32,
    /// Times in a row that nothing was seen.
    in_vain: u32,
}

impl Spin {
    /// Whether to look before sleeping.
    pub(super) fn pays(&self) -> bool {
        self.soon && self.sleeps == 0
    }

    /// It was looked, and something was seen or not.
    pub(super) fn looked(&mut self, seen: bool) {
        if seen {
            self.in_vain = 0;
        } else {
            self.sleeps = 1 << self.in_vain.min(MOST_DOUBLINGS);
            self.in_vain += 1;
        }
    }

    /// It was slept for so long until a frame came.
    pub(super) fn slept(&mut self, length: Duration) {
        self.soon = length < SOON;
        self.sleeps = self.sleeps.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_where_frames_come_soon_and_stops_when_they_do_not() {
        let mut spin = Spin::default();
        assert!(!spin.pays(), "nothing is known yet");
        spin.slept(SOON / 2);
        assert!(spin.pays());
        spin.looked(true);
        assert!(spin.pays());
        spin.looked(false);
        assert!(!spin.pays());
        spin.slept(SOON * 10);
        assert!(!spin.pays(), "they come late");
        spin.slept(SOON / 2);
        assert!(spin.pays());
    }

    #[test]
    fn looking_in_vain_becomes_rare() {
        let (mut spin, mut looks) = (Spin::default(), 0);
        for _ in 0..10_000 {
            if spin.pays() {
                looks += 1;
                spin.looked(false);
            }
            spin.slept(SOON / 2);
        }
        assert!((10..30).contains(&looks), "{looks}");
    }
}
