//! Command 0xF0: what p2v's agent and host say to each other beside standard AoE.
//!
//! Body, after the 24 bytes of headers; integers big-endian:
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
//! | Stats | - | count u16, that many u64, in the order of [`Stats::NAMES`] |
//! | Probe | stage u8 (1 ask, 2 confirm), zero u8, length u16, word u64 | the same |
//!
//! *Probe* finds out whether frames of a size make the way between two stations. The body of "ask"
//! is padded with zeros to `length` bytes, and so is its reply, in which the target puts a word of its
//! own; "confirm" carries that word, which only somebody knows whom the long reply has reached. From
//! then on the target tells that station that it takes as many sectors in a frame as fit `length`.
//!
//! *Control* is: argument u8, 7 zero, counter u64, keyed BLAKE3 32. The key is the boot token; what
//! is hashed is [`control_tag`]'s own text, so a request holds for one start of the agent (which
//! would otherwise forget which counters were used), one sender, one target, one operation and one
//! counter value. A lower counter than the last one is a replay; the same request again is answered
//! again and does nothing.
//!
//! A status other than 0 is followed by a u64: the first LBA that could not be read, or 0.

use pnet::util::MacAddr;

use crate::address::Address;
use crate::frame::{FrameError, fixed};
use crate::token::Token;

/// Bytes before the operation's own fields.
pub const VENDOR_LEN: usize = 4;
/// Longest range of one Digest in sectors (8 MiB): bounds the time one request takes.
pub const DIGEST_SECTORS_MAX: u32 = 16384;
/// Most bits of one ZeroMap: 128 bytes of bitmap.
pub const ZERO_MAP_BITS_MAX: u16 = 1024;
/// Longest range of one ZeroMap in sectors (64 MiB).
pub const ZERO_MAP_SECTORS_MAX: u64 = 131_072;

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
}

/// Why a vendor request was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Status {
    /// An operation this agent does not know.
    #[error("the agent does not know this operation: it is older than this p2v")]
    UnknownOperation = 1,
    /// A field out of its range.
    #[error("the agent calls the request malformed")]
    BadArgument = 2,
    /// The keyed hash is not of this boot's token.
    #[error("the request was not signed with the token of the machine's current boot")]
    NotAuthorised = 3,
    /// The counter was used before.
    #[error("the request's counter was used before (a replay, or two hosts control this machine)")]
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
    #[error("a disk of the machine is still read-write: end its domain and set it read-only first")]
    StillWritable = 8,
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
            _ => Status::BadArgument,
        }
    }
}

/// State of an export.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Access {
    /// Writes are refused.
    ReadOnly = 1,
    /// Writes go to the disk.
    ReadWrite = 2,
}

impl Access {
    /// The state that an argument byte asks for.
    pub fn from_argument(argument: u8) -> Option<Access> {
        match argument {
            1 => Some(Access::ReadOnly),
            2 => Some(Access::ReadWrite),
            _ => None,
        }
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Access::ReadOnly => "read-only",
            Access::ReadWrite => "READ-WRITE",
        })
    }
}

/// How the old machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Finish {
    /// Power off.
    PowerOff = 1,
    /// Restart, so that it boots from whatever its firmware finds.
    Restart = 2,
}

impl Finish {
    /// What an argument byte asks for.
    pub fn from_argument(argument: u8) -> Option<Finish> {
        match argument {
            1 => Some(Finish::PowerOff),
            2 => Some(Finish::Restart),
            _ => None,
        }
    }
}

/// A control request's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// The argument byte of Access or Finish.
    pub argument: u8,
    /// Grows with every control request of one boot.
    pub counter: u64,
    /// See [`control_tag`].
    pub tag: [u8; 32],
}

/// The keyed BLAKE3 that authorises a control request: of the text `p2v control 1`, the length (u32)
/// and the bytes of the inventory's `boot_id`, the sender's MAC, shelf, slot, operation, argument and
/// counter.
pub fn control_tag(
    token: &Token,
    boot_id: &str,
    sender: MacAddr,
    target: Address,
    operation: u8,
    argument: u8,
    counter: u64,
) -> blake3::Hash {
    blake3::Hasher::new_keyed(token.as_bytes())
        .update(b"p2v control 1")
        .update(&(boot_id.len() as u32).to_be_bytes())
        .update(boot_id.as_bytes())
        .update(&sender.octets())
        .update(&target.shelf.to_be_bytes())
        .update(&[target.slot, operation, argument])
        .update(&counter.to_be_bytes())
        .finalize()
}

