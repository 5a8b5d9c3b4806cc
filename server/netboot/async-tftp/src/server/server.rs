use log::trace;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::read_req::*;
use super::rest::Rest;
use super::transfers::{Transfer, Transfers};
use super::write_req::*;
use super::{Handler, ReadEnd, ReadOutcome};
use crate::error::*;
use crate::packet::{self, Mode, Packet, PacketType, RwReq};
use crate::parse::parse_u16_be;
use crate::socket::bind;

/// TFTP server.
pub struct TftpServer<H>
where
    H: Handler,
{
    pub(crate) socket: UdpSocket,
    pub(crate) handler: Arc<H>,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) rest: Arc<Rest<H::Reader>>,
    pub(crate) config: ServerConfig,
    pub(crate) local_ip: IpAddr,
}

#[derive(Clone)]
pub(crate) struct ServerConfig {
    pub(crate) timeout: Duration,
    pub(crate) block_size_limit: Option<u16>,
    pub(crate) window_size_limit: Option<u16>,
    pub(crate) max_send_retries: u32,
    pub(crate) ignore_client_timeout: bool,
    pub(crate) ignore_client_block_size: bool,
    pub(crate) ignore_client_window_size: bool,
}

pub(crate) const DEFAULT_BLOCK_SIZE: usize = 512;

