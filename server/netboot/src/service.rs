//! The service as a whole: what is opened at the start, and what runs until the end.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;

use crate::boot_set::{BootSet, BootSetError};
use crate::catalogue::Catalogue;
use crate::dhcp::Server;
use crate::dhcp::conflict::Conflicts;
use crate::dhcp::service::Dhcp;
use crate::event::Notice;
use crate::http::Http;
use crate::interface::{Interface, InterfaceError};
use crate::interface_watch::{self, InterfaceLost};
use crate::lease_file::{LeaseFile, LeaseFileError};
use crate::loader::http_host;
use crate::machines::Machines;
use crate::peers::Peers;
use crate::probe::probe;
use crate::settings::{Mode, Settings, SettingsError, plan_addresses};
use crate::socket::{FrameSocket, SocketError, tcp_port, udp_port};
use crate::subnet::Subnet;
use crate::tftp::Files;

/// DHCP servers' port.
const DHCP_PORT: u16 = 67;
/// PXE specification 2.1, section 2.2.1: the proxy's port for clients that have an address.
const PROXY_PORT: u16 = 4011;
/// TFTP's port.
const TFTP_PORT: u16 = 69;
/// Servers that check an address by ping before they offer it take a second or more.
const PROBE_WAIT: Duration = Duration::from_secs(4);

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interface.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The interface, while it was served.
    #[error(transparent)]
    Lost(#[from] InterfaceLost),
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A file that should be served.
    #[error(transparent)]
    BootSet(#[from] BootSetError),
    /// The leases.
    #[error(transparent)]
    Leases(#[from] LeaseFileError),
    /// A port.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A socket failed while serving.
    #[error("{what} stopped: {source}")]
    Stopped {
        /// Which part.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// Serves until `shutdown` is ready. Everything is opened and read before anything is answered, so
/// an error at the start has changed nothing. Needs a tokio runtime with I/O and time.
///
/// # Errors
/// What could not be opened, read or bound, and what to do about it; or which socket failed later.
pub async fn serve(
    settings: Settings,
    machines: Arc<dyn Machines>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let interface = Interface::find(&settings.iface)?;
    let (address, subnet) = interface.address(settings.server)?;
    let subnet = match settings.netmask {
        Some(mask) => Subnet::new(address, mask).ok_or(SettingsError::Netmask(mask))?,
        None => subnet,
    };
    let (set, missing) = BootSet::read(&settings, address)?;
    for missing in &missing {
        let why = missing.error.to_string();
        machines.noticed(&match missing.named {
            true => Notice::NamedMissing { why },
            false => Notice::Missing { why },
        });
    }
    let http = http_host(address, settings.http_port);
    let settings = Arc::new(settings);
    let peers = Arc::new(Peers::default());
    let mode = settings.mode;

    let dhcp = match mode {
        Mode::Off => None,
        Mode::Dhcp | Mode::Proxy => {
            let file = LeaseFile::in_dir(&settings.state_dir);
            let (range, leases) = match mode {
                Mode::Dhcp => (
                    Some(plan_addresses(&settings, address, subnet)?),
                    file.read()?,
                ),
                _ => Default::default(),
            };
            let everywhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, DHCP_PORT);
            let port = udp_port(&interface, everywhere, "DHCP")?;
            let proxy_port = match mode {
                Mode::Proxy => {
                    let here = SocketAddrV4::new(address, PROXY_PORT);
                    Some(udp_port(&interface, here, "ProxyDHCP")?)
                }
                _ => None,
            };
            let dhcp = Dhcp {
                server: Server {
                    address,
                    subnet,
                    router: settings.router,
                    dns: settings.dns.clone(),
                    domain: settings.domain.clone(),
                    lease_seconds: settings.lease_seconds,
                    range,
                    serve_all: settings.serve_all,
                    http: http.clone(),
                    signed_grub: settings.signed_grub(),
                    bios_loader: settings.bios_loader,
                    loaders: settings.loaders.clone(),
                    files: set.files(),
                },
                settings: Arc::clone(&settings),
                machines: Arc::clone(&machines),
                peers: Arc::clone(&peers),
                leases,
                file,
                frames: FrameSocket::open(&interface, false)?,
                arp: arp_socket(&interface, mode)?,
                own: interface.mac,
                conflicts: Conflicts::default(),
            };
            Some((dhcp, port, proxy_port))
        }
    };
    // Bound to our address, so that transfers come from it: clients compare.
    let tftp_port = udp_port(&interface, SocketAddrV4::new(address, TFTP_PORT), "TFTP")?;
    let http_port = match settings.http_port {
        0 => None,
        port => Some(tcp_port(
            &interface,
            SocketAddrV4::new(address, port),
            "HTTP",
        )?),
    };
    let catalogue = Arc::new(Catalogue {
        set,
        settings: Arc::clone(&settings),
        machines: Arc::clone(&machines),
        peers,
        http,
    });
    let files = Files(Arc::clone(&catalogue));
    let web = async {
        match http_port {
            None => std::future::pending().await,
            Some(listener) => Http(catalogue).serve(listener).await,
        }
    };

    let dhcp = async {
        match dhcp {
            None => std::future::pending().await,
            Some((dhcp, port, proxy_port)) => {
                let port = UdpSocket::from_std(port)?;
                let proxy_port = proxy_port.map(UdpSocket::from_std).transpose()?;
                dhcp.serve(port, proxy_port).await
            }
        }
    };
    let iface = settings.iface.clone();
    machines.noticed(&Notice::Serving {
        iface: iface.clone(),
        server: address,
        mode,
        http: Some(settings.http_port).filter(|&port| port != 0),
    });
    let look = async {
        look_for_others(&iface, mode, machines.as_ref()).await;
        std::future::pending::<()>().await;
    };

    tokio::select! {
        () = shutdown => Ok(()),
        () = look => Ok(()),
        lost = interface_watch::lost(&interface, address) => Err(lost.into()),
        end = dhcp => end.map_err(|source| Error::Stopped { what: "DHCP", source }),
        end = files.serve(tftp_port) => end.map_err(|source| Error::Stopped { what: "TFTP", source }),
        end = web => end.map_err(|source| Error::Stopped { what: "HTTP", source }),
    }
}

/// For asking whether an address is in use before it is offered.
fn arp_socket(interface: &Interface, mode: Mode) -> Result<Option<AsyncFd<FrameSocket>>, Error> {
    if mode != Mode::Dhcp {
        return Ok(None);
    }
    let socket = FrameSocket::arp(interface)?;
    // SAFETY: the socket owns its descriptor, always returns that one, and closes it when dropped.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    registered.map(Some).map_err(|e| Error::Stopped {
        what: "ARP",
        source: e.into(),
    })
}

/// Says once who else answers DHCP here. Beside the service, which does not wait for it.
async fn look_for_others(iface: &str, mode: Mode, machines: &dyn Machines) {
    let name = iface.to_owned();
    let found = tokio::task::spawn_blocking(move || probe(&name, PROBE_WAIT)).await;
    match found {
        Ok(Ok(servers)) => {
            if servers.is_empty() && mode != Mode::Dhcp {
                machines.noticed(&Notice::NoDhcpServer);
            }
            for server in servers {
                machines.noticed(&Notice::OtherDhcpServer {
                    address: server.address,
                    mode,
                });
            }
        }
        Ok(Err(e)) => machines.noticed(&Notice::ProbeFailed { why: e.to_string() }),
        Err(e) => machines.noticed(&Notice::ProbeFailed { why: e.to_string() }),
    }
}
