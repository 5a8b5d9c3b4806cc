//! What can go wrong between host and target, in words for the operator.

use std::io;
use std::time::Duration;

use p2v_contract::address::Address;
use p2v_contract::operation::Status;
use pnet::util::MacAddr;

use crate::wire::OpenError;

/// Why a request to a target failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interface could not be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The interface failed later.
    #[error("cannot {what} interface `{iface}`: {source}")]
    Wire {
        /// What was tried.
        what: &'static str,
        /// On which interface.
        iface: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Nobody answered for the address.
    #[error(
        "nobody answers for {address} on `{iface}` (asked for {waited:.1?}): is the old machine up, does its screen \
         show this address, and is it on the same Ethernet segment as `{iface}`?"
    )]
    NoAnswer {
        /// What was asked for.
        address: Address,
        /// On which interface.
        iface: String,
        /// For how long.
        waited: Duration,
    },
    /// Several stations answered for one address.
    #[error(
        "{} machines answer for {address} ({}): they may be different disks, so nothing was done. Switch off all \
         but one, or give them different shelves", macs.len(), list(macs)
    )]
    TwoStations {
        /// The address.
        address: Address,
        /// Who answered.
        macs: Vec<MacAddr>,
    },
    /// The target answers discovery but no data command.
    #[error(
        "{address} at {mac} answers discovery but gives no data: this host's address on `{iface}` is {own}, is \
         that on the target's list (`p2v.host=` on its kernel command line, or vblade's -m)?"
    )]
    NotOnList {
        /// The target.
        address: Address,
        /// Its station.
        mac: MacAddr,
        /// Our own address.
        own: MacAddr,
        /// The interface.
        iface: String,
    },
    /// The target stopped answering.
    #[error(
        "{address} at {mac} has been silent for {waited:.0?} ({what}){}: look at the old machine's screen and at \
         the cable between; nothing is lost, the command can be run again",
        whereabouts(now)
    )]
    Silent {
        /// The target.
        address: Address,
        /// Its station.
        mac: MacAddr,
        /// What was being done.
        what: &'static str,
        /// Since it was last heard.
        waited: Duration,
        /// Who answers for the address now, if that was asked.
        now: Option<Vec<MacAddr>>,
    },
    /// After a silence there is another disk at the address.
    #[error(
        "{address} at {mac} is another disk since the old machine fell silent: it was {was}, it is {is}. The disks \
         have changed places, or the machine was exchanged; nothing more was done. `p2v show` tells which is which"
    )]
    Changed {
        /// The target.
        address: Address,
        /// Its station.
        mac: MacAddr,
        /// Model, serial number and size before.
        was: String,
        /// The same now.
        is: String,
    },
    /// Another initiator holds a reservation.
    #[error(
        "{address} is reserved by another host: end what it does there, or release the target from it"
    )]
    Reserved {
        /// The target.
        address: Address,
    },
    /// The AoE error flag.
    #[error("{address} refused to {what} with AoE error {code}")]
    Refused {
        /// The target.
        address: Address,
        /// What was asked.
        what: &'static str,
        /// Code of the reply.
        code: u8,
    },
    /// ATA status with an error bit, for other commands than reads.
    #[error("{address} could not {what} at sector {lba}: ATA status {status:#04x}, error {error:#04x}{}", if *error == 0x04 { " (aborted; is the export read-only?)" } else { "" })]
    Ata {
        /// The target.
        address: Address,
        /// What was asked.
        what: &'static str,
        /// First sector of the request.
        lba: u64,
        /// Status register.
        status: u8,
        /// Error register.
        error: u8,
    },
    /// Sectors that the old disk does not give. Everything else of the range was read.
    #[error("{address}: {} cannot be read, the first is sector {}", count(bad.len()), bad.first().copied().unwrap_or(0))]
    Unreadable {
        /// The target.
        address: Address,
        /// The sectors, in order.
        bad: Vec<u64>,
    },
    /// The agent refused a vendor request.
    #[error("{address} did not {what}: {status}")]
    Vendor {
        /// The target.
        address: Address,
        /// What was asked.
        what: &'static str,
        /// The agent's reason.
        status: Status,
        /// First unreadable sector for [`Status::DiskError`].
        lba: u64,
    },
    /// A reply that makes no sense.
    #[error("{address} answered nonsense when asked to {what}: {why}")]
    Nonsense {
        /// The target.
        address: Address,
        /// What was asked.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A range that is not on the disk.
    #[error("{address} has {sectors} sectors: {count} from sector {lba} on are not on it")]
    OutOfRange {
        /// The target.
        address: Address,
        /// Its size.
        sectors: u64,
        /// First sector asked for.
        lba: u64,
        /// Sectors asked for.
        count: u64,
    },
}

/// What asking around brought, after silence.
fn whereabouts(now: &Option<Vec<MacAddr>>) -> String {
    match now.as_deref() {
        None => String::new(),
        Some([]) => "; nobody answers for the address now, so it is off, or cut off".into(),
        Some(macs) => format!("; now {} answers for the address", list(macs)),
    }
}

fn list(macs: &[MacAddr]) -> String {
    macs.iter()
        .map(MacAddr::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn count(sectors: usize) -> String {
    if sectors == 1 {
        "1 sector".to_owned()
    } else {
        format!("{sectors} sectors")
    }
}
