//! The server on loopback.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_tftp::packet::Error;
use async_tftp::server::Handler;
use bytes::Bytes;
use futures_lite::io::{Cursor, Sink};
use tokio::sync::Semaphore;

use super::LIMITS;
use super::conversation::{Ended, Outcome};
use super::listener::{self, Source};

mod published;
mod threads;

/// Longer than anything takes; nothing waits for it to pass.
const LIMIT: Duration = Duration::from_secs(30);

/// A client on a port of its own.
struct Client(UdpSocket);

impl Client {
    fn new() -> Client {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Client(socket)
    }

    fn ask(&self, server: SocketAddr, name: &str, options: &[u8]) {
        let request = [b"\0\x01", name.as_bytes(), b"\0octet\0", options].concat();
        self.0.send_to(&request, server).unwrap();
    }

    fn hear(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2048];
        let (len, from) = self.0.recv_from(&mut buffer).unwrap();
        (buffer[..len].to_vec(), from)
    }

    fn ack(&self, block: u16, to: SocketAddr) {
        let [high, low] = block.to_be_bytes();
        self.0.send_to(&[0, 4, high, low], to).unwrap();
    }

    /// A whole file, or the code of the error; and the acknowledgement of the options, if there is one.
    fn fetch(
        &self,
        server: SocketAddr,
        name: &str,
        options: &[u8],
    ) -> (Result<Vec<u8>, u8>, Vec<u8>) {
        self.ask(server, name, options);
        let (mut file, mut granted, mut next, mut size, mut window) =
            (vec![], vec![], 1_u16, 512, 1);
        loop {
            let (packet, from) = self.hear();
            match packet[..2] {
                [0, 5] => return (Err(packet[3]), granted),
                [0, 6] => {
                    let texts: Vec<&str> = str::from_utf8(&packet[2..])
                        .unwrap()
                        .split_terminator('\0')
                        .collect();
                    for pair in texts.chunks(2) {
                        match pair[0] {
                            "blksize" => size = pair[1].parse().unwrap(),
                            "windowsize" => window = pair[1].parse().unwrap(),
                            _ => {}
                        }
                    }
                    granted = packet;
                    self.ack(0, from);
                }
                [0, 3] if packet[2..4] == next.to_be_bytes() => {
                    file.extend(&packet[4..]);
                    let is_last = packet.len() < 4 + size;
                    if is_last || next % window == 0 {
                        self.ack(next, from);
                    }
                    next = next.wrapping_add(1);
                    if is_last {
                        return (Ok(file), granted);
                    }
                }
                _ => panic!("{packet:?}"),
            }
        }
    }
}

/// Files by name; that with the name `slow` is decided about once there is a permit.
#[derive(Clone)]
struct Shelf {
    files: Arc<HashMap<&'static str, Bytes>>,
    permits: Arc<Semaphore>,
    ends: Arc<Mutex<mpsc::Sender<Ended>>>,
}

impl Shelf {
    fn new(files: &[(&'static str, usize)]) -> (Shelf, Receiver<Ended>) {
        let file = |&(name, len)| (name, Bytes::from(vec![7; len]));
        let (ends, ended) = mpsc::channel();
        let shelf = Shelf {
            files: Arc::new(files.iter().map(file).collect()),
            permits: Arc::new(Semaphore::new(0)),
            ends: Arc::new(Mutex::new(ends)),
        };
        (shelf, ended)
    }
}

impl Handler for Shelf {
    type Reader = Cursor<Bytes>;
    type Writer = Sink;

    async fn read_req_open(
        &mut self,
        _client: &SocketAddr,
        path: &Path,
    ) -> Result<(Self::Reader, Option<u64>), Error> {
        let name = path.to_str().unwrap();
        if name == "slow" {
            self.permits.acquire().await.unwrap().forget();
        }
        let file = self.files.get(name).ok_or(Error::FileNotFound)?;
        Ok((Cursor::new(file.clone()), None))
    }

    async fn write_req_open(
        &mut self,
        _client: &SocketAddr,
        _path: &Path,
        _size: Option<u64>,
    ) -> Result<Self::Writer, Error> {
        Ok(futures_lite::io::sink())
    }
}

impl Source for Shelf {
    fn ended(&self, end: Ended) {
        let _ = self.ends.lock().unwrap().send(end);
    }
}

/// A server of ours, ended when dropped.
struct Server {
    address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // A task that hangs fails its test, and does not keep it from ending.
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Server {
    fn start(source: impl Source) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_io()
            .build()
            .unwrap();
        let socket = runtime.block_on(tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)));
        let socket = socket.unwrap();
        let address = socket.local_addr().unwrap();
        runtime.spawn(listener::serve(socket, source, LIMITS));
        Server {
            address,
            runtime: Some(runtime),
        }
    }
}

