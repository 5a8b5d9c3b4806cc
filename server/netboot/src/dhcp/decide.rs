//! What to do about a client's message: a pure function of the message, the settings, the leases
//! and the time.

use std::net::Ipv4Addr;

use super::reply::{Reply, ReplyKind};
use super::request::{MessageType, Request};
use crate::client::ClientKind;
use crate::lease::{Leases, NoAddress, Range, Requested};
use crate::subnet::Subnet;

/// Which port the message came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// 67, where all clients ask.
    Dhcp,
    /// 4011, where PXE clients ask a proxy once they have an address.
    Proxy,
}

/// What clients are told about this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Our address.
    pub address: Ipv4Addr,
    /// Our network.
    pub subnet: Subnet,
    /// Default gateway.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Seconds.
    pub lease_seconds: u32,
    /// What may be given away; `None`: a proxy, which gives no addresses.
    pub range: Option<Range>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this.
    Answer(Reply),
    /// Nothing for us, and nothing to tell anybody: not a network boot, or another server's.
    NotForUs,
    /// A network boot of a kind that is not served.
    NotServed,
    /// There is no address for it.
    NoAddress(NoAddress),
    /// The client found this address in use by somebody else.
    Declined(Ipv4Addr),
    /// The client gave its address back.
    Released,
    /// It came through a relay: its address would be of another network.
    Relayed,
}

