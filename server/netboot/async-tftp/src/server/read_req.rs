use bytes::{BufMut, Bytes, BytesMut};
use futures_lite::{AsyncRead, AsyncReadExt};
use log::trace;
use std::cmp;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::slice;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{sleep_until, Instant, Sleep};

use crate::error::{Error, Result};
use crate::packet::{self, Opts, Packet, RwReq, PACKET_DATA_HEADER_LEN};
use crate::server::{ServerConfig, DEFAULT_BLOCK_SIZE};
use crate::utils::bind;

use super::transfers::{Transfer, Transfers};

pub(crate) struct ReadRequest<'r, R>
where
    R: AsyncRead + Send,
{
    peer: SocketAddr,
    /// Connected: the kernel keeps out what others send, and tells when the
    /// client has closed its port.
    socket: UdpSocket,
    reader: &'r mut R,
    block_size: usize,
    timeout: Duration,
    max_send_retries: u32,
    oack_opts: Option<Opts>,
    window_size: usize,
    transfers: Arc<Transfers>,
    transfer: Arc<Transfer>,
    /// Made once and not for each block, which would be a good part of what a
    /// block costs: when the alarm goes off before the deadline, it is set anew.
    alarm: Pin<Box<Sleep>>,
    deadline: Instant,
    news: Pin<Box<OwnedNotified>>,
    /// The block after the window, read while the client has its turn.
    next: Option<(Bytes, bool)>,
    bytes_acked: u64,
}

/// What was heard while waiting for an acknowledgement.
enum Heard {
    /// So many blocks of the window arrived.
    Acked(u16),
    /// The client has the block before the window and nothing after it: the
    /// first block was lost.
    FirstLost,
    /// The transfer is over, or its request came again.
    News,
}

/// What the system says of a connected UDP socket.
fn lost_or_gone(error: io::Error) -> Result<()> {
    match error.kind() {
        // Nobody listens at the client's port any more (ICMP said so).
        io::ErrorKind::ConnectionRefused => {
            Err(Error::Aborted("its port is closed".to_string()))
        }
        // It did not answer ARP just now, like a packet that is lost.
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Ok(())
        }
        _ => Err(Error::Io(error)),
    }
}

