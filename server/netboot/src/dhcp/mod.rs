//! DHCP for network-boot clients: what they ask ([`parse`]), what they are told ([`decide()`]), and
//! the service on ports 67 and 4011.

mod announcement;
pub(crate) mod conflict;
mod decide;
mod reply;
mod request;
mod server;
pub(crate) mod service;

pub use decide::{Action, Port, decide};
pub use reply::{Reply, ReplyKind};
pub use request::{MessageType, Refused, Request, parse};
pub use server::Server;
