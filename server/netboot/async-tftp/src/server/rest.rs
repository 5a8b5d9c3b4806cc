//! Transfers after their clients have answered once. A few have a thread each,
//! in which a block is two system calls, and nothing wakes that is not needed;
//! many are a crowd's.
//! (Whoever has not answered may have forged its address, and is worth no thread.)

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::AsyncRead;
use tokio::sync::oneshot;

use super::conversation::{Conversation, Turn, HEARD_MAX};
use super::crowd::Crowd;
use super::transfers::Transfers;
use crate::error::{Error, Result};

/// Bytes of a thread's stack; little of it is used.
pub(crate) const STACK: usize = 128 * 1024;
/// Transfers that have a thread each, when there are no more. With more, a
/// thread that has to be woken for each block costs more than it spares.
const ALONE_MAX: usize = 4;

/// Where transfers go on.
pub(crate) struct Rest<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    transfers: Arc<Transfers>,
    crowd: Crowd<R>,
    running: AtomicUsize,
}

impl<R> Rest<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    pub(crate) fn new(transfers: Arc<Transfers>) -> Rest<R> {
        Rest {
            transfers,
            crowd: Crowd::default(),
            running: AtomicUsize::new(0),
        }
    }

    /// Ends with the transfer; also how many bytes of the file arrived.
    pub(crate) async fn run(
        self: &Arc<Self>,
        conversation: Conversation<R>,
    ) -> (Result<()>, u64) {
        let before = conversation.bytes_acked();
        let (done, result) = oneshot::channel();
        conversation.transfer().waits_at(Arc::clone(&conversation.socket));
        self.running.fetch_add(1, Ordering::Relaxed);
        let running = Running {
            conversation,
            rest: Arc::clone(self),
            done: Some(done),
        };
        running.begin();
        result.await.unwrap_or_else(|_| {
            let panic = io::Error::other("its thread ended before it");
            (Err(Error::Io(panic)), before)
        })
    }

    fn are_many(&self) -> bool {
        self.running.load(Ordering::Relaxed) > ALONE_MAX
    }
}

/// A transfer that goes on; it is off the list, and its end told, before it is
/// dropped.
pub(crate) struct Running<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    pub(crate) conversation: Conversation<R>,
    rest: Arc<Rest<R>>,
    done: Option<oneshot::Sender<(Result<()>, u64)>>,
}

impl<R> Running<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    fn begin(mut self) {
        if self.rest.are_many() {
            match self.conversation.go_on() {
                Ok(()) => self.join(),
                Err(e) => self.end(Err(e)),
            }
        } else {
            let (give, take) = std::sync::mpsc::sync_channel::<Self>(1);
            let thread = thread::Builder::new()
                .name("tftp transfer".to_string())
                .stack_size(STACK)
                .spawn(move || {
                    if let Ok(running) = take.recv() {
                        running.alone();
                    }
                });
            match thread {
                // It waits for this.
                Ok(_) => drop(give.send(self)),
                Err(e) => self.end(Err(Error::Io(e))),
            }
        }
    }

    /// To the others, the client having been sent something.
    pub(crate) fn join(self) {
        let rest = Arc::clone(&self.rest);
        rest.crowd.add(self);
    }

    pub(crate) fn crowd(&self) -> &Crowd<R> {
        &self.rest.crowd
    }

    fn alone(mut self) {
        match self.alone_or_many() {
            Ok(true) => self.end(Ok(())),
            Ok(false) => self.join(),
            Err(e) => self.end(Err(e)),
        }
    }

    /// Whether it is done; else there are many.
    fn alone_or_many(&mut self) -> Result<bool> {
        let timeout = self.conversation.timeout;
        let socket = Arc::clone(&self.conversation.socket);
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))?;
        self.conversation.go_on()?;
        let mut buffer = [0; HEARD_MAX];
        loop {
            if self.rest.are_many() {
                return Ok(false);
            }
            let mut patience = Patience::new(&socket, timeout);
            loop {
                let received = socket.recv(&mut buffer);
                if matches!(&received, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
                {
                    self.conversation.late()?;
                    break;
                }
                let datagram = received.map(|len| &buffer[..len]);
                match self.conversation.hear(datagram)? {
                    Turn::Clients => break,
                    Turn::Done => return Ok(true),
                    Turn::Still => {}
                }
                if !patience.is_left()? {
                    self.conversation.late()?;
                    break;
                }
            }
        }
    }

    pub(crate) fn end(mut self, outcome: Result<()>) {
        // Here, and not when the runtime has come to it: its client's next
        // request counts those that run.
        let transfer = self.conversation.transfer();
        self.rest.transfers.end(self.conversation.peer, transfer);
        if let Some(done) = self.done.take() {
            // Nobody waits for it when the server has ended.
            let _ = done.send((outcome, self.conversation.bytes_acked()));
        }
    }
}

impl<R> Drop for Running<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    fn drop(&mut self) {
        self.rest.running.fetch_sub(1, Ordering::Relaxed);
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
