//! Memory that a disk is read into and written from, aligned for direct I/O, and kept for reuse so
//! that a frame costs no allocation.

use std::ops::{Deref, DerefMut};

/// The strictest alignment that direct I/O asks for: a page.
const BLOCK: usize = 4096;
/// Bytes of each size of buffer: a frame of an ordinary Ethernet, a jumbo frame (17 sectors), and the
/// longest merged operation.
const SIZES: [usize; 3] = [BLOCK, 3 * BLOCK, LARGEST];
/// The longest merged operation: one that old controllers take as one request (LBA28 moves at most
/// 256 sectors with one command).
pub(super) const LARGEST: usize = 128 << 10;
/// Spare buffers of each size that are kept.
const SPARE: [usize; 3] = [256, 128, 32];

#[repr(C, align(4096))]
#[derive(Clone, Copy)]
struct Block([u8; BLOCK]);

/// Page-aligned memory. Never memory that another program used: it begins as zeros.
pub(super) struct Buffer(Box<[Block]>);

impl Buffer {
    fn new(bytes: usize) -> Buffer {
        Buffer(vec![Block([0; BLOCK]); bytes.div_ceil(BLOCK)].into_boxed_slice())
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `Block` is `repr(C)` around an array of bytes and has no padding (4096 bytes,
        // aligned to 4096), so the slice is that many initialised bytes.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * BLOCK) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed for as long as the slice is.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * BLOCK) }
    }
}

/// Buffers that wait to be used again.
#[derive(Default)]
pub(super) struct Buffers {
    spare: [Vec<Buffer>; SIZES.len()],
}

impl Buffers {
    /// A buffer of at least `bytes` (at most [`LARGEST`] are kept for reuse). What is in it is
    /// whatever its last user left.
    pub(super) fn take(&mut self, bytes: usize) -> Buffer {
        match SIZES.iter().position(|size| bytes <= *size) {
            Some(class) => self.spare[class]
                .pop()
                .unwrap_or_else(|| Buffer::new(SIZES[class])),
            None => Buffer::new(bytes),
        }
    }

    /// Takes a buffer back.
    pub(super) fn give(&mut self, buffer: Buffer) {
        let Some(class) = SIZES.iter().position(|size| buffer.len() == *size) else {
            return;
        };
        if self.spare[class].len() < SPARE[class] {
            self.spare[class].push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_used_again() {
        let mut buffers = Buffers::default();
        for bytes in [1024, 8704, LARGEST, LARGEST + 1] {
            let mut buffer = buffers.take(bytes);
            assert!(buffer.len() >= bytes);
            assert_eq!(buffer.as_ptr() as usize % BLOCK, 0);
            assert!(buffer.iter().all(|b| *b == 0));
            buffer[bytes - 1] = 7;
            buffers.give(buffer);
        }
        assert_eq!(buffers.take(1024)[1023], 7, "the same one again");
    }
}