impl<H: 'static> TftpServer<H>
where
    H: Handler,
{
    /// Returns the listenning socket address.
    pub fn listen_addr(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    /// Consume and start the server.
    pub async fn serve(self) -> Result<()> {
        let mut buf = [0u8; 4096];
        // Transfers end with this future.
        let mut tasks = JoinSet::new();
        let _ends_the_others = EndAll(Arc::clone(&self.transfers));

        loop {
            tokio::select! {
                received = self.socket.recv_from(&mut buf) => {
                    let (len, peer) = received?;
                    self.handle_req_packet(&mut tasks, peer, &buf[..len]).await;
                }
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    async fn handle_req_packet(
        &self,
        tasks: &mut JoinSet<()>,
        peer: SocketAddr,
        data: &[u8],
    ) {
        let packet = match Packet::decode(data) {
            Ok(p @ Packet::Rrq(_)) => p,
            Ok(p @ Packet::Wrq(_)) => p,
            // Ignore packets that are not requests
            Ok(_) => return,
            Err(_) => {
                // A request that cannot be read is told so; anything else is not answered.
                if matches!(parse_u16_be(data), Some((n, _)) if n == PacketType::Rrq as u16 || n == PacketType::Wrq as u16)
                {
                    self.refuse(peer, packet::Error::IllegalOperation).await;
                }
                return;
            }
        };

        // Only `octet` is what the file says, byte for byte.
        match &packet {
            Packet::Rrq(req) | Packet::Wrq(req) if req.mode != Mode::Octet => {
                let text = "only octet (binary) mode is served".to_string();
                self.refuse(peer, packet::Error::Msg(text)).await;
                return;
            }
            _ => {}
        }

        let Some(transfer) = self.transfers.begin(peer, data) else {
            // The same request again before the first answer was acknowledged
            // (that answer is sent again), or too many.
            return;
        };

        match packet {
            Packet::Rrq(req) => self.handle_rrq(tasks, peer, req, transfer),
            Packet::Wrq(req) => self.handle_wrq(tasks, peer, req, transfer),
            _ => unreachable!(),
        }
    }

    async fn refuse(&self, peer: SocketAddr, error: packet::Error) {
        if let Err(e) =
            send_error(Error::Packet(error), peer, self.local_ip).await
        {
            trace!("Failed to send error to peer {}: {}", &peer, &e);
        }
    }

    fn handle_rrq(
        &self,
        tasks: &mut JoinSet<()>,
        peer: SocketAddr,
        req: RwReq,
        transfer: Arc<Transfer>,
    ) {
        trace!("RRQ recieved (peer: {}, req: {:?})", &peer, &req);

        let handler = Arc::clone(&self.handler);
        let config = self.config.clone();
        let local_ip = self.local_ip;

        let running = Arc::clone(&transfer);
        let transfers = Arc::clone(&self.transfers);
        let rest = Arc::clone(&self.rest);
        let started = Instant::now();

        // Prepare request future
        let req_fut = async move {
            let (reader, size) = handler
                .read_req_open(&peer, req.filename.as_ref())
                .await
                .map_err(Error::Packet)?;

            let read_req = ReadRequest::init(
                reader, size, peer, &req, config, local_ip, transfers, running,
                rest,
            )
            .await?;

            let (done, bytes) = read_req.handle().await;
            let outcome = match done {
                Ok(()) => ReadOutcome::Complete,
                Err(Error::Aborted(text)) => ReadOutcome::Aborted(text),
                Err(Error::MaxSendRetriesReached(..))
                | Err(Error::Superseded) => ReadOutcome::Silent,
                Err(e) => ReadOutcome::Failed(e.to_string()),
            };
            let end = ReadEnd {
                outcome,
                bytes,
                elapsed: started.elapsed(),
            };
            handler.read_req_end(&peer, req.filename.as_ref(), end);

            Ok(())
        };

        let transfers = Arc::clone(&self.transfers);

        // Run request future in a new task
        tasks.spawn(run_req(req_fut, peer, transfers, transfer, local_ip));
    }

    fn handle_wrq(
        &self,
        tasks: &mut JoinSet<()>,
        peer: SocketAddr,
        req: RwReq,
        transfer: Arc<Transfer>,
    ) {
        trace!("WRQ recieved (peer: {}, req: {:?})", &peer, &req);

        let handler = Arc::clone(&self.handler);
        let config = self.config.clone();
        let local_ip = self.local_ip;

        // Prepare request future
        let req_fut = async move {
            let mut writer = handler
                .write_req_open(
                    &peer,
                    req.filename.as_ref(),
                    req.opts.transfer_size,
                )
                .await
                .map_err(Error::Packet)?;

            let mut write_req =
                WriteRequest::init(&mut writer, peer, &req, config, local_ip)
                    .await?;

            write_req.handle().await;

            Ok(())
        };

        let transfers = Arc::clone(&self.transfers);

        // Run request future in a new task
        tasks.spawn(run_req(req_fut, peer, transfers, transfer, local_ip));
    }
}

/// Ends the transfers that threads work at, when dropped.
struct EndAll(Arc<Transfers>);

impl Drop for EndAll {
    fn drop(&mut self) {
        self.0.end_all();
    }
}

async fn send_error(
    error: Error,
    peer: SocketAddr,
    local_ip: IpAddr,
) -> Result<()> {
    let addr: SocketAddr = SocketAddr::new(local_ip, 0);
    let socket = bind(addr).map_err(Error::Bind)?;

    let data = Packet::Error(error.into()).to_bytes();
    socket.send_to(&data[..], peer).await?;

    Ok(())
}

async fn run_req(
    req_fut: impl Future<Output = Result<()>>,
    peer: SocketAddr,
    transfers: Arc<Transfers>,
    transfer: Arc<Transfer>,
    local_ip: IpAddr,
) {
    // However it ends: its request would be taken for one that is answered.
    let _ended = Ended {
        transfers,
        peer,
        transfer,
    };
    if let Err(e) = req_fut.await {
        trace!("Request failed (peer: {}, error: {}", &peer, &e);

        if let Err(e) = send_error(e, peer, local_ip).await {
            trace!("Failed to send error to peer {}: {}", &peer, &e);
        }
    }
}

/// Takes the transfer off the list, when dropped.
struct Ended {
    transfers: Arc<Transfers>,
    peer: SocketAddr,
    transfer: Arc<Transfer>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.transfers.end(self.peer, &self.transfer);
    }
}
