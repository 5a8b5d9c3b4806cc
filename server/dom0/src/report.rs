//! How long work tells what it is doing.

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

/// Receives what a workflow has to say. All methods may be called from any thread.
pub trait Report: Sync {
    /// A step begins, in the present tense and with its object: `waiting for /dev/etherd/e7.0`.
    fn step(&self, text: &str);

    /// Something the operator should know and that did not stop the work.
    fn warn(&self, text: &str);

    /// A copy of the disk named `what` (an AoE address) got on.
    fn progress(&self, what: &str, progress: Progress);
}

/// Says nothing.
pub struct Silent;

impl Report for Silent {
    fn step(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn progress(&self, _: &str, _: Progress) {}
}
