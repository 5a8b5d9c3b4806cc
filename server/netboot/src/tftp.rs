//! TFTP: the boot set, and menus made on request. The transfers themselves are async-tftp's.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_tftp::packet;
use async_tftp::server::{Handler, ReadEnd, ReadOutcome, TftpServerBuilder};
use bytes::Bytes;
use futures_lite::io::{Cursor, Sink};
use pnet::util::MacAddr;

use crate::boot_menu::{self, BootFile, Wanted};
use crate::event::{BootEvent, MenuKind, Notice};
use crate::machines::{BootDecision, Machines};
use crate::peers::Peers;
use crate::settings::Settings;

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

/// The files of the boot set, read once and shared by all transfers.
#[derive(Clone, Debug)]
pub(crate) struct BootSet {
    pxelinux: Bytes,
    ldlinux: Bytes,
    kernel: Bytes,
    initrd: Bytes,
}

/// A file of the boot set that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the {what} {}: {source} ({advice})", path.display())]
pub struct BootSetError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
    advice: &'static str,
}

impl BootSet {
    /// Reads them. Blocks.
    pub fn read(settings: &Settings) -> Result<BootSet, BootSetError> {
        let read = |what, path: &Path, advice| {
            let contents = std::fs::read(path).and_then(|bytes| match bytes.is_empty() {
                true => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the file is empty",
                )),
                false => Ok(Bytes::from(bytes)),
            });
            contents.map_err(|source| BootSetError {
                what,
                path: path.to_owned(),
                source,
                advice,
            })
        };
        let image = "it is part of the netboot image: make it with `p2v-image`, or set `kernel` and `initrd`";
        Ok(BootSet {
            pxelinux: read(
                "boot loader",
                &settings.pxelinux,
                "it is in Debian's package `pxelinux`; or set `pxelinux`",
            )?,
            ldlinux: read(
                "boot loader's module",
                &settings.ldlinux,
                "it is in Debian's package `syslinux-common`; or set `ldlinux`",
            )?,
            kernel: read("kernel", &settings.kernel, image)?,
            initrd: read("initial RAM disk", &settings.initrd, image)?,
        })
    }

    fn contents(&self, file: BootFile) -> Bytes {
        match file {
            BootFile::Pxelinux => self.pxelinux.clone(),
            BootFile::Ldlinux => self.ldlinux.clone(),
            BootFile::Kernel => self.kernel.clone(),
            BootFile::Initrd => self.initrd.clone(),
        }
    }
}

/// Answers requests by name.
pub(crate) struct Files {
    pub set: BootSet,
    pub settings: Arc<Settings>,
    pub machines: Arc<dyn Machines>,
    pub peers: Arc<Peers>,
}

impl Files {
    /// Serves until the socket fails or the future is dropped, on a thread of its own: that thread
    /// waits for the sockets itself, so a block goes out without one thread having to wake another.
    /// ROMs have one block in flight, and each of those wake-ups was felt in every one of them.
    pub async fn serve(self, socket: UdpSocket) -> io::Result<()> {
        let runtime = tokio::runtime::Handle::current();
        let (dropped, end) = tokio::sync::oneshot::channel::<()>();
        let (done, result) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("tftp".into())
            .spawn(move || {
                // Decisions about menus are made on the runtime's threads for blocking work.
                let _context = runtime.enter();
                let ended = async {
                    let _ = end.await;
                    Ok(())
                };
                let _ = done.send(async_io::block_on(futures_lite::future::or(
                    self.transfers(socket),
                    ended,
                )));
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

    fn tell(&self, peer: IpAddr, event: BootEvent) {
        match self.peers.find(peer) {
            Some(mac) => self.machines.seen(mac, &event),
            None => self.machines.noticed(&Notice::Transfer { peer, event }),
        }
    }

    /// The menu for a machine; made anew each time, so that it says what holds now.
    async fn menu(&self, peer: IpAddr, mac: Option<MacAddr>) -> Bytes {
        let decision = match mac {
            None => BootDecision::Hold {
                message: "The boot loader did not say which machine this is.".to_owned(),
            },
            Some(mac) if !self.settings.allows(mac) => BootDecision::LocalDisk {
                why: format!("{mac} is not on the list of machines that p2v serves."),
            },
            Some(mac) => {
                let machines = Arc::clone(&self.machines);
                tokio::task::spawn_blocking(move || machines.boot(mac))
                    .await
                    .unwrap_or_else(|e| {
                        let why = format!("{mac}: no decision, the machine is held: {e}");
                        self.machines.noticed(&Notice::Failed { why });
                        BootDecision::Hold {
                            message:
                                "p2v could not decide what this machine shall do; see its log on \
                                  the Xen host."
                                    .to_owned(),
                        }
                    })
            }
        };
        let (kind, menu): (MenuKind, String) = boot_menu::render(mac, &decision);
        match mac {
            Some(mac) => self.machines.seen(mac, &BootEvent::Menu { kind }),
            None => self.tell(peer, BootEvent::Menu { kind }),
        }
        Bytes::from(menu)
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
        &mut self,
        client: &SocketAddr,
        path: &Path,
    ) -> Result<(Self::Reader, Option<u64>), packet::Error> {
        let peer = client.ip();
        let name = path.to_str().unwrap_or_default();
        let contents = match Wanted::parse(name) {
            Some(Wanted::File(file)) => self.set.contents(file),
            Some(Wanted::Menu(mac)) => {
                if let IpAddr::V4(address) = peer {
                    self.peers.learn(address, mac);
                }
                self.menu(peer, Some(mac)).await
            }
            // PXELINUX asks for this one when it got no answer about its own: the same decision.
            Some(Wanted::DefaultMenu) => self.menu(peer, self.peers.find(peer)).await,
            Some(Wanted::NoSuchMenu) => return Err(packet::Error::FileNotFound),
            None => {
                self.machines.noticed(&Notice::NotFound {
                    peer,
                    name: name.to_owned(),
                });
                return Err(packet::Error::FileNotFound);
            }
        };
        let size = contents.len() as u64;
        Ok((Cursor::new(contents), Some(size)))
    }

    async fn write_req_open(
        &mut self,
        client: &SocketAddr,
        path: &Path,
        _size: Option<u64>,
    ) -> Result<Self::Writer, packet::Error> {
        let name = path.to_string_lossy().into_owned();
        self.machines.noticed(&Notice::WriteRefused {
            peer: client.ip(),
            name,
        });
        Err(packet::Error::PermissionDenied)
    }

    fn read_req_end(&mut self, client: &SocketAddr, path: &Path, end: ReadEnd) {
        let file = path.to_string_lossy().into_owned();
        let is_menu = !matches!(Wanted::parse(&file), Some(Wanted::File(_)));
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
        self.tell(client.ip(), event);
    }
}
