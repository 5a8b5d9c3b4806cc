use std::cmp;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_lite::AsyncRead;
use log::trace;
use tokio::net::UdpSocket;
use tokio::time::{sleep_until, Instant};

use crate::error::{Error, Result};
use crate::packet::{self, Opts, Packet, RwReq, PACKET_DATA_HEADER_LEN};
use crate::server::{ServerConfig, DEFAULT_BLOCK_SIZE};
use crate::socket::bind;

use super::conversation::{lost_or_gone, Conversation};
use super::rest::Rest;
use super::transfers::{Transfer, Transfers};
use super::window::{heard, Heard, Window};

/// A read request, until its client has answered once; then [`Rest`] goes on.
pub(crate) struct ReadRequest<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    peer: SocketAddr,
    /// Connected: the kernel keeps out what others send, and tells when the
    /// client has closed its port.
    socket: UdpSocket,
    window: Window<R>,
    timeout: Duration,
    max_send_retries: u32,
    oack_opts: Option<Opts>,
    transfers: Arc<Transfers>,
    transfer: Arc<Transfer>,
    rest: Arc<Rest<R>>,
}

impl<R> ReadRequest<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    #[allow(clippy::too_many_arguments)]
    pub(crate) async fn init(
        reader: R,
        file_size: Option<u64>,
        peer: SocketAddr,
        req: &RwReq,
        config: ServerConfig,
        local_ip: IpAddr,
        transfers: Arc<Transfers>,
        transfer: Arc<Transfer>,
        rest: Arc<Rest<R>>,
    ) -> Result<ReadRequest<R>> {
        let oack_opts = build_oack_opts(&config, req, file_size);

        let block_size = oack_opts
            .as_ref()
            .and_then(|o| o.block_size)
            .map(usize::from)
            .unwrap_or(DEFAULT_BLOCK_SIZE);

        // Default window size is 1 as per rfc7440
        let window_size: usize =
            oack_opts.as_ref().and_then(|o| o.window_size).unwrap_or(1u16)
                as usize;

        let timeout = oack_opts
            .as_ref()
            .and_then(|o| o.timeout)
            .map(|t| Duration::from_secs(u64::from(t)))
            .unwrap_or(config.timeout);

        let addr = SocketAddr::new(local_ip, 0);
        let socket = bind(addr).map_err(Error::Bind)?;
        socket.connect(peer).await?;

        Ok(ReadRequest {
            peer,
            socket,
            window: Window::new(reader, block_size, window_size),
            timeout,
            max_send_retries: config.max_send_retries,
            oack_opts,
            transfers,
            transfer,
            rest,
        })
    }

    /// Ends with the transfer; also how many bytes of the file arrived.
    pub(crate) async fn handle(mut self) -> (Result<()>, u64) {
        let begun = self.begin().await;
        let bytes = self.window.bytes_acked();
        let socket = match self.socket.into_std() {
            Ok(socket) => Arc::new(socket),
            Err(e) => return (Err(Error::Io(e)), bytes),
        };
        let (done, bytes) = match begun {
            Ok(()) if !self.window.is_done() => {
                let conversation = Conversation::new(
                    self.peer,
                    Arc::clone(&socket),
                    self.window,
                    Arc::clone(&self.transfer),
                    self.timeout,
                    self.max_send_retries,
                );
                self.rest.run(conversation).await
            }
            begun => (begun, bytes),
        };
        match &done {
            Ok(()) => trace!("RRQ request served (peer: {})", &self.peer),
            // The client knows already, or nobody is there.
            Err(Error::Aborted(_)) | Err(Error::Superseded) => {}
            // Who never answered may never have asked.
            Err(_) if !self.transfer.is_proven() => {}
            Err(e) => {
                trace!(
                    "RRQ request failed (peer: {}, error: {})",
                    &self.peer,
                    &e
                );
                let packet = match e {
                    Error::Io(e) => io::Error::from(e.kind()).into(),
                    Error::MaxSendRetriesReached(..) => {
                        packet::Error::Msg("Max retries reached".to_string())
                    }
                    _ => packet::Error::UnknownError,
                };
                // Errors are never retransmitted, and whether one could be
                // sent at all is no news; other transfers do not wait for it.
                let _ = socket.set_nonblocking(true);
                let _ = socket.send(&Packet::Error(packet).to_bytes());
            }
        }
        (done, bytes)
    }

    /// Has the client answer to the first of what it is sent.
    async fn begin(&mut self) -> Result<()> {
        // Send OACK after we manage to read the first block from reader.
        //
        // We do this because we want to give the developers the option to
        // produce an error after they construct a reader.
        self.window.begin().await?;
        if let Some(opts) = self.oack_opts.as_ref() {
            trace!("RRQ OACK (peer: {}, opts: {:?}", &self.peer, &opts);
            let mut buff = BytesMut::with_capacity(PACKET_DATA_HEADER_LEN + 64);
            Packet::OAck(opts.to_owned()).encode(&mut buff);
            // OACK is not really part of the window, so we send it separately
            self.send_first(buff.freeze(), 0).await
        } else {
            // Without options there is one block at a time.
            let block = self.window.blocks()[0].packet();
            let block = Bytes::copy_from_slice(block);
            self.send_first(block, self.window.base()).await?;
            self.window.acked(1);
            Ok(())
        }
    }

    /// Sends the packet of this number until it is acknowledged.
    async fn send_first(&mut self, packet: Bytes, number: u16) -> Result<()> {
        let mut retries = 0;
        let mut send = true;
        loop {
            // It may have had to make room while its file was looked for.
            if self.transfer.is_stale() {
                return Err(Error::Superseded);
            }
            if send {
                self.transfer.sent(packet.len());
                match self.socket.send(&packet).await {
                    Ok(_) => {}
                    Err(e) => lost_or_gone(e)?,
                }
            }
            match self.first_word(number).await? {
                First::Acked => {
                    self.transfers.acked(self.peer, &self.transfer);
                    return Ok(());
                }
                // It is over, or its request came again, and so the answer goes
                // out again.
                First::News => send = true,
                First::Late => {
                    trace!("RRQ (peer: {}) - Timeout", &self.peer);
                    retries += 1;
                    if retries > self.max_send_retries {
                        return Err(Error::MaxSendRetriesReached(
                            self.peer, number,
                        ));
                    }
                    send = self.transfer.may_send(packet.len());
                }
            }
        }
    }

    async fn first_word(&mut self, number: u16) -> Result<First> {
        let deadline = Instant::now() + self.timeout;
        let mut buf = [0u8; 1024];
        loop {
            let received = tokio::select! {
                biased;
                received = self.socket.recv(&mut buf) => received,
                () = self.transfer.news() => return Ok(First::News),
                () = sleep_until(deadline) => return Ok(First::Late),
            };
            match received {
                Ok(len) => {
                    if let Heard::Acked(_) = heard(&buf[..len], number, 1)? {
                        return Ok(First::Acked);
                    }
                }
                Err(e) => lost_or_gone(e)?,
            }
        }
    }
}

/// What comes after the first packet was sent.
enum First {
    Acked,
    /// The transfer is over, or its request came again.
    News,
    Late,
}

fn build_oack_opts(
    config: &ServerConfig,
    req: &RwReq,
    file_size: Option<u64>,
) -> Option<Opts> {
    let mut opts = Opts::default();

    if !config.ignore_client_block_size {
        opts.block_size = match (req.opts.block_size, config.block_size_limit) {
            (Some(bsize), Some(limit)) => Some(cmp::min(bsize, limit)),
            (Some(bsize), None) => Some(bsize),
            _ => None,
        };
    }

    if !config.ignore_client_timeout {
        opts.timeout = req.opts.timeout;
    }

    if let (Some(0), Some(file_size)) = (req.opts.transfer_size, file_size) {
        opts.transfer_size = Some(file_size);
    }

    if !config.ignore_client_window_size {
        opts.window_size =
            match (req.opts.window_size, config.window_size_limit) {
                (Some(wsize), Some(limit)) => Some(cmp::min(wsize, limit)),
                (Some(wsize), None) => Some(wsize),
                _ => None,
            };
    }

    if opts == Opts::default() {
        None
    } else {
        Some(opts)
    }
}
