//! What the figures say, for people and as JSON.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::rows::{Disk, Pattern, Row, Server};
use crate::scene::{Measured, Taken};

/// One row, as soon as it is known.
pub fn line(measured: &Measured) {
    println!("{}", measured.name);
    for (server, taken) in &measured.results {
        let name = match server {
            Server::Ours => "p2v".to_owned(),
            Server::Vblade => format!("vblade {}", measured.row.vblade.join(" ")),
            Server::Ceiling => "ceiling".to_owned(),
        };
        let figures = &taken.figures;
        let mut trouble = String::new();
        if figures.lost + figures.errors > 0 {
            trouble = format!("  {} lost, {} errors", figures.lost, figures.errors);
        }
        println!(
            "  {name:14} {:>9.0} IOPS {:>8.1} MB/s  p50 {:>8.1} us  p99 {:>8.1} us  {:>7.3} CPU s/GiB{trouble}",
            figures.iops, figures.megabytes, figures.p50, figures.p99, taken.cpu_seconds_per_gib
        );
    }
    for (name, server) in [("vblade", Server::Vblade), ("the ceiling", Server::Ceiling)] {
        if let (Some(ours), Some(other)) = (measured.of(Server::Ours), measured.of(server)) {
            println!(
                "  p2v is {:.2} of {name} in IOPS, {:.2} in CPU per GiB",
                ours.figures.iops / other.figures.iops,
                ours.cpu_seconds_per_gib / other.cpu_seconds_per_gib
            );
        }
    }
}

/// A figure to reach, as a ratio within one row.
struct Goal {
    what: &'static str,
    applies: fn(&Row) -> bool,
    against: Server,
    ratio: fn(&Taken, &Taken) -> f64,
    reached: fn(f64) -> bool,
    wanted: &'static str,
}

fn faster(ours: &Taken, other: &Taken) -> f64 {
    ours.figures.iops / other.figures.iops
}

fn cheaper(ours: &Taken, other: &Taken) -> f64 {
    ours.cpu_seconds_per_gib / other.cpu_seconds_per_gib
}

const GOALS: [Goal; 8] = [
    Goal {
        what: "uncached random reads, 64 in flight, against vblade -d",
        applies: |row| {
            row.disk == Disk::Uncached && row.pattern == Pattern::RandomRead && row.in_flight == 64
        },
        against: Server::Vblade,
        ratio: faster,
        reached: |ratio| ratio >= 6.0,
        wanted: "at least 6",
    },
    Goal {
        what: "uncached sequential reads, 64 in flight, against vblade -d -s",
        applies: |row| {
            row.disk == Disk::Uncached
                && row.pattern == Pattern::SequentialRead
                && row.in_flight == 64
        },
        against: Server::Vblade,
        ratio: faster,
        reached: |ratio| ratio >= 10.0,
        wanted: "at least 10",
    },
    Goal {
        what: "durable sequential writes, 64 in flight, against vblade -d -s",
        applies: |row| row.pattern == Pattern::SequentialWrite && row.in_flight == 64,
        against: Server::Vblade,
        ratio: faster,
        reached: |ratio| ratio >= 10.0,
        wanted: "at least 10",
    },
    Goal {
        what: "random reads of the slow disk, 32 in flight, against vblade -d",
        applies: |row| row.disk == Disk::Slow && row.in_flight == 32,
        against: Server::Vblade,
        ratio: faster,
        reached: |ratio| ratio >= 16.0,
        wanted: "at least 16",
    },
    Goal {
        what: "reads from memory, 64 in flight, against vblade -b 64",
        applies: |row| row.disk == Disk::Cached && row.in_flight == 64,
        against: Server::Vblade,
        ratio: faster,
        reached: |ratio| ratio >= 1.0,
        wanted: "at least 1",
    },
    Goal {
        what: "reads from memory, 64 in flight, against the ceiling",
        applies: |row| row.disk == Disk::Cached && row.in_flight == 64,
        against: Server::Ceiling,
        ratio: faster,
        reached: |ratio| ratio >= 0.85,
        wanted: "at least 0.85",
    },
    Goal {
        what: "CPU seconds per GiB, 64 in flight, against vblade",
        applies: |row| row.in_flight == 64,
        against: Server::Vblade,
        ratio: cheaper,
        reached: |ratio| ratio <= 0.7,
        wanted: "at most 0.7",
    },
    Goal {
        what: "one in flight, against vblade",
        applies: |row| row.in_flight == 1,
        against: Server::Vblade,
        ratio: faster,
        reached: |ratio| ratio >= 1.0,
        wanted: "at least 1",
    },
];

/// Whether a goal was reached, in words of one length.
pub fn verdict(reached: bool) -> &'static str {
    if reached {
        "reached    "
    } else {
        "NOT reached"
    }
}

/// Which goals were reached.
pub fn goals(measured: &[Measured]) {
    println!("\ngoals");
    for goal in &GOALS {
        for measured in measured.iter().filter(|m| (goal.applies)(&m.row)) {
            let (Some(ours), Some(other)) = (measured.of(Server::Ours), measured.of(goal.against))
            else {
                continue;
            };
            let ratio = (goal.ratio)(ours, other);
            let verdict = verdict((goal.reached)(ratio));
            println!(
                "  {verdict} {ratio:6.2} ({}) {}: {}",
                goal.wanted, goal.what, measured.name
            );
        }
    }
    let lost: u64 = measured
        .iter()
        .filter_map(|m| m.of(Server::Ours))
        .map(|taken| taken.figures.lost + taken.figures.errors)
        .sum();
    let verdict = verdict(lost == 0);
    println!("  {verdict} {lost:6} (0) frames lost or answered with an error by p2v, all rows");
    println!(
        "the load ran on one processor and the target on another; kernel work in interrupts is not in its CPU seconds"
    );
}

/// Everything, for a program.
pub fn json(measured: &[impl Serialize], to: &Path) -> Result<()> {
    fs::write(to, serde_json::to_vec_pretty(measured)?)?;
    println!("written to {}", to.display());
    Ok(())
}
