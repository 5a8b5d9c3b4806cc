//! TFTP (RFC 1350, with the options of RFC 2348, 2349 and 7440): a server of files that are in memory, for the
//! ROMs of machines that boot.
//!
//! [`packet`], [`options`], [`window`] and [`transfer`] decide what is sent, without a socket. The rest is the
//! server: `listener` takes requests, `registry` knows which transfers there are, a `conversation` is a transfer with
//! its socket, and `workers` are the threads they run on.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::catalogue::Catalogue;
use files::Files;
use options::Limits;

mod conversation;
mod fields;
mod files;
mod listener;
pub mod options;
pub mod packet;
mod registry;
#[cfg(test)]
mod tests;
pub mod transfer;
pub mod window;
mod worker;
mod workers;

/// The most that is granted.
///
/// Block: with the headers of TFTP, UDP and IP (4 + 8 + 20) within an Ethernet frame, with room for a VLAN tag or two;
/// larger ones would be fragmented, which ROMs do not put together. Window: what the receive buffers of ROMs are seen
/// to hold.
const LIMITS: Limits = Limits {
    block_size: 1456,
    window: 16,
};

/// Serves until the socket fails or the future is dropped, on a thread of its own: that one waits for requests itself,
/// and no other has to wake it.
pub(crate) async fn serve(socket: UdpSocket, catalogue: Arc<Catalogue>) -> io::Result<()> {
    let (dropped, end) = oneshot::channel::<()>();
    let (done, result) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let thread = std::thread::Builder::new()
        .name("tftp".into())
        .spawn(move || {
            let _ = done.send(runtime.block_on(async {
                let socket = tokio::net::UdpSocket::from_std(socket)?;
                tokio::select! {
                    ended = listener::serve(socket, Files(catalogue), LIMITS) => ended,
                    _ = end => Ok(()),
                }
            }));
            // A decision about a menu that is not made yet is not waited for.
            runtime.shutdown_background();
        })?;
    let _ends_with_us = Port {
        dropped: Some(dropped),
        thread: Some(thread),
    };
    result
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the thread for TFTP panicked")))
}

/// The thread that has the port, ended and waited for when dropped: the port is free afterwards.
struct Port {
    dropped: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Port {
    fn drop(&mut self) {
        drop(self.dropped.take());
        if let Some(thread) = self.thread.take() {
            // A panic of its was told by the missing result.
            let _ = thread.join();
        }
    }
}
