//! What happened, each in one line for a person.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use pnet::util::MacAddr;

use crate::boot_menu::{BootFile, Wanted};
use crate::client::ClientKind;
use crate::image::Image;
use crate::lease::NoAddress;
use crate::settings::Mode;

/// What a machine was told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MenuKind {
    /// Start the agent.
    Agent {
        /// From this image.
        image: Image,
    },
    /// Go on with its own disk.
    LocalDisk,
    /// Wait.
    Hold,
}

impl fmt::Display for MenuKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MenuKind::Agent {
                image: Image::Usual,
            } => f.write_str("start the agent"),
            MenuKind::Agent {
                image: Image::Named(name),
            } => write!(f, "start the agent (image {name})"),
            MenuKind::Agent {
                image: Image::UsualFor(name),
            } => write!(
                f,
                "start the agent (the usual image: {name} cannot be used)"
            ),
            MenuKind::LocalDisk => f.write_str("go on with its own disk"),
            MenuKind::Hold => f.write_str("wait"),
        }
    }
}

/// What one machine did on its way up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootEvent {
    /// Its ROM asks for a boot file, and is answered. Repeated questions have the same number.
    Asked {
        /// What kind of ROM.
        client: ClientKind,
        /// DHCP transaction number.
        xid: u32,
        /// The address offered; `None` from a proxy.
        offered: Option<Ipv4Addr>,
        /// What it is told to fetch: a loader's name, or its URL.
        loader: Option<String>,
    },
    /// It took our address.
    Given {
        /// The address.
        address: Ipv4Addr,
    },
    /// It asked for an address it cannot have.
    Refused {
        /// The address.
        wanted: Ipv4Addr,
    },
    /// It asked port 4011 and was answered.
    ProxyAnswered,
    /// It asks for a kind of boot that is not served; not answered.
    NotServed {
        /// What kind of ROM.
        client: ClientKind,
        /// The reason.
        why: String,
    },
    /// It was not given its loader: its firmware goes on to the next boot entry.
    SentToItsDisk {
        /// The reason.
        why: String,
    },
    /// Not answered, by decision.
    Ignored {
        /// The reason.
        why: String,
    },
    /// Not answered: nothing to give.
    NoAddress {
        /// The reason.
        why: NoAddress,
    },
    /// It found its address in use by somebody else.
    Declined {
        /// The address.
        address: Ipv4Addr,
    },
    /// Its address is in use by somebody else, who answered by ARP.
    InUse {
        /// The address.
        address: Ipv4Addr,
        /// Who.
        by: MacAddr,
        /// It is offered all the same, for want of another.
        offered: bool,
    },
    /// It gave its address back.
    Released,
    /// It asked through a DHCP relay; not answered.
    Relayed,
    /// It fetches its menu.
    Menu {
        /// What the menu tells it to do.
        kind: MenuKind,
    },
    /// It has a whole file.
    Fetched {
        /// The file's name.
        file: String,
        /// Its size.
        bytes: u64,
        /// From the request to the last acknowledgement (over HTTP: until the kernel had taken all of it).
        elapsed: Duration,
    },
    /// It asked for a file's size only, as ROMs do before they fetch it.
    SizeAsked {
        /// The file's name.
        file: String,
    },
    /// It stopped a transfer with an error.
    Aborted {
        /// The file's name.
        file: String,
        /// Bytes it has.
        bytes: u64,
        /// Its words.
        why: String,
    },
    /// It fell silent in the middle of a transfer.
    Silent {
        /// The file's name.
        file: String,
        /// Bytes it has.
        bytes: u64,
    },
    /// A transfer failed here.
    Failed {
        /// The file's name.
        file: String,
        /// The reason.
        why: String,
    },
}

impl BootEvent {
    /// The machine has a whole initial RAM disk, the last of what it is told to fetch.
    pub fn is_last_of_boot(&self) -> bool {
        self.booted_image().is_some()
    }

    /// The image whose initial RAM disk the machine now has, as far as the file's name says: never
    /// [`Image::UsualFor`].
    pub fn booted_image(&self) -> Option<Image> {
        match self {
            BootEvent::Fetched { file, .. } => match Wanted::parse(file)? {
                Wanted::File(BootFile::Initrd) => Some(Image::Usual),
                Wanted::File(BootFile::InitrdOf(name)) => Some(Image::Named(name)),
                _ => None,
            },
            _ => None,
        }
    }
}

