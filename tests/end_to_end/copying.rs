//! Copies: whole, interrupted, refused.

use p2v_lab::disk::Disk;
use p2v_lab::old_server::{IDE_PC, OldServer};

use crate::scene::Scene;

/// The MiB that `p2v copy` says came over the wire.
fn moved(said: &str) -> f64 {
    let Some((before, _)) = said.split_once(" MiB came over the wire") else {
        assert!(said.contains("0 B came over the wire"), "{said}");
        return 0.0;
    };
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_partitioned_disk_is_copied_byte_for_byte_also_after_an_interruption() {
    let mut scene = Scene::new("copying", IDE_PC, |_, work| {
        Disk::with_partitions(&work.join("old.disk"), work).unwrap()
    });
    let bytes = scene.disk.bytes().unwrap();
    let hash = scene.disk.hash().unwrap();
    let show = scene.host.ok("p2v show e1").unwrap();
    assert!(show.contains("partition 2: type 83, 256.00 MiB"), "{show}");

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
    scene.old = OldServer::power_on(scene.run.directory(), &scene.disk, IDE_PC).unwrap();
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
    let here = std::process::Command::new("sh")
        .args(["-c", &sum(&scene.disk.path.display().to_string())])
        .output()
        .unwrap();
    assert_eq!(there, String::from_utf8(here.stdout).unwrap());
    assert_eq!(scene.disk.hash().unwrap(), hash, "the old disk was changed");

    // One disk by its address, to a new file. That had everything to move; the second run of the
    // other copy only what the first had left.
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
    let whole = file.out;
    assert!(
        moved(&copied) < moved(&whole),
        "nothing of the first run was used:\n{copied}{whole}"
    );
    assert_eq!(scene.host.ok(&sum("/var/tmp/old.img")).unwrap(), there);
    assert_eq!(
        scene.host.ok("stat -c %s /var/tmp/old.img").unwrap().trim(),
        bytes.to_string()
    );

    // To a thin volume: zeros take no room there.
    scene
        .host
        .ok("lvremove -qy vg0/e1-disk0 && lvcreate -q -y -Zy --type thin-pool -L 400M -n pool vg0")
        .unwrap();
    scene.host.ok("p2v copy e1.0 --to vg0/pool").unwrap();
    assert_eq!(scene.host.ok(&sum("/dev/vg0/e1-disk0")).unwrap(), there);
    let used = scene
        .host
        .ok("lvs --noheadings -o data_percent vg0/e1-disk0")
        .unwrap();
    assert!(used.trim().parse::<f64>().unwrap() < 95.0, "{used}");
    scene.host.ok("lvremove -qy vg0/e1-disk0 vg0/pool").unwrap();

    // A volume that exists and is not ours is not touched, and what is on it is named.
    scene
        .host
        .ok("lvcreate -q -Wn -n precious -L 320M vg0 && mke2fs -q -F -t ext2 -L payroll /dev/vg0/precious")
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
    let Scene { host, old, run, .. } = scene;
    drop(host);
    drop(old);
    run.succeeded();
}