impl<'r, R> ReadRequest<'r, R>
where
    R: AsyncRead + Send + Unpin,
{
    #[allow(clippy::too_many_arguments)]
    pub(crate) async fn init(
        reader: &'r mut R,
        file_size: Option<u64>,
        peer: SocketAddr,
        req: &RwReq,
        config: ServerConfig,
        local_ip: IpAddr,
        transfers: Arc<Transfers>,
        transfer: Arc<Transfer>,
    ) -> Result<ReadRequest<'r, R>> {
        let oack_opts = build_oack_opts(&config, req, file_size);

        let block_size = oack_opts
            .as_ref()
            .and_then(|o| o.block_size)
            .map(usize::from)
            .unwrap_or(DEFAULT_BLOCK_SIZE);

        // Default window size is 1 as per rfc7440
        let negotiated_window_size: usize =
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

        let deadline = Instant::now() + timeout;
        Ok(ReadRequest {
            alarm: Box::pin(sleep_until(deadline)),
            deadline,
            news: Box::pin(transfer.news()),
            next: None,
            peer,
            socket,
            reader,
            block_size,
            timeout,
            max_send_retries: config.max_send_retries,
            oack_opts,
            window_size: negotiated_window_size,
            transfers,
            transfer,
            bytes_acked: 0,
        })
    }

    pub(crate) fn bytes_acked(&self) -> u64 {
        self.bytes_acked
    }

    pub(crate) async fn handle(&mut self) -> Result<()> {
        let done = self.try_handle().await;
        match &done {
            Ok(()) => {}
            // The client knows already, or nobody is there.
            Err(Error::Aborted(_)) | Err(Error::Superseded) => {}
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
                // Who never answered may never have asked.
                if !self.transfer.is_proven() {
                    return done;
                }
                let mut buffer = BytesMut::with_capacity(DEFAULT_BLOCK_SIZE);
                Packet::Error(packet).encode(&mut buffer);
                let buf = buffer.split().freeze();
                // Errors are never retransmitted.
                // We do not care if `send_to` resulted to an IO error.
                let _ = self.socket.send(&buf[..]).await;
            }
        }
        done
    }

    async fn try_handle(&mut self) -> Result<()> {
        let mut window: VecDeque<Bytes> =
            VecDeque::with_capacity(self.window_size);
        let mut block_id: u16;
        let mut window_base: u16 = 1;
        let mut buf: Bytes;
        let mut is_last_block: bool;

        (buf, is_last_block) = self.fill_data_block(window_base).await?;
        window.push_back(buf);

        // Send OACK after we manage to read the first block from reader.
        //
        // We do this because we want to give the developers the option to
        // produce an error after they construct a reader.
        if let Some(opts) = self.oack_opts.as_ref() {
            trace!("RRQ OACK (peer: {}, opts: {:?}", &self.peer, &opts);
            let mut buff = BytesMut::with_capacity(PACKET_DATA_HEADER_LEN + 64);
            Packet::OAck(opts.to_owned()).encode(&mut buff);
            // OACK is not really part of the window, so we send it separately
            self.send_window(&VecDeque::from([buff.freeze()]), 0, None).await?;
        }

        loop {
            // calculate next block_id, window might not be empty
            block_id = window_base.wrapping_add(window.len() as u16);

            while !is_last_block && (window.len() < self.window_size) {
                // we still have data and window is not full
                (buf, is_last_block) = match self.next.take() {
                    Some(next) => next,
                    None => self.fill_data_block(block_id).await?,
                };
                window.push_back(buf);
                block_id = block_id.wrapping_add(1);
            }

            let next = (!is_last_block).then_some(block_id);
            let blocks_acked =
                self.send_window(&window, window_base, next).await?;
            window_base = window_base.wrapping_add(blocks_acked);

            let header = PACKET_DATA_HEADER_LEN;
            self.bytes_acked += window
                .iter()
                .take(blocks_acked as usize)
                .map(|block| (block.len() - header) as u64)
                .sum::<u64>();

            // remove acked blocks from window
            if blocks_acked == window.len() as u16 {
                window.clear()
            } else {
                window.drain(..blocks_acked as usize);
            }

            if is_last_block && window.is_empty() {
                // transfer is done
                break;
            }
        }

        trace!("RRQ request served (peer: {})", &self.peer);
        Ok(())
    }

    async fn fill_data_block(
        &mut self,
        block_id: u16,
    ) -> Result<(Bytes, bool), Error> {
        let mut buffer: BytesMut =
            BytesMut::with_capacity(PACKET_DATA_HEADER_LEN + self.block_size);
        Packet::encode_data_head(block_id, &mut buffer);

        // Read block in buffer
        unsafe {
            let uninit_buf = buffer.chunk_mut();
            let data_buf = slice::from_raw_parts_mut(
                uninit_buf.as_mut_ptr(),
                uninit_buf.len(),
            );

            let len = self.read_block(data_buf).await?;
            buffer.advance_mut(len);
            Ok((buffer.split().freeze(), len < self.block_size))
        }
    }

    /// Sends packets contained in a window and waits for client to acknowledge them. Returns amount
    /// of packets acknowledged.
    async fn send_window(
        &mut self,
        window: &VecDeque<Bytes>,
        window_base: u16,
        next: Option<u16>,
    ) -> Result<u16> {
        // Whether the window was already sent again at the client's word: once
        // is enough, or every repeated ACK would double what is on the wire.
        let mut sent_again = false;
        let mut retries = 0;
        let mut send = true;

        // Send packet until we receive an ack
        while retries <= self.max_send_retries {
            if send {
                for packet in window {
                    self.transfer.sent(packet.len());
                    match self.socket.send(packet).await {
                        Ok(_) => {}
                        Err(e) => lost_or_gone(e)?,
                    }
                }
            }
            send = true;
            if let (Some(block_id), None) = (next, &self.next) {
                self.next = Some(self.fill_data_block(block_id).await?);
            }

            let len = window.len() as u16;
            match self.recv_ack(window_base, len, !sent_again).await {
                Ok(Heard::Acked(blocks_acked)) => {
                    self.transfers.acked(self.peer, &self.transfer);
                    return Ok(blocks_acked);
                }
                Ok(Heard::FirstLost) => {
                    self.transfers.acked(self.peer, &self.transfer);
                    sent_again = true;
                }
                Ok(Heard::News) => {
                    if self.transfer.is_stale() {
                        return Err(Error::Superseded);
                    }
                    // Its request came again: so the answer goes out again.
                    send = !self.transfer.is_proven();
                }
                Err(Error::Io(ref e))
                    if e.kind() == io::ErrorKind::TimedOut =>
                {
                    trace!(
                        "RRQ (peer: {}, block_id: {}) - Timeout",
                        &self.peer,
                        window_base
                    );
                    retries += 1;
                    sent_again = false;
                    let bytes = window.iter().map(Bytes::len).sum();
                    send = self.transfer.may_send(bytes);
                }
                Err(e) => return Err(e),
            }
        }

        Err(Error::MaxSendRetriesReached(self.peer, window_base))
    }

    /// Waits for ack packet, returns amount of packets acknowledged.
    async fn recv_ack(
        &mut self,
        window_base: u16,
        window_len: u16,
        may_send_again: bool,
    ) -> Result<Heard> {
        // With one block at a time a repeated ACK must not be answered
        // (RFC 1123, 4.2.3.1, the Sorcerer's Apprentice); with a window it is
        // how a client says that the window's first block is missing (RFC 7440).
        let may_send_again = may_send_again && self.window_size > 1;
        self.deadline = Instant::now() + self.timeout;
        let mut buf = [0u8; 1024];

        loop {
            let received = tokio::select! {
                biased;
                received = self.socket.recv(&mut buf[..]) => received,
                () = self.news.as_mut() => {
                    self.news.set(self.transfer.news());
                    return Ok(Heard::News);
                }
                () = self.alarm.as_mut() => {
                    let is_late = Instant::now() >= self.deadline;
                    let next = match is_late {
                        true => Instant::now() + self.timeout,
                        false => self.deadline,
                    };
                    self.alarm.as_mut().reset(next);
                    if is_late {
                        return Err(Error::Io(io::ErrorKind::TimedOut.into()));
                    }
                    continue;
                }
            };
            let len = match received {
                Ok(len) => len,
                Err(e) => {
                    lost_or_gone(e)?;
                    continue;
                }
            };

            match Packet::decode(&buf[..len]) {
                Ok(Packet::Ack(recved_block_id)) => {
                    let ahead = recved_block_id.wrapping_sub(window_base);
                    if ahead < window_len {
                        return Ok(Heard::Acked(ahead + 1));
                    }
                    // Block 0 is the OACK, which is sent alone.
                    if ahead == u16::MAX && may_send_again && window_base != 0 {
                        return Ok(Heard::FirstLost);
                    }
                    trace!("Unexpected ack packet {recved_block_id}, window_base: {window_base}, window_len: {window_len}");
                }
                Ok(Packet::Error(e)) => {
                    return Err(Error::Aborted(e.msg().to_string()));
                }
                // the rest are ignored
                _ => {}
            }
        }
    }

    async fn read_block(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut len = 0;

        while len < buf.len() {
            match self.reader.read(&mut buf[len..]).await? {
                0 => break,
                x => len += x,
            }
        }

        Ok(len)
    }
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