/// A request's operation and fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Bytes of the inventory from this offset on.
    Inventory {
        /// In bytes.
        offset: u32,
    },
    /// Digest of a range.
    Digest {
        /// First sector.
        lba: u64,
        /// Sectors, 1 to [`DIGEST_SECTORS_MAX`].
        sectors: u32,
    },
    /// Which ranges read as zeros.
    ZeroMap {
        /// First sector.
        lba: u64,
        /// Sectors for each bit, at least 1.
        sectors_per_bit: u32,
        /// Bits, 1 to [`ZERO_MAP_BITS_MAX`].
        bits: u16,
    },
    /// Set the export's state.
    Access(Control),
    /// End the machine's session.
    Finish(Control),
    /// Counters.
    Stats,
    /// A question about the way between the two.
    Probe(Probe),
}

/// The fields of Probe, in requests and replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// False: a question; true: what came of it.
    pub confirm: bool,
    /// Bytes of the body of the question and of its reply: at least [`PROBE_LEN`].
    pub length: u16,
    /// In the reply to a question: what to confirm with.
    pub word: u64,
}

/// Bytes of a Probe's body without padding.
pub const PROBE_LEN: usize = VENDOR_LEN + 12;

impl Probe {
    fn parse(fields: &[u8]) -> Result<Option<Probe>, FrameError> {
        let (&[stage, _, l0, l1], rest) = fixed::<4>(fields)?;
        let probe = Probe {
            confirm: stage == 2,
            length: u16::from_be_bytes([l0, l1]),
            word: u64::from_be_bytes(*fixed(rest)?.0),
        };
        let long_enough = probe.confirm || fields.len() + VENDOR_LEN >= usize::from(probe.length);
        let sound = matches!(stage, 1 | 2) && usize::from(probe.length) >= PROBE_LEN;
        Ok((sound && long_enough).then_some(probe))
    }

    /// Appends the fields to an operation code's four bytes, and the padding of a question.
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend([1 + u8::from(self.confirm), 0]);
        bytes.extend(self.length.to_be_bytes());
        bytes.extend(self.word.to_be_bytes());
        if !self.confirm {
            bytes.resize(usize::from(self.length).max(bytes.len()), 0);
        }
    }
}

impl Request {
    /// Reads the body of a request.
    pub fn parse(body: &[u8]) -> Result<Request, Status> {
        Self::parse_fields(body).map_err(|_| Status::BadArgument)?
    }

    fn parse_fields(body: &[u8]) -> Result<Result<Request, Status>, FrameError> {
        let (&[operation, _, _, _], rest) = fixed::<VENDOR_LEN>(body)?;
        Ok(Ok(match operation {
            op::INVENTORY => Request::Inventory {
                offset: u32::from_be_bytes(*fixed(rest)?.0),
            },
            op::DIGEST => {
                let (lba, rest) = fixed(rest)?;
                Request::Digest {
                    lba: u64::from_be_bytes(*lba),
                    sectors: u32::from_be_bytes(*fixed(rest)?.0),
                }
            }
            op::ZERO_MAP => {
                let (lba, rest) = fixed(rest)?;
                let (sectors_per_bit, rest) = fixed(rest)?;
                Request::ZeroMap {
                    lba: u64::from_be_bytes(*lba),
                    sectors_per_bit: u32::from_be_bytes(*sectors_per_bit),
                    bits: u16::from_be_bytes(*fixed(rest)?.0),
                }
            }
            op::ACCESS | op::FINISH => {
                let (&[argument, ..], rest) = fixed::<8>(rest)?;
                let (counter, rest) = fixed(rest)?;
                let control = Control {
                    argument,
                    counter: u64::from_be_bytes(*counter),
                    tag: *fixed(rest)?.0,
                };
                if operation == op::ACCESS {
                    Request::Access(control)
                } else {
                    Request::Finish(control)
                }
            }
            op::STATS => Request::Stats,
            op::PROBE => match Probe::parse(rest)? {
                Some(probe) => Request::Probe(probe),
                None => return Ok(Err(Status::BadArgument)),
            },
            _ => return Ok(Err(Status::UnknownOperation)),
        }))
    }

