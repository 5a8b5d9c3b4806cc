//! A client's message, from bytes. Fuzzed: any bytes give a [`Request`] or a [`Refused`].

use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::Message;
use pnet::util::MacAddr;

use crate::client::ClientKind;

/// Bytes before the options: the BOOTP fields and the magic cookie (RFC 2131, section 2).
const FIXED_LEN: usize = 240;

/// The messages clients send (RFC 2132, 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// Who is there?
    Discover,
    /// I take this one; or: may I keep it?
    Request,
    /// Somebody else has that address.
    Decline,
    /// I need it no more.
    Release,
    /// I have an address; what else should I know?
    Inform,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which message.
    pub message_type: MessageType,
    /// Transaction number, the same in retransmissions and in the answer.
    pub xid: u32,
    /// Seconds the client has been at it, by its own count.
    pub secs: u16,
    /// The client cannot receive unicast before it has its address.
    pub broadcast: bool,
    /// The address the client has and uses.
    pub ciaddr: Ipv4Addr,
    /// The relay between the client and us; 0.0.0.0 on the same segment.
    pub giaddr: Ipv4Addr,
    /// The client's hardware address.
    pub mac: MacAddr,
    /// Option 50: the address it would like.
    pub requested: Option<Ipv4Addr>,
    /// Option 54: the server it chose.
    pub server: Option<Ipv4Addr>,
    /// Options 60, 77, 93, 175: what kind of client it is.
    pub client: ClientKind,
    /// Option 97: the machine's identifier, returned as it came (RFC 4578, 2.3). At most 17 bytes.
    pub machine_id: Option<Vec<u8>>,
}

/// Why a datagram is not a request that could be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Shorter than the fixed part.
    #[error("{0} bytes is too short for a DHCP message (240)")]
    TooShort(usize),
    /// A server's message.
    #[error("not a request (operation {0})")]
    NotARequest(u8),
    /// Not Ethernet.
    #[error("hardware type {0} is not Ethernet")]
    HardwareType(u8),
    /// Not an Ethernet address.
    #[error("a hardware address of {0} bytes is not an Ethernet address")]
    HardwareLength(u8),
    /// A group address, or none, as the sender's own.
    #[error("{0} cannot be a machine's own hardware address")]
    HardwareAddress(MacAddr),
    /// BOOTP without options, or another protocol.
    #[error("no DHCP magic cookie")]
    NoCookie,
    /// Plain BOOTP.
    #[error("no DHCP message type")]
    NoMessageType,
    /// Something only servers or managers send.
    #[error("DHCP message type {0} is not a client's")]
    MessageType(u8),
}