#[test]
fn a_slow_decision_keeps_nobody_else_waiting() {
    let (shelf, _ends) = Shelf::new(&[("slow", 600), ("quick", 600)]);
    let permits = Arc::clone(&shelf.permits);
    let server = Server::start(shelf);
    let slow = Client::new();
    slow.ask(server.address, "slow", b"");
    for _ in 0..3 {
        let quick = Client::new().fetch(server.address, "quick", b"");
        assert_eq!(quick.0, Ok(vec![7; 600]));
    }
    slow.0.set_nonblocking(true).unwrap();
    assert!(
        slow.0.recv(&mut [0; 600]).is_err(),
        "nothing came meanwhile"
    );
    slow.0.set_nonblocking(false).unwrap();
    permits.add_permits(1);
    assert_eq!(slow.hear().0[..4], [0, 3, 0, 1]);
}

#[test]
fn how_each_transfer_ended_is_told() {
    let (shelf, ends) = Shelf::new(&[("file", 5000)]);
    let server = Server::start(shelf);
    let next = || {
        let end = ends.recv_timeout(LIMIT).unwrap();
        assert_eq!(end.name, "file");
        assert!(end.elapsed < LIMIT);
        (end.outcome, end.bytes)
    };
    let client = Client::new();
    client
        .fetch(server.address, "file", b"windowsize\x004\0")
        .0
        .unwrap();
    assert_eq!(next(), (Outcome::Complete, 5000));
    client.ask(server.address, "file", b"");
    let (_, from) = client.hear();
    client.ack(1, from);
    client.hear();
    client.0.send_to(b"\0\x05\0\0enough\0", from).unwrap();
    assert_eq!(next(), (Outcome::Stopped("enough".to_owned()), 512));
    client.ask(server.address, "file", b"");
    let (_, from) = client.hear();
    client.ack(1, from);
    client.hear();
    client.ask(server.address, "file", b"tsize\x000\0");
    let from = loop {
        match client.hear() {
            (packet, from) if packet[1] == 6 => break from,
            _ => {}
        }
    };
    client.ack(0, from);
    assert_eq!(next(), (Outcome::Silent, 512));
    // Without the last acknowledgement: the ROM asks for its next file, and then closes its port.
    let up_to_the_end = |from| {
        for block in 1..10 {
            client.hear();
            client.ack(block, from);
        }
        client.hear();
    };
    up_to_the_end(from);
    client.ask(server.address, "file", b"tsize\x000\0");
    let (_, from) = client.hear();
    client.ack(0, from);
    assert_eq!(next(), (Outcome::EndUnacknowledged, 5000));
    up_to_the_end(from);
    drop(client);
    assert_eq!(next(), (Outcome::EndUnacknowledged, 5000));
}

#[test]
fn no_file_is_taken_whatever_the_source_says() {
    let (shelf, _ends) = Shelf::new(&[]);
    let server = Server::start(shelf);
    let client = Client::new();
    client
        .0
        .send_to(b"\0\x02new\0octet\0", server.address)
        .unwrap();
    assert_eq!(client.hear().0[..4], [0, 5, 0, 2]);
}
