//! The answer to a network-boot client, to bytes.

use std::net::Ipv4Addr;

use dhcproto::v4::{self, DhcpOption, DhcpOptions, Flags, Message, Opcode, UnknownOption};
use dhcproto::{Encodable, error::EncodeError};

use super::request::Request;
use super::server::Server;
use crate::loader::BootTarget;

/// Old ROMs and relays drop anything shorter (RFC 1542, section 2.1: 300 bytes).
const LEN_MIN: usize = 300;
/// PXE specification 2.1, table 2-1: discovery control (6), one byte, bit 3: take the boot file
/// from this message, look for no boot server; end.
const PXE_NO_DISCOVERY: [u8; 4] = [6, 1, 8, 255];

/// RFC 5071, section 4: the configuration file of PXELINUX.
const CONFIG_FILE: u8 = 209;

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// Boot file, and an address if there is one to offer.
    Offer,
    /// The same, confirmed.
    Ack,
    /// The address asked for cannot be had.
    Nak,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Which message.
    pub kind: ReplyKind,
    /// The address given; `None` from a proxy.
    pub yours: Option<Ipv4Addr>,
    /// Where the answer goes. It is put into a frame by hand: a client without an address answers
    /// no ARP, and the sender's address must be the one we are known by.
    pub to: Ipv4Addr,
    /// To the client's own hardware address (else to everybody's).
    pub to_hardware: bool,
    /// What to boot; `None` for a client that does not boot from the network.
    pub boot: Option<BootTarget>,
}

impl Reply {
    /// Decides where it goes, as RFC 2131, section 4.1, last paragraphs, says (there are no
    /// relays here): a client with an address gets it there; one without, at the address it is
    /// given, unless it set the broadcast flag.
    pub(crate) fn new(
        request: &Request,
        kind: ReplyKind,
        yours: Option<Ipv4Addr>,
        boot: Option<BootTarget>,
    ) -> Reply {
        let nak = kind == ReplyKind::Nak;
        let to = match yours {
            _ if nak => None,
            _ if !request.ciaddr.is_unspecified() => Some(request.ciaddr),
            _ if request.broadcast => None,
            yours => yours,
        };
        Reply {
            kind,
            yours,
            to: to.unwrap_or(Ipv4Addr::BROADCAST),
            to_hardware: to.is_some(),
            boot,
        }
    }

    /// The UDP payload.
    ///
    /// # Errors
    /// dhcproto's, for values that do not fit.
    pub fn encode(&self, request: &Request, server: &Server) -> Result<Vec<u8>, EncodeError> {
        let mut message = Message::default();
        message
            .set_opcode(Opcode::BootReply)
            .set_xid(request.xid)
            .set_flags(if request.broadcast {
                Flags::default().set_broadcast()
            } else {
                Flags::default()
            })
            .set_chaddr(&request.mac.octets());
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(match self.kind {
            ReplyKind::Offer => v4::MessageType::Offer,
            ReplyKind::Ack => v4::MessageType::Ack,
            ReplyKind::Nak => v4::MessageType::Nak,
        }));
        options.insert(DhcpOption::ServerIdentifier(server.address));
        if self.kind != ReplyKind::Nak {
            if let Some(boot) = &self.boot {
                boot_options(options, boot, server, self.yours.is_some());
                if let Some(id) = &request.machine_id {
                    options.insert(DhcpOption::ClientMachineIdentifier(id.clone()));
                }
            }
            if let Some(yours) = self.yours {
                options.insert(DhcpOption::AddressLeaseTime(server.lease_seconds));
                options.insert(DhcpOption::SubnetMask(server.subnet.mask()));
                options.insert(DhcpOption::BroadcastAddr(server.subnet.broadcast()));
                if let Some(router) = server.router {
                    options.insert(DhcpOption::Router(vec![router]));
                }
                if !server.dns.is_empty() {
                    options.insert(DhcpOption::DomainNameServer(server.dns.clone()));
                }
                if let Some(domain) = &server.domain {
                    options.insert(DhcpOption::DomainName(domain.clone()));
                }
                message.set_yiaddr(yours);
            }
            message.set_ciaddr(request.ciaddr);
            if let Some(boot) = &self.boot {
                message.set_siaddr(server.address);
                // A URL is in the option only, where it has room.
                if !boot.http_client {
                    message
                        .set_sname_str(server.address.to_string())
                        .set_fname_str(&boot.file);
                }
            }
        }
        let mut bytes = message.to_vec()?;
        bytes.resize(bytes.len().max(LEN_MIN), 0);
        Ok(bytes)
    }
}

/// `with_address`: the answer is a DHCP server's, not a proxy's.
fn boot_options(options: &mut DhcpOptions, boot: &BootTarget, server: &Server, with_address: bool) {
    // EDK2 (PxeBcDhcp4.c, PxeBcParseDhcp4Packet) takes an offer of an address with this class and without
    // option 43 for a boot information negotiation layer's, and asks on port 4011 where none is.
    if boot.http_client {
        options.insert(DhcpOption::ClassIdentifier(b"HTTPClient".to_vec()));
    } else if boot.no_discovery || !with_address {
        options.insert(DhcpOption::ClassIdentifier(b"PXEClient".to_vec()));
    }
    if boot.http_client {
        // EDK2 takes the length as it is, and a NUL would be part of the URL.
        options.insert(DhcpOption::BootfileName(boot.file.clone().into_bytes()));
        return;
    }
    if boot.no_discovery {
        options.insert(DhcpOption::VendorExtensions(PXE_NO_DISCOVERY.to_vec()));
    }
    // Also as options, NUL-terminated: some ROMs read only these, and not all mind a length.
    options.insert(DhcpOption::TFTPServerName(
        format!("{}\0", server.address).into_bytes(),
    ));
    options.insert(DhcpOption::BootfileName(
        format!("{}\0", boot.file).into_bytes(),
    ));
    if let Some(config) = &boot.config_file {
        options.insert(DhcpOption::Unknown(UnknownOption::new(
            CONFIG_FILE.into(),
            config.clone().into_bytes(),
        )));
    }
}