/// Reads a client's message. Options that are cut short or malformed end the list; those before
/// them count.
///
/// # Errors
/// [`Refused`] says what it is instead.
pub fn parse(datagram: &[u8]) -> Result<Request, Refused> {
    // Everything that dhcproto takes on trust (`chaddr` by `hlen`, the cookie) is checked first.
    let Some(fixed) = datagram.first_chunk::<FIXED_LEN>() else {
        return Err(Refused::TooShort(datagram.len()));
    };
    let [op, htype, hlen, ..] = *fixed;
    if op != 1 {
        return Err(Refused::NotARequest(op));
    }
    if htype != 1 {
        return Err(Refused::HardwareType(htype));
    }
    if hlen != 6 {
        return Err(Refused::HardwareLength(hlen));
    }
    if fixed[236..] != dhcproto::v4::MAGIC {
        return Err(Refused::NoCookie);
    }
    let message = Message::new(datagram).map_err(|_| Refused::TooShort(datagram.len()))?;
    let mac = MacAddr::from(message.chaddr().first_chunk().copied().unwrap_or_default());
    if mac.is_multicast() || mac.is_zero() {
        return Err(Refused::HardwareAddress(mac));
    }

    let (mut kind, mut requested, mut server, mut machine_id) = (None, None, None, None);
    let (mut class, mut architectures, mut ipxe) = (None, None, false);
    // The borrowed options, by number: the typed ones discard everything after a host name that is
    // not UTF-8, and panic on some that are cut short.
    for option in message.opts() {
        let data = option.data();
        match u8::from(option.code()) {
            50 => requested = address(data),
            53 => kind = data.first().copied(),
            54 => server = address(data),
            60 => class = Some(data.to_vec()),
            77 => ipxe |= is_ipxe_class(data),
            93 => architectures = Some(data.to_vec()),
            97 if (1..=17).contains(&data.len()) => machine_id = Some(data.to_vec()),
            175 => ipxe = true,
            _ => {}
        }
    }
    let message_type = match kind.ok_or(Refused::NoMessageType)? {
        1 => MessageType::Discover,
        3 => MessageType::Request,
        4 => MessageType::Decline,
        7 => MessageType::Release,
        8 => MessageType::Inform,
        other => return Err(Refused::MessageType(other)),
    };
    Ok(Request {
        message_type,
        xid: message.xid(),
        secs: message.secs(),
        broadcast: message.flags().broadcast(),
        ciaddr: message.ciaddr(),
        giaddr: message.giaddr(),
        mac,
        requested,
        server,
        client: ClientKind::from_options(class.as_deref(), architectures.as_deref(), ipxe),
        machine_id,
    })
}

fn address(data: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from)
}

/// Option 77 is a list of length-prefixed classes (RFC 3004), but iPXE sends the bare text.
fn is_ipxe_class(data: &[u8]) -> bool {
    data == b"iPXE" || data == b"\x04iPXE"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 236];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(&[1, 2, 3, 4]);
        bytes[10] = 0x80;
        bytes[28..34].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 1]);
        bytes.extend([99, 130, 83, 99]);
        bytes.extend(options);
        bytes
    }

    #[test]
    fn a_rom_asks() {
        let mut options = vec![53, 1, 1, 60, 32];
        options.extend(b"PXEClient:Arch:00000:UNDI:002001");
        options.extend([93, 2, 0, 0, 97, 17, 0]);
        options.extend([7; 16]);
        options.push(255);
        let request = parse(&message(&options)).unwrap();
        assert_eq!(request.message_type, MessageType::Discover);
        assert_eq!(request.client, ClientKind::Bios { ipxe: false });
        assert_eq!(request.mac.to_string(), "52:54:00:00:00:01");
        assert_eq!(request.xid, 0x01020304);
        assert!(request.broadcast);
        assert_eq!(request.machine_id.unwrap().len(), 17);
    }

    #[test]
    fn options_after_a_host_name_that_is_not_utf8_count() {
        let mut options = vec![
            12, 2, 0xFF, 0xFE, 53, 1, 1, 94, 1, 1, 80, 3, 1, 1, 1, 81, 1, 0,
        ];
        options.extend([60, 9]);
        options.extend(b"PXEClient");
        let request = parse(&message(&options)).unwrap();
        assert_eq!(request.client, ClientKind::Bios { ipxe: false });
    }

    #[test]
    fn what_is_not_a_request_is_named() {
        assert_eq!(parse(&[1; 239]), Err(Refused::TooShort(239)));
        let good = message(&[53, 1, 1]);
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            parse(&bytes)
        };
        assert!(parse(&good).is_ok());
        assert_eq!(with(0, 2), Err(Refused::NotARequest(2)));
        assert_eq!(with(1, 32), Err(Refused::HardwareType(32)));
        assert_eq!(with(2, 255), Err(Refused::HardwareLength(255)));
        assert_eq!(with(239, 0), Err(Refused::NoCookie));
        assert!(matches!(with(28, 0x53), Err(Refused::HardwareAddress(_))));
        assert_eq!(with(240, 0), Err(Refused::NoMessageType));
        assert_eq!(with(242, 5), Err(Refused::MessageType(5)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_options_are_parsed_or_refused(options in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&message(&options));
        }
    }
}
