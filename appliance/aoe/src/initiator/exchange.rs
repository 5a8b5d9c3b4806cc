//! Requests in flight: the window, time-outs and retransmission.
//!
//! The window grows and shrinks as TCP's does (RFC 5681) and is bounded by what the target says it
//! can hold; the time-out follows the measured round trip (RFC 6298). A retransmitted request keeps
//! its tag: it asks for the same thing, so whichever reply comes is the answer.

use std::time::{Duration, Instant};

use pnet::util::MacAddr;

use super::{Error, TAG_OURS};
use crate::address::Address;
use crate::frame::{self, FRAME_MIN, HEADER_LEN, Header};
use crate::wire::Wire;

/// Shortest time-out. Below it the scheduler's own delays look like losses.
const RTO_MIN: Duration = Duration::from_millis(30);
/// Longest time-out after backing off.
const RTO_MAX: Duration = Duration::from_secs(4);
/// Time-out before anything was measured.
const RTO_START: Duration = Duration::from_millis(500);
/// Requests in flight at first.
const WINDOW_START: f64 = 8.0;

/// Requests in flight at the most, whatever a target says: more than the fastest wire needs.
const WINDOW_MAX: usize = 256;
/// Bits of a tag that name the place of a request among those in flight.
const SLOT_BITS: u32 = 8;
/// Bytes of headers and the largest body without data that a request has.
const HEAD_MAX: usize = 256;

/// One kind of request to one target, for [`Exchange::run`].
pub(super) struct Ask<'a> {
    /// For messages: "read", "identify".
    pub(super) what: &'static str,
    /// AoE command.
    pub(super) command: u8,
    /// How many requests there are.
    pub(super) count: usize,
    /// Appends the body of the request with this index, without its data.
    pub(super) body: &'a dyn Fn(usize, &mut Vec<u8>),
    /// The data of the request with this index, which follows the body.
    pub(super) data: &'a dyn Fn(usize) -> &'a [u8],
    /// Time-out is no shorter than this, for requests that keep the target busy.
    pub(super) slow: Duration,
}

/// Takes the body of the answer to the request with an index.
pub(super) type Take<'a> = dyn FnMut(usize, &[u8]) -> Result<(), Error> + 'a;

/// For requests without data.
pub(super) fn no_data<'a>(_: usize) -> &'a [u8] {
    &[]
}

/// A request that has no answer yet.
#[derive(Clone, Copy)]
struct Pending {
    index: usize,
    tag: u32,
    sent: Instant,
    timeout: Duration,
    again: bool,
}

/// What became of the frames of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests sent, repetitions not counted.
    pub requests: u64,
    /// Requests sent again because no answer came in time.
    pub repeated: u64,
    /// Answers of our target that nothing waits for: to a request that was answered before.
    pub late: u64,
}

/// The exchange with one target.
pub(super) struct Exchange {
    pub(super) address: Address,
    pub(super) mac: MacAddr,
    /// Silence that ends a request with an error.
    pub(super) patience: Duration,
    pub(super) counters: Counters,
    window_max: f64,
    window: f64,
    threshold: f64,
    smoothed: Option<Duration>,
    variance: Duration,
    /// Requests in flight, each at the place that its tag names.
    slots: Vec<Option<Pending>>,
    free: Vec<usize>,
    next_number: u32,
    /// Headers of the frames being sent, one after the other.
    heads: Vec<u8>,
    /// Place and end in `heads` of each.
    outgoing: Vec<(usize, usize)>,
}

