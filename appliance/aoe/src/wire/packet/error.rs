//! Why a packet socket could not be had, in words for the operator.

use std::io;

use nix::libc;

/// Why the socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such interface.
    #[error("there is no network interface `{name}`: {source} (`ip link` lists them)")]
    NoInterface {
        /// What was asked for.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot {action} on interface `{name}`: {source}{}", if source.raw_os_error() == Some(libc::EPERM) { " (raw Ethernet needs root, or CAP_NET_RAW)" } else { "" })]
    Socket {
        /// What was tried.
        action: &'static str,
        /// On which interface.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
}
