//! What to do about a client's message: a pure function of the message, the settings, the leases
//! and the time.

use std::net::Ipv4Addr;

use super::reply::{Reply, ReplyKind};
use super::request::{MessageType, Request};
use super::server::Server;
use crate::client::ClientKind;
use crate::lease::{Leases, NoAddress, Requested};

/// Which port the message came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// 67, where all clients ask.
    Dhcp,
    /// 4011, where PXE clients ask a proxy once they have an address.
    Proxy,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this.
    Answer(Reply),
    /// Nothing for us, and nothing to tell anybody: not a network boot, or another server's.
    NotForUs,
    /// A network boot of a kind that is not served; the reason.
    NotServed(String),
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
    if request.client == ClientKind::Other && !(server.serve_all && server.range.is_some()) {
        return Action::NotForUs;
    }
    let boot = match server.boot_target(request) {
        Ok(boot) => boot,
        Err(why) => return Action::NotServed(why),
    };
    if !request.giaddr.is_unspecified() {
        return Action::Relayed;
    }

    let answer = |kind, yours| Action::Answer(Reply::new(request, kind, yours, boot.clone()));
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
    use std::collections::BTreeMap;

    use pnet::util::MacAddr;

    use super::*;
    use crate::boot_menu::BootFile;
    use crate::lease::Range;
    use crate::loader::Loader;
    use crate::subnet::Subnet;

    const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
    const FIRST: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 200);

    fn server(dhcp: bool) -> Server {
        Server {
            address: SERVER,
            subnet: Subnet::new(SERVER, Ipv4Addr::new(255, 255, 255, 0)).unwrap(),
            router: None,
            dns: vec![],
            domain: None,
            serve_all: false,
            http: None,
            signed_grub: false,
            bios_loader: Loader::Pxelinux,
            loaders: BTreeMap::new(),
            files: [BootFile::Pxelinux, BootFile::ShimX64].into(),
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

    fn uefi(architecture: u16) -> ClientKind {
        ClientKind::Uefi {
            architecture,
            ipxe: false,
        }
    }

    fn has(bytes: &[u8], option: &[u8]) -> bool {
        bytes[240..].windows(option.len()).any(|w| w == option)
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
    fn a_uefi_machine_is_not_told_of_boot_servers_and_gets_it_all_again_on_4011() {
        for dhcp in [true, false] {
            let (server, mut leases) = (server(dhcp), Leases::default());
            let mut request = Request {
                client: uefi(7),
                ..ask(MessageType::Discover)
            };
            let offer = reply(decide(&request, Port::Dhcp, &server, &mut leases, 0));
            request.message_type = MessageType::Request;
            request.ciaddr = FIRST;
            let again = reply(decide(&request, Port::Proxy, &server, &mut leases, 0));
            for answer in [offer, again] {
                let bytes = answer.encode(&request, &server).unwrap();
                assert_eq!(bytes[20..24], SERVER.octets());
                assert_eq!(bytes[44..56], *b"192.168.7.1\0");
                assert_eq!(bytes[108..120], *b"shimx64.efi\0");
                assert!(has(&bytes, b"\x43\x0cshimx64.efi\0"));
                assert_eq!(
                    has(&bytes, b"\x3c\x09PXEClient"),
                    answer.yours.is_none(),
                    "the class is for a proxy's answer"
                );
                assert!(!has(&bytes, b"\x2b\x04\x06\x01\x08\xff"));
            }
        }
    }

    #[test]
    fn http_boot_and_lpxelinux_are_told_where_http_is() {
        let (mut server, mut leases) = (server(true), Leases::default());
        server.http = Some("192.168.7.1".into());
        server.files.insert(BootFile::Lpxelinux);
        let mut request = Request {
            client: ClientKind::HttpBoot(0x10),
            ..ask(MessageType::Discover)
        };
        server.signed_grub = true;
        let action = decide(&request, Port::Dhcp, &server, &mut leases, 0);
        assert!(matches!(&action, Action::NotServed(why) if why.contains("secure_boot")));
        server.signed_grub = false;
        let offer = reply(decide(&request, Port::Dhcp, &server, &mut leases, 0));
        let bytes = offer.encode(&request, &server).unwrap();
        assert!(has(&bytes, b"\x3c\x0aHTTPClient"));
        assert!(has(&bytes, b"\x43\x1ehttp://192.168.7.1/shimx64.efi"));
        assert_eq!(bytes[108], 0, "the URL is in option 67 alone");
        request.client = ClientKind::Bios { ipxe: false };
        server.bios_loader = Loader::Lpxelinux;
        let offer = reply(decide(&request, Port::Dhcp, &server, &mut leases, 0));
        let bytes = offer.encode(&request, &server).unwrap();
        assert_eq!(bytes[108..120], *b"lpxelinux.0\0");
        assert!(has(&bytes, b"\xd1\x22lpxelinux.cfg/01-52-54-00-00-00-01"));
        server.loaders.insert(request.mac, Loader::Pxelinux);
        let offer = reply(decide(&request, Port::Dhcp, &server, &mut leases, 0));
        let bytes = offer.encode(&request, &server).unwrap();
        assert_eq!(bytes[108..119], *b"pxelinux.0\0");
        assert!(!has(&bytes, b"lpxelinux"));
    }

    #[test]
    fn a_named_loader_that_is_not_there_leaves_the_usual_one() {
        let (mut server, mut leases) = (server(true), Leases::default());
        server.bios_loader = Loader::Lpxelinux;
        let mut request = ask(MessageType::Discover);
        let mut told = |server: &Server, client| {
            request.client = client;
            let offer = reply(decide(&request, Port::Dhcp, server, &mut leases, 0));
            let bytes = offer.encode(&request, server).unwrap();
            let name = bytes[108..].split(|&byte| byte == 0).next().unwrap();
            String::from_utf8(name.to_owned()).unwrap()
        };
        let bios = ClientKind::Bios { ipxe: false };
        assert_eq!(told(&server, bios), "pxelinux.0");
        for named in [Loader::Lpxelinux, Loader::GrubX64, Loader::GrubIa32] {
            let mac = MacAddr::new(0x52, 0x54, 0, 0, 0, 1);
            server.loaders.insert(mac, named);
            assert_eq!(told(&server, bios), "pxelinux.0");
            assert_eq!(told(&server, uefi(7)), "shimx64.efi");
        }
        server.files.insert(BootFile::GrubIa32);
        assert_eq!(told(&server, uefi(7)), "grubia32.efi");
    }

    #[test]
    fn with_serve_all_others_get_an_address_and_nothing_to_boot() {
        let (mut server, mut leases) = (server(true), Leases::default());
        server.serve_all = true;
        server.domain = Some("example.org".into());
        let request = Request {
            client: ClientKind::Other,
            machine_id: None,
            ..ask(MessageType::Discover)
        };
        let offer = reply(decide(&request, Port::Dhcp, &server, &mut leases, 0));
        let bytes = offer.encode(&request, &server).unwrap();
        assert_eq!(bytes[16..20], FIRST.octets());
        assert!(has(&bytes, b"\x0f\x0bexample.org"));
        assert_eq!((bytes[108], &bytes[20..24]), (0, &[0; 4][..]));
        for option in [&b"\x3c\x09PXEClient"[..], b"\x43\x0b", b"\x42\x0c"] {
            assert!(!has(&bytes, option), "{option:?}");
        }
        // A proxy has no addresses to give, whatever is set.
        server.range = None;
        let action = decide(&request, Port::Dhcp, &server, &mut leases, 0);
        assert_eq!(action, Action::NotForUs);
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
            for (client, why) in [
                (uefi(0x0B), "no boot loader for such machines"),
                (uefi(6), "grubia32.efi is not installed"),
                (ClientKind::HttpBoot(0x10), "`http_port` is 0"),
                (ClientKind::HttpBoot(0x0F), "`http_port` is 0"),
            ] {
                let request = Request {
                    client,
                    ..ask(MessageType::Discover)
                };
                let action = decide(&request, Port::Dhcp, &server, &mut leases, 0);
                assert!(
                    matches!(&action, Action::NotServed(said) if said.contains(why)),
                    "{action:?}"
                );
            }
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