impl Exchange {
    pub(super) fn new(
        address: Address,
        mac: MacAddr,
        buffer_count: u16,
        patience: Duration,
    ) -> Exchange {
        let places = usize::from(buffer_count).clamp(1, WINDOW_MAX);
        let window_max = places as f64;
        // Where tags begin does not matter, but two programs should not begin alike.
        let seed =
            std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 0);
        Exchange {
            address,
            mac,
            patience,
            counters: Counters::default(),
            window_max,
            window: WINDOW_START.min(window_max),
            threshold: window_max,
            smoothed: None,
            variance: Duration::ZERO,
            slots: vec![None; places],
            free: (0..places).rev().collect(),
            next_number: seed as u32,
            heads: Vec::with_capacity(places * HEAD_MAX),
            outgoing: Vec::with_capacity(places),
        }
    }

    /// Sends all requests of `ask` and hands the body of each answer to `take` with the request's
    /// index, in whatever order they come.
    pub(super) fn run(
        &mut self,
        wire: &dyn Wire,
        iface: &str,
        ask: &Ask<'_>,
        take: &mut Take<'_>,
    ) -> Result<(), Error> {
        let result = self.run_all(wire, iface, ask, take);
        // What is still in flight after an error is nobody's any more.
        self.slots.fill(None);
        self.free = (0..self.slots.len()).rev().collect();
        result
    }

    /// Does the same with a patience of its own, and learns nothing from it: what is lost is lost
    /// because of its length.
    pub(super) fn trial(
        &mut self,
        wire: &dyn Wire,
        iface: &str,
        patience: Duration,
        ask: &Ask<'_>,
        take: &mut Take<'_>,
    ) -> Result<(), Error> {
        let before = (self.patience, self.window, self.threshold);
        self.patience = patience;
        let result = self.run(wire, iface, ask, take);
        (self.patience, self.window, self.threshold) = before;
        result
    }

    fn run_all(
        &mut self,
        wire: &dyn Wire,
        iface: &str,
        ask: &Ask<'_>,
        take: &mut Take<'_>,
    ) -> Result<(), Error> {
        let io = |what| {
            move |source| Error::Wire {
                what,
                iface: iface.to_owned(),
                source,
            }
        };
        let mut next = 0;
        let mut heard = Instant::now();
        loop {
            let now = Instant::now();
            while next < ask.count && self.in_flight() < self.window as usize {
                if !self.begin(ask, next, now) {
                    break;
                }
                next += 1;
            }
            self.repeat(now);
            self.send(wire, ask).map_err(io("send to"))?;
            if self.in_flight() == 0 {
                return Ok(());
            }

            let due = self
                .slots
                .iter()
                .flatten()
                .map(|p| p.sent + p.timeout)
                .min()
                .unwrap_or(now);
            let wait = due
                .saturating_duration_since(Instant::now())
                .max(Duration::from_millis(1));
            let mut failed = None;
            let mut arrived = None;
            wire.receive(wait, &mut |bytes| {
                let Ok((header, body)) = frame::parse(bytes) else {
                    return;
                };
                // It must come from the station we talk to: another one with the same address is
                // another disk.
                if !header.response
                    || header.source != self.mac
                    || header.address != self.address
                    || header.command != ask.command
                    || header.tag & TAG_OURS == 0
                {
                    return;
                }
                let now = *arrived.get_or_insert_with(Instant::now);
                let Some(request) = self.answered(header.tag) else {
                    self.counters.late += 1;
                    return;
                };
                heard = now;
                self.acknowledged(&request, now);
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
                    failed.get_or_insert(error);
                }
            })
            .map_err(io("receive from"))?;
            if let Some(error) = failed {
                return Err(error);
            }
            let waited = heard.elapsed();
            if self.in_flight() > 0 && waited > self.patience {
                return Err(Error::Silent {
                    address: self.address,
                    mac: self.mac,
                    what: ask.what,
                    waited,
                });
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Gives a request a place; false when there is none.
    fn begin(&mut self, ask: &Ask<'_>, index: usize, now: Instant) -> bool {
        let Some(slot) = self.free.pop() else {
            return false;
        };
        self.next_number = self.next_number.wrapping_add(1);
        let tag = TAG_OURS | (self.next_number << SLOT_BITS & !TAG_OURS) | slot as u32;
        self.slots[slot] = Some(Pending {
            index,
            tag,
            sent: now,
            timeout: self.timeout().max(ask.slow),
            again: false,
        });
        self.outgoing.push((slot, 0));
        self.counters.requests += 1;
        true
    }

    /// Sends what is outgoing: headers and bodies from `heads`, data from where it is.
    fn send(&mut self, wire: &dyn Wire, ask: &Ask<'_>) -> std::io::Result<()> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        self.heads.clear();
        for (slot, end) in &mut self.outgoing {
            let Some(request) = &self.slots[*slot] else {
                continue;
            };
            let from = self.heads.len();
            self.heads.resize(from + HEADER_LEN, 0);
            Header::request(wire.mac(), self.mac, self.address, ask.command, request.tag)
                .write(&mut self.heads[from..]);
            (ask.body)(request.index, &mut self.heads);
            // Ethernet's least, where no data follows.
            if (ask.data)(request.index).is_empty() {
                let length = (self.heads.len() - from).max(FRAME_MIN);
                self.heads.resize(from + length, 0);
            }
            *end = self.heads.len();
        }
        let mut from = 0;
        let frames: Vec<[&[u8]; 2]> = self
            .outgoing
            .iter()
            .filter_map(|(slot, end)| {
                let request = self.slots[*slot].as_ref()?;
                let head = &self.heads[from..*end];
                from = *end;
                Some([head, (ask.data)(request.index)])
            })
            .collect();
        let sent = wire.send_parts(&frames);
        self.outgoing.clear();
        sent
    }

    /// The request with this tag, which has its answer now.
    fn answered(&mut self, tag: u32) -> Option<Pending> {
        let slot = (tag & ((1 << SLOT_BITS) - 1)) as usize;
        let place = self.slots.get_mut(slot)?;
        if place.as_ref()?.tag != tag {
            return None;
        }
        self.free.push(slot);
        place.take()
    }

    fn timeout(&self) -> Duration {
        match self.smoothed {
            None => RTO_START,
            Some(smoothed) => (smoothed + 4 * self.variance).clamp(RTO_MIN, RTO_MAX),
        }
    }

    fn acknowledged(&mut self, request: &Pending, now: Instant) {
        if !request.again {
            // RFC 6298; a repeated request's round trip is not known (Karn).
            let sample = now.duration_since(request.sent);
            match self.smoothed {
                None => {
                    self.smoothed = Some(sample);
                    self.variance = sample / 2;
                }
                Some(smoothed) => {
                    self.variance = (self.variance * 3 + smoothed.abs_diff(sample)) / 4;
                    self.smoothed = Some((smoothed * 7 + sample) / 8);
                }
            }
        }
        let step = if self.window < self.threshold {
            1.0
        } else {
            1.0 / self.window
        };
        self.window = (self.window + step).min(self.window_max);
    }

    /// Has sent again what has waited too long. One loss halves the window, however many requests
    /// were lost with it.
    fn repeat(&mut self, now: Instant) {
        let mut lost = 0;
        for (slot, request) in self.slots.iter_mut().enumerate() {
            let Some(request) = request.as_mut().filter(|p| now >= p.sent + p.timeout) else {
                continue;
            };
            request.sent = now;
            request.timeout = (request.timeout * 2).min(RTO_MAX.max(request.timeout));
            request.again = true;
            self.outgoing.push((slot, 0));
            lost += 1;
        }
        if lost > 0 {
            self.counters.repeated += lost;
            self.threshold = (self.window / 2.0).max(2.0);
            self.window = self.threshold;
        }
    }
}
