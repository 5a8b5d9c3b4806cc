//! The blocks of a file that are on their way, and what is heard of them.

use std::collections::VecDeque;
use std::slice;

use bytes::{BufMut, Bytes, BytesMut};
use futures_lite::{AsyncRead, AsyncReadExt};
use log::trace;

use crate::error::{Error, Result};
use crate::packet::{Packet, PACKET_DATA_HEADER_LEN};

/// What a datagram says while an acknowledgement is waited for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// So many blocks of the window arrived.
    Acked(u16),
    /// The client has the block before the window and nothing after it: the
    /// first block was lost.
    FirstLost,
    /// Nothing that is waited for.
    Nothing,
}

/// What a datagram says of so many blocks from `base` on.
pub(crate) fn heard(datagram: &[u8], base: u16, blocks: u16) -> Result<Heard> {
    match Packet::decode(datagram) {
        Ok(Packet::Ack(block)) => {
            let ahead = block.wrapping_sub(base);
            if ahead < blocks {
                return Ok(Heard::Acked(ahead + 1));
            }
            if ahead == u16::MAX {
                return Ok(Heard::FirstLost);
            }
            trace!(
                "Unexpected ack packet {block}, base: {base}, blocks: {blocks}"
            );
            Ok(Heard::Nothing)
        }
        Ok(Packet::Error(e)) => Err(Error::Aborted(e.msg().to_string())),
        // the rest are ignored
        _ => Ok(Heard::Nothing),
    }
}

/// The blocks that were sent, or are to be sent, and not acknowledged.
pub(crate) struct Window<R> {
    reader: R,
    block_size: usize,
    /// Blocks in it at most.
    size: usize,
    blocks: VecDeque<Bytes>,
    /// Number of its first block.
    base: u16,
    /// The file ends with its last block.
    is_last: bool,
    /// The block after it, read while the client has its turn.
    next: Option<(Bytes, bool)>,
    bytes_acked: u64,
}

impl<R> Window<R>
where
    R: AsyncRead + Unpin,
{
    pub(crate) fn new(reader: R, block_size: usize, size: usize) -> Window<R> {
        Window {
            reader,
            block_size,
            size,
            blocks: VecDeque::with_capacity(size),
            base: 1,
            is_last: false,
            next: None,
            bytes_acked: 0,
        }
    }

    pub(crate) fn base(&self) -> u16 {
        self.base
    }

    pub(crate) fn blocks(&self) -> &VecDeque<Bytes> {
        &self.blocks
    }

    /// Bytes of the file that were acknowledged.
    pub(crate) fn bytes_acked(&self) -> u64 {
        self.bytes_acked
    }

    /// All of the file was acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        self.is_last && self.blocks.is_empty()
    }

    /// Whether the window may be sent again at the client's word. With one
    /// block at a time a repeated ACK must not be answered (RFC 1123, 4.2.3.1,
    /// the Sorcerer's Apprentice); with a window it is how a client says that
    /// the window's first block is missing (RFC 7440).
    pub(crate) fn may_be_sent_again(&self) -> bool {
        self.size > 1
    }

    /// Reads until all that may be on its way is in it.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        while self.blocks.len() < self.size && !self.is_last {
            self.add().await?;
        }
        Ok(())
    }

    /// Reads the first block: whether the file can be read at all is known then.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        self.add().await
    }

    async fn add(&mut self) -> Result<()> {
        let (block, is_last) = match self.next.take() {
            Some(next) => next,
            None => self.read_block().await?,
        };
        self.blocks.push_back(block);
        self.is_last = is_last;
        Ok(())
    }

    /// Reads the block after it.
    pub(crate) async fn read_ahead(&mut self) -> Result<()> {
        if self.next.is_none() && !self.is_last {
            self.next = Some(self.read_block().await?);
        }
        Ok(())
    }

    /// So many blocks arrived.
    pub(crate) fn acked(&mut self, count: u16) {
        self.base = self.base.wrapping_add(count);
        let arrived = self.blocks.drain(..usize::from(count));
        let header = PACKET_DATA_HEADER_LEN;
        self.bytes_acked +=
            arrived.map(|block| (block.len() - header) as u64).sum::<u64>();
    }

    async fn read_block(&mut self) -> Result<(Bytes, bool)> {
        let number = self.base.wrapping_add(self.blocks.len() as u16);
        let mut buffer =
            BytesMut::with_capacity(PACKET_DATA_HEADER_LEN + self.block_size);
        Packet::encode_data_head(number, &mut buffer);

        // Read block in buffer
        unsafe {
            let uninit_buf = buffer.chunk_mut();
            let data_buf = slice::from_raw_parts_mut(
                uninit_buf.as_mut_ptr(),
                uninit_buf.len(),
            );

            let mut len = 0;
            while len < data_buf.len() {
                match self.reader.read(&mut data_buf[len..]).await? {
                    0 => break,
                    more => len += more,
                }
            }
            buffer.advance_mut(len);
            Ok((buffer.freeze(), len < self.block_size))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::block_on;
    use futures_lite::io::Cursor;

    fn numbers(window: &Window<Cursor<Vec<u8>>>) -> Vec<u16> {
        let number = |block: &Bytes| u16::from_be_bytes([block[2], block[3]]);
        window.blocks.iter().map(number).collect()
    }

    #[test]
    fn blocks_follow_each_other_to_the_one_that_is_not_full() {
        let mut window = Window::new(Cursor::new(vec![7; 8 * 5]), 8, 3);
        block_on(window.begin()).unwrap();
        assert_eq!(numbers(&window), [1]);
        block_on(window.fill()).unwrap();
        block_on(window.read_ahead()).unwrap();
        assert_eq!(numbers(&window), [1, 2, 3]);
        window.acked(2);
        assert_eq!((window.base(), window.bytes_acked()), (3, 16));
        block_on(window.fill()).unwrap();
        block_on(window.read_ahead()).unwrap();
        assert_eq!(numbers(&window), [3, 4, 5]);
        window.acked(3);
        assert!(!window.is_done());
        // Five full ones, and one that says so.
        block_on(window.fill()).unwrap();
        assert_eq!(numbers(&window), [6]);
        assert_eq!(window.blocks[0].len(), PACKET_DATA_HEADER_LEN);
        window.acked(1);
        block_on(window.fill()).unwrap();
        assert!(window.is_done() && window.bytes_acked() == 40);
    }

    #[test]
    fn an_acknowledgement_counts_for_what_is_on_its_way() {
        let ack = |block: u16| Packet::Ack(block).to_bytes();
        let is =
            |block, base, blocks| heard(&ack(block), base, blocks).unwrap();
        assert_eq!(is(1, 1, 1), Heard::Acked(1));
        assert_eq!(is(0, 65535, 4), Heard::Acked(2));
        assert_eq!(is(4, 5, 3), Heard::FirstLost);
        assert_eq!(is(65535, 0, 1), Heard::FirstLost);
        assert_eq!(is(8, 5, 3), Heard::Nothing);
        assert_eq!(is(3, 5, 3), Heard::Nothing);
        assert_eq!(heard(b"?", 1, 1).unwrap(), Heard::Nothing);
        assert!(heard(b"\0\x05\0\0enough\0", 1, 1).is_err());
    }
}
