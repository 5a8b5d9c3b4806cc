//! What belongs to no one machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use super::BootEvent;
use super::words::{Reason, Text};
use crate::settings::Mode;

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
    /// Another service of this kind answers machines here. Told once.
    OtherService {
        /// Its address.
        address: Ipv4Addr,
        /// The shelves that both give to new machines.
        both: Option<RangeInclusive<u16>>,
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

impl Notice {
    /// What kind of thing happened, if anybody on the wire can make it happen any number of times.
    pub fn strangers_kind(&self) -> Option<&'static str> {
        match self {
            Notice::Serving { .. }
            | Notice::OtherDhcpServer { .. }
            | Notice::OtherService { .. }
            | Notice::NoDhcpServer
            | Notice::SignedGrubBesideDhcp { .. }
            | Notice::ProbeFailed { .. }
            | Notice::Missing { .. }
            | Notice::NamedMissing { .. }
            | Notice::ImageMissing { .. } => None,
            Notice::NotFound { .. } => Some("file not served"),
            Notice::WriteRefused { .. } => Some("write refused"),
            Notice::ManyConnections { .. } => Some("too many connections"),
            Notice::Transfer { event, .. } => Some(event.kind()),
            Notice::Failed { .. } => Some("something failed"),
        }
    }
}

impl Notice {
    /// It is to be put right: machines get something else than the operator wants.
    pub fn is_warning(&self) -> bool {
        matches!(
            self,
            Notice::OtherService { .. } | Notice::NamedMissing { .. } | Notice::ImageMissing { .. }
        )
    }
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
            Notice::OtherService { address, both } => {
                write!(
                    f,
                    "another p2v serve, {address}, answers machines on this network, and a machine that both boot \
                     starts for either: approve each machine on one host only"
                )?;
                match both {
                    None => Ok(()),
                    Some(both) => write!(
                        f,
                        ". Both give shelves {} to {} to new machines, and two disks with one address are mistaken for each \
                         other: give the hosts ranges that do not meet (`shelves` in the settings), before either boots \
                         its next machine",
                        both.start(),
                        both.end()
                    ),
                }
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
                "a boot loader that the settings name is not there, and its machines get the usual one of \
                 their kind, if that is there, which may not suit them: {why}"
            ),
            Notice::ImageMissing { why } => write!(
                f,
                "an image that the settings name cannot be used, and its machines get the usual one, which may \
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line_whatever_somebody_asks_for() {
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
}
