//! Replies as values and as bytes.

use super::{HEAD_LEN, PROBE_LEN, Probe, Stats, Status, op};
use crate::bytes::{Short, fixed};

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
    ///
    /// # Errors
    /// The body is shorter than the reply that it begins, or is a Probe that makes no sense.
    pub fn parse(body: &[u8]) -> Result<Reply, Short> {
        let (&[operation, status, _, _], rest) = fixed::<HEAD_LEN>(body)?;
        let short = |need: usize| Short {
            have: body.len(),
            need: HEAD_LEN + need,
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
            op::ACCESS | op::FINISH | op::RESERVE => {
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
