//! Orders that were refused: anybody on the network can send some, so only some get a line.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use p2v_aoe::blade::Event;
use p2v_aoe::line_limit::LineLimit;
use p2v_contract::operation::Status;

/// Lines for one reason in each [`PERIOD`].
const LINES: u32 = 5;
const PERIOD: Duration = Duration::from_secs(60);

/// Which refusals get a line.
#[derive(Debug)]
pub struct Refusals(Mutex<State>);

#[derive(Debug)]
struct State {
    limit: LineLimit<Status>,
    /// When it was last looked for what got no line.
    looked: Instant,
}

impl Refusals {
    /// None was refused yet.
    pub fn new(now: Instant) -> Refusals {
        Refusals(Mutex::new(State {
            limit: LineLimit::new(LINES, PERIOD),
            looked: now,
        }))
    }

    /// Whether this event gets a line: all but refusals do.
    pub fn admit(&self, event: &Event, now: Instant) -> bool {
        match event {
            Event::ControlRefused { status, .. } => self.lock().limit.admits(*status, now),
            Event::Access { .. } | Event::Finish { .. } | Event::DiskFailed { .. } => true,
        }
    }

    /// Once in a while, if there were some without a line: one that tells how many.
    pub fn left_out(&self, now: Instant) -> Option<String> {
        let mut state = self.lock();
        if now.saturating_duration_since(state.looked) < PERIOD {
            return None;
        }
        state.looked = now;
        let left_out = state.limit.take_left_out(now);
        let count: u64 = left_out.iter().map(|(_, count)| count).sum();
        (count > 0).then(|| format!("{count} more orders were refused in the last minute"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts are whole at every moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_contract::operation::Access;
    use p2v_contract::{Address, MacAddr};

    #[test]
    fn ten_thousand_refused_orders_have_few_lines_and_one_that_was_carried_out_has_its_own() {
        let begun = Instant::now();
        let refusals = Refusals::new(begun);
        let address = Address::new(7, 0);
        let refused = |n: u32| {
            let [_, _, high, low] = n.to_be_bytes();
            let status = [Status::NotAuthorised, Status::Replayed][n as usize % 2];
            Event::ControlRefused {
                address,
                status,
                by: MacAddr::new(2, 0, 0, 0, high, low),
            }
        };
        let lines = (0..10_000).filter(|n| refusals.admit(&refused(*n), begun));
        assert_eq!(lines.count(), 2 * LINES as usize);
        let done = Event::Access {
            address,
            access: Access::ReadWrite,
            by: MacAddr::new(2, 0, 0, 0, 0, 1),
        };
        assert!(refusals.admit(&done, begun));
        assert_eq!(refusals.left_out(begun), None);
        let later = begun + PERIOD;
        let line = refusals.left_out(later).unwrap();
        assert!(line.starts_with("9990 "), "{line}");
        assert_eq!(refusals.left_out(later + PERIOD), None);
        assert!(refusals.admit(&refused(1), later));
    }
}
