//! How far the digests may be ahead of what is read: what they cover lies in the old machine's memory.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Pieces that were digested and not read yet.
#[derive(Debug)]
pub(super) struct Ahead {
    most: usize,
    /// How many there are; none when nothing more will be read.
    now: Mutex<Option<usize>>,
    changed: Condvar,
}

impl Ahead {
    /// At most so many.
    pub(super) fn new(most: usize) -> Ahead {
        Ahead {
            most,
            now: Mutex::new(Some(0)),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<usize>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room for one more. Returns at once when nothing more will be read.
    pub(super) fn one_more(&self) {
        let mut now = self.lock();
        while now.is_some_and(|count| count >= self.most) {
            now = self
                .changed
                .wait(now)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(count) = &mut *now {
            *count += 1;
        }
    }

    /// One was read, or need not be.
    pub(super) fn one_less(&self) {
        if let Some(count) = &mut *self.lock() {
            *count = count.saturating_sub(1);
        }
        self.changed.notify_one();
    }

    /// Tells that nothing more will be read, when it goes.
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader(self)
    }
}

/// The end that reads.
pub(super) struct Reader<'a>(&'a Ahead);

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_bound_and_an_end_to_waiting() {
        let ahead = Ahead::new(2);
        ahead.one_more();
        ahead.one_more();
        std::thread::scope(|scope| {
            let third = scope.spawn(|| ahead.one_more());
            ahead.one_less();
            third.join().unwrap();
            let fourth = scope.spawn(|| ahead.one_more());
            drop(ahead.reader());
            fourth.join().unwrap();
        });
    }
}
