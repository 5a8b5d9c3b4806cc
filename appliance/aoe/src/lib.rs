//! ATA over Ethernet on both ends.
//!
//! The frame codec, the raw packet socket, the target engine ([`blade`], what the agent runs)
//! and the initiator engine (what the Xen host runs). What the two sides tell each
//! other beside blocks is `p2v_contract`'s; the vendor command carries it.
//!
//! No policy lives here, and a disk is known only through a small trait.

pub mod acl;
pub mod ata;
pub mod blade;
pub mod config;
pub mod frame;
mod header;
pub mod initiator;
pub mod line_limit;
pub mod wire;