impl fmt::Display for BootEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootEvent::Asked {
                client,
                offered,
                loader,
                ..
            } => {
                write!(f, "{client}, asks for boot, ")?;
                match offered {
                    Some(address) => write!(f, "offered {address}")?,
                    None => f.write_str("told to boot from here")?,
                }
                match loader {
                    Some(loader) => write!(f, ", {loader}"),
                    None => Ok(()),
                }
            }
            BootEvent::Given { address } => write!(f, "given {address}"),
            BootEvent::Refused { wanted } => write!(f, "cannot have {wanted}, told to ask anew"),
            BootEvent::ProxyAnswered => f.write_str("told to boot from here (port 4011)"),
            BootEvent::NotServed { client, why } => {
                write!(f, "{client}, asks for boot: not answered, {why}")
            }
            BootEvent::SentToItsDisk { why } => write!(
                f,
                "not given its boot loader, so that it goes on with its own disk: {}",
                Reason(why)
            ),
            BootEvent::Ignored { why } => write!(f, "asks for boot: not answered, {}", Reason(why)),
            BootEvent::NoAddress { why } => write!(f, "asks for boot: not answered, {why}"),
            BootEvent::Declined { address } => {
                write!(
                    f,
                    "found {address} in use by another machine; not given again for an hour"
                )
            }
            BootEvent::InUse {
                address,
                by,
                offered: false,
            } => write!(
                f,
                "not offered {address}, which {by} has; not given for an hour"
            ),
            BootEvent::InUse {
                address,
                by,
                offered: true,
            } => write!(
                f,
                "offered {address}, its address in `fixed`, although {by} has it: there is no `pool` for another"
            ),
            BootEvent::Released => f.write_str("gave its address back"),
            BootEvent::Relayed => f.write_str(
                "asks for boot through a DHCP relay: not answered, only this network is served",
            ),
            BootEvent::Menu { kind } => write!(f, "menu sent: {kind}"),
            BootEvent::Fetched {
                file,
                bytes,
                elapsed,
            } => {
                write!(
                    f,
                    "{file} {} in {:.1} s",
                    Size(*bytes),
                    elapsed.as_secs_f64()
                )
            }
            BootEvent::SizeAsked { file } => write!(f, "{file}: asked for its size"),
            BootEvent::Aborted { file, bytes, why } => {
                write!(
                    f,
                    "{file}: stopped by the machine after {}: {}",
                    Size(*bytes),
                    Text(why)
                )
            }
            BootEvent::Silent { file, bytes } => {
                write!(f, "{file}: the machine fell silent after {}", Size(*bytes))
            }
            BootEvent::Failed { file, why } => write!(f, "{file}: {}", Reason(why)),
        }
    }
}

/// What belongs to no one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The service is up.
    Serving {
        /// Interface.
        iface: String,
        /// Our address on it.
        server: Ipv4Addr,
        /// What is done about DHCP.
        mode: Mode,
        /// Port of the HTTP service, if there is one.
        http: Option<u16>,
    },
    /// Somebody else answers DHCP here.
    OtherDhcpServer {
        /// Who.
        address: Ipv4Addr,
        /// What we do.
        mode: Mode,
    },
    /// A proxy without a DHCP server beside it.
    NoDhcpServer,
    /// The signed GRUB is served beside the site's DHCP server, which has to send it here.
    SignedGrubBesideDhcp {
        /// Our address.
        server: Ipv4Addr,
    },
    /// Other DHCP servers could not be looked for.
    ProbeFailed {
        /// The reason.
        why: String,
    },
    /// A file that only some machines need is not there.
    Missing {
        /// Which, and what to do.
        why: String,
    },
    /// A loader that the settings name is not there.
    NamedMissing {
        /// Which, and what to do.
        why: String,
    },
    /// An image that is in the settings is not there.
    ImageMissing {
        /// Which, and what to do.
        why: String,
    },
    /// Somebody asked for a file that is not served.
    NotFound {
        /// Who.
        peer: IpAddr,
        /// What.
        name: String,
    },
    /// Somebody tried to write a file.
    WriteRefused {
        /// Who.
        peer: IpAddr,
        /// What.
        name: String,
    },
    /// An address has as many connections by HTTP as it may have; more are closed until it has fewer. Told once.
    ManyConnections {
        /// Whose.
        peer: IpAddr,
        /// So many.
        most: usize,
    },
    /// A transfer to somebody whose hardware address is not known.
    Transfer {
        /// Who.
        peer: IpAddr,
        /// What would be seen of the machine.
        event: BootEvent,
    },
    /// Something went wrong here; the client was not answered.
    Failed {
        /// What, and what to do.
        why: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Serving {
                iface,
                server,
                mode,
                http,
            } => {
                let dhcp = match mode {
                    Mode::Dhcp => "DHCP for network-boot clients",
                    Mode::Proxy => "boot file beside the site's DHCP server",
                    Mode::Off => "",
                };
                f.write_str("serving ")?;
                match (dhcp, http) {
                    ("", None) => f.write_str("TFTP")?,
                    ("", Some(port)) => write!(f, "TFTP and HTTP (port {port})")?,
                    (dhcp, None) => write!(f, "{dhcp} and TFTP")?,
                    (dhcp, Some(port)) => write!(f, "{dhcp}, TFTP and HTTP (port {port})")?,
                }
                write!(f, " as {server} on {iface}")?;
                match mode {
                    Mode::Off => f.write_str("; DHCP is left to others"),
                    _ => Ok(()),
                }
            }
            Notice::OtherDhcpServer {
                address,
                mode: Mode::Dhcp,
            } => write!(
                f,
                "another DHCP server, {address}, answers on this network: a machine may take its \
                 answer instead of ours; consider mode \"proxy\""
            ),
            Notice::OtherDhcpServer { address, .. } => {
                write!(f, "the DHCP server of this network is {address}")
            }
            Notice::NoDhcpServer => f.write_str(
                "no DHCP server answers on this network: machines need an address to boot; start \
                 one, or use mode \"dhcp\"",
            ),
            Notice::SignedGrubBesideDhcp { server } => write!(
                f,
                "`secure_boot` in mode \"proxy\": 64-bit UEFI machines boot only if the site's DHCP server hands out \
                 next-server {server}, and no boot file (dnsmasq: dhcp-boot=,,{server}): Debian's signed GRUB \
                 looks for its files nowhere else"
            ),
            Notice::ProbeFailed { why } => {
                write!(f, "cannot look for other DHCP servers: {}", Reason(why))
            }
            Notice::Missing { why } => write!(f, "some machines cannot be booted: {why}"),
            Notice::NamedMissing { why } => write!(
                f,
                "WARNING: a boot loader that the settings name is not there, and its machines get the usual one of \
                 their kind, if that is there, which may not suit them: {why}"
            ),
            Notice::ImageMissing { why } => write!(
                f,
                "WARNING: an image that the settings name cannot be used, and its machines get the usual one, which may \
                 not suit them: {why}"
            ),
            Notice::NotFound { peer, name } => {
                write!(f, "{peer} asked for {}: not served", Text(name))
            }
            Notice::WriteRefused { peer, name } => {
                write!(f, "{peer} tried to write {}: refused", Text(name))
            }
            Notice::ManyConnections { peer, most } => write!(
                f,
                "{peer} has {most} connections by HTTP, and more are closed until it ends some: do several machines come \
                 from one address?"
            ),
            Notice::Transfer { peer, event } => write!(f, "{peer}: {event}"),
            Notice::Failed { why } => f.write_str(why),
        }
    }
}

