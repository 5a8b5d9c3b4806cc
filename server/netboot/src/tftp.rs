//! TFTP: what the [`Catalogue`] has. The transfers themselves are async-tftp's.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_tftp::packet;
use async_tftp::server::{Handler, ReadEnd, ReadOutcome, TftpServerBuilder};
use bytes::Bytes;
use futures_lite::io::{Cursor, Sink};

use crate::boot_menu::Wanted;
use crate::catalogue::Catalogue;
use crate::event::{BootEvent, Notice};

/// Bytes of data in a block at most: with the headers of TFTP, UDP and IP (4 + 8 + 20) within an
/// Ethernet frame, with room for a VLAN tag or two; larger ones would be fragmented, which ROMs
/// do not put together.
const BLOCK_MAX: u16 = 1456;
/// Blocks in flight at most: what the receive buffers of ROMs are seen to hold.
const WINDOW_MAX: u16 = 16;
/// Before a block is sent again.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Times a block is sent again before the client is given up.
const RETRIES: u32 = 5;

/// The name in a TFTP read request, as the service reads it; `None`: not a read request.
pub fn requested_name(datagram: &[u8]) -> Option<String> {
    packet::read_request_name(datagram)
}

/// Whether the datagram is one that a server or a client of TFTP sends.
pub fn is_packet(datagram: &[u8]) -> bool {
    packet::heard(datagram)
}

/// Answers requests by name.
pub(crate) struct Files(pub Arc<Catalogue>);

impl Files {
    /// Serves until the socket fails or the future is dropped, on a thread of its own: that thread
    /// waits for the sockets itself, so a block goes out without one thread having to wake another.
    /// ROMs have one block in flight, and each of those wake-ups was felt in every one of them.
    pub async fn serve(self, socket: UdpSocket) -> io::Result<()> {
        let (dropped, end) = tokio::sync::oneshot::channel::<()>();
        let (done, result) = tokio::sync::oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("tftp".into())
            .spawn(move || {
                let _ = done.send(runtime.block_on(async {
                    tokio::select! {
                        ended = self.transfers(socket) => ended,
                        _ = end => Ok(()),
                    }
                }));
                // A decision about a menu that is not made yet is not waited for.
                runtime.shutdown_background();
            })?;
        let _ends_with_us = Transfers {
            dropped: Some(dropped),
            thread: Some(thread),
        };
        result
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the thread for TFTP panicked")))
    }

    async fn transfers(self, socket: UdpSocket) -> io::Result<()> {
        let server = TftpServerBuilder::with_handler(self)
            .std_socket(socket)
            .map_err(io::Error::other)?
            .timeout(TIMEOUT)
            // A client's own wish of up to 255 s would hold a lost block that long. An option that
            // is not acknowledged does not count (RFC 2347).
            .ignore_client_timeout()
            .max_send_retries(RETRIES)
            .block_size_limit(BLOCK_MAX)
            .window_size_limit(WINDOW_MAX)
            .build()
            .await
            .map_err(io::Error::other)?;
        server.serve().await.map_err(io::Error::other)
    }
}

/// The thread that serves, ended and waited for when dropped: the port is free afterwards.
struct Transfers {
    dropped: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Transfers {
    fn drop(&mut self) {
        drop(self.dropped.take());
        if let Some(thread) = self.thread.take() {
            // A panic of its was told by the missing result.
            let _ = thread.join();
        }
    }
}

impl Handler for Files {
    type Reader = Cursor<Bytes>;
    type Writer = Sink;

    async fn read_req_open(
        &self,
        client: &SocketAddr,
        path: &Path,
    ) -> Result<(Self::Reader, Option<u64>), packet::Error> {
        let name = path.to_str().unwrap_or_default();
        let found = self.0.find(client.ip(), name).await;
        let contents = found.ok_or(packet::Error::FileNotFound)?;
        let size = contents.len() as u64;
        Ok((Cursor::new(contents), Some(size)))
    }

    async fn write_req_open(
        &self,
        client: &SocketAddr,
        path: &Path,
        _size: Option<u64>,
    ) -> Result<Self::Writer, packet::Error> {
        let name = path.to_string_lossy().into_owned();
        self.0.machines.noticed(&Notice::WriteRefused {
            peer: client.ip(),
            name,
        });
        Err(packet::Error::PermissionDenied)
    }

    fn read_req_end(&self, client: &SocketAddr, path: &Path, end: ReadEnd) {
        let file = path.to_string_lossy().into_owned();
        let is_menu = !matches!(Wanted::parse(&file), Some(Wanted::File(_)));
        let file = file.trim_start_matches('/').to_owned();
        let bytes = end.bytes;
        let event = match end.outcome {
            // That a menu was sent is said when it is made.
            ReadOutcome::Complete if is_menu => return,
            ReadOutcome::Complete => BootEvent::Fetched {
                file,
                bytes,
                elapsed: end.elapsed,
            },
            ReadOutcome::Aborted(_) if bytes == 0 => BootEvent::SizeAsked { file },
            ReadOutcome::Aborted(why) => BootEvent::Aborted { file, bytes, why },
            ReadOutcome::Silent => BootEvent::Silent { file, bytes },
            ReadOutcome::Failed(why) => BootEvent::Failed { file, why },
        };
        self.0.tell(client.ip(), event);
    }
}
