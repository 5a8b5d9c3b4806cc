//! Requests in flight: the window, time-outs and retransmission.
//!
//! The window grows and shrinks as TCP's does (RFC 5681) and is bounded by what the target says it
//! can hold; the time-out follows the measured round trip (RFC 6298). A retransmitted request keeps
//! its tag: it asks for the same thing, so whichever reply comes is the answer.
//!
//! Where several ways lead to the target, each request takes the one with the most room. One that is
//! lost is sent again by a way that has answered since, unless it must stay on its own: a write is
//! known to the target by its sender's address and tag, and only so a copy of it that comes late does
//! no harm.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pnet::util::MacAddr;

use super::link::Link;
use super::path::Path;
use super::{Error, Silence};

mod answers;
mod outgoing;
mod silence;

use answers::Answers;
use p2v_contract::address::Address;

/// Requests in flight at the most, whatever a target says: more than the fastest wire needs.
const WINDOW_MAX: usize = 256;
/// Bits of a tag that name the place of a request among those in flight.
const SLOT_BITS: u32 = 8;
/// After this long without a word the target may be another than it was.
const IDLE: Duration = Duration::from_secs(1);
/// Silence that is worth telling of. It is told again when it has lasted twice as long.
const TELL_AFTER: Duration = Duration::from_secs(5);
/// And after this long at the latest.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Silence after which the target is asked whether it is there, and how often, where it may take long. Less
/// than [`TELL_AFTER`], so that what is told is the truth.
const ASK_AFTER: Duration = Duration::from_secs(2);
/// How often the interfaces of ways that bring nothing are looked at.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// A wait with nothing in flight.
const NAP: Duration = Duration::from_millis(100);
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
    /// The only way that the requests may take.
    pub(super) path: Option<usize>,
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
    path: usize,
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

/// Is told of silence.
pub(super) type Listener = Box<dyn FnMut(Silence) + Send>;

/// How a target is waited for whose disk takes long.
#[derive(Clone, Copy)]
pub(super) struct DiskPatience {
    /// How long in all.
    pub(super) most: Duration,
    /// Bytes of the body of the longest answers: what it says that it is there with is as long, so that a way
    /// that carries only shorter ones is not taken for a disk that takes long.
    pub(super) length: u16,
}