/// Somebody else's words, made fit for one line of a log: printable ASCII, 80 characters at most.
struct Text<'a>(&'a str);

/// Ours, which may have somebody else's in them: printable ASCII, and so many characters that no advice at their
/// end is lost.
struct Reason<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        one_line(f, self.0, 80)
    }
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        one_line(f, self.0, 500)
    }
}

fn one_line(f: &mut fmt::Formatter<'_>, text: &str, most: usize) -> fmt::Result {
    for c in text.chars().take(most) {
        let shown = if c == ' ' || c.is_ascii_graphic() {
            c
        } else {
            '?'
        };
        fmt::Write::write_char(f, shown)?;
    }
    match text.chars().nth(most) {
        Some(_) => f.write_str("..."),
        None => Ok(()),
    }
}

/// Bytes, for people.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ ..10_000 => write!(f, "{bytes} bytes"),
            bytes @ ..1_000_000 => write!(f, "{} kB", bytes / 1000),
            bytes => write!(f, "{:.1} MB", bytes as f64 / 1e6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_readable_and_stay_lines() {
        let fetched = BootEvent::Fetched {
            file: "vmlinuz".into(),
            bytes: 8_200_000,
            elapsed: Duration::from_millis(1130),
        };
        assert_eq!(fetched.to_string(), "vmlinuz 8.2 MB in 1.1 s");
        let name = format!("a\nb\u{1b}[2J{}", "x".repeat(5000));
        let notice = Notice::NotFound {
            peer: IpAddr::from([10, 0, 0, 1]),
            name,
        }
        .to_string();
        assert!(
            notice.starts_with("10.0.0.1 asked for a?b?[2Jxxx"),
            "{notice}"
        );
        assert!(notice.len() < 150 && !notice.contains('\n'));
    }

    #[test]
    fn a_boot_ends_with_the_initial_ram_disk_of_whatever_image() {
        let fetched = |file: &str| BootEvent::Fetched {
            file: file.into(),
            bytes: 1,
            elapsed: Duration::ZERO,
        };
        let last = |file: &str| fetched(file).is_last_of_boot();
        let old = Image::Named("old".parse().unwrap());
        assert_eq!(fetched("initrd").booted_image(), Some(Image::Usual));
        assert_eq!(fetched("image/old/initrd").booted_image(), Some(old));
        assert!(last("initrd") && last("image/old/initrd"));
        assert!(!last("vmlinuz") && !last("image/old/vmlinuz") && !last("x/initrd"));
        let file = "initrd".to_owned();
        assert!(!BootEvent::SizeAsked { file }.is_last_of_boot());
    }
}
