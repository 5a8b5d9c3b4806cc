//! A transfer after its client has answered once: by a thread of its own, in
//! which a block is two system calls, and nothing wakes that is not needed.
//! (Whoever has not answered may have forged its address, and is worth no thread.)

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use futures_lite::AsyncRead;
use log::trace;
use tokio::sync::oneshot;

use super::transfers::{Transfer, Transfers};
use super::window::{heard, Heard, Window};
use crate::error::{Error, Result};

/// Bytes of the thread's stack; little of it is used.
const STACK: usize = 128 * 1024;

pub(crate) struct Rest<R> {
    pub(crate) peer: SocketAddr,
    /// Connected to it.
    pub(crate) socket: Arc<UdpSocket>,
    pub(crate) window: Window<R>,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) transfer: Arc<Transfer>,
    pub(crate) timeout: Duration,
    pub(crate) max_send_retries: u32,
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

impl<R> Rest<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    /// Ends with the transfer; also how many bytes of the file arrived.
    pub(crate) async fn run(mut self) -> (Result<()>, u64) {
        let before = self.window.bytes_acked();
        let (done, result) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("tftp transfer".to_string())
            .stack_size(STACK)
            .spawn(move || {
                let outcome = self.send_all();
                // Here, and not when the runtime has come to it: its client's
                // next request counts those that run.
                self.transfers.end(self.peer, &self.transfer);
                // Nobody waits for it when the server has ended.
                let _ = done.send((outcome, self.window.bytes_acked()));
            });
        match thread {
            Ok(_) => result.await.unwrap_or_else(|_| {
                let panic = io::Error::other("the thread panicked");
                (Err(Error::Io(panic)), before)
            }),
            Err(e) => (Err(Error::Io(e)), before),
        }
    }

    fn send_all(&mut self) -> Result<()> {
        self.socket.set_nonblocking(false)?;
        self.socket.set_read_timeout(Some(self.timeout))?;
        self.socket.set_write_timeout(Some(self.timeout))?;
        self.transfer.waits_at(Arc::clone(&self.socket));
        while !self.window.is_done() {
            // What was ended before it waited here, or goes on acknowledging.
            if self.transfer.is_stale() {
                return Err(Error::Superseded);
            }
            block_on(self.window.fill())?;
            let count = self.send_window()?;
            self.window.acked(count);
        }
        Ok(())
    }

    /// Sends the window until some of it is acknowledged; how many blocks are.
    fn send_window(&mut self) -> Result<u16> {
        // Whether the window was already sent again at the client's word: once
        // is enough, or every repeated ACK would double what is on the wire.
        let mut may_repeat = self.window.may_be_sent_again();
        let mut retries = 0;
        loop {
            for block in self.window.blocks() {
                match self.socket.send(block.packet()) {
                    Ok(_) => {}
                    Err(e) => lost_or_gone(e)?,
                }
            }
            block_on(self.window.read_ahead())?;
            match self.wait(may_repeat)? {
                Heard::Acked(count) => return Ok(count),
                Heard::FirstLost => may_repeat = false,
                Heard::Nothing => {
                    let block = self.window.base();
                    trace!(
                        "RRQ (peer: {}, block: {block}) - Timeout",
                        self.peer
                    );
                    retries += 1;
                    if retries > self.max_send_retries {
                        return Err(Error::MaxSendRetriesReached(
                            self.peer, block,
                        ));
                    }
                    may_repeat = self.window.may_be_sent_again();
                }
            }
        }
    }

    /// Waits for an acknowledgement; [`Heard::Nothing`] when it takes too long.
    fn wait(&self, may_repeat: bool) -> Result<Heard> {
        let (base, blocks) =
            (self.window.base(), self.window.blocks().len() as u16);
        let mut buf = [0u8; 1024];
        let mut patience = Patience::new(&self.socket, self.timeout);
        loop {
            let received = self.socket.recv(&mut buf);
            if matches!(received, Ok(0) | Err(_)) && self.transfer.is_stale() {
                return Err(Error::Superseded);
            }
            match received {
                Ok(len) => match heard(&buf[..len], base, blocks)? {
                    Heard::Acked(count) => return Ok(Heard::Acked(count)),
                    Heard::FirstLost if may_repeat => {
                        return Ok(Heard::FirstLost)
                    }
                    _ => {}
                },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Heard::Nothing)
                }
                Err(e) => lost_or_gone(e)?,
            }
            if !patience.is_left()? {
                return Ok(Heard::Nothing);
            }
        }
    }
}

/// How long the socket waits: from the beginning on, whatever comes meanwhile.
struct Patience<'s> {
    socket: &'s UdpSocket,
    whole: Duration,
    begun: Instant,
    /// The socket waits for less than the whole.
    is_cut: bool,
}

impl<'s> Patience<'s> {
    /// The socket waits for `whole`.
    fn new(socket: &'s UdpSocket, whole: Duration) -> Patience<'s> {
        Patience {
            socket,
            whole,
            begun: Instant::now(),
            is_cut: false,
        }
    }

    /// Has the socket wait for what is left, if there is some.
    fn is_left(&mut self) -> Result<bool> {
        let left = self.whole.saturating_sub(self.begun.elapsed());
        // None is as long as one likes.
        if left < Duration::from_millis(1) {
            return Ok(false);
        }
        self.is_cut = true;
        self.socket.set_read_timeout(Some(left))?;
        Ok(true)
    }
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        if self.is_cut {
            let _ = self.socket.set_read_timeout(Some(self.whole));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_meanwhile_does_not_put_the_end_off() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let whole = Duration::from_secs(3600);
        socket.set_read_timeout(Some(whole)).unwrap();
        let mut patience = Patience::new(&socket, whole);
        patience.begun -= Duration::from_secs(60);
        assert!(patience.is_left().unwrap());
        assert!(socket.read_timeout().unwrap().unwrap() < whole);
        drop(patience);
        assert_eq!(socket.read_timeout().unwrap(), Some(whole));
        let none = Duration::ZERO;
        assert!(!Patience::new(&socket, none).is_left().unwrap());
        assert_eq!(socket.read_timeout().unwrap(), Some(whole));
    }
}