    /// The operation code.
    pub fn operation(&self) -> u8 {
        match self {
            Request::Inventory { .. } => op::INVENTORY,
            Request::Digest { .. } => op::DIGEST,
            Request::ZeroMap { .. } => op::ZERO_MAP,
            Request::Access(_) => op::ACCESS,
            Request::Finish(_) => op::FINISH,
            Request::Stats => op::STATS,
            Request::Probe(_) => op::PROBE,
        }
    }

    /// The body of the request as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.operation(), 0, 0, 0];
        match self {
            Request::Inventory { offset } => bytes.extend(offset.to_be_bytes()),
            Request::Digest { lba, sectors } => {
                bytes.extend(lba.to_be_bytes());
                bytes.extend(sectors.to_be_bytes());
            }
            Request::ZeroMap {
                lba,
                sectors_per_bit,
                bits,
            } => {
                bytes.extend(lba.to_be_bytes());
                bytes.extend(sectors_per_bit.to_be_bytes());
                bytes.extend(bits.to_be_bytes());
            }
            Request::Access(control) | Request::Finish(control) => {
                bytes.extend([control.argument, 0, 0, 0, 0, 0, 0, 0]);
                bytes.extend(control.counter.to_be_bytes());
                bytes.extend(control.tag);
            }
            Request::Stats => {}
            Request::Probe(probe) => probe.write(&mut bytes),
        }
        bytes
    }
}

/// A reply's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A piece of the inventory.
    Inventory {
        /// Bytes of the whole document.
        total: u32,
        /// Where this piece begins.
        offset: u32,
        /// The piece.
        data: Vec<u8>,
    },
    /// Digest of a range.
    Digest {
        /// First sector, as asked.
        lba: u64,
        /// Sectors, as asked.
        sectors: u32,
        /// Whether every byte is zero.
        zero: bool,
        /// BLAKE3 of the range.
        blake3: [u8; 32],
    },
    /// Which ranges read as zeros.
    ZeroMap {
        /// First sector, as asked.
        lba: u64,
        /// As asked.
        sectors_per_bit: u32,
        /// As asked.
        bits: u16,
        /// First range in the lowest bit of the first byte; 1 means all zero.
        map: Vec<u8>,
    },
    /// Access or Finish was carried out (or had been, by the same request).
    Done {
        /// Access or Finish.
        operation: u8,
        /// As asked.
        argument: u8,
        /// As asked.
        counter: u64,
    },
    /// Counters.
    Stats(Stats),
    /// The answer to a Probe.
    Probe(Probe),
    /// Not carried out.
    Refused {
        /// The operation asked for.
        operation: u8,
        /// Why.
        status: Status,
        /// First LBA that could not be read, for [`Status::DiskError`].
        lba: u64,
    },
}

