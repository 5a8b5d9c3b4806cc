//! What may still be written to a thin pool. The pool is looked at now and then, which takes as long as the host is busy;
//! who has written what there was room for at the last look waits for the next one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The longest wait at once, so that a stop is heard.
const NAP: Duration = Duration::from_millis(200);

/// The bytes, for all copies to one pool together.
#[derive(Debug)]
pub struct Allowance {
    bytes: Mutex<Bytes>,
    changed: Condvar,
}

#[derive(Debug)]
struct Bytes {
    /// How many may be asked for in all; `None`: any number.
    most: Option<u64>,
    /// How many were asked for in all.
    taken: u64,
    /// Those of them that are written.
    written: u64,
    /// What is asked for and waits.
    waiting: Vec<u64>,
}

impl Allowance {
    /// For a pool that has room for so many bytes; `None`: for any number.
    pub fn new(room: Option<u64>) -> Allowance {
        let bytes = Bytes {
            most: room,
            taken: 0,
            written: 0,
            waiting: Vec::new(),
        };
        Allowance {
            bytes: Mutex::new(bytes),
            changed: Condvar::new(),
        }
    }

    fn bytes(&self) -> MutexGuard<'_, Bytes> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until so many bytes may be written; false: `stop` was set, and they may not.
    pub fn take(&self, bytes: u64, stop: &AtomicBool) -> bool {
        let mut all = self.bytes();
        all.waiting.push(bytes);
        let may = loop {
            if stop.load(Ordering::Acquire) {
                break false;
            }
            if all.most.is_none_or(|most| all.taken + bytes <= most) {
                all.taken += bytes;
                break true;
            }
            let waited = self.changed.wait_timeout(all, NAP);
            all = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        let at = all.waiting.iter().position(|waits| *waits == bytes);
        at.map(|at| all.waiting.swap_remove(at));
        may
    }

    /// So many of the bytes that were taken are written.
    pub fn wrote(&self, bytes: u64) {
        self.bytes().written += bytes;
    }

    /// How many are written in all.
    pub fn written(&self) -> u64 {
        self.bytes().written
    }

    /// The pool was looked at when at least `before` of the bytes were in it, and had room for `room` more; `None`: for any
    /// number. Returns what a writer waits for without end: all that was taken is in the pool, and there is too little room.
    pub fn looked(&self, before: u64, room: Option<u64>) -> Option<u64> {
        let mut all = self.bytes();
        all.most = room.map(|room| before + room);
        self.changed.notify_all();
        let wanted = all.waiting.iter().min().copied()?;
        let all_are_in = all.taken == before;
        (all_are_in && room.is_some_and(|room| wanted > room)).then_some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_written_than_there_was_room_for() {
        let allowance = Allowance::new(Some(10));
        let (go, stop) = (AtomicBool::new(false), AtomicBool::new(true));
        assert!(allowance.take(8, &go));
        assert!(!allowance.take(3, &stop));
        // A look from before these were in the pool gives no more room.
        assert_eq!(allowance.looked(0, Some(10)), None);
        assert!(!allowance.take(3, &stop));
        allowance.wrote(8);
        let before = allowance.written();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| allowance.take(3, &go));
            while allowance.bytes().waiting.is_empty() {
                std::thread::yield_now();
            }
            // It has not shown in the pool's figures, and then it has.
            assert_eq!(allowance.looked(0, Some(2)), None);
            assert_eq!(allowance.looked(before, Some(2)), Some(3));
            assert_eq!(allowance.looked(before, Some(3)), None);
            assert!(waits.join().unwrap());
        });
        assert_eq!(allowance.looked(before, None), None);
        assert!(allowance.take(u64::MAX >> 1, &go));
    }
}
