//! What p2v's agent and host say to each other beside blocks. In AoE: the body of command 0xF0, after the 24 bytes of
//! headers. Integers are big-endian:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 1 | operation, see [`op`] |
//! | 1 | 1 | status: 0 in a request; in a reply 0 or one of [`Status`] |
//! | 2 | 2 | zero |
//! | 4 | | the operation's own fields |
//!
//! | operation | request | reply |
//! | --- | --- | --- |
//! | Inventory | offset u32 | total u32, offset u32, length u16, that many bytes of the JSON |
//! | Digest | LBA u64, sectors u32 | LBA u64, sectors u32, flags u8 (1: all zero), 3 zero, BLAKE3 32 |
//! | ZeroMap | LBA u64, sectors per bit u32, bits u16 | the same, then the bitmap, first range in the lowest bit, 1 for zero |
//! | Access | control, argument 1 read-only, 2 read-write | argument u8, 7 zero, counter u64 |
//! | Finish | control, argument 1 power off, 2 restart | argument u8, 7 zero, counter u64 |
//! | Reserve | control, argument 1 take, 2 end; count u8, that many MACs | argument u8, 7 zero, counter u64 |
//! | Stats | - | count u16, that many u64, in the order of [`Stats::NAMES`] |
//! | Probe | stage u8 (1 ask, 2 confirm), zero u8, length u16, word u64 | the same |
//!
//! *Probe* finds out whether frames of a size make the way between two stations. The body of "ask"
//! is padded with zeros to `length` bytes, and so is its reply, in which the target puts a word of its
//! own; "confirm" carries that word, which only somebody knows whom the long reply has reached. From
//! then on the target tells that station that it takes as many sectors in a frame as fit `length`.
//!
//! *Control* is: argument u8, 7 zero, counter u64, Ed25519 signature 64. The key is that of a host whose
//! public one the agent was started with; what is signed is [`Order::text`], so a request holds for one start
//! of the agent (which would otherwise forget which counters were used), one sender, one target, one
//! operation and one counter value. A lower counter than the last one of that host is a replay; the same request
//! again is answered again and does nothing.
//!
//! A status other than 0 is followed by a u64: the first LBA that could not be read, or 0.

mod control;
mod probe;
mod reply;
mod request;
mod stats;

pub use control::{Access, Control, Finish, Order, Reservation};
pub use probe::{PROBE_LEN, Probe};
pub use reply::Reply;
pub use request::Request;
pub use stats::Stats;

/// Bytes before the operation's own fields.
pub const HEAD_LEN: usize = 4;
/// Longest range of one Digest in sectors (8 MiB): bounds the time one request takes.
pub const DIGEST_SECTORS_MAX: u32 = 16384;
/// Most bits of one ZeroMap: 128 bytes of bitmap.
pub const ZERO_MAP_BITS_MAX: u16 = 1024;
/// Longest range of one ZeroMap in sectors (64 MiB).
pub const ZERO_MAP_SECTORS_MAX: u64 = 131_072;

/// Stations that a disk is reserved for at the most: a host's interfaces.
pub const STATIONS_MAX: usize = 16;

/// Operation codes.
pub mod op {
    /// A piece of the inventory.
    pub const INVENTORY: u8 = 1;
    /// Digest of a range.
    pub const DIGEST: u8 = 2;
    /// Which ranges read as zeros.
    pub const ZERO_MAP: u8 = 3;
    /// Make the export read-only or read-write.
    pub const ACCESS: u8 = 4;
    /// Power off or restart the machine.
    pub const FINISH: u8 = 5;
    /// Counters of the export.
    pub const STATS: u8 = 6;
    /// Do long frames arrive?
    pub const PROBE: u8 = 7;
    /// Reserve the export for some stations.
    pub const RESERVE: u8 = 8;
}

/// Why a request was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[repr(u8)]
pub enum Status {
    /// An operation this agent does not know.
    #[error("the agent does not know this operation: it is older than this p2v")]
    UnknownOperation = 1,
    /// A field out of its range.
    #[error("the agent calls the request malformed")]
    BadArgument = 2,
    /// The signature is by none of the keys that the agent was started with, or for another start of it.
    #[error("the order was not signed with a key that the machine's agent was started with")]
    NotAuthorised = 3,
    /// The counter was used before.
    #[error(
        "the order's counter was used before: this host's record of the machine, or its clock, was set back. Set the clock \
         right, or restart the old machine"
    )]
    Replayed = 4,
    /// The disk failed.
    #[error("the disk gave an error")]
    DiskError = 5,
    /// Not possible: the disk is write-protected, say.
    #[error(
        "the agent cannot do this: the disk cannot be opened that way (is it write-protected?)"
    )]
    Impossible = 6,
    /// Too much to do; ask again.
    #[error("the agent has too many requests waiting")]
    Busy = 7,
    /// The machine cannot end while a disk of it may be written.
    #[error(
        "a disk of the machine is still a domain's (read-write or waiting): end the domain and set the disk read-only first"
    )]
    StillWritable = 8,
    /// Reserved by another host, or in use by a domain.
    #[error("the disk is reserved by another host, or a domain uses it")]
    Reserved = 9,
}

