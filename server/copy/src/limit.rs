//! A limit on the bytes that cross the wire in a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest sleep at once, so that a stop is heard.
const NAP: Duration = Duration::from_millis(200);

/// The limit, shared by all copies of a command.
#[derive(Debug)]
pub struct Limit {
    bytes_per_second: u64,
    /// When the wire is free again.
    free: Mutex<Option<Instant>>,
}

impl Limit {
    /// At most so many bytes in a second.
    pub fn new(bytes_per_second: u64) -> Limit {
        Limit {
            bytes_per_second: bytes_per_second.max(1),
            free: Mutex::new(None),
        }
    }

    /// Books `bytes`; the wait until they may go.
    fn book(&self, bytes: u64, now: Instant) -> Duration {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let from = free.unwrap_or(now).max(now);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        *free = Some(from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        from - now
    }

    /// Waits until `bytes` more may cross the wire, or `stop` is set.
    pub fn wait_for(&self, bytes: u64, stop: &AtomicBool) {
        let now = Instant::now();
        let until = now + self.book(bytes, now);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_and_a_pause_is_not_made_up_for() {
        let limit = Limit::new(1000);
        let now = Instant::now();
        assert_eq!(limit.book(500, now), Duration::ZERO);
        assert_eq!(limit.book(1000, now), Duration::from_millis(500));
        assert_eq!(limit.book(1000, now), Duration::from_millis(1500));
        let later = now + Duration::from_secs(60);
        assert_eq!(limit.book(1000, later), Duration::ZERO);
        assert_eq!(limit.book(1000, later), Duration::from_secs(1));
    }
}
