//! How long work tells what it is doing.

use std::time::Duration;

use crate::wire::{Silence, SilenceListener};

/// Progress of one copy, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the disk dealt with so far (moved, zeroed or found equal) **and** checked.
    pub checked: u64,
    /// Bytes of the disk in all.
    pub total: u64,
    /// Of `checked`: bytes that came over the wire.
    pub moved: u64,
    /// Of `checked`: bytes the destination already had.
    pub equal: u64,
    /// Of `checked`: bytes written as zeros without crossing the wire.
    pub zeroed: u64,
}

/// What an old machine's silence is, for the operator; `what` is the disk's address.
pub fn silence(what: &str, silence: Silence, patience: Duration) -> String {
    match silence {
        Silence::Lasts(for_now) => format!(
            "{what} has said nothing for {} s and is waited for, up to {} s: is the old machine restarting, or its \
             cable out? Its screen tells",
            for_now.as_secs(),
            patience.as_secs()
        ),
        Silence::Ended(after) => format!("{what} answers again, after {} s", after.as_secs()),
    }
}

/// Receives what a workflow has to say. All methods may be called from any thread.
pub trait Report: Sync {
    /// A step begins, in the present tense and with its object: `waiting for /dev/etherd/e7.0`.
    fn step(&self, text: &str);

    /// Something the operator should know and that did not stop the work.
    fn warn(&self, text: &str);

    /// A copy of the disk named `what` (an AoE address) got on.
    fn progress(&self, what: &str, progress: Progress);

    /// What tells the operator of the silence of the disk named `what`, for which `patience` is had.
    fn silence(&self, what: &str, patience: Duration) -> SilenceListener {
        let _ = (what, patience);
        Box::new(|_| {})
    }
}

/// Says nothing.
pub struct Silent;

impl Report for Silent {
    fn step(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn progress(&self, _: &str, _: Progress) {}
}
