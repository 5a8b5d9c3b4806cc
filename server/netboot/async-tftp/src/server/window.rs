//! The blocks of a file that are on their way, and what is heard of them.

use std::collections::VecDeque;

use futures_lite::{AsyncRead, AsyncReadExt};
use log::trace;

use crate::error::{Error, Result};
use crate::packet::{Packet, PacketType, PACKET_DATA_HEADER_LEN};

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

/// A DATA packet.
pub(crate) struct Block {
    /// The header, and room for a whole block.
    buffer: Vec<u8>,
    /// Bytes of the file in it.
    len: usize,
}

impl Block {
    fn with_room_for(block_size: usize) -> Block {
        Block {
            buffer: vec![0; PACKET_DATA_HEADER_LEN + block_size],
            len: 0,
        }
    }

    pub(crate) fn packet(&self) -> &[u8] {
        &self.buffer[..PACKET_DATA_HEADER_LEN + self.len]
    }

    /// Takes the next of the file; less than there is room for only at its end.
    async fn read<R>(&mut self, number: u16, reader: &mut R) -> Result<()>
    where
        R: AsyncRead + Unpin,
    {
        let (header, data) = self.buffer.split_at_mut(PACKET_DATA_HEADER_LEN);
        header[..2].copy_from_slice(&u16::from(PacketType::Data).to_be_bytes());
        header[2..].copy_from_slice(&number.to_be_bytes());
        self.len = 0;
        while self.len < data.len() {
            match reader.read(&mut data[self.len..]).await? {
                0 => break,
                more => self.len += more,
            }
        }
        Ok(())
    }
}

/// The blocks that were sent, or are to be sent, and not acknowledged.
pub(crate) struct Window<R> {
    reader: R,
    block_size: usize,
    /// Blocks in it at most.
    size: usize,
    blocks: VecDeque<Block>,
    /// Of those that were: a block costs no allocation of its own.
    spare: Vec<Block>,
    /// Number of its first block.
    base: u16,
    /// The file ends with its last block.
    is_last: bool,
    /// The block after it, read while the client has its turn.
    next: Option<(Block, bool)>,
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
            spare: Vec::with_capacity(size),
            base: 1,
            is_last: false,
            next: None,
            bytes_acked: 0,
        }
    }

    pub(crate) fn base(&self) -> u16 {
        self.base
    }

    pub(crate) fn blocks(&self) -> &VecDeque<Block> {
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
        for block in self.blocks.drain(..usize::from(count)) {
            self.bytes_acked += block.len as u64;
            self.spare.push(block);
        }
    }

    async fn read_block(&mut self) -> Result<(Block, bool)> {
        let number = self.base.wrapping_add(self.blocks.len() as u16);
        let spare = self.spare.pop();
        let mut block =
            spare.unwrap_or_else(|| Block::with_room_for(self.block_size));
        block.read(number, &mut self.reader).await?;
        let is_last = block.len < self.block_size;
        Ok((block, is_last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::block_on;
    use futures_lite::io::Cursor;

    fn numbers(window: &Window<Cursor<Vec<u8>>>) -> Vec<u16> {
        let number = |block: &Block| {
            let packet = block.packet();
            u16::from_be_bytes([packet[2], packet[3]])
        };
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
        assert_eq!(window.blocks[0].packet(), [0, 3, 0, 6]);
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
