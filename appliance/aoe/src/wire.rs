//! The edge to the network: a raw packet socket that carries AoE frames and nothing else.
//!
//! All that the engines need of a wire is in [`Wire`], so that they can be tested on one that is
//! not there.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use pnet::util::MacAddr;

#[cfg(test)]
pub(crate) mod memory;
mod packet;
mod ring;
mod spin;

pub use packet::{OpenError, PacketSocket};

/// A station on an Ethernet segment.
pub trait Wire: Send + Sync {
    /// Our own address.
    fn mac(&self) -> MacAddr;

    /// Largest payload of a frame in bytes (1500 on ordinary Ethernet), the headers of AoE
    /// included and the 14 bytes of Ethernet not.
    fn mtu(&self) -> usize;

    /// Hands each frame that has come to `each`; waits for the first one no longer than
    /// `timeout`. Returns how many there were; 0 after a time-out.
    ///
    /// An interface that is down is not an error here: it is silent until it comes back.
    ///
    /// # Errors
    /// The wire fails: its interface is gone, say.
    fn receive(&self, timeout: Duration, each: &mut dyn FnMut(&[u8])) -> io::Result<usize>;

    /// Readable when [`Wire::receive`] has something to hand out.
    fn readiness(&self) -> BorrowedFd<'_>;

    /// Frames for us that were lost because nobody fetched them in time, as of the last
    /// [`Wire::refresh`].
    fn dropped(&self) -> u64 {
        0
    }

    /// Whether [`Wire::receive`] may busy-poll for a moment before it sleeps.
    fn may_busy_poll(&self, may: bool) {
        let _ = may;
    }

    /// From now on no answers with a disk's data are handed out: for a session that reads none, beside one
    /// that does. Every socket on an interface gets every frame, and only the kernel can pass them over
    /// cheaply. A wire that cannot do it hands them out.
    fn pass_over_data(&self) {}

    /// Looks anew at what may change while frames go back and forth: the MTU.
    fn refresh(&self) {}

    /// Sends frames, each in two parts that need not lie side by side: headers and data. One that the interface does not take (it is down, its queue is full) is lost
    /// as it would be on the wire: the other side asks again.
    ///
    /// # Errors
    /// Sending fails for any other reason.
    fn send_parts(&self, frames: &[[&[u8]; 2]]) -> io::Result<()>;

    /// Sends frames that are in one piece.
    ///
    /// # Errors
    /// As [`Wire::send_parts`].
    fn send(&self, frames: &[Vec<u8>]) -> io::Result<()> {
        let parts: Vec<[&[u8]; 2]> = frames.iter().map(|frame| [&frame[..], &[]]).collect();
        self.send_parts(&parts)
    }
}
