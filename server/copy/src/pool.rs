//! Buffers for pieces on their way: a fixed number of them, so that memory is bounded.

use std::ops::{Deref, DerefMut};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// What direct I/O wants buffers to begin at: the largest logical block size in use.
pub const ALIGN: usize = 4096;

/// Memory that begins at a multiple of [`ALIGN`].
#[derive(Debug)]
pub struct Buffer {
    space: Vec<u8>,
    skip: usize,
    bytes: usize,
}

impl Buffer {
    /// `bytes` zeros.
    pub fn new(bytes: usize) -> Buffer {
        let space = vec![0; bytes + ALIGN];
        let skip = space.as_ptr().align_offset(ALIGN);
        Buffer { space, skip, bytes }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.space[self.skip..self.skip + self.bytes]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.space[self.skip..self.skip + self.bytes]
    }
}

/// Where buffers come from and go back to.
#[derive(Debug)]
pub struct Pool(Receiver<Buffer>);

/// Takes buffers back. When the last one is gone the pool gives no more than it has.
#[derive(Clone, Debug)]
pub struct Giver(SyncSender<Buffer>);

impl Pool {
    /// A pool of `count` buffers of `bytes` each.
    pub fn new(count: usize, bytes: usize) -> (Pool, Giver) {
        let (giver, pool) = sync_channel(count);
        for _ in 0..count {
            // There is room for all of them.
            let _ = giver.send(Buffer::new(bytes));
        }
        (Pool(pool), Giver(giver))
    }

    /// Waits for a buffer; `None` when none is left and nobody will give one back.
    pub fn take(&self) -> Option<Buffer> {
        self.0.recv().ok()
    }
}

impl Giver {
    /// Gives a buffer back.
    pub fn give(&self, buffer: Buffer) {
        // Whoever takes them may be gone.
        let _ = self.0.try_send(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_and_no_more() {
        let (pool, giver) = Pool::new(2, 100);
        let (a, b) = (pool.take().unwrap(), pool.take().unwrap());
        assert_eq!((a.len(), a.as_ptr() as usize % ALIGN), (100, 0));
        giver.give(a);
        let a = pool.take().unwrap();
        drop(giver);
        assert!(pool.take().is_none());
        drop((a, b));
    }
}
