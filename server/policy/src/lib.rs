//! Which machine boots what.
//!
//! [`boot_policy`] decides from what is remembered of a machine and what the settings and the operator say of it;
//! [`network_cards`] finds whose card asks; [`records`] gives the netboot service the answer. What a machine was seen
//! to do is in [`boots`], what the operator said in [`approvals`].
//!
//! Nothing here sends or receives, and nothing is printed: what there is to say goes to `tracing`, with the fields
//! `mac` and `event` where it is about a machine.

pub mod approvals;
pub mod asks;
pub mod boot_policy;
pub mod boots;
mod last_known;
mod lines;
mod machine;
pub mod naming;
pub mod network_cards;
pub mod records;

pub use machine::{Lists, Machine};
pub use records::{News, Records};
