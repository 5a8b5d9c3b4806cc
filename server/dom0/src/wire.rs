//! The wire as the workflows see it: which targets answer, and one attached target.
//!
//! A thin seam over `p2v_aoe`'s initiator, so that the workflows and the copy
//! can be tested against targets that lie, fail and vanish at a chosen moment.

use std::time::Duration;

use p2v_contract::inventory::Inventory;
use p2v_contract::key::SecretKey;
use p2v_contract::operation::Stats;
use p2v_contract::{Address, MacAddr};
use p2v_copy::Source;

pub use p2v_aoe::initiator::Silence;
pub use p2v_contract::operation::Reservation;

mod initiator;

/// One answer to a discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// The target's address.
    pub address: Address,
    /// Who answered; two for one address are two entries.
    pub mac: MacAddr,
}

/// What an export lets the list of host MACs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads only.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

/// What becomes of the old machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It is switched off.
    PowerOff,
    /// It restarts.
    Restart,
}

/// What went wrong on the wire; the text says with which target and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WireError(pub String);

/// Is told of a target that says nothing.
pub type SilenceListener = Box<dyn FnMut(Silence) + Send>;

/// A segment with AoE targets on it.
pub trait Wire: Sync {
    /// Every answer within `wait`.
    ///
    /// # Errors
    /// The interface cannot be used.
    fn discover(&self, wait: Duration) -> Result<Vec<Found>, WireError>;

    /// A session with the one target at `address`.
    ///
    /// # Errors
    /// None answers, or more than one MAC does.
    fn attach(&self, address: Address) -> Result<Box<dyn Export>, WireError>;
}

/// One target: its blocks, and what it lets the host do.
pub trait Export: Source + Send {
    /// The target's MAC.
    fn mac(&self) -> MacAddr;

    /// Lets the target be silent for `patience` before a request fails (a machine that restarts takes
    /// minutes), and has `listener` told meanwhile.
    fn wait_out_silence(&mut self, patience: Duration, listener: SilenceListener);

    /// Lets a request take so long while the machine answers and only its disk does not: one that fails
    /// takes minutes for a few sectors.
    fn wait_for_disk(&mut self, most: Duration) {
        let _ = most;
    }

    /// Nothing is read in this session from now on: what others read on the same interface is passed over
    /// without waking it.
    fn without_data(&mut self) {}

    /// The machine's inventory.
    ///
    /// # Errors
    /// It does not answer, or is no p2v agent.
    fn inventory(&mut self) -> Result<Inventory, WireError>;

    /// Writes whole sectors from `lba` on; they are on stable storage when it returns.
    ///
    /// # Errors
    /// The target takes no writes, or does not answer: then it is not known what is there.
    fn write(&mut self, lba: u64, data: &[u8]) -> Result<(), WireError>;

    /// Sets what may be done with the machine's disks, by an order that is signed with `key`.
    ///
    /// # Errors
    /// The agent refused it or does not answer.
    fn access(&mut self, key: &SecretKey, counter: u64, access: Access) -> Result<(), WireError>;

    /// Ends the agent, by an order that is signed with `key`.
    ///
    /// # Errors
    /// The agent refused it or does not answer.
    fn finish(&mut self, key: &SecretKey, counter: u64, finish: Finish) -> Result<(), WireError>;

    /// Reserves the target for this host, or ends that, by an order that is signed with `key`.
    ///
    /// # Errors
    /// Another host has it reserved, or the agent refused it or does not answer.
    fn reserve_by_order(
        &mut self,
        key: &SecretKey,
        counter: u64,
        reservation: Reservation,
    ) -> Result<(), WireError>;

    /// The target's counters.
    ///
    /// # Errors
    /// It does not answer, or is no p2v agent.
    fn stats(&mut self) -> Result<Stats, WireError>;

    /// Reserves a target that takes no orders for this host.
    ///
    /// # Errors
    /// Another host has it reserved.
    fn reserve(&mut self) -> Result<(), WireError>;

    /// Ends the reservation.
    ///
    /// # Errors
    /// It does not answer.
    fn release(&mut self) -> Result<(), WireError>;
}
