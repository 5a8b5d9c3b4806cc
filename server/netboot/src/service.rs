//! The service as a whole: what is opened at the start, and what runs until the end.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;

use crate::boot_set::{BootSet, BootSetError, Missing, Need};
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
use crate::probe::{PROBE_WAIT, Probe};
use crate::settings::{Mode, Settings, SettingsError, plan_addresses};
use crate::socket::{DHCP_PORT, FrameSocket, SocketError, tcp_port, udp_port};
use crate::subnet::Subnet;
use crate::tftp;

/// PXE specification 2.1, section 2.2.1: the proxy's port for clients that have an address.
const PROXY_PORT: u16 = 4011;
/// TFTP's port.
const TFTP_PORT: u16 = 69;

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

/// The service with all its ports and files open, and nothing answered yet: what needs root's power is
/// done, and a privileged process gives it up before [`Opened::serve`]. Nothing is ever opened anew: if
/// the interface is lost, the service ends, and is started again.
pub struct Opened {
    settings: Arc<Settings>,
    interface: Interface,
    address: Ipv4Addr,
    set: BootSet,
    missing: Vec<Missing>,
    dhcp: Option<DhcpPorts>,
    tftp: std::net::UdpSocket,
    http: Option<std::net::TcpListener>,
    probe: Probe,
}

/// What DHCP needs.
struct DhcpPorts {
    server: Server,
    port: std::net::UdpSocket,
    /// In mode `proxy`.
    proxy_port: Option<std::net::UdpSocket>,
    frames: FrameSocket,
    /// In mode `dhcp`: for asking whether an address is in use before it is offered.
    arp: Option<FrameSocket>,
}

/// Looks whether the settings suit the interface: what [`open`] would refuse them for, without its files and ports.
///
/// # Errors
/// The interface, or a contradiction.
pub fn check(settings: &Settings) -> Result<(), Error> {
    let (_, address, subnet) = place(settings)?;
    if settings.mode == Mode::Dhcp {
        plan_addresses(settings, address, subnet)?;
    }
    Ok(())
}

/// The interface, and our address and network on it.
fn place(settings: &Settings) -> Result<(Interface, Ipv4Addr, Subnet), Error> {
    let interface = Interface::find(&settings.iface)?;
    let (address, subnet) = interface.address(settings.server)?;
    let subnet = match settings.netmask {
        Some(mask) => Subnet::new(address, mask).ok_or(SettingsError::Netmask(mask))?,
        None => subnet,
    };
    Ok((interface, address, subnet))
}

/// Opens and reads everything, so that an error has changed nothing. Needs CAP_NET_BIND_SERVICE for ports
/// below 1024, and CAP_NET_RAW. Blocks, and starts no thread.
///
/// # Errors
/// What could not be opened, read or bound, and what to do about it.
pub fn open(settings: Settings) -> Result<Opened, Error> {
    let (interface, address, subnet) = place(&settings)?;
    let (set, missing) = BootSet::read(&settings, address)?;
    let dhcp = match settings.mode {
        Mode::Off => None,
        Mode::Dhcp | Mode::Proxy => Some(open_dhcp(&settings, &interface, address, subnet, &set)?),
    };
    // Bound to our address, so that transfers come from it: clients compare.
    let tftp = udp_port(&interface, SocketAddrV4::new(address, TFTP_PORT), "TFTP")?;
    let http = match settings.http_port {
        0 => None,
        port => Some(tcp_port(
            &interface,
            SocketAddrV4::new(address, port),
            "HTTP",
        )?),
    };
    let probe = Probe::open(&interface)?;
    Ok(Opened {
        settings: Arc::new(settings),
        interface,
        address,
        set,
        missing,
        dhcp,
        tftp,
        http,
        probe,
    })
}

fn open_dhcp(
    settings: &Settings,
    interface: &Interface,
    address: Ipv4Addr,
    subnet: Subnet,
    set: &BootSet,
) -> Result<DhcpPorts, Error> {
    let gives_addresses = settings.mode == Mode::Dhcp;
    let range = match gives_addresses {
        true => Some(plan_addresses(settings, address, subnet)?),
        false => None,
    };
    let everywhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, DHCP_PORT);
    let port = udp_port(interface, everywhere, "DHCP")?;
    let proxy_port = match gives_addresses {
        true => None,
        false => {
            let here = SocketAddrV4::new(address, PROXY_PORT);
            Some(udp_port(interface, here, "ProxyDHCP")?)
        }
    };
    let arp = match gives_addresses {
        true => Some(FrameSocket::arp(interface)?),
        false => None,
    };
    Ok(DhcpPorts {
        server: Server {
            address,
            subnet,
            router: settings.router,
            dns: settings.dns.clone(),
            domain: settings.domain.clone(),
            lease_seconds: settings.lease_seconds,
            range,
            serve_all: settings.serve_all,
            http: http_host(address, settings.http_port),
            signed_grub: settings.signed_grub(),
            bios_loader: settings.bios_loader,
            loaders: settings.loaders.clone(),
            files: set.files(),
        },
        port,
        proxy_port,
        frames: FrameSocket::open(interface, false)?,
        arp,
    })
}

