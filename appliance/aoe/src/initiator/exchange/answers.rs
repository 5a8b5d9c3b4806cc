//! Answers as they come: to which request each belongs, and what it says.

use std::time::{Duration, Instant};

use super::{Ask, Exchange, NAP, Pending, SLOT_BITS, Take};
use crate::frame;
use crate::initiator::link::{self, Link};
use crate::initiator::path::Path;
use crate::initiator::{Error, TAG_OURS};

/// What came back in a run.
pub(super) struct Answers {
    /// When something came last.
    pub(super) heard: Instant,
    /// When the target was asked last whether it is there.
    pub(super) asked: Instant,
    /// When it said so, or something came.
    pub(super) alive: Instant,
    /// The time of the batch at hand.
    pub(super) now: Option<Instant>,
    pub(super) failed: Option<Error>,
}

impl Exchange {
    /// Takes what comes on all links within `wait`.
    pub(super) fn receive(
        &mut self,
        wait: Duration,
        ask: &Ask<'_>,
        take: &mut Take<'_>,
        answers: &mut Answers,
    ) {
        let links = self.links.clone();
        let there: Vec<(usize, &Link)> = links
            .iter()
            .enumerate()
            .filter(|(link, _)| self.paths.iter().any(|p| p.wire == *link && !p.gone))
            .collect();
        if there.is_empty() {
            // Until an interface is there again.
            std::thread::sleep(wait.min(NAP));
            return;
        }
        let received = link::receive(&there, wait, &mut |link, bytes| {
            self.arrived(link, bytes, ask, take, answers);
        });
        if let Err((link, error)) = received {
            self.lose(link, "receive from", error);
        }
    }

    /// One frame came on a link.
    fn arrived(
        &mut self,
        link: usize,
        bytes: &[u8],
        ask: &Ask<'_>,
        take: &mut Take<'_>,
        answers: &mut Answers,
    ) {
        let Ok((header, body)) = frame::parse(bytes) else {
            return;
        };
        let is_there = self.says_it_is_there(&header, body);
        if !header.response
            || header.address != self.address
            || (header.command != ask.command && !is_there)
            || header.tag & TAG_OURS == 0
        {
            return;
        }
        // It must come from a station we talk to: another one with the same address is another disk.
        let from = |p: &Path| p.wire == link && p.mac == header.source;
        let Some(path) = self.paths.iter().position(from) else {
            return;
        };
        if is_there {
            answers.alive = Instant::now();
            return;
        }
        let Some(request) = self.answered(header.tag) else {
            self.counters.late += 1;
            return;
        };
        let now = *answers.now.get_or_insert_with(Instant::now);
        answers.heard = now;
        self.heard = now;
        // A repeated request's round trip is not known (Karn).
        let round_trip = (!request.again).then(|| now.duration_since(request.sent));
        self.paths[path].answered(now, round_trip);
        let result = match header.error {
            None => take(request.index, body),
            Some(6) => Err(Error::Reserved {
                address: self.address,
            }),
            Some(code) => Err(Error::Refused {
                address: self.address,
                what: ask.what,
                code,
            }),
        };
        if let Err(error) = result {
            answers.failed.get_or_insert(error);
        }
    }

    /// The request with this tag, which has its answer now.
    fn answered(&mut self, tag: u32) -> Option<Pending> {
        let slot = (tag & ((1 << SLOT_BITS) - 1)) as usize;
        let place = self.slots.get_mut(slot)?;
        if place.as_ref()?.tag != tag {
            return None;
        }
        self.free.push(slot);
        let request = place.take()?;
        self.paths[request.path].in_flight -= 1;
        Some(request)
    }
}
