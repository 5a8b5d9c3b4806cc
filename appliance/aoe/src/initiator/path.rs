//! One way to a target: an interface of ours and a station of its. Each has a window and a round-trip
//! time of its own, so that a slow or broken way does not slow the others.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use pnet::util::MacAddr;

/// Shortest time-out. Below it the scheduler's own delays look like losses.
const RTO_MIN: Duration = Duration::from_millis(30);
/// Longest time-out after backing off.
pub(super) const RTO_MAX: Duration = Duration::from_secs(4);
/// Time-out before anything was measured.
const RTO_START: Duration = Duration::from_millis(500);
/// Requests in flight at first.
const WINDOW_START: f64 = 8.0;
/// Rounds of losses with no answer between, after which a way is only tried with one request now and
/// then.
const SUSPECT: u32 = 3;
/// How often it is tried.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// What is known of one way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    /// Index of the wire.
    pub(super) wire: usize,
    /// The target's station there.
    pub(super) mac: MacAddr,
    /// Requests that went this way and have no answer.
    pub(super) in_flight: usize,
    /// When an answer came this way last.
    pub(super) heard: Option<Instant>,
    /// The interface is no more.
    pub(super) gone: bool,
    /// Requests were lost on it just now.
    losing: bool,
    window_max: f64,
    window: f64,
    threshold: f64,
    smoothed: Option<Duration>,
    variance: Duration,
    /// Rounds of losses since an answer came, and when the last one was.
    losses: u32,
    lost_at: Option<Instant>,
    /// What the time-out has grown to, until an answer says how long one takes now.
    backed_off: Duration,
}

impl Path {
    /// A way on which at most `window_max` requests may be in flight.
    pub(super) fn new(wire: usize, mac: MacAddr, window_max: usize) -> Path {
        let window_max = window_max as f64;
        Path {
            wire,
            mac,
            in_flight: 0,
            heard: None,
            gone: false,
            losing: false,
            window_max,
            window: WINDOW_START.min(window_max),
            threshold: window_max,
            smoothed: None,
            variance: Duration::ZERO,
            losses: 0,
            lost_at: None,
            backed_off: Duration::ZERO,
        }
    }

    /// Nothing has come this way for some rounds of losses.
    pub(super) fn is_suspect(&self) -> bool {
        self.losses >= SUSPECT
    }

