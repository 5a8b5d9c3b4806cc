//! Linux's `aoe` driver with fio, on a good wire and on bad ones: no wrong byte, and no acknowledged
//! write lost.

use p2v_lab::fio::Job;

use crate::wire::{DEVICE, WireScene, wait_until};

const MIB: u64 = 1 << 20;
/// What each wire has of the disk.
const PART: u64 = 8 * MIB;
/// Both ends of the disk are nobody's.
const MARGIN: u64 = 4 * MIB;

/// A wire, and how much is written over it. The driver lets its window fall to one frame at each
/// loss, and looks at what is overdue ten times a second: 1 MiB at 5 % is many seconds.
struct Case {
    /// As for `netem`, both ways.
    wire: &'static str,
    /// KiB written by each kind of job.
    kib: u64,
}

/// The first is a good wire, so that the driver has a measure of the round trip: without one its
/// first time-out is 16.5 s.
const CASES: &[Case] = &[
    Case {
        wire: "",
        kib: 4096,
    },
    Case {
        wire: "loss 1%",
        kib: 2048,
    },
    Case {
        wire: "loss 5%",
        kib: 512,
    },
    Case {
        wire: "duplicate 1%",
        kib: 2048,
    },
    Case {
        wire: "duplicate 5%",
        kib: 2048,
    },
    Case {
        wire: "delay 5ms reorder 1%",
        kib: 1024,
    },
    Case {
        wire: "delay 5ms reorder 5%",
        kib: 1024,
    },
    Case {
        wire: "delay 5ms 5ms duplicate 5%",
        kib: 1024,
    },
    Case {
        wire: "delay 3ms 3ms reorder 5% loss 1% duplicate 5%",
        kib: 512,
    },
];

/// The jobs for a part of the disk: blocks of all sizes in any order; reads and writes at once; and a
/// few blocks written over and over, where a frame that comes late would undo a newer write.
fn jobs(at: u64, kib: u64) -> [Job; 3] {
    let job = |offset: u64, size: u64, options: &str| Job {
        device: DEVICE.to_owned(),
        offset,
        size,
        options: options.to_owned(),
    };
    [
        job(
            at,
            kib << 10,
            "--rw=randwrite --bsrange=512-64k --blockalign=512",
        ),
        job(at + 4 * MIB, kib << 9, "--rw=randrw --bs=4k"),
        job(
            at + 7 * MIB,
            128 << 10,
            &format!("--rw=randwrite --bs=2k --norandommap --serialize_overlap=1 --io_size={kib}k"),
        ),
    ]
}

#[test]
fn the_linux_driver_gets_every_byte_right_on_bad_wires() {
    let end = MARGIN + CASES.len() as u64 * PART;
    let mut scene = WireScene::new("linux-driver", end + PART + MARGIN);
    // What an administrator looks at and does meanwhile.
    let stat = scene.host.ok("aoe-revalidate e1.0 && aoe-stat").unwrap();
    assert!(stat.contains("eth1") && stat.contains("up"), "{stat}");

    let parts = || (0..).map(|n| MARGIN + n * PART).zip(CASES);
    for (at, case) in parts() {
        scene.netem(case.wire);
        for job in jobs(at, case.kib) {
            let done = job.run(&mut scene.host).unwrap();
            assert!(done.read > 0, "{done:?} of {job:?} was not verified");
        }
        let lost = scene.lost();
        assert_eq!(
            lost > 0,
            case.wire.contains("loss"),
            "{}: {lost} lost",
            case.wire
        );
    }
    scene.netem("");
    long_frames(&mut scene, end);

    // Nothing that came later has changed what was verified before.
    scene.netem("");
    for (at, case) in parts() {
        for job in &jobs(at, case.kib)[..2] {
            job.verify(&mut scene.host).unwrap();
        }
    }
    scene.both_ends_agree();

    let (disk, run) = scene.end();
    assert!(
        disk.has_pattern(0, MARGIN).unwrap(),
        "the start was written"
    );
    assert!(
        disk.has_pattern(end + PART, end + PART + MARGIN).unwrap(),
        "the end was written"
    );
    run.succeeded();
}

