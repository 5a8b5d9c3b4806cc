//! The Xen host's side of p2v: machine records, discovery, domain configs, volumes, the copy and
//! the life of a domain from the old machine's disk to a volume.
//!
//! Decisions are pure and live in [`domain`], [`table`], [`record`] and [`menus`]; what touches
//! the host is at the edges: [`tool`] runs external programs, [`wire`] is the AoE initiator, and
//! [`p2v_copy`] moves bytes. [`workflow`] puts them together into the operator's commands.
//!
//! Nothing here knows DHCP.

pub mod certificate;
pub mod config_file;
pub mod destination;
pub mod disarm;
pub mod disk_user;
pub mod doctor;
pub mod domain;
pub mod files_hit;
pub mod host;
pub mod host_key;
pub mod lock;
pub mod menus;
pub mod name;
pub mod record;
pub mod report;
pub mod settings;
pub mod shelves;
pub mod store;
pub mod table;
pub mod timestamp;
pub mod tool;
pub mod undo;
pub mod used;
pub mod wire;
pub mod workflow;

pub use host::{Host, Paths};
pub use name::MachineName;
pub use record::{Record, State};
pub use report::Report;
pub use settings::Settings;
pub use store::Store;
pub use timestamp::Timestamp;
