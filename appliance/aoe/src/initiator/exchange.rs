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

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pnet::util::MacAddr;

use super::path::{Path, RTO_MAX};
use super::{Error, Silence, TAG_OURS};
use crate::address::Address;
use crate::frame::{self, FRAME_MIN, HEADER_LEN, Header, command};
use crate::vendor::{Probe, Reply, Request};
use crate::wire::Wire;

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

/// An interface and the wire on it.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) wire: Arc<dyn Wire>,
    pub(super) iface: String,
    /// Opens the wire anew.
    pub(super) open: Arc<super::Opener>,
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

/// What came back in a run.
struct Answers {
    /// When something came last.
    heard: Instant,
    /// When the target was asked last whether it is there.
    asked: Instant,
    /// When it said so, or something came.
    alive: Instant,
    /// The time of the batch at hand.
    now: Option<Instant>,
    failed: Option<Error>,
}

/// Is told of silence.
pub(super) type Listener = Box<dyn FnMut(Silence) + Send>;

/// The exchange with one target.
/// How a target is waited for whose disk takes long.
#[derive(Clone, Copy)]
pub(super) struct DiskPatience {
    /// How long in all.
    pub(super) most: Duration,
    /// Bytes of the body of the longest answers: what it says that it is there with is as long, so that a way
    /// that carries only shorter ones is not taken for a disk that takes long.
    pub(super) length: u16,
}

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

            let due = self
                .slots
                .iter()
                .flatten()
                .map(|p| p.sent + p.timeout)
                .min()
                .unwrap_or(now + NAP);
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

    /// Asks the target to say that it is there, which it does without its disks: by a question that only the
    /// hosts on its list are answered, and as long as the answers that are waited for.
    fn ask_whether_there(&mut self, disk: DiskPatience) {
        let question = Request::Probe(Probe {
            confirm: false,
            length: disk.length,
            word: 0,
        });
        for path in self.paths.iter().filter(|path| !path.gone) {
            let wire = &self.links[path.wire].wire;
            let header =
                Header::request(wire.mac(), path.mac, self.address, command::P2V, TAG_OURS);
            // Where this cannot be sent, the request cannot, and says so.
            let _ = wire.send(&[header.frame(&[&question.to_bytes()])]);
        }
    }

    /// Whether this is the answer to that. Nothing else is in flight that is answered so.
    fn says_it_is_there(&self, header: &Header, body: &[u8]) -> bool {
        let Some(disk) = self.disk.filter(|_| header.command == command::P2V) else {
            return false;
        };
        header.error.is_none()
            && body.len() >= usize::from(disk.length)
            && matches!(Reply::parse(body), Ok(Reply::Probe(probe)) if probe.length == disk.length)
    }

    fn tell(&mut self, silence: Silence) {
        if let Some(listener) = &mut self.listener {
            listener(silence);
        }
    }

    fn silent(&mut self, ask: &Ask<'_>, waited: Duration) -> Error {
        if self.paths.iter().all(|path| path.gone)
            && let Some(error) = self.broken.take()
        {
            return error;
        }
        Error::Silent {
            address: self.address,
            mac: self.paths[ask.path.unwrap_or(self.main())].mac,
            what: ask.what,
            waited,
            now: None,
        }
    }

    /// Takes what comes on all links within `wait`.
    fn receive(
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
        let received = receive(&there, wait, &mut |link, bytes| {
            self.arrived(link, bytes, ask, take, answers);
        });
        if let Err((link, error)) = received {
            self.lose(link, "receive from", error);
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
                link.wire = wire;
                self.paths.iter_mut().filter(own).for_each(Path::is_back);
            } else if self.paths.iter_mut().filter(own).any(|path| bad(path)) {
                // An interface that is no more says so with the next thing asked of it.
                link.wire.refresh();
            }
        }
        self.links = links.into();
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

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Gives a request a place and a way; false when there is none.
    fn begin(&mut self, ask: &Ask<'_>, index: usize, now: Instant) -> bool {
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
    fn send(&mut self, ask: &Ask<'_>) {
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
            if !frames.is_empty()
                && let Err(error) = link.wire.send_parts(&frames)
            {
                failed.push((index, error));
            }
        }
        self.outgoing.clear();
        for (link, error) in failed {
            self.lose(link, "send to", error);
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

    /// Has sent again what has waited too long.
    fn repeat(&mut self, ask: &Ask<'_>, now: Instant) {
        let mut lost = 0;
        for (slot, request) in self.slots.iter_mut().enumerate() {
            let Some(request) = request.as_mut().filter(|p| now >= p.sent + p.timeout) else {
                continue;
            };
            let timeout = (request.timeout * 2).min(RTO_MAX.max(request.timeout));
            // One that keeps the target busy says nothing of the way.
            let learned = ask.slow.is_zero().then_some(timeout);
            self.paths[request.path].lose(request.sent, learned);
            if ask.path.is_none()
                && let Some(other) = better(&self.paths, request.path, request.sent)
            {
                self.paths[request.path].in_flight -= 1;
                self.paths[other].in_flight += 1;
                request.path = other;
            }
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
