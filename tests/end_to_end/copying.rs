//! Copies: whole, interrupted, refused; of what is used only; begun while the domain runs. And what runs from them.

use std::process::Command;
use std::time::Instant;

use p2v_lab::old_server::{OldServer, SATA_PC};
use p2v_lab::old_system;

use crate::scene::{EXPORT_LIMIT, Scene};

/// The MiB before these words in what `p2v copy` says, which may be none.
fn mib(said: &str, words: &str) -> f64 {
    let Some((before, _)) = said.split_once(&format!(" MiB {words}")) else {
        assert!(said.contains(&format!("0 B {words}")), "{said}");
        return 0.0;
    };
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

fn moved(said: &str) -> f64 {
    mib(said, "came over the wire")
}

/// LVM does not extend it: what else is in it can still be written. Not faster than the pool is looked at, under emulation.
fn a_pool_that_is_too_small_is_not_filled(scene: &mut Scene) {
    scene
        .host
        .ok("lvcreate -q -y -Zy --type thin-pool -L 64M -n small vg0 && lvcreate -q -V 16M -T vg0/small -n other")
        .unwrap();
    let full = scene
        .host
        .run("p2v copy e1 --limit 3M --to vg0/small")
        .unwrap();
    let full = full.failure().unwrap();
    assert!(
        full.contains("the thin pool vg0/small is nearly full"),
        "{full}"
    );
    scene
        .host
        .ok("dd if=/dev/urandom of=/dev/vg0/other bs=1M count=8 oflag=direct && lvremove -qy vg0/small")
        .unwrap();
}

#[test]
fn an_old_system_is_copied_and_runs_from_each_of_its_copies() {
    let mut scene = Scene::new("copying", SATA_PC, |artifacts, work| {
        old_system::make(artifacts, &work.join("old.disk"), work).unwrap()
    });
    let bytes = scene.disk.bytes().unwrap();
    let hash = scene.disk.hash().unwrap();
    let show = scene.host.ok("p2v show e1").unwrap();
    assert!(show.contains("partition 2: type 83, 128.00 MiB"), "{show}");

    // Killed half way: the first line of progress that is neither the beginning nor the end.
    scene
        .host
        .ok("p2v copy e1 --to vg0 >/tmp/copy.out 2>/tmp/copy.err & \
             echo $! >/tmp/copy.pid; \
             until grep -qE '^  e1.0: +[1-9][0-9]? %' /tmp/copy.err; do kill -0 $(cat /tmp/copy.pid) || break; sleep 0.2; done; \
             kill -9 $(cat /tmp/copy.pid)")
        .unwrap();
    let half = scene.host.ok("cat /tmp/copy.err").unwrap();
    assert!(
        !half.contains("100 %"),
        "it was not killed half way:\n{half}"
    );
    let show = scene.host.ok("p2v show e1").unwrap();
    assert!(show.starts_with("e1: copying"), "{show}");
    // A copy that is not complete is nothing to run from.
    assert!(
        !scene
            .host
            .run("p2v cutover e1")
            .unwrap()
            .failure()
            .unwrap()
            .is_empty()
    );

    // Now the old machine loses its power half way, and boots again. It is waited for; but its disk may
    // have changed meanwhile, so the copy does not count yet.
    scene
        .host
        .ok("rm -f /tmp/copy.err; (p2v copy e1 --to vg0; echo $? >/tmp/copy.status) >/tmp/copy.out 2>/tmp/copy.err & \
             until grep -qE '^  e1.0: +[1-9][0-9]? %' /tmp/copy.err; do test -e /tmp/copy.status && break; sleep 0.2; done; \
             if test -e /tmp/copy.status; then cat /tmp/copy.err /tmp/copy.status >&2; false; fi")
        .unwrap();
    drop(scene.old);
    scene
        .host
        .ok("until grep -q 'has said nothing for' /tmp/copy.err; do test -e /tmp/copy.status && break; sleep 0.2; done; \
             if test -e /tmp/copy.status; then cat /tmp/copy.err /tmp/copy.status >&2; false; fi")
        .unwrap();
    scene.old = OldServer::power_on(scene.run.directory(), &scene.disk, SATA_PC).unwrap();
    scene
        .old
        .wait_for("exporting e1.0 read-only", EXPORT_LIMIT)
        .unwrap();
    let said = scene
        .host
        .ok("until test -s /tmp/copy.status; do sleep 0.2; done; cat /tmp/copy.err /tmp/copy.status")
        .unwrap();
    assert!(said.contains("answers again, after"), "{said}");
    assert!(said.contains("restarted while e1.0 was copied"), "{said}");
    assert_eq!(said.lines().last(), Some("1"), "{said}");

    // Run again, it goes on.
    let copied = scene.host.ok("p2v copy e1 --to vg0").unwrap();
    assert!(copied.contains("compared with the old disk"), "{copied}");
    let certificate = scene
        .host
        .ok("cat /var/lib/p2v/copies/e1-disk0.certificate.txt")
        .unwrap();
    assert!(certificate.contains("BLAKE3"), "{certificate}");
    let verified = scene.host.ok("p2v verify e1").unwrap();
    assert!(verified.contains("is equal to the old disk"), "{verified}");
    let sum = |path: &str| format!("head -c {bytes} {path} | b2sum");
    let volume = scene.host.ok("lvs --noheadings -o lv_path vg0").unwrap();
    let there = scene.host.ok(&sum(volume.trim())).unwrap();
    let here = Command::new("sh")
        .args(["-c", &sum(&scene.disk.path.display().to_string())])
        .output()
        .unwrap();
    assert_eq!(there, String::from_utf8(here.stdout).unwrap());
    assert_eq!(scene.disk.hash().unwrap(), hash, "the old disk was changed");

    // One disk by its address, to a new file. That had everything to move; the second run of the
    // other copy only what the first had left.
    let begun = Instant::now();
    let file = scene
        .host
        .run("p2v copy e1.0 --to /var/tmp/old.img")
        .unwrap()
        .success()
        .unwrap();
    assert!(
        file.err
            .contains("instead of the earlier copy in volume vg0"),
        "{}",
        file.err
    );
    let (whole, whole_took) = (file.out, begun.elapsed());
    assert!(
        moved(&copied) < moved(&whole),
        "nothing of the first run was used:\n{copied}{whole}"
    );
    assert_eq!(scene.host.ok(&sum("/var/tmp/old.img")).unwrap(), there);
    assert_eq!(
        scene.host.ok("stat -c %s /var/tmp/old.img").unwrap().trim(),
        bytes.to_string()
    );

    // A volume that exists and is not ours is not touched, and what is on it is named.
    scene
        .host
        .ok("lvcreate -q -Wn -n precious -L 192M vg0 && mke2fs -q -F -t ext2 -L payroll /dev/vg0/precious")
        .unwrap();
    let refused = scene
        .host
        .run("p2v copy e1.0 --to vg0/precious")
        .unwrap()
        .failure()
        .unwrap();
    assert!(refused.contains("vg0/precious"), "{refused}");
    assert!(refused.contains("ext2 file system `payroll`"), "{refused}");
    scene.host.ok("e2fsck -fn /dev/vg0/precious").unwrap();

    // What its file systems use, to a thin volume, which reads as zeros at first. Of what was deleted
    // no more comes along than lies close to what was not.
    scene
        .host
        .ok("lvremove -qy vg0/precious vg0/e1-disk0 && lvcreate -q -y -Zy --type thin-pool -L 400M -n pool vg0")
        .unwrap();
    a_pool_that_is_too_small_is_not_filled(&mut scene);
    let copied = scene
        .host
        .run("p2v copy e1 --used-only --to vg0/pool")
        .unwrap()
        .success()
        .unwrap();
    for part in ["swap on partition 1: all 32.00 MiB", " MiB of 128.00 MiB"] {
        assert!(copied.err.contains(part), "{}", copied.err);
    }
    let volume = "/dev/vg0/e1-disk0";
    let mut deleted = |path: &str| -> u32 {
        let count = format!("grep -acF '{}' {path} || true", old_system::DELETED);
        scene.host.ok(&count).unwrap().trim().parse().unwrap()
    };
    let (all, left) = (deleted("/var/tmp/old.img"), deleted(volume));
    assert!(all > 1_000_000 && left < all / 50, "{left} of {all}");
    let used = scene
        .host
        .ok(&format!("lvs --noheadings -o data_percent {volume}"))
        .unwrap();
    assert!(used.trim().parse::<f64>().unwrap() < 55.0, "{used}");
    scene.host.ok("p2v verify e1").unwrap();
    scene.host.ok(&old_system::check(volume)).unwrap();

    // It runs from that, and finds its files.
    let begun = Instant::now();
    scene.host.ok("p2v cutover e1").unwrap();
    scene.guest_says(old_system::FILES);
    scene.guest_says("p2v guest: boot 1");
    let switched = begun.elapsed();
    scene.host.ok("p2v stop e1 --destroy").unwrap();
    let mapped = "/dev/mapper/p2v-e1-0";
    scene.host.ok(&old_system::check(mapped)).unwrap();
    assert_eq!(scene.disk.hash().unwrap(), hash, "the old disk was changed");

    // Back on the old disk, it is copied while it runs and writes: to begin with, and for no domain.
    scene.host.ok("p2v start e1 --discard-moved").unwrap();
    scene.guest_says("p2v guest: boot 1");
    let raw = "/var/tmp/old.raw";
    let copy = format!("p2v copy e1 --to {raw}");
    let begun = Instant::now();
    let first = scene.host.ok(&format!("{copy} --precopy")).unwrap();
    let before = begun.elapsed();
    // Each piece is looked at once: moved, or found to be zeros (it is not asked of every piece whether it is).
    let zeros = mib(&first, "are zeros");
    let disk = bytes as f64 / f64::from(1 << 20);
    assert!((moved(&first) + zeros - disk).abs() < 0.1, "{first}");
    assert!(zeros > 60.0, "{first}");
    let key = "xl qemu-monitor-command e1 'sendkey spc'";
    scene.host.ok(key).unwrap();
    scene.guest_says("p2v guest: boot 2");
    let begun = Instant::now();
    scene.host.ok("p2v stop e1 --destroy").unwrap();
    let refused = scene.host.run("p2v cutover e1").unwrap().failure().unwrap();
    assert!(refused.contains("cannot be switched over"), "{refused}");
    let last = scene.host.ok(&copy).unwrap();
    assert!((moved(&last) - 4.0).abs() < 0.1, "{last}");
    assert_eq!(scene.disk.boots().unwrap(), 2);
    scene.host.ok("p2v cutover e1").unwrap();
    scene.guest_says("p2v guest: boot 3");
    eprintln!(
        "without service: {:.1?} after a copy of {before:.1?} while it ran, or {:.1?} without that",
        begun.elapsed(),
        whole_took + switched
    );
    scene.host.ok("p2v stop e1 --destroy").unwrap();
    scene.host.ok(&old_system::check(raw)).unwrap();
    assert_eq!(scene.disk.boots().unwrap(), 2);
    let Scene { host, old, run, .. } = scene;
    drop(host);
    drop(old);
    run.succeeded();
}
