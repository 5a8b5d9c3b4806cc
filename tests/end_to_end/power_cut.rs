//! The old server loses its power while it is written to: what it acknowledged is on its disk.

use std::fs;
use std::process::Command;

use p2v_lab::artifacts::Artifacts;
use p2v_lab::disk::Disk;
use p2v_lab::fio::Job;
use p2v_lab::forgetful_disk::ForgetfulDisk;
use p2v_lab::old_server::{IDE_PC, OldServer};
use p2v_lab::run::Run;

use crate::scene::{Scene, guest_disk};
use crate::wire::wait_until;

const MIB: u64 = 1 << 20;

/// A write that fio was told is done: where, and how long.
struct Acknowledged {
    offset: usize,
    bytes: usize,
}

/// Reads fio's log of latencies, which has a line for each request that succeeded: time, latency,
/// direction (1: write), block size, offset, priority.
fn acknowledged(log: &str) -> Vec<Acknowledged> {
    log.lines()
        .map(|line| {
            let fields: Vec<usize> = line
                .split(", ")
                .map(|field| field.parse().unwrap_or(usize::MAX))
                .collect();
            assert_eq!(fields[2], 1, "not a write: {line}");
            Acknowledged {
                offset: fields[4],
                bytes: fields[3],
            }
        })
        .collect()
}

#[test]
fn the_lab_s_disk_forgets_what_it_was_not_told_to_keep() {
    let artifacts = Artifacts::find().unwrap();
    let run = Run::new(&artifacts.lab, "forgetful-disk").unwrap();
    let disk = Disk::with_pattern(&run.directory().join("old.disk"), MIB).unwrap();
    let served = ForgetfulDisk::start(run.directory(), &disk).unwrap();
    // `abort`: without the flush with which it would end; `stdbuf`: what it has said is heard.
    let orders = [
        "write -P 0x11 0 4k",
        "flush",
        "write -P 0x22 4k 4k",
        "abort",
    ];
    let output = Command::new("stdbuf")
        .args(["-oL", "qemu-io", "-f", "raw", "-t", "writeback"])
        .args(orders.iter().flat_map(|order| ["-c", order]))
        .arg(served.uri())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches("wrote 4096/4096").count(), 2, "{output:?}");
    served.cut_power();
    assert_eq!(fs::read(&disk.path).unwrap()[..4096], [0x11; 4096]);
    assert!(disk.has_pattern(4096, MIB).unwrap(), "it was not forgotten");
    run.succeeded();
}

#[test]
fn a_power_cut_loses_no_acknowledged_write() {
    let mut served = None;
    let mut scene = Scene::with_machine("power-cut", guest_disk, |work, disk| {
        let disk = served.insert(ForgetfulDisk::start(work, disk).unwrap());
        // A disk that says it has a cache, as disks do.
        OldServer::power_on_with(work, &disk.uri(), ",cache=writeback", IDE_PC).unwrap()
    });
    scene.host.ok("p2v start e1").unwrap();
    scene.guest_says("p2v guest: boot 1");

    // The guest has halted. Each block is written once, and says where it belongs.
    let job = Job {
        device: "/dev/mapper/p2v-e1-0".to_owned(),
        offset: MIB,
        size: 46 * MIB,
        options: "--rw=randwrite --bsrange=512-64k --blockalign=512 --verify=pattern --verify_pattern=%o \
                  --write_lat_log=told --log_offset=1"
            .to_owned(),
    };
    let written = |sectors: u64| {
        format!(r"set -- $(cat '/sys/block/etherd!e1.0/stat'); test $7 -gt {sectors}")
    };
    scene
        .host
        .ok(&format!(
            "({}; echo $? >/tmp/status) >/tmp/result 2>/tmp/errors & {}",
            job.command(""),
            wait_until(&format!("{{ {}; }}", written(2 * 3 * 1024)))
        ))
        .unwrap();
    // The disk first: whatever the machine still says of it is not true.
    served.unwrap().cut_power();
    let Scene {
        mut host,
        old,
        disk,
        run,
        ..
    } = scene;
    drop(old);
    // The driver would wait for it for three minutes.
    host.ok("echo 2 >/sys/module/aoe/parameters/aoe_deadsecs")
        .unwrap();
    host.ok(&wait_until("test -s /tmp/status")).unwrap();
    let ended = host.run("cat /tmp/errors >&2; cat /tmp/result; exit $(cat /tmp/status)");
    let said = ended.unwrap().failure().unwrap();
    assert!(said.contains("Input/output error"), "{said}");

    let told = acknowledged(&host.ok("cat /tmp/fio/told_lat.1.log").unwrap());
    let image = fs::read(&disk.path).unwrap();
    let mut lost = Vec::new();
    for Acknowledged { offset, bytes } in &told {
        let block = &image[*offset..offset + bytes];
        let right = (*offset as u64).to_le_bytes();
        if block.chunks_exact(8).any(|word| word != right) {
            lost.push(*offset);
        }
    }
    let bytes: usize = told.iter().map(|write| write.bytes).sum();
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged writes are not on the disk, at {lost:?}",
        lost.len(),
        told.len()
    );
    // It was in the midst of it.
    assert!(
        bytes as u64 > 2 * MIB && (bytes as u64) < job.size,
        "{bytes} bytes in {} writes",
        told.len()
    );
    drop(host);
    run.succeeded();
}
