//! Requests on their way out: which way each takes, the frames, and what is sent again.

use std::time::Instant;

use super::{Ask, Exchange, Pending, SLOT_BITS};
use crate::frame::{FRAME_MIN, HEADER_LEN, Header};
use crate::initiator::TAG_OURS;
use crate::initiator::path::{Path, RTO_MAX};

impl Exchange {
    /// Gives a request a place and a way; false when there is none.
    pub(super) fn begin(&mut self, ask: &Ask<'_>, index: usize, now: Instant) -> bool {
        let room = |i: &usize| self.paths[*i].room(now);
        let preferred = |i: &usize| (self.paths[*i].is_due(now), room(i));
        let mut path = match ask.path {
            Some(path) => path,
            // The first of equals.
            None => (0..self.paths.len())
                .rev()
                .max_by_key(preferred)
                .unwrap_or(0),
        };
        if room(&path) == 0 {
            // Where no way answers, one must still be tried.
            path = ask.path.unwrap_or(self.main());
            if self.in_flight() > 0 || self.paths[path].gone {
                return false;
            }
        }
        let Some(slot) = self.free.pop() else {
            return false;
        };
        self.next_number = self.next_number.wrapping_add(1);
        let tag = TAG_OURS | (self.next_number << SLOT_BITS & !TAG_OURS) | slot as u32;
        self.slots[slot] = Some(Pending {
            index,
            tag,
            sent: now,
            timeout: self.paths[path].timeout().max(ask.slow),
            again: false,
            path,
        });
        self.paths[path].in_flight += 1;
        self.outgoing.push((slot, 0));
        self.counters.requests += 1;
        true
    }

    /// Sends what is outgoing: headers and bodies from `heads`, data from where it is.
    pub(super) fn send(&mut self, ask: &Ask<'_>) {
        if self.outgoing.is_empty() {
            return;
        }
        self.heads.clear();
        for (slot, end) in &mut self.outgoing {
            let Some(request) = &self.slots[*slot] else {
                continue;
            };
            let path = &self.paths[request.path];
            let own = self.links[path.wire].wire.mac();
            let from = self.heads.len();
            self.heads.resize(from + HEADER_LEN, 0);
            Header::request(own, path.mac, self.address, ask.command, request.tag)
                .write(&mut self.heads[from..]);
            (ask.body)(request.index, &mut self.heads);
            // Ethernet's least, where no data follows.
            if (ask.data)(request.index).is_empty() {
                let length = (self.heads.len() - from).max(FRAME_MIN);
                self.heads.resize(from + length, 0);
            }
            *end = self.heads.len();
        }
        let mut failed = Vec::new();
        for (index, link) in self.links.iter().enumerate() {
            let mut from = 0;
            let frames: Vec<[&[u8]; 2]> = self
                .outgoing
                .iter()
                .filter_map(|(slot, end)| {
                    let head = &self.heads[from..*end];
                    from = *end;
                    let request = self.slots[*slot].as_ref()?;
                    (self.paths[request.path].wire == index)
                        .then(|| [head, (ask.data)(request.index)])
                })
                .collect();
            if frames.is_empty() {
                continue;
            }
            if let Err(error) = link.wire.send_parts(&frames) {
                failed.push((index, error));
            }
        }
        self.outgoing.clear();
        for (link, error) in failed {
            self.lose(link, "send to", error);
        }
    }

    /// When the next request is sent again, unless its answer comes; as [`Exchange::repeat`] has left them.
    pub(super) fn next_repeat(&self, now: Instant) -> Option<Instant> {
        let due = |p: &Pending| p.sent + p.timeout;
        let requests = || self.slots.iter().flatten().map(due);
        let next = requests().filter(|at| *at > now).min();
        // Those that are left wait until a way that does not answer is tried again.
        let is_left = requests().any(|at| at <= now);
        let paths = self.paths.iter().filter(|path| is_left && !path.gone);
        let tries = paths.filter_map(Path::next_try).filter(|at| *at > now);
        tries.chain(next).min()
    }

    /// Has sent again what has waited too long: of what goes by a way that does not answer, one request now and then.
    pub(super) fn repeat(&mut self, ask: &Ask<'_>, now: Instant) {
        let mut lost = 0;
        for slot in self.overdue(now) {
            let Some(request) = &mut self.slots[slot] else {
                continue;
            };
            let other = match ask.path {
                Some(_) => None,
                None => better(&self.paths, request.path, request.sent),
            };
            let way = other.unwrap_or(request.path);
            if !self.paths[way].may_be_tried(now) {
                continue;
            }
            let timeout = (request.timeout * 2).min(RTO_MAX.max(request.timeout));
            // One that keeps the target busy says nothing of the way.
            let learned = ask.slow.is_zero().then_some(timeout);
            self.paths[request.path].lose(request.sent, learned);
            self.paths[request.path].in_flight -= 1;
            self.paths[way].in_flight += 1;
            self.paths[way].tried(now);
            request.path = way;
            request.sent = now;
            request.timeout = timeout;
            request.again = true;
            self.outgoing.push((slot, 0));
            lost += 1;
        }
        if lost > 0 {
            self.suspect = true;
            self.counters.repeated += lost;
            self.paths.iter_mut().for_each(|path| path.settle(now));
        }
    }

    /// The places of requests that have waited too long. The first is the one that has not been sent for longest, so that
    /// each has its turn.
    fn overdue(&self, now: Instant) -> Vec<usize> {
        let pending = |slot: usize| self.slots[slot].filter(|p| now >= p.sent + p.timeout);
        let mut overdue: Vec<usize> = (0..self.slots.len())
            .filter(|slot| pending(*slot).is_some())
            .collect();
        overdue.sort_by_key(|slot| pending(*slot).map(|p| p.sent));
        overdue
    }
}

/// Another way for a request whose own has not answered since it left: one that has, or any that
/// promises more.
fn better(paths: &[Path], own: usize, sent: Instant) -> Option<usize> {
    let fails = |path: &Path| path.gone || path.heard < Some(sent);
    if !fails(&paths[own]) {
        return None;
    }
    (0..paths.len())
        .filter(|other| !paths[*other].gone)
        .filter(|other| !fails(&paths[*other]) || paths[*other].promise() > paths[own].promise())
        .max_by_key(|other| (!fails(&paths[*other]), paths[*other].promise()))
}
