//! The product's main job: an old server becomes a Xen domain, and moves to LVM.

use std::time::Duration;

use p2v_lab::old_server::{self, AHCI_PC, IDE_PC};

use crate::drbd::moves_to_a_drbd_device;
use crate::scene::Scene;
use crate::start_fails::a_start_that_fails_is_taken_back;

#[test]
fn an_old_server_runs_as_a_domain_and_moves_to_a_volume() {
    let mut scene = Scene::with_guest("whole-path", IDE_PC);

    // It is found, and what it is made of is known.
    let list = scene.host.ok("p2v list").unwrap();
    assert!(
        list.contains("e1 ") && list.contains("exported") && list.contains("e1.0"),
        "{list}"
    );
    let boots = scene.host.ok("p2v list --boot").unwrap();
    for wanted in [
        old_server::MAC,
        "BIOS",
        "got 192.168.7.",
        "menu: start the agent",
        ", vmlinuz ",
        ", initrd ",
        "agent up as e1",
    ] {
        assert!(boots.contains(wanted), "{wanted:?} is not in:\n{boots}");
    }
    let show = scene.host.ok("p2v show e1").unwrap();
    for wanted in [
        "QEMU",
        "BIOS",
        old_server::MAC,
        "e1000",
        "ata_piix",
        "48.00 MiB",
        "p2v start e1",
    ] {
        assert!(show.contains(wanted), "{wanted:?} is not in:\n{show}");
    }
    let config = scene.host.ok("p2v config e1").unwrap();
    for wanted in [
        "type = \"hvm\"",
        old_server::MAC,
        "model=e1000",
        "/dev/mapper/p2v-e1-0",
        "127.0.0.1",
    ] {
        assert!(config.contains(wanted), "{wanted:?} is not in:\n{config}");
    }
    scene.host.ok("p2v doctor").unwrap();

    // The old system runs as a domain, on its old disk.
    scene.host.ok("p2v start e1").unwrap();
    scene.guest_says("p2v guest: boot 1");
    assert!(scene.host.ok("xl list e1").unwrap().contains("e1"));
    let table = scene.host.ok("dmsetup table p2v-e1-0").unwrap();
    assert!(table.starts_with("0 98304 linear"), "{table}");
    scene
        .old
        .wait_for("READ-WRITE", Duration::from_secs(20))
        .unwrap();

    let show = scene.host.ok("p2v show e1").unwrap();
    assert!(show.contains("e1.0 is read-write"), "{show}");

    // No copy while it runs.
    let refused = scene
        .host
        .run("p2v copy e1 --to vg0")
        .unwrap()
        .failure()
        .unwrap();
    assert!(refused.contains("the domain e1"), "{refused}");
    assert!(
        !scene
            .host
            .ok("lvs --noheadings -o lv_name vg0")
            .unwrap()
            .contains("e1")
    );

    scene.host.ok("p2v stop e1 --destroy").unwrap();
    assert_eq!(scene.disk.boots().unwrap(), 1);
    scene.host.ok("p2v copy e1 --to vg0").unwrap();
    let before = scene.old_checksum();

    // It runs from the volume.
    scene.host.ok("p2v cutover e1 --autostart").unwrap();
    scene.guest_says("p2v guest: boot 2");
    assert_eq!(
        scene.disk.boots().unwrap(),
        1,
        "the old disk was written after the cutover"
    );
    assert!(
        scene
            .host
            .run("p2v copy e1 --to vg0")
            .unwrap()
            .failure()
            .unwrap()
            .contains("moved")
    );
    scene.host.ok("p2v stop e1 --destroy").unwrap();
    let volume = scene
        .host
        .ok(&Scene::checksum(
            "/dev/mapper/p2v-e1-0",
            scene.disk.bytes().unwrap(),
        ))
        .unwrap();
    assert_eq!(volume, before);
    assert_eq!(scene.old_checksum(), before);
    let count = scene
        .host
        .ok("dd if=/dev/mapper/p2v-e1-0 bs=512 skip=1 count=1 status=none | od -An -tu4 -N4")
        .unwrap();
    assert_eq!(count.trim(), "2");

    // The old machine goes.
    scene.host.ok("p2v release e1").unwrap();
    scene.old.wait_until_off(Duration::from_secs(60)).unwrap();

    // The Xen host restarts: the disk is back before domains start by themselves.
    let Scene {
        host,
        run,
        artifacts,
        ..
    } = scene;
    let mut host = host.restart(&artifacts).unwrap();
    host.ok("p2v devices up").unwrap();
    assert_eq!(
        host.ok("dmsetup table p2v-e1-0").unwrap().split(' ').nth(1),
        Some("98304")
    );
    host.ok("for config in /etc/xen/auto/*; do xl create \"$config\" || exit 1; done")
        .unwrap();
    host.wait_for_line("/var/log/xen/e1.serial", "p2v guest: boot 3")
        .unwrap();
    let list = host.ok("p2v list").unwrap();
    assert!(list.contains("released, domain up"), "{list}");
    drop(host);
    run.succeeded();
}

#[test]
fn a_machine_of_other_parts_gets_a_domain_that_fits_it_and_moves_to_an_image_and_to_drbd() {
    let mut scene = Scene::with_guest("other-parts", AHCI_PC);
    a_start_that_fails_is_taken_back(&mut scene);
    let show = scene.host.ok("p2v show e1").unwrap();
    assert!(show.contains("controller ahci"), "{show}");

    let config = scene.host.ok("p2v config e1").unwrap();
    for wanted in ["hdtype = \"ahci\"", "model=rtl8139"] {
        assert!(config.contains(wanted), "{wanted:?} is not in:\n{config}");
    }
    scene.host.ok("p2v start e1").unwrap();
    scene.guest_says("p2v guest: boot 2");
    scene.host.ok("p2v stop e1 --destroy").unwrap();
    assert_eq!(scene.disk.boots().unwrap(), 2);

    // It runs from an image as well.
    let image = "/var/tmp/e1.qcow2";
    scene
        .host
        .ok(&format!("p2v copy e1 --to {image} && p2v cutover e1"))
        .unwrap();
    scene.guest_says("p2v guest: boot 3");
    scene.host.ok("p2v stop e1 --destroy").unwrap();
    let compared = scene
        .host
        .ok(&format!(
            "qemu-img check -q {image} && qemu-img convert -O raw {image} /var/tmp/e1.raw && {}",
            Scene::checksum("/var/tmp/e1.raw", scene.disk.bytes().unwrap())
        ))
        .unwrap();
    assert_eq!(compared, scene.old_checksum());

    // Back to the old disk, and to a device that another host has as well.
    scene.host.ok("p2v start e1 --discard-moved").unwrap();
    scene.guest_says("p2v guest: boot 3");
    scene.host.ok("p2v stop e1 --destroy").unwrap();
    moves_to_a_drbd_device(&mut scene, 4);
    assert_eq!(scene.disk.boots().unwrap(), 3);
    let Scene { host, old, run, .. } = scene;
    drop(host);
    drop(old);
    run.succeeded();
}
