//! The network boot service: DHCP for network-boot clients, ProxyDHCP, TFTP, HTTP, and boot menus
//! made for each machine when it asks.
//!
//! [`serve`] runs it; what a machine boots is decided by the caller's [`Machines`]. Decisions about
//! addresses ([`lease`]), answers ([`dhcp`]) and menus ([`boot_menu`]) are pure functions; the
//! sockets around them are thin.
//!
//! Ordinary DHCP clients are not answered unless `serve_all` says so: only clients that say they boot
//! from the network (option 60 `PXEClient` or `HTTPClient`).

mod boot_decision;
pub mod boot_menu;
mod boot_set;
mod catalogue;
mod client;
mod datagram;
pub mod dhcp;
mod event;
pub mod http;
mod image;
mod interface;
mod interface_watch;
pub mod lease;
mod lease_file;
pub mod loader;
mod mac;
mod mac_pattern;
mod machine_id;
mod machines;
mod peers;
mod port_holder;
mod probe;
mod service;
mod settings;
mod socket;
mod subnet;
pub mod tftp;

pub use boot_decision::BootDecision;
pub use boot_menu::MenuKind;
pub use boot_set::{BootSetError, Missing, Need, missing_files};
pub use client::ClientKind;
pub use event::{BootEvent, Notice};
pub use image::{BadImageName, Image, ImageFiles, ImageName};
pub use interface::{InterfaceError, server_address};
pub use interface_watch::InterfaceLost;
pub use lease_file::LeaseFileError;
pub use loader::Loader;
pub use mac::{MacError, by_mac, list_of_macs, parse_mac};
pub use mac_pattern::{MacPattern, MacPatternError};
pub use machine_id::{MachineId, NoMachineId};
pub use machines::Machines;
pub use port_holder::{port_holders, tcp_port_holders};
pub use probe::{DhcpServer, PROBE_WAIT, ProbeError, probe};
pub use service::{Error, Opened, check, open, serve};
pub use settings::{Mode, Pool, Settings, SettingsError};
pub use socket::{SocketError, try_tcp_port, try_udp_port};
pub use subnet::Subnet;
