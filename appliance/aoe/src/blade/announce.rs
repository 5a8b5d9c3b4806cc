//! Before a target speaks: is its address free? And then: here it is.

use std::io;
use std::time::{Duration, Instant};

use p2v_contract::address::Address;
use pnet::util::MacAddr;

use super::{BUFFER_COUNT, FIRMWARE, SECTORS_PER_FRAME};
use crate::config::QueryConfig;
use crate::frame::{self, Header, command};
use crate::wire::Wire;

/// Somebody else answers for an address that we wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is answered for by {mac}: two machines must not have one shelf")]
pub struct Conflict {
    /// The address.
    pub address: Address,
    /// Who answers.
    pub mac: MacAddr,
}

/// Asks the wire for each of `addresses`, `tries` times with `wait` to answer each time. Initiators
/// take two stations with one address for two paths to one disk, so a conflict must keep the
/// export off the wire.
///
/// # Errors
/// The wire fails.
pub fn conflicts(
    wire: &dyn Wire,
    addresses: &[Address],
    tries: u32,
    wait: Duration,
) -> io::Result<Vec<Conflict>> {
    let mut found: Vec<Conflict> = Vec::new();
    for attempt in 0..tries {
        let ask: Vec<Vec<u8>> = addresses
            .iter()
            .map(|address| {
                Header::request(
                    wire.mac(),
                    MacAddr::broadcast(),
                    *address,
                    command::CONFIG,
                    0x8000_0000 | attempt,
                )
                .frame(&[&QueryConfig::default().to_bytes()])
            })
            .collect();
        wire.send(&ask)?;
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            wire.receive(left, &mut |bytes| {
                let Ok((header, _)) = frame::parse(bytes) else {
                    return;
                };
                if header.response
                    && addresses.contains(&header.address)
                    && header.source != wire.mac()
                {
                    let conflict = Conflict {
                        address: header.address,
                        mac: header.source,
                    };
                    if !found.contains(&conflict) {
                        found.push(conflict);
                    }
                }
            })?;
        }
    }
    Ok(found)
}

/// Tells everybody, unasked, that the targets are there: initiators that wait need not poll.
///
/// # Errors
/// The wire fails.
pub fn announce(wire: &dyn Wire, addresses: &[Address]) -> io::Result<()> {
    let config = QueryConfig {
        buffer_count: BUFFER_COUNT,
        firmware: FIRMWARE,
        sectors: SECTORS_PER_FRAME,
        ..QueryConfig::default()
    };
    let frames: Vec<Vec<u8>> = addresses
        .iter()
        .map(|address| {
            let header = Header::request(
                wire.mac(),
                MacAddr::broadcast(),
                *address,
                command::CONFIG,
                0,
            );
            Header {
                response: true,
                ..header
            }
            .frame(&[&config.to_bytes()])
        })
        .collect();
    wire.send(&frames)
}
