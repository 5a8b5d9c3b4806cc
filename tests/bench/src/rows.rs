//! What is measured.

use serde::Serialize;

/// Where the data is when it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Disk {
    /// In memory.
    Cached,
    /// On the machine's disk.
    Uncached,
    /// On a disk that takes 4 ms for a request and serves many at once.
    Slow,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    SequentialRead,
    SequentialWrite,
    RandomRead,
}

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    Ours,
    Vblade,
    Ceiling,
}

/// One comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub disk: Disk,
    pub pattern: Pattern,
    pub mtu: u32,
    pub in_flight: usize,
    /// vblade's flags, beside its buffer count of 64.
    pub vblade: &'static [&'static str],
    pub servers: Vec<Server>,
}

impl Row {
    /// Sectors of a frame at this MTU.
    pub fn sectors(&self) -> u64 {
        if self.mtu == 9000 { 17 } else { 2 }
    }

    pub fn name(&self) -> String {
        let disk = match self.disk {
            Disk::Cached => "cached",
            Disk::Uncached => "uncached",
            Disk::Slow => "slow-disk",
        };
        let pattern = match self.pattern {
            Pattern::SequentialRead => "sequential-read",
            Pattern::SequentialWrite => "sequential-write",
            Pattern::RandomRead => "random-read",
        };
        format!(
            "{disk} {pattern} mtu={} in-flight={}",
            self.mtu, self.in_flight
        )
    }
}

/// All rows.
pub fn all() -> Vec<Row> {
    use Pattern::{RandomRead, SequentialRead, SequentialWrite};
    let mut rows = Vec::new();
    for mtu in [1500, 9000] {
        for in_flight in [1, 16, 64] {
            for pattern in [SequentialRead, RandomRead] {
                rows.push(Row {
                    disk: Disk::Cached,
                    pattern,
                    mtu,
                    in_flight,
                    vblade: &[],
                    servers: vec![Server::Ours, Server::Vblade, Server::Ceiling],
                });
            }
            let uncached: [(Pattern, &'static [&'static str]); 3] = [
                (SequentialRead, &["-d", "-s"]),
                (RandomRead, &["-d"]),
                (SequentialWrite, &["-d", "-s"]),
            ];
            for (pattern, vblade) in uncached {
                rows.push(Row {
                    disk: Disk::Uncached,
                    pattern,
                    mtu,
                    in_flight,
                    vblade,
                    servers: vec![Server::Ours, Server::Vblade],
                });
            }
        }
    }
    for in_flight in [1, 32] {
        rows.push(Row {
            disk: Disk::Slow,
            pattern: RandomRead,
            mtu: 1500,
            in_flight,
            vblade: &["-d"],
            servers: vec![Server::Ours, Server::Vblade],
        });
    }
    rows
}