/// Decides. `now`: seconds since 1970.
pub fn decide(
    request: &Request,
    port: Port,
    server: &Server,
    leases: &mut Leases,
    now: u64,
) -> Action {
    let for_us = request.server.is_none_or(|chosen| chosen == server.address);
    if let (Some(_), Port::Dhcp) = (&server.range, port) {
        // The machine need not say again that it boots from the network: it has our address.
        match (request.message_type, request.requested) {
            (MessageType::Decline, Some(address)) if for_us => {
                return match leases.decline(request.mac, address, now) {
                    true => Action::Declined(address),
                    false => Action::NotForUs,
                };
            }
            (MessageType::Release, _) if for_us => {
                return match leases.release(request.mac, now) {
                    true => Action::Released,
                    false => Action::NotForUs,
                };
            }
            _ => {}
        }
    }
    if !matches!(
        request.message_type,
        MessageType::Discover | MessageType::Request
    ) {
        return Action::NotForUs;
    }
    match request.client {
        ClientKind::Other => return Action::NotForUs,
        ClientKind::Uefi(_) | ClientKind::HttpBoot(_) => return Action::NotServed,
        ClientKind::Bios { .. } => {}
    }
    if !request.giaddr.is_unspecified() {
        return Action::Relayed;
    }

    let answer = |kind, yours| Action::Answer(Reply::new(request, kind, yours));
    match (&server.range, port, request.message_type) {
        (None, Port::Dhcp, MessageType::Discover) => answer(ReplyKind::Offer, None),
        // Requests on port 67 are for the server whose address the client takes.
        (None, Port::Dhcp, _) => Action::NotForUs,
        (_, Port::Proxy, MessageType::Request) if for_us => answer(ReplyKind::Ack, None),
        (_, Port::Proxy, _) => Action::NotForUs,
        (Some(range), Port::Dhcp, MessageType::Discover) => {
            match leases.offer(range, request.mac, request.requested, now) {
                Ok(address) => answer(ReplyKind::Offer, Some(address)),
                Err(why) => Action::NoAddress(why),
            }
        }
        (Some(_), Port::Dhcp, _) if !for_us => {
            // It took another server's offer: ours need not be held.
            leases.withdraw_offer(request.mac, now);
            Action::NotForUs
        }
        (Some(range), Port::Dhcp, _) => {
            // A NAK is sent only to a client that named us: one that merely asks to keep an
            // address (RFC 2131, 4.3.2, INIT-REBOOT and later) may have it from another server.
            let chosen = request.server.is_some();
            let wanted = request.requested.unwrap_or(request.ciaddr);
            match leases.request(range, request.mac, wanted, chosen, now) {
                Requested::Granted(address) => answer(ReplyKind::Ack, Some(address)),
                Requested::Refused => answer(ReplyKind::Nak, None),
                Requested::NotOurs => Action::NotForUs,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pnet::util::MacAddr;

    const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
    const FIRST: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 200);

    fn server(dhcp: bool) -> Server {
        Server {
            address: SERVER,
            subnet: Subnet::new(SERVER, Ipv4Addr::new(255, 255, 255, 0)).unwrap(),
            router: None,
            dns: vec![],
            lease_seconds: 600,
            range: dhcp.then(|| Range {
                pool: Some((FIRST, Ipv4Addr::new(192, 168, 7, 201))),
                lease_seconds: 600,
                ..Range::default()
            }),
        }
    }

    fn ask(message_type: MessageType) -> Request {
        Request {
            message_type,
            xid: 7,
            secs: 0,
            broadcast: false,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            mac: MacAddr::new(0x52, 0x54, 0, 0, 0, 1),
            requested: None,
            server: None,
            client: ClientKind::Bios { ipxe: false },
            machine_id: Some(vec![0; 17]),
        }
    }

    fn reply(action: Action) -> Reply {
        match action {
            Action::Answer(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_bios_machine_gets_address_and_boot_file_where_it_can_hear_it() {
        let (server, mut leases) = (server(true), Leases::default());
        let mut request = ask(MessageType::Discover);
        let offer = reply(decide(&request, Port::Dhcp, &server, &mut leases, 0));
        assert_eq!((offer.kind, offer.yours), (ReplyKind::Offer, Some(FIRST)));
        assert_eq!((offer.to, offer.to_hardware), (FIRST, true));
        request.broadcast = true;
        let offer = reply(decide(&request, Port::Dhcp, &server, &mut leases, 0));
        assert_eq!((offer.to, offer.to_hardware), (Ipv4Addr::BROADCAST, false));

        let bytes = offer.encode(&request, &server).unwrap();
        assert!(bytes.len() >= 300);
        assert_eq!(bytes[0], 2);
        assert_eq!(bytes[16..20], FIRST.octets());
        assert_eq!(bytes[20..24], SERVER.octets());
        assert_eq!(bytes[108..119], *b"pxelinux.0\0");
        let has = |option: &[u8]| bytes[240..].windows(option.len()).any(|w| w == option);
        assert!(has(b"\x35\x01\x02") && has(b"\x3c\x09PXEClient"));
        assert!(has(b"\x2b\x04\x06\x01\x08\xff") && has(b"\x61\x11\0\0\0"));
        assert!(has(b"\x43\x0bpxelinux.0\0"));
    }

    #[test]
    fn a_request_is_confirmed_refused_or_left_to_others() {
        let (server, mut leases) = (server(true), Leases::default());
        decide(
            &ask(MessageType::Discover),
            Port::Dhcp,
            &server,
            &mut leases,
            0,
        );
        let other = Ipv4Addr::new(192, 168, 7, 9);
        let mut request = Request {
            requested: Some(FIRST),
            server: Some(SERVER),
            ..ask(MessageType::Request)
        };
        assert_eq!(
            reply(decide(&request, Port::Dhcp, &server, &mut leases, 0)).kind,
            ReplyKind::Ack
        );
        request.requested = Some(other);
        let nak = reply(decide(&request, Port::Dhcp, &server, &mut leases, 0));
        assert_eq!((nak.kind, nak.to), (ReplyKind::Nak, Ipv4Addr::BROADCAST));
        assert_eq!(
            nak.encode(&request, &server).unwrap()[108],
            0,
            "no boot file in a NAK"
        );
        request.server = None;
        assert_eq!(
            decide(&request, Port::Dhcp, &server, &mut leases, 0),
            Action::NotForUs
        );
        request.server = Some(other);
        assert_eq!(
            decide(&request, Port::Dhcp, &server, &mut leases, 0),
            Action::NotForUs
        );
        // Renewal: by its address alone.
        let renewal = Request {
            ciaddr: FIRST,
            ..ask(MessageType::Request)
        };
        let ack = reply(decide(&renewal, Port::Dhcp, &server, &mut leases, 300));
        assert_eq!((ack.kind, ack.to), (ReplyKind::Ack, FIRST));
    }

    #[test]
    fn others_are_left_alone() {
        for dhcp in [true, false] {
            let (server, mut leases) = (server(dhcp), Leases::default());
            for kind in [
                MessageType::Discover,
                MessageType::Request,
                MessageType::Inform,
            ] {
                for port in [Port::Dhcp, Port::Proxy] {
                    let request = Request {
                        client: ClientKind::Other,
                        ..ask(kind)
                    };
                    assert_eq!(
                        decide(&request, port, &server, &mut leases, 0),
                        Action::NotForUs
                    );
                }
            }
            let uefi = Request {
                client: ClientKind::Uefi(7),
                ..ask(MessageType::Discover)
            };
            assert_eq!(
                decide(&uefi, Port::Dhcp, &server, &mut leases, 0),
                Action::NotServed
            );
            let relayed = Request {
                giaddr: SERVER,
                ..ask(MessageType::Discover)
            };
            assert_eq!(
                decide(&relayed, Port::Dhcp, &server, &mut leases, 0),
                Action::Relayed
            );
        }
    }

    #[test]
    fn a_proxy_gives_no_address_and_leaves_requests_to_the_server_asked() {
        let (server, mut leases) = (server(false), Leases::default());
        let offer = reply(decide(
            &ask(MessageType::Discover),
            Port::Dhcp,
            &server,
            &mut leases,
            0,
        ));
        assert_eq!((offer.yours, offer.to), (None, Ipv4Addr::BROADCAST));
        let bytes = offer.encode(&ask(MessageType::Discover), &server).unwrap();
        assert_eq!(bytes[16..20], [0; 4]);
        let on = |port, leases: &mut Leases| {
            decide(&ask(MessageType::Request), port, &server, leases, 0)
        };
        assert_eq!(on(Port::Dhcp, &mut leases), Action::NotForUs);
        assert_eq!(reply(on(Port::Proxy, &mut leases)).kind, ReplyKind::Ack);
    }
}
