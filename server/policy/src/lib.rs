//! Which machine boots what.
//!
//! [`boot_policy`] decides from what is remembered of a machine and what the settings and the operator say of it;
//! [`network_cards`] finds whose card asks; [`records`] gives the netboot service the answer. What a machine was seen
//! to do is in [`boots`], what the operator said in [`approvals`]. [`boot_tree`] writes the answers down, for sites that boot
//! without the service; [`site_dhcp`] is what their DHCP server is told.
//!
//! Nothing here sends or receives, and nothing is printed: what there is to say goes to `tracing`, with the fields
//! `mac` and `event` where it is about a machine.

pub mod approvals;
pub mod asks;
pub mod boot_policy;
pub mod boot_tree;
pub mod boots;
mod last_known;
mod lines;
mod machine;
pub mod naming;
pub mod network_cards;
pub mod records;
pub mod settings;
pub mod site_dhcp;

pub use machine::{Lists, Machine};
pub use records::{News, Records};