/// The exchange with one target.
pub(super) struct Exchange {
    pub(super) address: Address,
    pub(super) links: Arc<[Link]>,
    pub(super) paths: Vec<Path>,
    /// Silence that ends a request with an error.
    pub(super) patience: Duration,
    /// The same while the target says that it is there: its disk takes long.
    pub(super) disk: Option<DiskPatience>,
    pub(super) counters: Counters,
    /// Is told when silence lasts.
    pub(super) listener: Option<Listener>,
    /// The target may have been restarted since this was taken last: frames were lost, or it was not
    /// spoken to for a while.
    pub(super) suspect: bool,
    /// Answers with data do not come.
    pub(super) without_data: bool,
    /// When the target was heard last.
    heard: Instant,
    /// When the interfaces were looked at last.
    tended: Instant,
    /// How the link that failed last did.
    broken: Option<Error>,
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
    /// `paths` names the link and the target's station of each way.
    pub(super) fn new(
        address: Address,
        links: Vec<Link>,
        paths: &[(usize, MacAddr)],
        buffer_count: u16,
        patience: Duration,
    ) -> Exchange {
        let places = usize::from(buffer_count).clamp(1, WINDOW_MAX);
        // Where tags begin does not matter, but two programs should not begin alike.
        let seed =
            std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 0);
        Exchange {
            address,
            links: links.into(),
            paths: paths
                .iter()
                .map(|(wire, mac)| Path::new(*wire, *mac, places))
                .collect(),
            patience,
            disk: None,
            counters: Counters::default(),
            listener: None,
            suspect: false,
            without_data: false,
            heard: Instant::now(),
            tended: Instant::now(),
            broken: None,
            slots: vec![None; places],
            free: (0..places).rev().collect(),
            next_number: seed as u32,
            heads: Vec::with_capacity(places * HEAD_MAX),
            outgoing: Vec::with_capacity(places),
        }
    }

    /// The way that promises most: for what may take only one.
    pub(super) fn main(&self) -> usize {
        // The first of equals.
        (0..self.paths.len())
            .rev()
            .max_by_key(|i| self.paths[*i].promise())
            .unwrap_or(0)
    }

    /// Our own station on a way.
    pub(super) fn own_mac(&self, path: usize) -> MacAddr {
        self.links[self.paths[path].wire].wire.mac()
    }

    /// Keeps only the ways for which `keep` says so; at least one must be left.
    pub(super) fn retain(&mut self, keep: &[bool]) {
        let mut keep = keep.iter();
        self.paths.retain(|_| *keep.next().unwrap_or(&true));
    }

    /// Has answers with data passed over from now on, on links that are opened anew as well.
    pub(super) fn pass_over_data(&mut self) {
        self.without_data = true;
        for link in self.links.iter() {
            link.wire.pass_over_data();
        }
    }

    /// Sends all requests of `ask` and hands the body of each answer to `take` with the request's
    /// index, in whatever order they come.
    pub(super) fn run(&mut self, ask: &Ask<'_>, take: &mut Take<'_>) -> Result<(), Error> {
        self.suspect |= self.is_idle();
        let result = self.run_all(ask, take);
        // What is still in flight after an error is nobody's any more.
        self.slots.fill(None);
        self.free = (0..self.slots.len()).rev().collect();
        self.paths.iter_mut().for_each(Path::clear);
        result
    }

    /// Whether the target was not heard for so long that it may be another.
    pub(super) fn is_idle(&self) -> bool {
        self.heard.elapsed() > IDLE
    }

    /// Does the same on one way, with a patience of its own, and learns nothing from it: what is lost
    /// is lost because of its length.
    pub(super) fn trial(
        &mut self,
        patience: Duration,
        path: usize,
        ask: &Ask<'_>,
        take: &mut Take<'_>,
    ) -> Result<(), Error> {
        let before = (self.patience, self.paths[path], self.suspect);
        let disk = self.disk.take();
        self.patience = patience;
        let listener = self.listener.take();
        let result = self.run(ask, take);
        self.listener = listener;
        (self.patience, self.suspect, self.disk) = (before.0, before.2, disk);
        self.paths[path].unlearn(&before.1);
        result
    }

    fn run_all(&mut self, ask: &Ask<'_>, take: &mut Take<'_>) -> Result<(), Error> {
        let mut next = 0;
        let begun = Instant::now();
        let mut answers = Answers {
            heard: begun,
            asked: begun,
            alive: begun,
            now: None,
            failed: None,
        };
        let mut told = Duration::ZERO;
        loop {
            let now = Instant::now();
            while next < ask.count && self.begin(ask, next, now) {
                next += 1;
            }
            self.repeat(ask, now);
            self.send(ask);
            if self.in_flight() == 0 && next == ask.count {
                return Ok(());
            }

            let due = self.next_repeat(now).unwrap_or(now + NAP);
            let due = match self.disk {
                Some(_) => due.min(answers.heard.max(answers.asked) + ASK_AFTER),
                None => due,
            };
            let wait = due
                .saturating_duration_since(Instant::now())
                .max(Duration::from_millis(1));
            let before = answers.heard;
            answers.now = None;
            self.receive(wait, ask, take, &mut answers);
            self.tend();
            if let Some(error) = answers.failed {
                return Err(error);
            }
            let waited = answers.heard.elapsed();
            let asked = answers.heard.max(answers.asked).elapsed();
            if let Some(disk) = self.disk.filter(|_| asked >= ASK_AFTER) {
                answers.asked = Instant::now();
                self.ask_whether_there(disk);
            }
            let there = answers.alive > answers.heard && answers.alive.elapsed() < ASK_AFTER * 3;
            if answers.heard > before {
                if told > Duration::ZERO {
                    self.tell(Silence::Ended(answers.heard - before));
                }
                told = Duration::ZERO;
            } else if waited >= told + told.clamp(TELL_AFTER, TELL_EVERY) {
                told = waited;
                self.tell(match there {
                    true => Silence::OfDisk(waited),
                    false => Silence::Lasts(waited),
                });
            }
            let stuck = ask.path.is_some_and(|path| self.paths[path].gone);
            let done = self.in_flight() == 0 && next == ask.count;
            // A disk that cannot read takes up to half a minute for each try of each sector.
            let silent = match self.disk {
                Some(disk) if waited <= disk.most => answers.alive.max(answers.heard).elapsed(),
                _ => waited,
            };
            if !done && (silent > self.patience || stuck) {
                return Err(self.silent(ask, waited));
            }
        }
    }

    /// A link has failed: the ways over it are gone until it can be opened anew.
    fn lose(&mut self, link: usize, what: &'static str, source: std::io::Error) {
        for path in self.paths.iter_mut().filter(|p| p.wire == link) {
            path.gone = true;
        }
        self.broken = Some(self.links[link].failed(what, source));
    }

    /// Looks after the ways that bring nothing: is their interface still the one that was opened (a
    /// bridge may be built anew), and can it be opened anew?
    fn tend(&mut self) {
        let bad = |path: &Path| path.gone || path.is_suspect();
        if !self.paths.iter().any(bad) || self.tended.elapsed() < TEND_EVERY {
            return;
        }
        self.tended = Instant::now();
        let mut links = self.links.to_vec();
        for (index, link) in links.iter_mut().enumerate() {
            let own = |path: &&mut Path| path.wire == index;
            if self.paths.iter_mut().filter(own).any(|path| path.gone) {
                let Ok(wire) = (link.open)() else {
                    continue;
                };
                if self.without_data {
                    wire.pass_over_data();
                }
                link.wire = wire;
                self.paths.iter_mut().filter(own).for_each(Path::is_back);
            } else if self.paths.iter_mut().filter(own).any(|path| bad(path)) {
                // An interface that is no more says so with the next thing asked of it.
                link.wire.refresh();
            }
        }
        self.links = links.into();
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
