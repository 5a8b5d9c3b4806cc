//! Requests as values and as bytes.

use pnet::util::MacAddr;

use super::{Control, HEAD_LEN, Probe, STATIONS_MAX, Status, op};
use crate::bytes::{Short, fixed};

/// A request's operation and fields.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        /// Sectors, 1 to [`DIGEST_SECTORS_MAX`](super::DIGEST_SECTORS_MAX).
        sectors: u32,
    },
    /// Which ranges read as zeros.
    ZeroMap {
        /// First sector.
        lba: u64,
        /// Sectors for each bit, at least 1.
        sectors_per_bit: u32,
        /// Bits, 1 to [`ZERO_MAP_BITS_MAX`](super::ZERO_MAP_BITS_MAX).
        bits: u16,
    },
    /// Set the export's state.
    Access(Control),
    /// End the machine's session.
    Finish(Control),
    /// Reserve the export, or end its reservation.
    Reserve {
        /// Who asks, and which of the two.
        control: Control,
        /// For whom, [`STATIONS_MAX`](super::STATIONS_MAX) at the most.
        stations: Vec<MacAddr>,
    },
    /// Counters.
    Stats,
    /// A question about the way between the two.
    Probe(Probe),
}

impl Request {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// [`Status::UnknownOperation`] or [`Status::BadArgument`]: what it is to be refused with.
    pub fn parse(body: &[u8]) -> Result<Request, Status> {
        Self::parse_fields(body).map_err(|_| Status::BadArgument)?
    }

    fn parse_fields(body: &[u8]) -> Result<Result<Request, Status>, Short> {
        let (&[operation, _, _, _], rest) = fixed::<HEAD_LEN>(body)?;
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
            op::ACCESS | op::FINISH | op::RESERVE => {
                let (&[argument, ..], rest) = fixed::<8>(rest)?;
                let (counter, rest) = fixed(rest)?;
                let (signature, rest) = fixed(rest)?;
                let control = Control {
                    argument,
                    counter: u64::from_be_bytes(*counter),
                    signature: *signature,
                };
                match operation {
                    op::ACCESS => Request::Access(control),
                    op::FINISH => Request::Finish(control),
                    _ => match stations(rest)? {
                        Some(stations) => Request::Reserve { control, stations },
                        None => return Ok(Err(Status::BadArgument)),
                    },
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
            Request::Reserve { .. } => op::RESERVE,
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
            Request::Access(control) | Request::Finish(control) => control.write(&mut bytes),
            Request::Reserve { control, stations } => {
                control.write(&mut bytes);
                bytes.push(stations.len() as u8);
                for station in stations {
                    bytes.extend(station.octets());
                }
            }
            Request::Stats => {}
            Request::Probe(probe) => probe.write(&mut bytes),
        }
        bytes
    }
}

impl Control {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend([self.argument, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(self.counter.to_be_bytes());
        bytes.extend(self.signature);
    }
}

/// A count and so many addresses; `None`: too many.
fn stations(bytes: &[u8]) -> Result<Option<Vec<MacAddr>>, Short> {
    let (&[count], mut rest) = fixed::<1>(bytes)?;
    let mut stations = Vec::new();
    for _ in 0..count {
        let (octets, more) = fixed::<6>(rest)?;
        stations.push(MacAddr::from(*octets));
        rest = more;
    }
    Ok((stations.len() <= STATIONS_MAX).then_some(stations))
}
