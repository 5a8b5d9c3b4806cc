//! Which lines about machines are written. Anybody on the wire can cause any number of them, also in the name of a machine
//! that p2v knows: they must neither fill the disk nor hide what happened to another.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use p2v_aoe::line_limit::LineLimit;
use p2v_contract::MacAddr;
use p2v_dom0::MachineName;
use tracing::field::display;
use tracing::{info, warn};

/// Lines of one kind about all strangers, in each [`STRANGERS_PERIOD`].
const OF_STRANGERS: u32 = 20;
const STRANGERS_PERIOD: Duration = Duration::from_secs(60);
/// Lines of one kind about one known machine, in each [`MACHINES_PERIOD`]: one that boots has ten at most.
const OF_A_MACHINE: u32 = 30;
const MACHINES_PERIOD: Duration = Duration::from_secs(600);

/// Whom a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// One that has booted the agent before, or that the operator named. There are no more than those.
    Machine(MacAddr),
    /// Any other.
    Stranger,
}

/// A kind of line, in words for the line that counts those left out.
pub(crate) type Kind = &'static str;

/// The lines that were written lately.
#[derive(Debug)]
pub struct Lines {
    of_strangers: Mutex<LineLimit<Kind>>,
    of_machines: Mutex<LineLimit<(MacAddr, Kind)>>,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines {
            of_strangers: Mutex::new(LineLimit::new(OF_STRANGERS, STRANGERS_PERIOD)),
            of_machines: Mutex::new(LineLimit::new(OF_A_MACHINE, MACHINES_PERIOD)),
        }
    }
}

impl Lines {
    /// Logs a line, if there is room for one more of its kind. Whether there was.
    /// `machine`: the name of the one that it is about.
    pub fn say(
        &self,
        whose: Whose,
        line: Line,
        machine: impl FnOnce() -> Option<MachineName>,
        text: fmt::Arguments<'_>,
    ) -> bool {
        let now = Instant::now();
        let admitted = match whose {
            Whose::Machine(mac) => lock(&self.of_machines).admits((mac, line.event), now),
            Whose::Stranger => lock(&self.of_strangers).admits(line.event, now),
        };
        if admitted {
            line.write(machine().as_ref(), text);
        }
        admitted
    }

    /// Logs how many were left out since it was logged last, if any were.
    pub fn tell_left_out(&self) {
        let now = Instant::now();
        let of_strangers = lock(&self.of_strangers).take_left_out(now);
        if !of_strangers.is_empty() {
            info!(
                "left out, about machines that p2v does not know: {}",
                counted(&of_strangers)
            );
        }
        let of_machines = lock(&self.of_machines).take_left_out(now);
        for of_one in of_machines.chunk_by(|((one, _), _), ((next, _), _)| one == next) {
            let mac = of_one[0].0.0;
            let counts: Vec<_> = of_one.iter().map(|((_, kind), n)| (*kind, *n)).collect();
            info!(
                %mac,
                "left out, of a machine that repeats itself, or of others in its name: {}",
                counted(&counts)
            );
        }
    }
}

/// What a line is about.
#[derive(Debug)]
pub(crate) struct Line {
    /// The network card that it is about.
    pub mac: Option<MacAddr>,
    /// What happened.
    pub event: Kind,
    /// The operator is to do something.
    pub warning: bool,
}

impl Line {
    fn write(&self, machine: Option<&MachineName>, text: fmt::Arguments<'_>) {
        let (mac, machine) = (self.mac.map(display), machine.map(display));
        let event = self.event;
        match self.warning {
            true => warn!(mac, machine, event, "{text}"),
            false => info!(mac, machine, event, "{text}"),
        }
    }
}

fn counted(counts: &[(Kind, u64)]) -> String {
    let parts: Vec<String> = counts
        .iter()
        .map(|(kind, count)| format!("{count} lines \"{kind}\""))
        .collect();
    parts.join(", ")
}

fn lock<T>(limit: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts are whole at every moment.
    limit.lock().unwrap_or_else(PoisonError::into_inner)
}
