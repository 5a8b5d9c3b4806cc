//! Which transfers there are, so that a client that starts again from the same address and port (a ROM after
//! a power cycle) is served at once, and nobody makes more of them, or has more sent, than is good for the others.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};

/// Transfers to one address and port: the one in use, and those that were asked for and not answered yet.
const PER_PORT: usize = 4;
/// Transfers to one address, so that none has them all.
const PER_ADDRESS: usize = 64;
/// Transfers in all: each has a socket.
const IN_ALL: usize = 1024;
/// An address that has not answered yet may be forged: it is sent so many times the bytes that came from it
/// (RFC 9000, 8.1, has the same). Where no options were sent, the first block of 512 bytes goes out once for
/// each request whatever its length: TFTP has nothing smaller to begin with.
const UNPROVEN_FACTOR: usize = 3;

/// The transfers that have begun and not ended.
#[derive(Default)]
pub(super) struct Registry(Mutex<Table>);

type Table = HashMap<SocketAddr, Vec<Arc<Entry>>>;

/// A transfer, as the others see it.
pub(super) struct Entry {
    request: Vec<u8>,
    begun: Instant,
    /// The client has answered: the address is its own.
    proven: AtomicBool,
    /// The client has taken up a later transfer from the same port, or this one had to make room.
    stale: AtomicBool,
    /// The client has answered, and not for a while.
    silent: AtomicBool,
    /// Bytes of its requests, and of what was sent: counted until proven.
    heard: AtomicUsize,
    sent: AtomicUsize,
    opening: OnceLock<Opening>,
}

/// What a transfer begins with.
struct Opening {
    /// Connected to the client.
    socket: Arc<UdpSocket>,
    packet: Vec<u8>,
}

impl Entry {
    fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Whoever waits at its socket is woken, with nothing.
    fn end(&self) {
        self.stale.store(true, Ordering::Relaxed);
        if let Some(opening) = self.opening.get() {
            // It fails only where nothing is waited for any more.
            let _ = shutdown(opening.socket.as_raw_fd(), Shutdown::Read);
        }
    }

    /// Its request came again, and before its first answer: that answer was lost, or is on its way.
    fn asked_again(&self, request: &[u8]) {
        self.heard.fetch_add(request.len(), Ordering::Relaxed);
        if let Some(opening) = self.opening.get() {
            self.sent.fetch_add(opening.packet.len(), Ordering::Relaxed);
            // If it is lost, it is sent again as any other.
            let _ = send(
                opening.socket.as_raw_fd(),
                &opening.packet,
                MsgFlags::MSG_DONTWAIT,
            );
        }
    }
}

/// A transfer's place in the registry, given back when dropped.
pub(super) struct Place {
    registry: Arc<Registry>,
    entry: Arc<Entry>,
    pub(super) peer: SocketAddr,
}

impl Registry {
    /// A place for a new transfer; `None`: the request is a repetition (whose answer was sent again), or there
    /// are too many.
    pub(super) fn begin(self: &Arc<Registry>, peer: SocketAddr, request: &[u8]) -> Option<Place> {
        let mut table = self.lock();
        let of_port = table.get(&peer).map_or(&[][..], Vec::as_slice);
        let mut going_on = of_port.iter().filter(|entry| !entry.is_stale());
        if let Some(again) = going_on
            .clone()
            .find(|e| e.request == request && !e.is_proven())
        {
            again.asked_again(request);
            return None;
        }
        // Those that are about to end do not count: a quick client asks for its next file before they have.
        let are_many = going_on.nth(PER_PORT - 1).is_some();
        if are_many && !make_room(&mut table, |other| *other == peer) {
            return None;
        }
        let its = |other: &SocketAddr| other.ip() == peer.ip();
        let of_address = table.iter().filter(|(other, _)| its(other));
        let of_address = of_address.map(|(_, list)| list.len()).sum::<usize>();
        if of_address >= PER_ADDRESS && !make_room(&mut table, its) {
            return None;
        }
        let in_all = table.values().map(Vec::len).sum::<usize>();
        if in_all >= IN_ALL && !make_room(&mut table, |_| true) {
            return None;
        }
        let entry = Arc::new(Entry {
            request: request.to_vec(),
            begun: Instant::now(),
            proven: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            heard: AtomicUsize::new(request.len()),
            sent: AtomicUsize::new(0),
            opening: OnceLock::new(),
        });
        table.entry(peer).or_default().push(Arc::clone(&entry));
        Some(Place {
            registry: Arc::clone(self),
            entry,
            peer,
        })
    }

