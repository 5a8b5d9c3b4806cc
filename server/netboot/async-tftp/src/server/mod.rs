//! Server side implementation.

mod builder;
mod conversation;
mod crowd;
mod handler;
mod read_req;
mod rest;
#[allow(clippy::module_inception)]
mod server;
mod transfers;
mod window;
mod write_req;

pub mod handlers;

pub use self::builder::*;
pub use self::handler::*;
pub use self::server::*;
