//! What the copies say, for people.

use super::{Disk, Measured, Peer, Row, Taken};
use crate::report::verdict;

/// One row, as soon as it is known.
pub fn line(measured: &Measured) {
    println!("{}", measured.name);
    for (peer, taken) in &measured.results {
        let mut more = String::new();
        if let Some(other) = measured.of(Peer::Nbdcopy) {
            more += &format!("  {:5.2} of nbdcopy", other.seconds / taken.seconds);
        }
        if let Some(limit) = measured.row.wire_limit() {
            let share = taken.megabytes * 1e6 / limit;
            more += &format!("  {:5.1} % of the wire", share * 100.0);
        }
        if taken.attach_seconds > 0.0 {
            more += &format!("  (after {:.1} s to attach)", taken.attach_seconds);
        }
        println!(
            "  {:16} {:>7.1} MB/s {:>6.2} s  CPU s/GiB: old {:5.2}, new {:5.2}  {:>6.1} MiB{more}",
            peer.words(),
            taken.megabytes,
            taken.seconds,
            taken.old_cpu_per_gib,
            taken.new_cpu_per_gib,
            taken.max_rss,
        );
    }
}

/// A figure to reach by one of ours.
struct Goal {
    what: &'static str,
    applies: fn(&Row) -> bool,
    ours: Peer,
    figure: fn(&Measured, &Taken) -> Option<f64>,
    reached: fn(f64) -> bool,
    wanted: &'static str,
}

fn against_nbdcopy(measured: &Measured, ours: &Taken) -> Option<f64> {
    Some(measured.of(Peer::Nbdcopy)?.seconds / ours.seconds)
}

fn share_of_wire(measured: &Measured, ours: &Taken) -> Option<f64> {
    Some(ours.megabytes * 1e6 / measured.row.wire_limit()?)
}

fn memory(_: &Measured, ours: &Taken) -> Option<f64> {
    Some(ours.max_rss)
}

const GOALS: [Goal; 6] = [
    Goal {
        what: "share of the wire, a disk full of random data, everything checked",
        applies: |row| row.disk == Disk::Random,
        ours: Peer::P2v,
        figure: share_of_wire,
        reached: |share| share >= 0.95,
        wanted: "at least 0.95",
    },
    Goal {
        what: "speed against nbdcopy, a disk full of random data, everything checked",
        applies: |row| row.disk == Disk::Random && row.mtu == 9000,
        ours: Peer::P2v,
        figure: against_nbdcopy,
        // To the two digits that are shown.
        reached: |ratio| ratio >= 0.995,
        wanted: "at least 1",
    },
    Goal {
        what: "speed against nbdcopy, --used-only, 20 % in use",
        applies: |row| row.disk == Disk::Aged,
        ours: Peer::P2vUsedOnly,
        figure: against_nbdcopy,
        reached: |ratio| ratio >= 4.0,
        wanted: "at least 4",
    },
    Goal {
        what: "speed against nbdcopy, 20 % in use, zeros in the rest",
        applies: |row| row.disk == Disk::AgedZeros,
        ours: Peer::P2v,
        figure: against_nbdcopy,
        reached: |ratio| ratio >= 2.0,
        wanted: "at least 2",
    },
    Goal {
        what: "MiB of memory",
        applies: |_| true,
        ours: Peer::P2v,
        figure: memory,
        reached: |mib| mib <= 128.0,
        wanted: "at most 128",
    },
    Goal {
        what: "MiB of memory, --used-only",
        applies: |_| true,
        ours: Peer::P2vUsedOnly,
        figure: memory,
        reached: |mib| mib <= 128.0,
        wanted: "at most 128",
    },
];

/// Which goals were reached.
pub fn goals(measured: &[Measured]) {
    if measured.is_empty() {
        return;
    }
    println!("\ngoals of copying");
    for goal in &GOALS {
        for measured in measured.iter().filter(|m| (goal.applies)(&m.row)) {
            let figure = measured
                .of(goal.ours)
                .and_then(|ours| (goal.figure)(measured, ours));
            let Some(figure) = figure else {
                continue;
            };
            let verdict = verdict((goal.reached)(figure));
            println!(
                "  {verdict} {figure:6.2} ({}) {}: {}",
                goal.wanted, goal.what, measured.name
            );
        }
    }
    println!(
        "the disk was not in the page cache when a copy began; the old side had one processor and the copying side \
         another;\nthe source, the copy and its reading back share this machine's one disk; no segmentation offloads; a wire of \
         1 Gbit/s counts\n24 bytes a frame for preamble, check sequence and gap"
    );
}
