//! HTTP: what the [`Catalogue`] has, for boot loaders that can (iPXE, lpxelinux, GRUB, UEFI): many times
//! quicker than TFTP, which waits for the client after each block. The protocol itself is hyper's.

pub mod answer;
mod connection;
mod parts;
mod sending;
mod share;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap};
use hyper::http::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::boot_menu::Wanted;
use crate::catalogue::Catalogue;
use crate::event::{BootEvent, Notice};
use answer::{Part, name, part};
use connection::{End, Watched};
use parts::Parts;
use sending::{Logged, PartOf, Sending};
use share::{Places, Share};

/// Bytes of a request at most, its body left out: hyper's smallest buffer. Boot loaders send a few hundred.
const HEAD_MAX: usize = 8192;
/// Header lines at most.
const HEADERS_MAX: usize = 64;
/// For a whole request to come, from the connection's begin or the last answer's end.
const HEAD_WAIT: Duration = Duration::from_secs(10);
/// A client that takes nothing for so long is gone: the kernel then has had no room for more of it, and
/// none of what it sent was acknowledged.
const TAKE_WAIT: Duration = Duration::from_secs(20);
/// Connections at most; more wait in the kernel's queue.
const IN_ALL: usize = 512;
/// Connections of one address at most; more are closed at once. A boot loader has one or two, and those
/// that it left behind when it was power-cycled.
const PER_ADDRESS: usize = 16;
/// After the system refused a connection (it is out of file descriptors): until the next is tried.
const REFUSED_WAIT: Duration = Duration::from_millis(100);

/// Answers requests by name.
pub(crate) struct Http(pub Arc<Catalogue>);

impl Http {
    /// Serves until the socket fails or the future is dropped, which ends all connections.
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let share = Share::new(Places {
            in_all: IN_ALL,
            per_address: PER_ADDRESS,
        });
        let parts = Arc::<Mutex<Parts>>::default();
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let room = share.room().await;
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(e) if is_of_one_connection(&e) => continue,
                Err(e) if is_for_a_while(&e) => {
                    tokio::time::sleep(REFUSED_WAIT).await;
                    continue;
                }
                Err(e) => return Err(e),
            };
            match room.take(peer.ip()) {
                Ok(place) => {
                    let (catalogue, parts) = (Arc::clone(&self.0), Arc::clone(&parts));
                    connections.spawn(async move {
                        converse(catalogue, parts, stream, peer).await;
                        drop(place);
                    });
                }
                Err(full) if full.first => self.0.machines.noticed(&Notice::ManyConnections {
                    peer: peer.ip(),
                    most: PER_ADDRESS,
                }),
                Err(_) => {}
            }
        }
    }
}

/// The connection went away before it was accepted (`accept(2)`, "Error handling").
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    ) || matches!(
        error.raw_os_error(),
        Some(
            libc::ENETDOWN
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
                | libc::EPERM
        )
    )
}

fn is_for_a_while(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// One connection, from its first request to its end.
async fn converse(
    catalogue: Arc<Catalogue>,
    parts: Arc<Mutex<Parts>>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    // Small answers go out at once. If the system has no such thing they are late, and no more than that.
    let _ = stream.set_nodelay(true);
    // What the kernel still has for a client that is gone is not kept for a quarter of an hour.
    let millis = TAKE_WAIT.as_millis() as u32;
    let _ =
        nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::TcpUserTimeout, &millis);
    let end = Arc::new(End::default());
    let watched = Watched::new(stream, TAKE_WAIT, Arc::clone(&end));
    let answer = service_fn(|request| {
        let (catalogue, end) = (Arc::clone(&catalogue), Arc::clone(&end));
        let parts = Arc::clone(&parts);
        async move { Ok::<_, Infallible>(respond(&catalogue, &parts, &end, peer.ip(), &request).await) }
    });
    // How it ended is told by what was being sent; a connection without that is no news.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        // GRUB 2.06 knows `Content-Length` in no other case (grub-core/net/http.c, parse_line), and without
        // it waits 35 s at the end of each file for more, and then takes it for failed.
        .title_case_headers(true)
        // Some simple clients close their side once they have asked.
        .half_close(true)
        // Files are handed to the kernel from where they are, never copied into a buffer.
        .writev(true)
        .serve_connection(TokioIo::new(watched), answer)
        .await;
}

async fn respond<B>(
    catalogue: &Arc<Catalogue>,
    parts: &Arc<Mutex<Parts>>,
    end: &Arc<End>,
    peer: IpAddr,
    request: &Request<B>,
) -> Response<Full<Sending>> {
    let begun = Instant::now();
    let only_head = match *request.method() {
        Method::GET => false,
        Method::HEAD => true,
        _ => {
            let mut refused = plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD are served\n",
            );
            refused
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
    };
    let name = name(request.uri());
    let Some(contents) = catalogue.find(peer, name).await else {
        return plain(StatusCode::NOT_FOUND, "not served\n");
    };
    let size = contents.len() as u64;
    let (status, wanted) = match part(request.headers(), size) {
        Part::Whole => (StatusCode::OK, 0..size),
        Part::Of(range) => (StatusCode::PARTIAL_CONTENT, range),
        Part::Outside => {
            let mut refused = plain(StatusCode::RANGE_NOT_SATISFIABLE, "the file is shorter\n");
            let all = format!("bytes */{size}");
            insert(refused.headers_mut(), CONTENT_RANGE, &all);
            return refused;
        }
    };
    // Menus are told of when they are made.
    let boot_file = match Wanted::parse(name) {
        Some(Wanted::File(file)) => Some(file),
        _ => None,
    };
    let file = || name.to_owned();
    let body = if only_head {
        if boot_file.is_some() {
            catalogue.tell(peer, BootEvent::SizeAsked { file: file() });
        }
        Sending::untold(Bytes::new())
    } else {
        // `part` keeps within the size, which is that of something in memory.
        let bytes = contents.slice(wanted.start as usize..wanted.end as usize);
        let told = boot_file.map(|of| Logged {
            catalogue: Arc::clone(catalogue),
            end: Arc::clone(end),
            peer,
            file: file(),
            begun,
            part: PartOf {
                file: of,
                first: wanted.start,
                anew: status == StatusCode::OK,
                size,
                parts: Arc::clone(parts),
            },
        });
        Sending::new(bytes, told)
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    insert(
        headers,
        CONTENT_LENGTH,
        &(wanted.end - wanted.start).to_string(),
    );
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    if status == StatusCode::PARTIAL_CONTENT {
        let of = format!("bytes {}-{}/{size}", wanted.start, wanted.end - 1);
        insert(headers, CONTENT_RANGE, &of);
    }
    response
}

/// A header of digits and ASCII.
fn insert(headers: &mut HeaderMap, name: hyper::header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Sending>> {
    let mut response = Response::new(Full::new(Sending::untold(Bytes::from_static(
        text.as_bytes(),
    ))));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
