//! Requests in flight: the window, time-outs and retransmission.
//!
//! The window grows and shrinks as TCP's does (RFC 5681) and is bounded by what the target says it
//! can hold; the time-out follows the measured round trip (RFC 6298). A retransmitted request keeps
//! its tag: it asks for the same thing, so whichever reply comes is the answer.

use std::time::{Duration, Instant};

use pnet::util::MacAddr;

use super::{Error, TAG_OURS};
use crate::address::Address;
use crate::frame::{self, Header};
use crate::wire::Wire;

/// Shortest time-out. Below it the scheduler's own delays look like losses.
const RTO_MIN: Duration = Duration::from_millis(30);
/// Longest time-out after backing off.
const RTO_MAX: Duration = Duration::from_secs(4);
/// Time-out before anything was measured.
const RTO_START: Duration = Duration::from_millis(500);
/// Requests in flight at first.
const WINDOW_START: f64 = 8.0;

/// One kind of request to one target, for [`Exchange::run`].
pub(super) struct Ask<'a> {
    /// For messages: "read", "identify".
    pub(super) what: &'static str,
    /// AoE command.
    pub(super) command: u8,
    /// How many requests there are.
    pub(super) count: usize,
    /// Body of the request with this index, as parts to be joined.
    pub(super) body: &'a dyn Fn(usize, &mut Vec<u8>),
    /// Time-out is no shorter than this, for requests that keep the target busy.
    pub(super) slow: Duration,
}

/// Takes the body of the answer to the request with an index.
pub(super) type Take<'a> = dyn FnMut(usize, &[u8]) -> Result<(), Error> + 'a;

/// A request that has no answer yet.
struct Pending {
    index: usize,
    tag: u32,
    frame: Vec<u8>,
    sent: Instant,
    timeout: Duration,
    again: bool,
}

/// The exchange with one target.
pub(super) struct Exchange {
    pub(super) address: Address,
    pub(super) mac: MacAddr,
    /// Silence that ends a request with an error.
    pub(super) patience: Duration,
    window_max: f64,
    window: f64,
    threshold: f64,
    smoothed: Option<Duration>,
    variance: Duration,
    next_tag: u32,
}

impl Exchange {
    pub(super) fn new(
        address: Address,
        mac: MacAddr,
        buffer_count: u16,
        patience: Duration,
    ) -> Exchange {
        let window_max = f64::from(buffer_count.clamp(1, 256));
        // Where tags begin does not matter, but two programs should not begin alike.
        let seed =
            std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 0);
        Exchange {
            address,
            mac,
            patience,
            window_max,
            window: WINDOW_START.min(window_max),
            threshold: window_max,
            smoothed: None,
            variance: Duration::ZERO,
            next_tag: seed as u32,
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
        let io = |what| {
            move |source| Error::Wire {
                what,
                iface: iface.to_owned(),
                source,
            }
        };
        let mut pending: Vec<Pending> = Vec::new();
        let mut next = 0;
        let mut heard = Instant::now();
        while next < ask.count || !pending.is_empty() {
            let mut outgoing = Vec::new();
            let now = Instant::now();
            while next < ask.count && (pending.len() as f64) < self.window.floor().max(1.0) {
                let request = self.request(wire, ask, next, now);
                outgoing.push(request.frame.clone());
                pending.push(request);
                next += 1;
            }
            if !outgoing.is_empty() {
                wire.send(&outgoing).map_err(io("send to"))?;
            }

            let due = pending
                .iter()
                .map(|p| p.sent + p.timeout)
                .min()
                .unwrap_or(now);
            let wait = due
                .saturating_duration_since(Instant::now())
                .max(Duration::from_millis(1));
            let mut failed = None;
            wire.receive(wait, &mut |bytes| {
                let Ok((header, body)) = frame::parse(bytes) else {
                    return;
                };
                let Some(at) = self.matching(&pending, &header, ask.command) else {
                    return;
                };
                let request = pending.swap_remove(at);
                heard = Instant::now();
                self.acknowledged(&request, heard);
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
            self.repeat(wire, &mut pending).map_err(io("send to"))?;
            let waited = heard.elapsed();
            if !pending.is_empty() && waited > self.patience {
                return Err(Error::Silent {
                    address: self.address,
                    mac: self.mac,
                    what: ask.what,
                    waited,
                });
            }
        }
        Ok(())
    }

    fn request(&mut self, wire: &dyn Wire, ask: &Ask<'_>, index: usize, now: Instant) -> Pending {
        let tag = self.next_tag | TAG_OURS;
        self.next_tag = self.next_tag.wrapping_add(1);
        let header = Header::request(wire.mac(), self.mac, self.address, ask.command, tag);
        let mut body = Vec::new();
        (ask.body)(index, &mut body);
        Pending {
            index,
            tag,
            frame: header.frame(&[&body]),
            sent: now,
            timeout: self.timeout().max(ask.slow),
            again: false,
        }
    }

    /// Which pending request a frame answers. It must come from the station we talk to: another one
    /// with the same address is another disk.
    fn matching(&self, pending: &[Pending], header: &Header, command: u8) -> Option<usize> {
        let ours = header.response
            && header.source == self.mac
            && header.address == self.address
            && header.command == command;
        pending.iter().position(|p| ours && p.tag == header.tag)
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

    /// Sends again what has waited too long. One loss halves the window, however many requests
    /// were lost with it.
    fn repeat(&mut self, wire: &dyn Wire, pending: &mut [Pending]) -> std::io::Result<()> {
        let now = Instant::now();
        let mut again = Vec::new();
        for request in pending.iter_mut().filter(|p| now >= p.sent + p.timeout) {
            request.sent = now;
            request.timeout = (request.timeout * 2).min(RTO_MAX.max(request.timeout));
            request.again = true;
            again.push(request.frame.clone());
        }
        if again.is_empty() {
            return Ok(());
        }
        self.threshold = (self.window / 2.0).max(2.0);
        self.window = self.threshold;
        wire.send(&again)
    }
}
