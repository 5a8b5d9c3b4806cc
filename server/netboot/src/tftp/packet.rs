//! TFTP's packets as bytes (RFC 1350, RFC 2347).

use std::borrow::Cow;

use async_tftp::packet::Error;

use super::fields::Fields;
use super::options::{Asked, Granted};

const READ: u16 = 1;
const WRITE: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OPTIONS: u16 = 6;

/// Bytes of a DATA packet before those of the file.
pub const DATA_HEADER: usize = 4;

/// Which way the file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the client.
    Read,
    /// From the client.
    Write,
}

/// A client's first packet.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'d> {
    /// Which way the file goes.
    pub direction: Direction,
    /// The file's name; bytes that are not UTF-8 are replaced.
    pub name: Cow<'d, str>,
    /// The options it asks for.
    pub options: Asked,
}

/// Why a datagram is no request that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// It is no request; not answered.
    NoRequest,
    /// It lacks a name or a mode, or the mode is unknown.
    Malformed,
    /// A mode in which the client changes the bytes that it gets.
    NotOctet,
}

impl Unserved {
    /// The answer to the client; `None`: none.
    pub fn error(self) -> Option<Error> {
        match self {
            Unserved::NoRequest => None,
            Unserved::Malformed => Some(Error::IllegalOperation),
            Unserved::NotOctet => Some(Error::Msg("mode is not octet (binary)".to_owned())),
        }
    }
}

impl Request<'_> {
    /// Reads a datagram that came to the server's port. ROMs send a NUL too many, or what was left in
    /// their buffer, after the last option: that is ignored.
    ///
    /// # Errors
    /// It is not served.
    pub fn parse(datagram: &[u8]) -> Result<Request<'_>, Unserved> {
        let (direction, text) = match opcode(datagram) {
            Some((READ, text)) => (Direction::Read, text),
            Some((WRITE, text)) => (Direction::Write, text),
            _ => return Err(Unserved::NoRequest),
        };
        let mut fields = Fields(text);
        let (Some(name), Some(mode)) = (fields.next(), fields.next()) else {
            return Err(Unserved::Malformed);
        };
        let is = |known: &str| mode.eq_ignore_ascii_case(known.as_bytes());
        if is("netascii") || is("mail") {
            return Err(Unserved::NotOctet);
        }
        if !is("octet") {
            return Err(Unserved::Malformed);
        }
        Ok(Request {
            direction,
            name: String::from_utf8_lossy(name),
            options: Asked::parse(fields),
        })
    }
}

/// What a client says during a transfer.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has this block (0: the options), and all before.
    Ack(u16),
    /// It stops, for this reason.
    Error(String),
    /// No packet that is expected here.
    Other,
}

impl Answer {
    /// Reads a datagram that came to a transfer's port. Ethernet's padding may follow.
    pub fn parse(datagram: &[u8]) -> Answer {
        match opcode(datagram) {
            Some((ACK, [high, low, ..])) => Answer::Ack(u16::from_be_bytes([*high, *low])),
            Some((ERROR, [high, low, text @ ..])) => {
                let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
                Answer::Error(match text {
                    [] => format!("error {}", u16::from_be_bytes([*high, *low])),
                    text => String::from_utf8_lossy(text).into_owned(),
                })
            }
            _ => Answer::Other,
        }
    }
}

/// The beginning of the DATA packet with this number.
pub fn data_header(number: u16) -> [u8; DATA_HEADER] {
    let ([a, b], [c, d]) = (DATA.to_be_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

/// The packet that acknowledges options; `None` where none is granted.
pub fn options(granted: &Granted) -> Option<Vec<u8>> {
    let mut packet = OPTIONS.to_be_bytes().to_vec();
    for (name, value) in granted.list() {
        packet.extend(format!("{name}\0{value}\0").bytes());
    }
    (packet.len() > 2).then_some(packet)
}

/// An ERROR packet; codes of RFC 1350.
pub fn error(error: &Error) -> Vec<u8> {
    let (code, text) = match error {
        Error::Msg(text) => (0_u16, text.as_str()),
        Error::UnknownError => (0, "unknown error"),
        Error::FileNotFound => (1, "file not found"),
        Error::PermissionDenied => (2, "permission denied"),
        Error::DiskFull => (3, "disk full"),
        Error::IllegalOperation => (4, "illegal operation"),
        Error::UnknownTransferId => (5, "unknown transfer"),
        Error::FileAlreadyExists => (6, "file exists"),
        Error::NoSuchUser => (7, "no such user"),
    };
    let header = [ERROR.to_be_bytes(), code.to_be_bytes()];
    [header.as_flattened(), text.as_bytes(), b"\0"].concat()
}

fn opcode(datagram: &[u8]) -> Option<(u16, &[u8])> {
    let (opcode, rest) = datagram.split_first_chunk()?;
    Some((u16::from_be_bytes(*opcode), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unserved(datagram: &[u8]) -> Unserved {
        Request::parse(datagram).unwrap_err()
    }

    #[test]
    fn a_request_that_cannot_be_read_is_refused_and_anything_else_is_not_answered() {
        for malformed in [
            &b"\0\x01vmlinuz"[..],
            b"\0\x01vmlinuz\0octet",
            b"\0\x01vmlinuz\0rot13\0",
            b"\0\x02\0\0",
        ] {
            assert_eq!(unserved(malformed), Unserved::Malformed, "{malformed:?}");
        }
        for other in [
            &b""[..],
            b"\0",
            b"\0\x04\0\0",
            b"\0\x09x\0octet\0",
            b"\x01\x01x\0octet\0",
        ] {
            assert_eq!(unserved(other), Unserved::NoRequest, "{other:?}");
        }
        assert!(Unserved::NoRequest.error().is_none() && Unserved::Malformed.error().is_some());
    }

    #[test]
    fn netascii_is_refused() {
        assert_eq!(unserved(b"\0\x01vmlinuz\0NetASCII\0"), Unserved::NotOctet);
        assert_eq!(unserved(b"\0\x02vmlinuz\0mail\0"), Unserved::NotOctet);
    }

    #[test]
    fn a_name_that_is_not_utf8_is_a_name() {
        let request = Request::parse(b"\0\x01\xFF/x\0OCTET\0").unwrap();
        assert_eq!(
            (request.direction, &*request.name),
            (Direction::Read, "\u{FFFD}/x")
        );
    }

    #[test]
    fn what_follows_an_acknowledgement_or_an_error_is_ignored() {
        assert_eq!(Answer::parse(b"\0\x04\x01\x02\0\0\0\0"), Answer::Ack(0x102));
        let stopped = |text: &str| Answer::Error(text.to_owned());
        assert_eq!(Answer::parse(b"\0\x05\0\0enough\0\0\0"), stopped("enough"));
        assert_eq!(
            Answer::parse(b"\0\x05\0\0TFTP Aborted"),
            stopped("TFTP Aborted")
        );
        assert_eq!(Answer::parse(b"\0\x05\0\x08\0"), stopped("error 8"));
        for other in [&b""[..], b"\0\x04\0", b"\0\x05\0", b"\0\x03\0\x01x"] {
            assert_eq!(Answer::parse(other), Answer::Other, "{other:?}");
        }
    }

    #[test]
    fn an_error_has_its_code_and_a_text() {
        assert_eq!(error(&Error::FileNotFound), b"\0\x05\0\x01file not found\0");
        assert_eq!(error(&Error::Msg("no".to_owned())), b"\0\x05\0\0no\0");
    }
}