impl Reply {
    /// Reads the body of a reply.
    pub fn parse(body: &[u8]) -> Result<Reply, FrameError> {
        let (&[operation, status, _, _], rest) = fixed::<VENDOR_LEN>(body)?;
        let short = |need: usize| FrameError::Body {
            have: body.len(),
            need: VENDOR_LEN + need,
        };
        if status != 0 {
            let lba = u64::from_be_bytes(*fixed(rest)?.0);
            return Ok(Reply::Refused {
                operation,
                status: Status::from_byte(status),
                lba,
            });
        }
        Ok(match operation {
            op::INVENTORY => {
                let (total, rest) = fixed(rest)?;
                let (offset, rest) = fixed(rest)?;
                let (length, rest) = fixed(rest)?;
                let length = usize::from(u16::from_be_bytes(*length));
                Reply::Inventory {
                    total: u32::from_be_bytes(*total),
                    offset: u32::from_be_bytes(*offset),
                    data: rest.get(..length).ok_or(short(10 + length))?.to_vec(),
                }
            }
            op::DIGEST => {
                let (lba, rest) = fixed(rest)?;
                let (sectors, rest) = fixed(rest)?;
                let (&[flags, _, _, _], rest) = fixed::<4>(rest)?;
                Reply::Digest {
                    lba: u64::from_be_bytes(*lba),
                    sectors: u32::from_be_bytes(*sectors),
                    zero: flags & 1 != 0,
                    blake3: *fixed(rest)?.0,
                }
            }
            op::ZERO_MAP => {
                let (lba, rest) = fixed(rest)?;
                let (sectors_per_bit, rest) = fixed(rest)?;
                let (bits, rest) = fixed(rest)?;
                let bits = u16::from_be_bytes(*bits);
                let length = usize::from(bits).div_ceil(8);
                Reply::ZeroMap {
                    lba: u64::from_be_bytes(*lba),
                    sectors_per_bit: u32::from_be_bytes(*sectors_per_bit),
                    bits,
                    map: rest.get(..length).ok_or(short(14 + length))?.to_vec(),
                }
            }
            op::ACCESS | op::FINISH => {
                let (&[argument, ..], rest) = fixed::<8>(rest)?;
                Reply::Done {
                    operation,
                    argument,
                    counter: u64::from_be_bytes(*fixed(rest)?.0),
                }
            }
            op::STATS => {
                let (count, rest) = fixed(rest)?;
                let count = usize::from(u16::from_be_bytes(*count));
                let values = rest.get(..8 * count).ok_or(short(2 + 8 * count))?;
                let mut stats = Stats::default();
                for (slot, value) in stats.0.iter_mut().zip(values.chunks_exact(8)) {
                    *slot = value.iter().fold(0, |sum, b| sum << 8 | u64::from(*b));
                }
                Reply::Stats(stats)
            }
            op::PROBE => match Probe::parse(rest)? {
                Some(probe) => Reply::Probe(probe),
                None => return Err(short(PROBE_LEN)),
            },
            _ => Reply::Refused {
                operation,
                status: Status::UnknownOperation,
                lba: 0,
            },
        })
    }

    /// The body of the reply as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let start = |operation: u8| vec![operation, 0, 0, 0];
        match self {
            Reply::Inventory {
                total,
                offset,
                data,
            } => {
                let mut bytes = start(op::INVENTORY);
                bytes.extend(total.to_be_bytes());
                bytes.extend(offset.to_be_bytes());
                bytes.extend((data.len() as u16).to_be_bytes());
                bytes.extend(data);
                bytes
            }
            Reply::Digest {
                lba,
                sectors,
                zero,
                blake3,
            } => {
                let mut bytes = start(op::DIGEST);
                bytes.extend(lba.to_be_bytes());
                bytes.extend(sectors.to_be_bytes());
                bytes.extend([u8::from(*zero), 0, 0, 0]);
                bytes.extend(blake3);
                bytes
            }
            Reply::ZeroMap {
                lba,
                sectors_per_bit,
                bits,
                map,
            } => {
                let mut bytes = start(op::ZERO_MAP);
                bytes.extend(lba.to_be_bytes());
                bytes.extend(sectors_per_bit.to_be_bytes());
                bytes.extend(bits.to_be_bytes());
                bytes.extend(map);
                bytes
            }
            Reply::Done {
                operation,
                argument,
                counter,
            } => {
                let mut bytes = start(*operation);
                bytes.extend([*argument, 0, 0, 0, 0, 0, 0, 0]);
                bytes.extend(counter.to_be_bytes());
                bytes
            }
            Reply::Stats(stats) => {
                let mut bytes = start(op::STATS);
                bytes.extend((stats.0.len() as u16).to_be_bytes());
                for value in stats.0 {
                    bytes.extend(value.to_be_bytes());
                }
                bytes
            }
            Reply::Probe(probe) => {
                let mut bytes = start(op::PROBE);
                probe.write(&mut bytes);
                bytes
            }
            Reply::Refused {
                operation,
                status,
                lba,
            } => {
                let mut bytes = vec![*operation, *status as u8, 0, 0];
                bytes.extend(lba.to_be_bytes());
                bytes
            }
        }
    }
}

