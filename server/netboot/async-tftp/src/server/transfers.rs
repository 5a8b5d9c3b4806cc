//! Which transfers run, so that a client that starts again from the same
//! address and port (a PXE ROM after a power cycle) is served at once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Transfers to one address and port at a time: the one in use, and those it
/// left behind that have not run out of retries yet.
const PER_PEER: usize = 4;
/// Transfers in all: each holds a socket and a window of blocks.
const IN_ALL: usize = 1024;

/// One transfer.
pub(crate) struct Transfer {
    request: Vec<u8>,
    /// The client answered: it has taken up this transfer.
    acked: AtomicBool,
    /// The client took up a later transfer from the same port.
    stale: AtomicBool,
}

impl Transfer {
    pub(crate) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
pub(crate) struct Transfers(Mutex<HashMap<SocketAddr, Vec<Arc<Transfer>>>>);

impl Transfers {
    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Vec<Arc<Transfer>>>> {
        // Nothing panics while holding it, and the map is whole between calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new transfer, unless the request is a retransmission of one that waits
    /// for its first acknowledgement, or there are too many.
    pub(crate) fn begin(
        &self,
        peer: SocketAddr,
        request: &[u8],
    ) -> Option<Arc<Transfer>> {
        let mut all = self.lock();
        if all.values().map(Vec::len).sum::<usize>() >= IN_ALL {
            return None;
        }
        let of_peer = all.entry(peer).or_default();
        let again = of_peer
            .iter()
            .any(|t| t.request == request && !t.acked.load(Ordering::Relaxed));
        if again || of_peer.len() >= PER_PEER {
            return None;
        }
        let transfer = Arc::new(Transfer {
            request: request.to_vec(),
            acked: AtomicBool::new(false),
            stale: AtomicBool::new(false),
        });
        of_peer.push(Arc::clone(&transfer));
        Some(transfer)
    }

    /// The client acknowledged something: earlier transfers to the same port
    /// have no one at the other end any more.
    pub(crate) fn acked(&self, peer: SocketAddr, transfer: &Arc<Transfer>) {
        if transfer.acked.swap(true, Ordering::Relaxed) {
            return;
        }
        for earlier in self.lock().get(&peer).into_iter().flatten() {
            if Arc::ptr_eq(earlier, transfer) {
                break;
            }
            earlier.stale.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn end(&self, peer: SocketAddr, transfer: &Arc<Transfer>) {
        let mut all = self.lock();
        if let Some(of_peer) = all.get_mut(&peer) {
            of_peer.retain(|t| !Arc::ptr_eq(t, transfer));
            if of_peer.is_empty() {
                all.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retransmission_is_one_transfer_and_a_restart_is_another() {
        let transfers = Transfers::default();
        let peer = "192.0.2.1:2070".parse().unwrap();
        let first = transfers.begin(peer, b"rrq").unwrap();
        assert!(transfers.begin(peer, b"rrq").is_none());
        transfers.acked(peer, &first);
        let second = transfers.begin(peer, b"rrq").unwrap();
        assert!(!first.is_stale());
        transfers.acked(peer, &second);
        assert!(first.is_stale() && !second.is_stale());
        transfers.end(peer, &first);
        transfers.end(peer, &second);
        assert!(transfers.lock().is_empty());
    }
}
