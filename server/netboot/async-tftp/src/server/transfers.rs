//! Which transfers run, so that a client that starts again from the same
//! address and port (a PXE ROM after a power cycle) is served at once.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use nix::sys::socket::{shutdown, Shutdown};
use tokio::sync::futures::OwnedNotified;
use tokio::sync::Notify;

/// Transfers to one address and port at a time: the one in use, and those it
/// asked for and has not answered to yet.
const PER_PORT: usize = 4;
/// Transfers to one address at a time, so that no one has them all.
const PER_ADDRESS: usize = 64;
/// Transfers in all: each holds a socket and a window of blocks.
const IN_ALL: usize = 1024;
/// An address that has not answered yet, and so may have been forged, is sent
/// so many times the bytes that came from it; RFC 9000, 8.1, does the same. (The
/// first block of 512 bytes, where no options were sent, goes out once for each
/// request whatever its length: TFTP has nothing smaller to begin with.)
const UNPROVEN_FACTOR: usize = 3;

/// One transfer.
pub(crate) struct Transfer {
    request: Vec<u8>,
    begun: Instant,
    /// The client answered: it has taken up this transfer, and has its address.
    proven: AtomicBool,
    /// The client took up a later transfer from the same port, or this one had
    /// to make room.
    stale: AtomicBool,
    /// Bytes of its requests, and of what was sent to it; counted until proven.
    heard: AtomicUsize,
    sent: AtomicUsize,
    news: Arc<Notify>,
    /// Where its thread waits, when it has one.
    socket: OnceLock<Arc<UdpSocket>>,
}