/// Counters of one export since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats(pub [u64; Stats::NAMES.len()]);

impl Stats {
    /// What the counters mean, in the order they have on the wire. New ones are added at the end.
    pub const NAMES: [&'static str; 29] = [
        "requests",
        "sectors_read",
        "sectors_written",
        "disk_errors",
        "writes_refused",
        "strangers",
        "malformed",
        "control_refused",
        "queue_full",
        "late_writes",
        "joined",
        "in_flight_max",
        // Not counted up: 1 while writes are allowed.
        "read_write",
        // Frames that found no room in memory, of all the machine's exports together.
        "frames_dropped",
        // Requests by the time from their arrival to their answer, in microseconds: up to 15, up to
        // 31, and so on in powers of two, and all that took longer.
        "answered_16us",
        "answered_32us",
        "answered_64us",
        "answered_128us",
        "answered_256us",
        "answered_512us",
        "answered_1ms",
        "answered_2ms",
        "answered_4ms",
        "answered_8ms",
        "answered_16ms",
        "answered_32ms",
        "answered_65ms",
        "answered_131ms",
        "answered_longer",
    ];

    /// Name and value of each counter.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Self::NAMES.into_iter().zip(self.0)
    }

    /// A counter by its name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value)
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
            (any::<u8>(), any::<u64>(), any::<[u8; 32]>()).prop_map(|(argument, counter, tag)| {
                Control {
                    argument,
                    counter,
                    tag,
                }
            });
        prop_oneof![
            any::<u32>().prop_map(|offset| Request::Inventory { offset }),
            any::<(u64, u32)>().prop_map(|(lba, sectors)| Request::Digest { lba, sectors }),
            any::<(u64, u32, u16)>().prop_map(|(lba, sectors_per_bit, bits)| Request::ZeroMap {
                lba,
                sectors_per_bit,
                bits
            }),
            control.clone().prop_map(Request::Access),
            control.prop_map(Request::Finish),
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
                prop_oneof![Just(op::ACCESS), Just(op::FINISH)],
                any::<(u8, u64)>()
            )
                .prop_map(|(operation, (argument, counter))| Reply::Done {
                    operation,
                    argument,
                    counter
                }),
            any::<[u64; Stats::NAMES.len()]>().prop_map(|values| Reply::Stats(Stats(values))),
            probe().prop_map(Reply::Probe),
            (any::<(u8, u64)>(), 1u8..9).prop_map(|((operation, lba), status)| Reply::Refused {
                operation,
                status: Status::from_byte(status),
                lba,
            }),
        ]
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128), operation in 0u8..8) {
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

    #[test]
    fn a_control_tag_holds_for_one_sender_target_operation_argument_and_counter() {
        let token = Token::from_bytes([1; 32]);
        let (host, other) = (
            MacAddr::new(2, 0, 0, 0, 0, 1),
            MacAddr::new(2, 0, 0, 0, 0, 2),
        );
        let target = Address::new(7, 0);
        let tag = control_tag(&token, "boot 1", host, target, op::ACCESS, 2, 5);
        assert_ne!(
            tag,
            control_tag(&token, "boot 2", host, target, op::ACCESS, 2, 5)
        );
        assert_ne!(
            tag,
            control_tag(
                &Token::from_bytes([2; 32]),
                "boot 1",
                host,
                target,
                op::ACCESS,
                2,
                5
            )
        );
        assert_ne!(
            tag,
            control_tag(&token, "boot 1", other, target, op::ACCESS, 2, 5)
        );
        assert_ne!(
            tag,
            control_tag(&token, "boot 1", host, Address::new(7, 1), op::ACCESS, 2, 5)
        );
        assert_ne!(
            tag,
            control_tag(&token, "boot 1", host, target, op::FINISH, 2, 5)
        );
        assert_ne!(
            tag,
            control_tag(&token, "boot 1", host, target, op::ACCESS, 1, 5)
        );
        assert_ne!(
            tag,
            control_tag(&token, "boot 1", host, target, op::ACCESS, 2, 6)
        );
    }
}