impl Status {
    fn from_byte(byte: u8) -> Status {
        match byte {
            1 => Status::UnknownOperation,
            3 => Status::NotAuthorised,
            4 => Status::Replayed,
            5 => Status::DiskError,
            6 => Status::Impossible,
            7 => Status::Busy,
            8 => Status::StillWritable,
            9 => Status::Reserved,
            _ => Status::BadArgument,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn probe() -> impl Strategy<Value = Probe> {
        (any::<bool>(), PROBE_LEN as u16..9000, any::<u64>()).prop_map(|(confirm, length, word)| {
            Probe {
                confirm,
                length,
                word,
            }
        })
    }

    fn request() -> impl Strategy<Value = Request> {
        let control =
            (any::<u8>(), any::<u64>(), any::<[u8; 32]>()).prop_map(|(argument, counter, half)| {
                let mut signature = [0; 64];
                signature[..32].copy_from_slice(&half);
                Control {
                    argument,
                    counter,
                    signature,
                }
            });
        let stations = proptest::collection::vec(any::<[u8; 6]>(), 0..STATIONS_MAX);
        prop_oneof![
            any::<u32>().prop_map(|offset| Request::Inventory { offset }),
            any::<(u64, u32)>().prop_map(|(lba, sectors)| Request::Digest { lba, sectors }),
            any::<(u64, u32, u16)>().prop_map(|(lba, sectors_per_bit, bits)| Request::ZeroMap {
                lba,
                sectors_per_bit,
                bits
            }),
            control.clone().prop_map(Request::Access),
            control.clone().prop_map(Request::Finish),
            (control, stations).prop_map(|(control, stations)| Request::Reserve {
                control,
                stations: stations
                    .into_iter()
                    .map(pnet::util::MacAddr::from)
                    .collect(),
            }),
            Just(Request::Stats),
            probe().prop_map(Request::Probe),
        ]
    }

    fn reply() -> impl Strategy<Value = Reply> {
        prop_oneof![
            (
                any::<(u32, u32)>(),
                proptest::collection::vec(any::<u8>(), 0..100)
            )
                .prop_map(|((total, offset), data)| Reply::Inventory {
                    total,
                    offset,
                    data
                }),
            any::<(u64, u32, bool, [u8; 32])>().prop_map(|(lba, sectors, zero, blake3)| {
                Reply::Digest {
                    lba,
                    sectors,
                    zero,
                    blake3,
                }
            }),
            (any::<(u64, u32)>(), 0u16..ZERO_MAP_BITS_MAX).prop_map(
                |((lba, sectors_per_bit), bits)| Reply::ZeroMap {
                    lba,
                    sectors_per_bit,
                    bits,
                    map: vec![0xa5; usize::from(bits).div_ceil(8)],
                }
            ),
            (
                prop_oneof![Just(op::ACCESS), Just(op::FINISH), Just(op::RESERVE)],
                any::<(u8, u64)>()
            )
                .prop_map(|(operation, (argument, counter))| Reply::Done {
                    operation,
                    argument,
                    counter
                }),
            any::<[u64; Stats::NAMES.len()]>().prop_map(|values| Reply::Stats(Stats(values))),
            probe().prop_map(Reply::Probe),
            (any::<(u8, u64)>(), 1u8..10).prop_map(|((operation, lba), status)| Reply::Refused {
                operation,
                status: Status::from_byte(status),
                lba,
            }),
        ]
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128), operation in 0u8..9) {
            let _ = Request::parse(&bytes);
            let _ = Reply::parse(&bytes);
            let known = [&[operation, 0, 0, 0], &bytes[..]].concat();
            let _ = Request::parse(&known);
            let _ = Reply::parse(&known);
        }

        #[test]
        fn requests_and_back(request in request(), padding in 0usize..50) {
            let mut bytes = request.to_bytes();
            bytes.resize(bytes.len() + padding, 0);
            prop_assert_eq!(Request::parse(&bytes), Ok(request));
        }

        #[test]
        fn replies_and_back(reply in reply(), padding in 0usize..50) {
            let mut bytes = reply.to_bytes();
            bytes.resize(bytes.len() + padding, 0);
            prop_assert_eq!(Reply::parse(&bytes).unwrap(), reply);
        }
    }
}