impl Transfer {
    fn new(request: &[u8]) -> Transfer {
        Transfer {
            request: request.to_vec(),
            begun: Instant::now(),
            proven: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            heard: AtomicUsize::new(request.len()),
            sent: AtomicUsize::new(0),
            news: Arc::default(),
            socket: OnceLock::new(),
        }
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// Ready when it became stale, or its request came again.
    pub(crate) fn news(&self) -> OwnedNotified {
        Arc::clone(&self.news).notified_owned()
    }

    pub(crate) fn sent(&self, bytes: usize) {
        if !self.is_proven() {
            self.sent.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Whether so many bytes more may go out without being asked for.
    pub(crate) fn may_send(&self, bytes: usize) -> bool {
        self.is_proven()
            || self.sent.load(Ordering::Relaxed) + bytes
                <= UNPROVEN_FACTOR * self.heard.load(Ordering::Relaxed)
    }

    /// A thread waits for what comes to this socket from now on. It may be stale
    /// already.
    pub(crate) fn waits_at(&self, socket: Arc<UdpSocket>) {
        let _ = self.socket.set(socket);
    }

    fn end(&self) {
        self.stale.store(true, Ordering::Relaxed);
        self.news.notify_one();
        if let Some(socket) = self.socket.get() {
            // Linux wakes who waits there, with nothing.
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Read);
        }
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
    /// for its first acknowledgement (which then sends its answer again), or
    /// there are too many.
    pub(crate) fn begin(
        &self,
        peer: SocketAddr,
        request: &[u8],
    ) -> Option<Arc<Transfer>> {
        let mut all = self.lock();
        let of_port = all.get(&peer).map_or(&[][..], Vec::as_slice);
        let again = of_port
            .iter()
            .find(|t| t.request == request && !t.is_proven() && !t.is_stale());
        if let Some(again) = again {
            again.heard.fetch_add(request.len(), Ordering::Relaxed);
            again.news.notify_one();
            return None;
        }
        let of_address = all
            .iter()
            .filter(|(other, _)| other.ip() == peer.ip())
            .map(|(_, list)| list.len());
        if of_address.sum::<usize>() >= PER_ADDRESS {
            return None;
        }
        // Those that are about to end keep nobody waiting: a client that is quick
        // has its next file before all of them have. (Only who answers makes one
        // so, and who does not is sent no more for asking more.)
        let going_on = of_port.iter().filter(|t| !t.is_stale());
        if going_on.count() >= PER_PORT {
            return None;
        }
        if all.values().map(Vec::len).sum::<usize>() >= IN_ALL {
            Self::make_room(&mut all)?;
        }
        let transfer = Arc::new(Transfer::new(request));
        all.entry(peer).or_default().push(Arc::clone(&transfer));
        Some(transfer)
    }

    /// Ends the oldest transfer that nobody has answered to: a flood of requests
    /// from the forged addresses of others keeps nobody out who answers.
    fn make_room(
        all: &mut HashMap<SocketAddr, Vec<Arc<Transfer>>>,
    ) -> Option<()> {
        let (peer, oldest) = all
            .iter()
            .flat_map(|(peer, list)| list.iter().map(move |t| (*peer, t)))
            .filter(|(_, t)| !t.is_proven())
            .min_by_key(|(_, t)| t.begun)
            .map(|(peer, t)| (peer, Arc::clone(t)))?;
        oldest.end();
        Self::remove(all, peer, &oldest);
        Some(())
    }

    /// The client acknowledged something: earlier transfers to the same port
    /// have no one at the other end any more.
    pub(crate) fn acked(&self, peer: SocketAddr, transfer: &Arc<Transfer>) {
        // Locked first: nobody makes room by it who has seen it without this answer.
        let all = self.lock();
        if transfer.proven.swap(true, Ordering::Relaxed) {
            return;
        }
        let of_port = all.get(&peer).map_or(&[][..], Vec::as_slice);
        // It may have had to make room.
        let earlier = of_port.iter().position(|t| Arc::ptr_eq(t, transfer));
        of_port[..earlier.unwrap_or(0)].iter().for_each(|t| t.end());
    }

    /// The server ends.
    pub(crate) fn end_all(&self) {
        self.lock().values().flatten().for_each(|transfer| transfer.end());
    }

    pub(crate) fn end(&self, peer: SocketAddr, transfer: &Arc<Transfer>) {
        Self::remove(&mut self.lock(), peer, transfer);
    }

    fn remove(
        all: &mut HashMap<SocketAddr, Vec<Arc<Transfer>>>,
        peer: SocketAddr,
        transfer: &Arc<Transfer>,
    ) {
        if let Some(of_port) = all.get_mut(&peer) {
            of_port.retain(|t| !Arc::ptr_eq(t, transfer));
            if of_port.is_empty() {
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

    #[test]
    fn a_client_that_is_quick_does_not_wait_for_the_ends_of_what_it_has() {
        let transfers = Transfers::default();
        let peer = "192.0.2.1:2070".parse().unwrap();
        let all: Vec<_> = (0..20)
            .map(|n| {
                let transfer = transfers.begin(peer, &[n]).unwrap();
                transfers.acked(peer, &transfer);
                transfer
            })
            .collect();
        assert_eq!(all.iter().filter(|t| !t.is_stale()).count(), 1);
        // What it asks for and does not take up is little.
        let asked: Vec<_> =
            (20..40).filter_map(|n| transfers.begin(peer, &[n])).collect();
        assert_eq!(asked.len(), PER_PORT - 1);
        assert!(!all[19].is_stale());
        // It goes back to a file that it left before that had ended.
        let left = transfers.begin(peer, &[0]);
        assert!(left.is_none());
        transfers.acked(peer, &asked[2]);
        assert!(all[19].is_stale() && asked[0].is_stale());
        assert!(transfers.begin(peer, &[20]).is_some());
    }

    #[test]
    fn an_unproven_address_gets_little_and_a_proven_one_what_it_takes() {
        let transfers = Transfers::default();
        let peer = "192.0.2.1:2070".parse().unwrap();
        let transfer = transfers.begin(peer, &[0; 20]).unwrap();
        transfer.sent(30);
        assert!(transfer.may_send(30));
        transfer.sent(30);
        assert!(!transfer.may_send(1));
        // It asks again: there is that much more.
        assert!(transfers.begin(peer, &[0; 20]).is_none());
        assert!(transfer.may_send(60) && !transfer.may_send(61));
        transfers.acked(peer, &transfer);
        assert!(transfer.may_send(1 << 20));
    }

    #[test]
    fn a_flood_from_forged_addresses_keeps_nobody_out() {
        let transfers = Transfers::default();
        let address = |n: usize| -> SocketAddr {
            ([10, 0, (n >> 8) as u8, n as u8], 2070).into()
        };
        let real = address(0);
        let proven = transfers.begin(real, b"rrq").unwrap();
        transfers.acked(real, &proven);
        let mut forged = Vec::new();
        for n in 1..IN_ALL + 10 {
            forged.push(transfers.begin(address(n), b"rrq").unwrap());
        }
        assert!(!proven.is_stale());
        assert_eq!(forged.iter().filter(|t| t.is_stale()).count(), 10);
        assert!(forged[0].is_stale());
        let of_one = |port: usize| {
            transfers.begin((real.ip(), port as u16).into(), b"rrq").is_some()
        };
        assert_eq!((1..200).filter(|&p| of_one(p)).count(), PER_ADDRESS - 1);
    }
}