    /// Whether it is to be tried again now, though others have more room: nobody would know otherwise
    /// that it works again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.is_suspect() && self.room(now) > 0
    }

    /// Its interface is there again.
    pub(super) fn is_back(&mut self) {
        self.gone = false;
        (self.losses, self.lost_at) = (SUSPECT, None);
    }

    /// What is to be expected of it, against others: ways that answer by when they did last, those that
    /// do not by how long ago they were tried.
    pub(super) fn promise(&self) -> impl Ord + use<> {
        let suspect = self.is_suspect();
        let tried = Reverse(self.lost_at.filter(|_| suspect));
        (!self.gone, !suspect, tried, self.heard)
    }

    /// From when on a frame may be sent this way: one that does not answer is not flooded.
    pub(super) fn next_try(&self) -> Option<Instant> {
        let tried = self.lost_at.filter(|_| self.is_suspect());
        tried.map(|at| at + TRY_EVERY)
    }

    /// Whether that is now.
    pub(super) fn may_be_tried(&self, now: Instant) -> bool {
        self.next_try().is_none_or(|at| now >= at)
    }

    /// A frame is sent this way now.
    pub(super) fn tried(&mut self, now: Instant) {
        if self.is_suspect() {
            self.lost_at = Some(now);
        }
    }

    /// Requests that may be sent this way now.
    pub(super) fn room(&self, now: Instant) -> usize {
        let window = match (self.gone, self.is_suspect()) {
            (true, _) => 0,
            (false, true) => usize::from(self.may_be_tried(now)),
            (false, false) => self.window as usize,
        };
        window.saturating_sub(self.in_flight)
    }

    /// How long an answer to a new request is waited for.
    pub(super) fn timeout(&self) -> Duration {
        let measured = match self.smoothed {
            None => RTO_START,
            Some(smoothed) => (smoothed + 4 * self.variance).clamp(RTO_MIN, RTO_MAX),
        };
        measured.max(self.backed_off)
    }

    /// A request that left at `sent` was not answered in time; `timeout` is how long it is waited for
    /// now, if that says something of the way. Those that left before the last round of losses was seen
    /// belong to it.
    pub(super) fn lose(&mut self, sent: Instant, timeout: Option<Duration>) {
        self.losing |= self.lost_at.is_none_or(|at| sent >= at);
        let timeout = timeout.unwrap_or_default().min(RTO_MAX);
        self.backed_off = self.backed_off.max(timeout);
    }

    /// An answer came this way; after `round_trip`, if that is known.
    pub(super) fn answered(&mut self, now: Instant, round_trip: Option<Duration>) {
        self.heard = Some(now);
        self.losses = 0;
        // RFC 6298.
        if let Some(sample) = round_trip {
            self.backed_off = Duration::ZERO;
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

    /// Takes a round of losses into account. One halves the window, however many were lost with it.
    pub(super) fn settle(&mut self, now: Instant) {
        if std::mem::take(&mut self.losing) {
            self.lost_at = Some(now);
            self.losses = self.losses.saturating_add(1);
            self.threshold = (self.window / 2.0).max(2.0);
            self.window = self.threshold;
        }
    }

    /// Forgets the requests in flight.
    pub(super) fn clear(&mut self) {
        self.in_flight = 0;
    }

    /// Takes back what was learned since `before`.
    pub(super) fn unlearn(&mut self, before: &Path) {
        self.window = before.window;
        self.threshold = before.threshold;
        self.losses = before.losses;
        self.backed_off = before.backed_off;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lose(path: &mut Path) {
        path.lose(Instant::now(), None);
        path.settle(Instant::now());
    }

    #[test]
    fn what_was_lost_together_is_one_round() {
        let mut path = path(64);
        let begun = Instant::now();
        (0..100).for_each(|_| path.answered(begun, None));
        // All left before the first of them was missed.
        for seen in 1..5 {
            path.lose(begun, None);
            path.settle(begun + Duration::from_millis(seen));
        }
        assert_eq!(path.room(begun), 32);
        path.lose(begun + Duration::from_millis(1), None);
        path.settle(begun + Duration::from_millis(40));
        assert_eq!(path.room(begun), 16);
    }

    #[test]
    fn a_time_out_that_has_grown_stays_until_a_round_trip_is_known() {
        let mut path = path(64);
        let now = Instant::now();
        path.answered(now, Some(Duration::from_millis(1)));
        assert_eq!(path.timeout(), RTO_MIN);
        path.lose(now, Some(Duration::from_millis(240)));
        path.lose(now, None);
        assert_eq!(path.timeout(), Duration::from_millis(240));
        path.answered(now, None);
        assert_eq!(path.timeout(), Duration::from_millis(240));
        path.answered(now, Some(Duration::from_millis(200)));
        assert!(path.timeout() < Duration::from_millis(240));
    }

    #[test]
    fn a_way_that_was_left_is_tried_though_another_has_room() {
        let mut path = path(64);
        let now = Instant::now();
        assert!(!path.is_due(now));
        (0..SUSPECT).for_each(|_| lose(&mut path));
        assert!(path.is_due(Instant::now() + TRY_EVERY));
        path.gone = true;
        assert!(!path.is_due(Instant::now() + TRY_EVERY));
        path.is_back();
        assert!(path.is_due(Instant::now()));
    }

    fn path(most: usize) -> Path {
        Path::new(0, MacAddr::new(2, 0, 0, 0, 0, 7), most)
    }

    #[test]
    fn the_window_grows_with_answers_and_halves_with_losses() {
        let mut path = path(64);
        let now = Instant::now();
        for _ in 0..100 {
            path.answered(now, None);
        }
        assert_eq!(path.room(now), 64);
        lose(&mut path);
        assert_eq!(path.room(now), 32);
        path.in_flight = 30;
        assert_eq!(path.room(now), 2);
    }

    #[test]
    fn a_way_that_only_loses_gets_one_request_now_and_then_until_it_answers() {
        let mut path = path(64);
        (0..SUSPECT).for_each(|_| lose(&mut path));
        let now = Instant::now();
        let later = now + TRY_EVERY;
        assert_eq!((path.room(now), path.room(later)), (0, 1));
        path.in_flight = 1;
        assert_eq!(path.room(later), 0);
        path.answered(now, None);
        assert!(path.room(now) > 0);
        path.gone = true;
        assert_eq!(path.room(now), 0);
    }

    #[test]
    fn ways_that_answer_promise_more_and_the_others_take_turns() {
        let mut paths = [path(64), path(64)];
        let best = |paths: &[Path; 2]| paths[0].promise() < paths[1].promise();
        paths[1].answered(Instant::now(), None);
        assert!(best(&paths));
        (0..SUSPECT).for_each(|_| lose(&mut paths[1]));
        assert!(!best(&paths), "the other has not failed yet");
        (0..SUSPECT).for_each(|_| lose(&mut paths[0]));
        assert!(best(&paths), "the other has failed later");
        paths[1].gone = true;
        assert!(!best(&paths));
    }

    #[test]
    fn the_time_out_follows_the_round_trip() {
        let mut path = path(64);
        assert_eq!(path.timeout(), RTO_START);
        for _ in 0..100 {
            path.answered(Instant::now(), Some(Duration::from_millis(100)));
        }
        let timeout = path.timeout();
        assert!(
            timeout >= Duration::from_millis(100) && timeout < Duration::from_millis(120),
            "{timeout:?}"
        );
    }
}
