//! What the old machine's agent and the host agree on, whatever carries it: the machine's [`inventory`], the kernel
//! command line ([`cmdline`]), the keys ([`key`]) and what is asked for beside blocks ([`operation`]: digests, maps of
//! zeros, signed orders, counters).
//!
//! Nothing here sends or receives.

pub mod address;
pub mod bytes;
pub mod cmdline;
pub mod inventory;
pub mod key;
pub mod operation;
mod size;

pub use address::{Address, SECTOR};
pub use pnet::util::MacAddr;
pub use size::Size;
