//! What is sent once a client has answered, and what each word of its means.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future::block_on;
use futures_lite::AsyncRead;
use log::trace;

use super::transfers::Transfer;
use super::window::{heard, Heard, Window};
use crate::error::{Error, Result};

/// Bytes of a datagram that are looked at: acknowledgements have 4, and errors
/// a text.
pub(crate) const HEARD_MAX: usize = 1024;

/// A transfer that goes on.
pub(crate) struct Conversation<R> {
    pub(crate) peer: SocketAddr,
    /// Connected to it.
    pub(crate) socket: Arc<UdpSocket>,
    window: Window<R>,
    transfer: Arc<Transfer>,
    /// How long the client may take.
    pub(crate) timeout: Duration,
    max_send_retries: u32,
    retries: u32,
    /// Whether the window may be sent again at the client's word: once is
    /// enough, or every repeated ACK would double what is on the wire.
    may_repeat: bool,
}

/// What comes after a word of the client's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It was sent something, and has its time anew.
    Clients,
    /// Nothing: it was not what is waited for.
    Still,
    /// It has all of the file.
    Done,
}

impl<R> Conversation<R>
where
    R: AsyncRead + Unpin,
{
    pub(crate) fn new(
        peer: SocketAddr,
        socket: Arc<UdpSocket>,
        window: Window<R>,
        transfer: Arc<Transfer>,
        timeout: Duration,
        max_send_retries: u32,
    ) -> Conversation<R> {
        Conversation {
            peer,
            socket,
            may_repeat: window.may_be_sent_again(),
            window,
            transfer,
            timeout,
            max_send_retries,
            retries: 0,
        }
    }

    pub(crate) fn bytes_acked(&self) -> u64 {
        self.window.bytes_acked()
    }

    pub(crate) fn transfer(&self) -> &Arc<Transfer> {
        &self.transfer
    }

    /// Sends what may be on its way.
    pub(crate) fn go_on(&mut self) -> Result<()> {
        // What was ended before anybody waited at its socket, or goes on
        // acknowledging.
        if self.transfer.is_stale() {
            return Err(Error::Superseded);
        }
        block_on(self.window.fill())?;
        self.send()
    }

    fn send(&mut self) -> Result<()> {
        for block in self.window.blocks() {
            match self.socket.send(block.packet()) {
                Ok(_) => {}
                Err(e) => lost_or_gone(e)?,
            }
        }
        block_on(self.window.read_ahead())
    }

    /// Something came, or an error.
    pub(crate) fn hear(&mut self, datagram: io::Result<&[u8]>) -> Result<Turn> {
        let datagram = match datagram {
            // So are those woken who wait at the socket of one that is over.
            Ok([]) | Err(_) if self.transfer.is_stale() => {
                return Err(Error::Superseded);
            }
            Ok(datagram) => datagram,
            Err(e) => {
                lost_or_gone(e)?;
                return Ok(Turn::Still);
            }
        };
        let blocks = self.window.blocks().len() as u16;
        match heard(datagram, self.window.base(), blocks)? {
            Heard::Acked(count) => {
                self.window.acked(count);
                self.retries = 0;
                self.may_repeat = self.window.may_be_sent_again();
                if self.window.is_done() {
                    return Ok(Turn::Done);
                }
                self.go_on()?;
                Ok(Turn::Clients)
            }
            Heard::FirstLost if self.may_repeat => {
                self.may_repeat = false;
                self.send()?;
                Ok(Turn::Clients)
            }
            _ => Ok(Turn::Still),
        }
    }

    /// Nothing that was waited for came in time: it is sent again.
    pub(crate) fn late(&mut self) -> Result<()> {
        if self.transfer.is_stale() {
            return Err(Error::Superseded);
        }
        let block = self.window.base();
        trace!("RRQ (peer: {}, block: {block}) - Timeout", self.peer);
        self.retries += 1;
        if self.retries > self.max_send_retries {
            return Err(Error::MaxSendRetriesReached(self.peer, block));
        }
        self.may_repeat = self.window.may_be_sent_again();
        self.send()
    }
}

/// What the system says of a connected UDP socket.
pub(crate) fn lost_or_gone(error: io::Error) -> Result<()> {
    match error.kind() {
        // Nobody listens at the client's port any more (ICMP said so).
        io::ErrorKind::ConnectionRefused => {
            Err(Error::Aborted("its port is closed".to_string()))
        }
        // It did not answer ARP just now, like a packet that is lost.
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        // The interface takes nothing just now.
        | io::ErrorKind::WouldBlock
        | io::ErrorKind::Interrupted => Ok(()),
        _ => Err(Error::Io(error)),
    }
}
