//! An interface of this host that leads to targets, and what comes on several of them.

use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Error, Opener};
use crate::wire::Wire;

/// An interface and the wire on it.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) wire: Arc<dyn Wire>,
    pub(super) iface: String,
    /// Opens the wire anew.
    pub(super) open: Arc<Opener>,
}

impl Link {
    pub(super) fn failed(&self, what: &'static str, source: std::io::Error) -> Error {
        Error::Wire {
            what,
            iface: self.iface.clone(),
            source,
        }
    }
}

/// Hands what comes on any of these links within `wait` to `each`, with the link's index. An error is
/// told with the index as well, when the other links have had their turn.
pub(super) fn receive(
    links: &[(usize, &Link)],
    wait: Duration,
    each: &mut dyn FnMut(usize, &[u8]),
) -> Result<(), (usize, std::io::Error)> {
    if let [(index, link)] = links {
        let received = link.wire.receive(wait, &mut |bytes| each(*index, bytes));
        return received.map(|_| ()).map_err(|error| (*index, error));
    }
    let mut polled: Vec<PollFd<'_>> = links
        .iter()
        .map(|(_, link)| PollFd::new(link.wire.readiness(), PollFlags::POLLIN))
        .collect();
    let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    match poll(&mut polled, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err((links.first().map_or(0, |(index, _)| *index), error.into())),
    }
    let mut failed = Ok(());
    for (index, link) in links {
        let received = link
            .wire
            .receive(Duration::ZERO, &mut |bytes| each(*index, bytes));
        if let Err(error) = received {
            failed = failed.and(Err((*index, error)));
        }
    }
    failed
}