/// Has the driver use jumbo frames, which the target offers it when they have gone to this host and
/// back: `p2v` sends them when it looks at the target.
fn long_frames(scene: &mut WireScene, at: u64) {
    let bytes = "grep -o 'maxbcnt: .*' /sys/kernel/debug/aoe/e1.0";
    assert!(scene.host.ok(bytes).unwrap().contains("maxbcnt: 1024"));
    // The target takes a new socket for the longer frames, and the driver asks once a minute, or when
    // it is told to.
    scene
        .host
        .ok(&format!(
            "ip link set eth1 mtu 9000 && ip -n target link set eth2 mtu 9000 && {}",
            wait_until(&format!(
                "p2v --iface eth1 --state /tmp/state list && aoe-revalidate e1.0 && {bytes} | grep 8704"
            ))
        ))
        .unwrap();
    for wire in ["", "loss 1%"] {
        scene.netem(wire);
        for job in jobs(at, 1024) {
            let done = job.run(&mut scene.host).unwrap();
            assert!(done.read > 0, "{done:?} of {job:?} was not verified");
        }
    }
    assert!(scene.lost() > 0);
}

#[test]
fn a_doubled_frame_that_comes_late_does_not_undo_a_newer_write() {
    let mut scene = WireScene::new("late-frames", 4 * MIB);
    // The target has to know how this initiator numbers its requests, and the driver the round trip.
    let [job, ..] = jobs(MIB, 1024);
    job.run(&mut scene.host).unwrap();
    // Every second frame is doubled, and each of the two comes when it likes: without the target's
    // care one of ten pairs of writes ends with the older one.
    scene.netem_arriving("delay 50ms 50ms duplicate 50%");
    let said = scene
        .host
        .ok(&format!("/lab/lab-guest rewrite {DEVICE} 20 200"))
        .unwrap();
    assert!(said.starts_with("0 of 320 writes"), "{said}");
    scene.netem("");
    scene.both_ends_agree();
    scene.end().1.succeeded();
}

#[test]
fn a_link_that_is_away_for_half_a_minute_costs_time_and_nothing_else() {
    let mut scene = WireScene::new("link-away", 16 * MIB);
    let job = Job {
        device: DEVICE.to_owned(),
        offset: MIB,
        size: 12 * MIB,
        options: "--rw=randwrite --bsrange=512-64k --blockalign=512 --rate=,1m".to_owned(),
    };
    let written = r"set -- $(cat '/sys/block/etherd!e1.0/stat'); test $7 -gt";
    scene
        .host
        .ok(&format!(
            "({}; echo $? >/tmp/status) >/tmp/result 2>/tmp/errors & {}",
            job.command(""),
            // 2 MiB of 12, in sectors.
            wait_until(&format!("{{ {written} 4096; }}"))
        ))
        .unwrap();
    scene
        .host
        .ok("ip -n target link set eth2 down && sleep 30 && ! test -e /tmp/status && ip -n target link set eth2 up")
        .unwrap();
    scene.host.ok(&wait_until("test -s /tmp/status")).unwrap();
    let said = scene
        .host
        .ok("cat /tmp/errors >&2; cat /tmp/result; exit $(cat /tmp/status)")
        .unwrap();
    let done = job.read_result(&said).unwrap();
    assert!(done.longest_write > 29.0, "the link was not away: {done:?}");
    assert_eq!(done.read, 12 * MIB, "{done:?}");
    job.verify(&mut scene.host).unwrap();
    scene.both_ends_agree();
    let (disk, run) = scene.end();
    assert!(disk.has_pattern(0, MIB).unwrap() && disk.has_pattern(13 * MIB, 16 * MIB).unwrap());
    run.succeeded();
}
