//! The old machine goes off and on while its disk is written to: the domain waits, and nothing is lost.

use p2v_lab::fio::Job;
use p2v_lab::old_server::{IDE_PC, OldServer};
use p2v_lab::xen_host::XenHost;

use crate::scene::{EXPORT_LIMIT, Scene};
use crate::strangers::{a_guest_cannot_write, nothing_changes_by_frames_that_nobody_authorised};
use crate::wire::wait_until;

const MIB: u64 = 1 << 20;

#[test]
fn an_old_machine_that_was_off_for_a_while_keeps_its_domain_waiting_and_loses_nothing() {
    let mut scene = Scene::with_guest("outage", IDE_PC);
    nothing_changes_by_frames_that_nobody_authorised(&mut scene);
    scene.host.ok("p2v start e1").unwrap();
    scene.guest_says("p2v guest: boot 2");
    a_guest_cannot_write(&mut scene.host);
    // What the guest wrote is in this host's memory for a while.
    scene.host.ok("sync").unwrap();
    let dead_seconds = "cat /sys/module/aoe/parameters/aoe_deadsecs";
    assert_eq!(scene.host.ok(dead_seconds).unwrap().trim(), "3600");

    let watch = |host: &mut XenHost| {
        host.background("p2v-watch", "p2v watch", "watching")
            .unwrap()
    };
    let log = "/var/log/p2v-watch.log";
    let is_paused = "xl list e1 | grep -- '--p---'";
    watch(&mut scene.host);
    // It puts back what keeps guests off the disk.
    let kept_off = wait_until("nft list table bridge p2v >/dev/null 2>&1");
    scene.host.ok(&kept_off).unwrap();

    // The guest has halted; this writes in its place, by the same way, slowly enough to be in the midst of it.
    let job = Job {
        device: "/dev/mapper/p2v-e1-0".to_owned(),
        offset: MIB,
        size: 46 * MIB,
        options: "--rw=randwrite --bsrange=512-64k --blockalign=512 --verify=pattern --verify_pattern=%o --rate=2m"
            .to_owned(),
    };
    let written = r"set -- $(cat '/sys/block/etherd!e1.0/stat'); test $7 -gt 4096";
    scene
        .host
        .ok(&format!(
            "({}; echo $? >/tmp/status) >/tmp/result 2>&1 & {}",
            job.command("--do_verify=0"),
            wait_until(&format!("{{ {written}; }}"))
        ))
        .unwrap();
    let Scene {
        mut host,
        old,
        disk,
        run,
        ..
    } = scene;
    // What the disk is like while the domain has it is seen just now.
    let seen = wait_until("test -s /run/p2v/seen/e1.json");
    host.ok(&format!("rm -f /run/p2v/seen/e1.json; {seen}"))
        .unwrap();
    drop(old);
    let mut old = OldServer::power_on(run.directory(), &disk, IDE_PC).unwrap();
    host.wait_for_line(log, "OLD MACHINE SILENT").unwrap();
    let silent = host.ok("p2v show e1").unwrap();
    assert!(silent.contains("OLD MACHINE SILENT"), "{silent}");
    host.wait_for_line(log, "e1: WARNING: the domain is paused")
        .unwrap();
    host.ok(is_paused).unwrap();
    // Whose pause that is outlives the watch.
    host.ok("kill -9 $(cat /run/p2v-watch.pid)").unwrap();
    watch(&mut host);
    old.wait_for("exporting e1.0 WAITING", EXPORT_LIMIT)
        .unwrap();

    // It went from its agent to its agent, and cannot have done anything else.
    host.wait_for_line(log, "e1: the old machine cannot have run its own system")
        .unwrap();
    host.wait_for_line(log, "e1: the domain is unpaused")
        .unwrap();
    assert!(host.run(is_paused).unwrap().failure().is_ok());
    host.ok(&wait_until("test -s /tmp/status")).unwrap();
    let said = host.ok("cat /tmp/result; exit $(cat /tmp/status)").unwrap();
    let done = job.read_result(&said).unwrap();
    println!("the longest write took {:.0} s", done.longest_write);
    assert!(
        done.written >= job.size && done.longest_write > 10.0,
        "{done:?}"
    );
    host.ok(&job.command("--verify_only")).unwrap();
    let kernel = host.ok("dmesg").unwrap();
    for error in ["ata error", "I/O error", "lost async"] {
        assert!(!kernel.contains(error), "{error:?} in {kernel}");
    }
    let over = host.ok("p2v show e1").unwrap();
    assert!(
        !over.contains("OLD MACHINE") && over.contains("were away for"),
        "{over}"
    );

    // Once more; and this time it starts its own system before it comes back.
    drop(old);
    host.wait_for_line(log, "OLD MACHINE SILENT").unwrap();
    let mut own = OldServer::power_on_its_own_system(run.directory(), &disk, IDE_PC).unwrap();
    own.wait_for("p2v guest: boot 3", EXPORT_LIMIT).unwrap();
    drop(own);
    let mut old = OldServer::power_on(run.directory(), &disk, IDE_PC).unwrap();
    old.wait_for("exporting e1.0 WAITING", EXPORT_LIMIT)
        .unwrap();
    host.wait_for_line(log, "e1.0 is NOT AS IT WAS").unwrap();
    let restarted = host.ok("p2v show e1").unwrap();
    assert!(
        restarted.contains("OLD MACHINE RESTARTED") && restarted.contains("NOT AS IT WAS"),
        "{restarted}"
    );
    let unsure = host
        .run("p2v resume e1 --old-system-did-not-run")
        .unwrap()
        .failure()
        .unwrap();
    assert!(unsure.contains("p2v stop e1 --destroy"), "{unsure}");
    host.ok(is_paused).unwrap();

    // It falls silent with something to write, and stays away.
    drop(old);
    host.ok("dd if=/dev/zero of=/dev/mapper/p2v-e1-0 bs=4k count=1 oflag=direct seek=1000 2>/tmp/dd.err & true")
        .unwrap();
    let ended = host
        .run("p2v stop e1 --destroy")
        .unwrap()
        .success()
        .unwrap();
    assert!(
        ended.err.contains("is missing on the old disk"),
        "{ended:?}"
    );
    assert!(!host.ok("xl list").unwrap().contains("e1"));
    assert!(!host.ok("dmsetup ls").unwrap().contains("p2v-e1"));
    assert!(
        host.ok("p2v show e1")
            .unwrap()
            .contains("is missing on them")
    );
    assert_eq!(host.ok(dead_seconds).unwrap().trim(), "180");
    drop(host);
    run.succeeded();
}
