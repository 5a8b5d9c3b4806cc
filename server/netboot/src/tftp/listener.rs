//! The server's port: requests come in, and become transfers.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use async_tftp::packet::Error;
use async_tftp::server::Handler;
use bytes::Bytes;
use futures_lite::io::Cursor;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::conversation::{Conversation, Ended, Turn};
use super::options::{Asked, Limits};
use super::packet::{self, Direction, Request};
use super::registry::{Place, Registry};
use super::transfer::Transfer;
use super::workers::Workers;

/// Bytes of a datagram that are looked at: a request is shorter.
const REQUEST_MAX: usize = 4096;

/// Who has the files: a [`Handler`] whose readers are files in memory, and that answers many at once.
pub(crate) trait Source: Handler<Reader = Cursor<Bytes>> + Clone + Sync + 'static {
    /// A transfer of one of its files has ended.
    fn ended(&self, end: Ended);
}

/// Serves until the socket fails or the future is dropped; transfers end with it.
pub(crate) async fn serve<S: Source>(
    socket: UdpSocket,
    source: S,
    limits: Limits,
) -> io::Result<()> {
    let (ends, mut ended) = unbounded_channel();
    let listener = Listener {
        local: SocketAddr::new(socket.local_addr()?.ip(), 0),
        source,
        limits,
        registry: Arc::default(),
        workers: Arc::default(),
        ends,
    };
    let mut tasks = JoinSet::new();
    let mut buffer = [0; REQUEST_MAX];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let (len, peer) = received?;
                listener.request(&mut tasks, peer, &buffer[..len]);
            }
            Some(end) = ended.recv() => listener.source.ended(end),
            Some(_) = tasks.join_next() => {}
        }
    }
}

struct Listener<S> {
    /// Where transfers come from: clients compare.
    local: SocketAddr,
    source: S,
    limits: Limits,
    registry: Arc<Registry>,
    workers: Arc<Workers>,
    ends: UnboundedSender<Ended>,
}

impl<S: Source> Listener<S> {
    fn request(&self, tasks: &mut JoinSet<()>, peer: SocketAddr, datagram: &[u8]) {
        let request = match Request::parse(datagram) {
            Ok(request) => request,
            Err(unserved) => {
                if let Some(error) = unserved.error() {
                    refuse(self.local, peer, &error);
                }
                return;
            }
        };
        let Some(place) = self.registry.begin(peer, datagram) else {
            return;
        };
        let opening = Opening {
            local: self.local,
            source: self.source.clone(),
            limits: self.limits,
            workers: Arc::clone(&self.workers),
            ends: self.ends.clone(),
            name: request.name.into_owned(),
            asked: request.options,
            place,
        };
        // Beside the others: a decision about a file may take a while.
        tasks.spawn(opening.open(request.direction));
    }
}

impl<S> Drop for Listener<S> {
    fn drop(&mut self) {
        self.registry.end_all();
    }
}

/// A request whose file is looked for.
struct Opening<S> {
    local: SocketAddr,
    source: S,
    limits: Limits,
    workers: Arc<Workers>,
    ends: UnboundedSender<Ended>,
    name: String,
    asked: Asked,
    place: Place,
}

impl<S: Source> Opening<S> {
    async fn open(mut self, direction: Direction) {
        let (local, peer) = (self.local, self.place.peer);
        // Its place is another's by now: a flood of requests is not worth a decision each.
        if self.place.is_stale() {
            return;
        }
        let opened = match direction {
            Direction::Read => self.file().await,
            Direction::Write => Err(self.refusal().await),
        };
        if self.place.is_stale() {
            return;
        }
        if let Err(error) = opened.and_then(|file| self.begin(file)) {
            refuse(local, peer, &error);
        }
    }

    async fn file(&mut self) -> Result<Bytes, Error> {
        let path = Path::new(&self.name);
        let (reader, _) = self.source.read_req_open(&self.place.peer, path).await?;
        Ok(reader.into_inner())
    }

    /// This server takes no files, whatever the source says.
    async fn refusal(&mut self) -> Error {
        let path = Path::new(&self.name);
        let opened = self
            .source
            .write_req_open(&self.place.peer, path, None)
            .await;
        opened.err().unwrap_or(Error::PermissionDenied)
    }

    fn begin(self, file: Bytes) -> Result<(), Error> {
        let granted = self.asked.grant(self.limits, file.len());
        let workers = Arc::clone(&self.workers);
        let mut conversation = Conversation::open(
            self.local,
            self.name,
            Transfer::new(file, &granted),
            self.place,
            self.ends,
            self.workers,
        )?;
        if conversation.send() != Turn::Over {
            workers.add(conversation);
        }
        Ok(())
    }
}

/// Tells a client that it gets nothing: once, from a port of its own, and if that fails it will ask again.
fn refuse(local: SocketAddr, peer: SocketAddr, error: &Error) {
    if let Ok(socket) = std::net::UdpSocket::bind(local)
        && socket.set_nonblocking(true).is_ok()
    {
        let _ = socket.send_to(&packet::error(error), peer);
    }
}
