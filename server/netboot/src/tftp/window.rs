//! Which blocks of a file are in flight.

use bytes::Bytes;

use super::packet::{DATA_HEADER, data_header};

/// The blocks from the first that is not acknowledged on. They are parts of the file as it is in memory:
/// nothing is read, and nothing copied.
#[derive(Debug)]
pub struct Window {
    file: Bytes,
    /// Bytes in a block; the first block that has fewer is the last one, and may have none.
    block_size: usize,
    /// Blocks in flight at most.
    size: u16,
    /// Blocks that were acknowledged.
    acked: usize,
}

/// What an acknowledgement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    /// Blocks that were in flight arrived.
    Some,
    /// The client has the block before the window, and nothing after it: the window's first block was lost.
    FirstLost,
    /// Nothing about the window.
    Other,
}

impl Window {
    /// The whole file is still to be sent, in blocks of so many bytes (at least 1), so many of them (at
    /// least 1) in flight.
    pub fn new(file: Bytes, block_size: u16, size: u16) -> Window {
        Window {
            file,
            block_size: usize::from(block_size.max(1)),
            size: size.max(1),
            acked: 0,
        }
    }

    /// Blocks of the whole file.
    fn blocks_in_all(&self) -> usize {
        self.file.len() / self.block_size + 1
    }

    /// Blocks in flight.
    fn in_flight(&self) -> usize {
        (self.blocks_in_all() - self.acked).min(usize::from(self.size))
    }

    /// The DATA packets in flight, in their order: header and data.
    pub fn packets(&self) -> impl Iterator<Item = ([u8; DATA_HEADER], &[u8])> {
        (self.acked..self.acked + self.in_flight()).map(|block| {
            let start = block * self.block_size;
            let end = self.file.len().min(start + self.block_size);
            (data_header(number(block)), &self.file[start..end])
        })
    }

    /// The client has the block of this number and all before it.
    pub fn acknowledge(&mut self, block: u16) -> Acked {
        let ahead = block.wrapping_sub(number(self.acked));
        if usize::from(ahead) < self.in_flight() {
            self.acked += usize::from(ahead) + 1;
            Acked::Some
        } else if ahead == u16::MAX {
            Acked::FirstLost
        } else {
            Acked::Other
        }
    }

    /// All of the file was acknowledged.
    pub fn is_done(&self) -> bool {
        self.acked == self.blocks_in_all()
    }

    /// The file's last block is in flight.
    pub fn has_end(&self) -> bool {
        self.acked + self.in_flight() == self.blocks_in_all()
    }

    /// Bytes of the file.
    pub fn file_size(&self) -> u64 {
        self.file.len() as u64
    }

    /// Bytes of the file that were acknowledged.
    pub fn bytes_acked(&self) -> u64 {
        (self.acked * self.block_size).min(self.file.len()) as u64
    }

    /// Whether more than one block may be in flight.
    pub fn is_wide(&self) -> bool {
        self.size > 1
    }
}

/// On the wire blocks are counted from 1, and after 65535 from 0.
fn number(block: usize) -> u16 {
    (block as u16).wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(window: &Window) -> Vec<u16> {
        let number = |header: [u8; 4]| u16::from_be_bytes([header[2], header[3]]);
        window.packets().map(|(header, _)| number(header)).collect()
    }

    #[test]
    fn blocks_follow_each_other_to_the_one_that_is_not_full() {
        let mut window = Window::new(vec![7; 8 * 5].into(), 8, 3);
        assert_eq!(numbers(&window), [1, 2, 3]);
        assert_eq!(window.acknowledge(2), Acked::Some);
        assert_eq!(
            (numbers(&window), window.bytes_acked()),
            (vec![3, 4, 5], 16)
        );
        assert_eq!(window.acknowledge(5), Acked::Some);
        assert!(
            !window.is_done(),
            "five full ones, and one that says that these were all"
        );
        assert_eq!(
            window.packets().collect::<Vec<_>>(),
            [([0, 3, 0, 6], &[][..])]
        );
        assert_eq!(window.acknowledge(6), Acked::Some);
        assert!(window.is_done() && window.bytes_acked() == 40 && numbers(&window).is_empty());
        assert_eq!(window.acknowledge(7), Acked::Other);
    }

    #[test]
    fn an_acknowledgement_counts_for_what_is_in_flight() {
        let mut window = Window::new(vec![7; 8 * 70_000].into(), 8, 4);
        for block in (4..=65532).step_by(4) {
            assert_eq!(window.acknowledge(block), Acked::Some);
        }
        assert_eq!(numbers(&window), [65533, 65534, 65535, 0]);
        assert_eq!(window.acknowledge(65532), Acked::FirstLost);
        assert_eq!(window.acknowledge(65531), Acked::Other);
        assert_eq!(window.acknowledge(1), Acked::Other);
        assert_eq!(window.acknowledge(0), Acked::Some);
        assert_eq!(numbers(&window), [1, 2, 3, 4]);
        assert_eq!(window.bytes_acked(), 8 << 16);
    }

    #[test]
    fn an_empty_file_is_one_empty_block() {
        let mut window = Window::new(Bytes::new(), 512, 16);
        assert_eq!(numbers(&window), [1]);
        assert_eq!(window.acknowledge(1), Acked::Some);
        assert!(window.is_done());
    }
}
