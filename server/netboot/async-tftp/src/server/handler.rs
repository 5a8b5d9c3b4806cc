use futures_lite::{AsyncRead, AsyncWrite};
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::packet;

/// How a read request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The client acknowledged the last block.
    Complete,
    /// The client sent an ERROR packet with this text.
    Aborted(String),
    /// The client fell silent, or began another transfer from the same port.
    Silent,
    /// The file or the socket could not be read or written.
    Failed(String),
}

/// A read request that came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadEnd {
    pub outcome: ReadOutcome,
    /// Bytes of the file the client acknowledged.
    pub bytes: u64,
    /// From the request to the end.
    pub elapsed: Duration,
}

/// Trait for implementing advance handlers.
pub trait Handler: Send + Sync {
    type Reader: AsyncRead + Unpin + Send + 'static;
    type Writer: AsyncWrite + Unpin + Send + 'static;

    /// Open `Reader` to serve a read request.
    fn read_req_open(
        &self,
        client: &SocketAddr,
        path: &Path,
    ) -> impl Future<Output = Result<(Self::Reader, Option<u64>), packet::Error>>
           + Send;

    /// Open `Writer` to serve a write request.
    fn write_req_open(
        &self,
        client: &SocketAddr,
        path: &Path,
        size: Option<u64>,
    ) -> impl Future<Output = Result<Self::Writer, packet::Error>> + Send;

    /// A read request that had been opened came to its end.
    fn read_req_end(&self, _client: &SocketAddr, _path: &Path, _end: ReadEnd) {}
}
