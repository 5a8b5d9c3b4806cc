//! A connection that ends when its client takes nothing for too long.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// What is known of a connection's end, for who was sending in it. Neither: it was ended here.
#[derive(Debug, Default)]
pub(super) struct End {
    /// The client took nothing for too long.
    pub silent: AtomicBool,
    /// The client closed it.
    pub closed: AtomicBool,
}

/// hyper has no limit for a client that does not take its answer.
pub(super) struct Watched {
    stream: TcpStream,
    patience: Duration,
    /// Set while the kernel has no room for more. When it has again, the client has taken a good
    /// part of what was in its buffers: a client cannot stay here with a byte at a time.
    waits: bool,
    limit: Pin<Box<Sleep>>,
    end: Arc<End>,
}

impl Watched {
    pub fn new(stream: TcpStream, patience: Duration, end: Arc<End>) -> Watched {
        Watched {
            stream,
            patience,
            waits: false,
            limit: Box::pin(sleep(patience)),
            end,
        }
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(result) => {
                self.waits = false;
                if let Err(error) = &result {
                    self.failed(error);
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                if !self.waits {
                    self.waits = true;
                    self.limit.as_mut().reset(Instant::now() + self.patience);
                }
                ready!(self.limit.as_mut().poll(cx));
                let error = io::ErrorKind::TimedOut.into();
                self.failed(&error);
                Poll::Ready(Err(error))
            }
        }
    }

    fn failed(&self, error: &io::Error) {
        use io::ErrorKind::{HostUnreachable, TimedOut};
        let end = match error.kind() {
            TimedOut | HostUnreachable => &self.end.silent,
            _ => &self.end.closed,
        };
        end.store(true, Ordering::Relaxed);
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if let Err(error) = &result {
            self.failed(error);
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
