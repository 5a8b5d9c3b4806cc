//! How services of this kind on one segment find out about each other: each broadcasts to port 67 who it is. It is written
//! as a server's message (BOOTREPLY), which DHCP servers do not answer and relays do not pass on.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use dhcproto::Encodable;
use dhcproto::v4::borrowed;
use dhcproto::v4::{self, DhcpOption, Message, Opcode};

/// Time between two announcements.
pub(crate) const ANNOUNCED_EVERY: Duration = Duration::from_secs(60);

/// Option 60, before the shelves.
const CLASS: &str = "p2v-serve";

/// What a service reports to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announcement {
    /// Its address.
    pub server: Ipv4Addr,
    /// The shelves that it gives to new machines.
    pub shelves: RangeInclusive<u16>,
}

impl Announcement {
    /// The DHCP message.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn encode(&self) -> Result<Vec<u8>, v4::EncodeError> {
        let mut message = Message::default();
        message
            .set_opcode(Opcode::BootReply)
            .set_siaddr(self.server);
        let class = format!("{CLASS} {} {}", self.shelves.start(), self.shelves.end());
        message
            .opts_mut()
            .insert(DhcpOption::ClassIdentifier(class.into_bytes()));
        message.to_vec()
    }

    /// From a datagram that came to port 67; `None` for all others.
    pub fn decode(datagram: &[u8]) -> Option<Announcement> {
        // What the decoder takes on trust.
        if datagram.len() < 240 || datagram[0] != 2 || datagram[236..240] != v4::MAGIC {
            return None;
        }
        let message = borrowed::Message::new(datagram).ok()?;
        let mut options = message.opts();
        let option = options.find(|option| u8::from(option.code()) == 60)?;
        let class = std::str::from_utf8(option.data()).ok()?;
        let mut words = class.split(' ');
        let name = words.next()?;
        let mut shelf = || words.next()?.parse::<u16>().ok();
        (name == CLASS).then_some(Announcement {
            server: message.siaddr(),
            shelves: shelf()?..=shelf()?,
        })
    }
}

/// The shelves that are in both.
pub(crate) fn common(
    one: &RangeInclusive<u16>,
    other: &RangeInclusive<u16>,
) -> Option<RangeInclusive<u16>> {
    let both = *one.start().max(other.start())..=*one.end().min(other.end());
    (!both.is_empty()).then_some(both)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_and_is_no_client_s_message() {
        let announcement = Announcement {
            server: Ipv4Addr::new(10, 0, 0, 7),
            shelves: 1..=2047,
        };
        let bytes = announcement.encode().unwrap();
        assert_eq!(Announcement::decode(&bytes), Some(announcement));
        assert!(crate::dhcp::parse(&bytes).is_err());
        for end in 0..bytes.len() - 1 {
            let cut = Announcement::decode(&bytes[..end]);
            assert!(cut.is_none_or(|cut| cut.server == Ipv4Addr::new(10, 0, 0, 7)));
        }
    }

    #[test]
    fn common_shelves() {
        assert_eq!(common(&(1..=9), &(10..=20)), None);
        assert_eq!(common(&(1..=10), &(10..=20)), Some(10..=10));
        assert_eq!(common(&(1..=4094), &(10..=20)), Some(10..=20));
    }

    proptest! {
        #[test]
        fn any_bytes_are_one_or_not(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if bytes.len() > 240 {
                bytes[0] = 2;
                bytes[236..240].copy_from_slice(&v4::MAGIC);
            }
            let _ = Announcement::decode(&bytes);
        }
    }
}
