//! The counters of an export, by name.

/// Counters of one export since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats(pub [u64; Stats::NAMES.len()]);

impl Stats {
    /// What the counters mean, in the order they have on the wire. New ones are added at the end.
    pub const NAMES: [&'static str; 30] = [
        "requests",
        "sectors_read",
        "sectors_written",
        "disk_errors",
        "writes_refused",
        "strangers",
        "malformed",
        "control_refused",
        "queue_full",
        "late_writes",
        "joined",
        "in_flight_max",
        // Not counted up: 1 while writes are allowed, 2 while the export waits.
        "read_write",
        // Frames that found no room in memory, of all the machine's exports together.
        "frames_dropped",
        // Requests by the time from their arrival to their answer, in microseconds: up to 15, up to
        // 31, and so on in powers of two, and all that took longer.
        "answered_16us",
        "answered_32us",
        "answered_64us",
        "answered_128us",
        "answered_256us",
        "answered_512us",
        "answered_1ms",
        "answered_2ms",
        "answered_4ms",
        "answered_8ms",
        "answered_16ms",
        "answered_32ms",
        "answered_65ms",
        "answered_131ms",
        "answered_longer",
        // Not counted up: milliseconds since the inventory was made.
        "inventory_age_ms",
    ];

    /// Name and value of each counter.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Self::NAMES.into_iter().zip(self.0)
    }

    /// A counter by its name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value)
    }
}