    /// The server ends, and all transfers with it.
    pub(super) fn end_all(&self) {
        self.lock().values().flatten().for_each(|entry| entry.end());
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it is held, and the table is whole between calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the oldest of these transfers that nobody has answered to, or else has gone on answering to, if there is one:
/// a flood of requests from forged addresses, a machine's own among them, keeps nobody out who answers.
fn make_room(table: &mut Table, of: impl Fn(&SocketAddr) -> bool) -> bool {
    let all = table
        .iter()
        .filter(|(peer, _)| of(peer))
        .flat_map(|(peer, list)| list.iter().map(move |entry| (*peer, entry)));
    let idle = all.filter(|(_, entry)| !entry.is_proven() || entry.is_silent());
    let oldest = idle.min_by_key(|(_, entry)| (entry.is_proven(), entry.begun));
    let Some((peer, oldest)) = oldest.map(|(peer, entry)| (peer, Arc::clone(entry))) else {
        return false;
    };
    oldest.end();
    remove(table, peer, &oldest);
    true
}

fn remove(table: &mut Table, peer: SocketAddr, entry: &Arc<Entry>) {
    if let Some(of_port) = table.get_mut(&peer) {
        of_port.retain(|other| !Arc::ptr_eq(other, entry));
        if of_port.is_empty() {
            table.remove(&peer);
        }
    }
}

impl Place {
    /// Since the request.
    pub(super) fn begun(&self) -> Instant {
        self.entry.begun
    }

    /// It is over: nobody at the other end waits for it any more.
    pub(super) fn is_stale(&self) -> bool {
        self.entry.is_stale()
    }

    /// The client has answered.
    pub(super) fn is_proven(&self) -> bool {
        self.entry.is_proven()
    }

    /// Sets whether the client has stopped answering; such a transfer makes room for others.
    pub(super) fn set_silent(&self, silent: bool) {
        self.entry.silent.store(silent, Ordering::Relaxed);
    }

    /// What the transfer begins with, about to be sent. It may be stale already.
    pub(super) fn opens(&self, socket: Arc<UdpSocket>, packet: Vec<u8>) {
        let _ = self.entry.opening.set(Opening { socket, packet });
    }

    /// So many bytes are about to be sent.
    pub(super) fn sends(&self, bytes: usize) {
        if !self.is_proven() {
            self.entry.sent.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Whether so many bytes more may be sent without being asked for.
    pub(super) fn may_send(&self, bytes: usize) -> bool {
        let (heard, sent) = (&self.entry.heard, &self.entry.sent);
        self.is_proven()
            || sent.load(Ordering::Relaxed) + bytes
                <= UNPROVEN_FACTOR * heard.load(Ordering::Relaxed)
    }

    /// The client has answered: earlier transfers to the same port have nobody at the other end any more.
    pub(super) fn answered(&self) {
        if self.is_proven() {
            return;
        }
        // Locked first: who makes room does not choose one that has just been answered.
        let table = self.registry.lock();
        if self.entry.proven.swap(true, Ordering::Relaxed) {
            return;
        }
        let of_port = table.get(&self.peer).map_or(&[][..], Vec::as_slice);
        // It may have had to make room.
        let earlier = of_port
            .iter()
            .position(|entry| Arc::ptr_eq(entry, &self.entry));
        of_port[..earlier.unwrap_or(0)]
            .iter()
            .for_each(|entry| entry.end());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove(&mut self.registry.lock(), self.peer, &self.entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> (Arc<Registry>, SocketAddr) {
        (Arc::default(), "192.0.2.1:2070".parse().unwrap())
    }

    #[test]
    fn a_repeated_request_is_one_transfer_and_a_restart_is_another() {
        let (registry, peer) = registry();
        let first = registry.begin(peer, b"rrq").unwrap();
        assert!(registry.begin(peer, b"rrq").is_none());
        first.answered();
        let second = registry.begin(peer, b"rrq").unwrap();
        assert!(!first.is_stale(), "until the client takes up the new one");
        second.answered();
        assert!(first.is_stale() && !second.is_stale());
        let third = registry.begin(peer, b"other").unwrap();
        drop((first, second));
        assert!(
            registry.begin(peer, b"rrq").is_some(),
            "what is over is no repetition"
        );
        drop(third);
        assert!(registry.lock().is_empty());
    }

    #[test]
    fn a_quick_client_does_not_wait_for_the_ends_of_what_it_has() {
        let (registry, peer) = registry();
        let all: Vec<Place> = (0..20)
            .map(|n| {
                let place = registry.begin(peer, &[n]).unwrap();
                place.answered();
                place
            })
            .collect();
        assert_eq!(all.iter().filter(|place| !place.is_stale()).count(), 1);
        let asked: Vec<Place> = (20..40)
            .filter_map(|n| registry.begin(peer, &[n]))
            .collect();
        assert_eq!(asked.len(), 20, "whatever was asked for in its name before");
        let going_on = asked.iter().filter(|place| !place.is_stale());
        assert_eq!(
            going_on.count(),
            PER_PORT - 1,
            "what it does not take up is little"
        );
        assert!(!all[19].is_stale());
        asked[19].answered();
        assert!(all[19].is_stale() && asked[18].is_stale());
    }

    #[test]
    fn an_unproven_address_is_sent_little_and_a_proven_one_what_it_takes() {
        let (registry, peer) = registry();
        let place = registry.begin(peer, &[0; 20]).unwrap();
        place.sends(30);
        assert!(place.may_send(30));
        place.sends(30);
        assert!(!place.may_send(1));
        assert!(registry.begin(peer, &[0; 20]).is_none());
        assert!(place.may_send(60) && !place.may_send(61), "it asked again");
        place.answered();
        assert!(place.may_send(1 << 20));
    }

    #[test]
    fn a_flood_from_forged_addresses_keeps_nobody_out() {
        let (registry, _) = registry();
        let address = |n: usize| SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 2070));
        let real = address(0);
        let proven = registry.begin(real, b"rrq").unwrap();
        proven.answered();
        let forged: Vec<Place> = (1..IN_ALL + 10)
            .map(|n| registry.begin(address(n), b"rrq").unwrap())
            .collect();
        assert!(!proven.is_stale());
        assert_eq!(forged.iter().filter(|place| place.is_stale()).count(), 10);
        assert!(forged[0].is_stale());
    }

    #[test]
    fn requests_forged_with_a_machines_address_do_not_keep_it_out() {
        let (registry, peer) = registry();
        let begin = |port| registry.begin((peer.ip(), port).into(), b"rrq");
        let forged: Vec<Place> = (1..=PER_ADDRESS as u16).filter_map(begin).collect();
        let real = begin(2070).expect("the machine's own request");
        assert!(forged[0].is_stale() && !forged[1].is_stale());
        real.answered();
        let more: Vec<Place> = (3000..3200).filter_map(begin).collect();
        assert_eq!(more.len(), 200);
        assert!(!real.is_stale());
        let going_on = more.iter().filter(|place| !place.is_stale());
        assert_eq!(going_on.count(), PER_ADDRESS - 1);
    }

    #[test]
    fn one_address_does_not_have_all_transfers() {
        let (registry, peer) = registry();
        let port = |port| SocketAddr::from((peer.ip(), port));
        let answered = |place: Place| {
            place.answered();
            place
        };
        let all: Vec<Place> = (1..200)
            .filter_map(|n| registry.begin(port(n), b"rrq").map(answered))
            .collect();
        assert_eq!(all.len(), PER_ADDRESS);
        all[5].set_silent(true);
        assert!(registry.begin(port(200), b"rrq").is_some());
        assert!(all[5].is_stale(), "who has gone makes room");
        assert!(registry.begin(port(201), b"rrq").is_some());
        assert!(
            registry
                .begin("192.0.2.2:2070".parse().unwrap(), b"rrq")
                .is_some()
        );
    }
}
