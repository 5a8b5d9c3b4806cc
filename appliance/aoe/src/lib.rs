//! ATA over Ethernet on both ends.
//!
//! The frame codec, the raw packet socket, the target engine ([`blade`], what the agent runs)
//! and the initiator engine (what the Xen host runs), plus what the two sides tell each other beside
//! blocks: the vendor command, the inventory and the kernel command line.
//!
//! No policy lives here, and a disk is known only through a small trait.

pub mod acl;
pub mod address;
pub mod ata;
pub mod blade;
pub mod cmdline;
pub mod config;
pub mod frame;
mod header;
pub mod initiator;
pub mod inventory;
pub mod key;
pub mod line_limit;
mod size;
pub mod vendor;
pub mod wire;

pub use address::{Address, SECTOR};
pub use pnet::util::MacAddr;
pub use size::Size;