impl Opened {
    /// Serves until `shutdown` is ready. Needs a tokio runtime with I/O and time, and no power of root's.
    ///
    /// # Errors
    /// The leases cannot be read; or which socket failed later.
    pub async fn serve(
        self,
        machines: Arc<dyn Machines>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let Opened {
            settings,
            interface,
            address,
            ..
        } = self;
        let file = LeaseFile::in_dir(&settings.state_dir);
        let leases = match settings.mode {
            Mode::Dhcp => file.read()?,
            Mode::Proxy | Mode::Off => Default::default(),
        };
        for missing in &self.missing {
            let why = missing.error.to_string();
            machines.noticed(&match missing.need {
                Need::Every | Need::Some => Notice::Missing { why },
                Need::NamedLoader => Notice::NamedMissing { why },
                Need::Image => Notice::ImageMissing { why },
            });
        }
        let peers = Arc::new(Peers::default());
        let catalogue = Arc::new(Catalogue {
            set: self.set,
            settings: Arc::clone(&settings),
            machines: Arc::clone(&machines),
            peers: Arc::clone(&peers),
            http: http_host(address, settings.http_port),
        });
        let files = Arc::clone(&catalogue);
        let web = async {
            match self.http {
                None => std::future::pending().await,
                Some(listener) => Http(catalogue).serve(listener).await,
            }
        };
        let (for_dhcp, asked) = (Arc::clone(&settings), Arc::clone(&machines));
        let own = interface.mac;
        let dhcp = async {
            let Some(ports) = self.dhcp else {
                return std::future::pending().await;
            };
            let port = UdpSocket::from_std(ports.port)?;
            let proxy_port = ports.proxy_port.map(UdpSocket::from_std).transpose()?;
            let dhcp = Dhcp {
                server: ports.server,
                settings: for_dhcp,
                machines: asked,
                peers,
                leases,
                file,
                frames: ports.frames,
                arp: ports.arp.map(registered).transpose()?,
                own,
                conflicts: Conflicts::default(),
                unwritten: Vec::new(),
                told_of: HashMap::new(),
                others: BTreeSet::new(),
            };
            dhcp.serve(port, proxy_port).await
        };
        machines.noticed(&Notice::Serving {
            iface: settings.iface.clone(),
            server: address,
            mode: settings.mode,
            http: Some(settings.http_port).filter(|&port| port != 0),
        });
        if settings.mode == Mode::Proxy && settings.signed_grub() {
            machines.noticed(&Notice::SignedGrubBesideDhcp { server: address });
        }
        let look = async {
            look_for_others(self.probe, settings.mode, machines.as_ref()).await;
            std::future::pending::<()>().await;
        };

        tokio::select! {
            () = shutdown => Ok(()),
            () = look => Ok(()),
            lost = interface_watch::lost(&interface, address) => Err(lost.into()),
            end = dhcp => end.map_err(|source| Error::Stopped { what: "DHCP", source }),
            end = tftp::serve(self.tftp, files) => end.map_err(|source| Error::Stopped { what: "TFTP", source }),
            end = web => end.map_err(|source| Error::Stopped { what: "HTTP", source }),
        }
    }
}

/// [`open`] and [`Opened::serve`] in one.
///
/// # Errors
/// Those of both.
pub async fn serve(
    settings: Settings,
    machines: Arc<dyn Machines>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    open(settings)?.serve(machines, shutdown).await
}

/// A socket whose frames the runtime waits for.
fn registered(socket: FrameSocket) -> io::Result<AsyncFd<FrameSocket>> {
    // SAFETY: the socket owns its descriptor, always returns that one, and closes it when dropped.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    Ok(registered?)
}

/// Says once who else answers DHCP here. Beside the service, which does not wait for it.
async fn look_for_others(probe: Probe, mode: Mode, machines: &dyn Machines) {
    let found = tokio::task::spawn_blocking(move || probe.ask(PROBE_WAIT)).await;
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
