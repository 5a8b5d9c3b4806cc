//! The product's main job: an old server becomes a Xen domain, and moves to LVM.

use std::path::Path;
use std::time::Duration;

use p2v_lab::artifacts::Artifacts;
use p2v_lab::disk::Disk;
use p2v_lab::old_server::{self, AHCI_PC, IDE_PC, OldServer};
use p2v_lab::xen_host::XenHost;

use crate::drbd::moves_to_a_drbd_device;
use crate::scene::{EXPORT_LIMIT, Scene, guest_disk};
use crate::start_fails::a_start_that_fails_is_taken_back;

/// The old disk is half of a mirror, which a host with mdadm assembles as its own. This one is as `p2v doctor` asks for
/// (`tests/xen-host/build`): without that, md has the copy when the host has restarted, and its domain cannot start.
fn mdadm_is_there(host: &mut XenHost) {
    let doctor = host.ok("mdadm --version && p2v doctor").unwrap();
    assert!(!doctor.contains("mdadm assembles"), "{doctor}");
}

/// The superblock is seen there, and nothing has taken the disk by it.
fn is_left_alone_by_mdadm(host: &mut XenHost, device: &str) {
    let found = format!("udevadm settle; blkid -p -s TYPE -o value {device}; cat /proc/mdstat");
    let found = host.ok(&found).unwrap();
    assert!(found.starts_with("linux_raid_member"), "{found}");
    assert!(!found.contains("\nmd"), "{found}");
}

#[test]
fn an_old_server_runs_as_a_domain_and_moves_to_a_volume() {
    let half_of_a_mirror = |artifacts: &Artifacts, work: &Path| {
        let disk = guest_disk(artifacts, work);
        disk.make_raid_member().unwrap();
        disk
    };
    let power_on = |work: &Path, disk: &Disk| OldServer::power_on(work, disk, IDE_PC).unwrap();
    let mut scene = Scene::prepared("whole-path", mdadm_is_there, half_of_a_mirror, power_on);

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
    // Who compares the codes of the keys finds the same on both.
    let mut shown = show.lines().map(str::trim);
    let codes = shown.find_map(|line| line.strip_suffix(" (as on its screen)"));
    let screen = scene.old.console_text();
    let agree = codes.is_some_and(|codes| screen.contains(codes));
    assert!(agree, "{show}\n{screen}");
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
    is_left_alone_by_mdadm(&mut scene.host, "/dev/etherd/e1.0");
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
    is_left_alone_by_mdadm(&mut host, "/dev/vg0/e1-disk0");
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

/// A switch between the host and the old machines: they are at ports of VLAN 7, and the host's port carries it tagged. The
/// address that the lab knows the host by is that of its interface in the VLAN.
const VLAN: &str = "modprobe 8021q && ip link set eth0 nomaster && \
    ip link add sw0 type bridge vlan_filtering 1 vlan_default_pvid 0 forward_delay 0 && \
    ip link add trunk0 type veth peer name trunk1 && \
    ip link set trunk1 master sw0 up && ip link set eth0 master sw0 up && \
    bridge vlan add dev trunk1 vid 7 && bridge vlan add dev eth0 vid 7 pvid untagged && \
    ip link set sw0 up && ip link set trunk0 up && \
    ip link set xenbr0 address 52:54:00:aa:00:09 && \
    ip link add link trunk0 name old7 address 52:54:00:aa:00:01 type vlan id 7 && ip link set old7 up && \
    ip address del 192.168.7.1/24 dev xenbr0 && ip address add 192.168.7.1/24 dev old7 && \
    sed -i 's/^iface = .*/iface = \"old7\"/' /etc/p2v/p2v.toml";

/// The power was cut, and its disk is first in its boot order: it comes by the network, as before.
fn the_old_machine_does_not_start_by_itself(mut scene: Scene) -> Scene {
    let boots = scene.disk.boots().unwrap();
    drop(scene.old);
    scene.old =
        OldServer::power_on_its_own_system(scene.run.directory(), &scene.disk, AHCI_PC).unwrap();
    let exported = "exporting e1.0 read-only";
    scene.old.wait_for(exported, EXPORT_LIMIT).unwrap();
    assert_eq!(scene.disk.boots().unwrap(), boots);
    scene
}

#[test]
fn a_machine_of_other_parts_gets_a_domain_that_fits_it_and_moves_to_an_image_and_to_drbd() {
    let on_a_vlan = |host: &mut XenHost| {
        host.ok(VLAN).unwrap();
        // Also when it is moved.
        let shows_its_disks = format!(
            "printf '[machines.\"{}\"]\nboot = \"agent\"\n' >>/etc/p2v/p2v.toml",
            old_server::MAC
        );
        host.ok(&shows_its_disks).unwrap();
    };
    let power_on = |work: &Path, disk: &Disk| OldServer::power_on(work, disk, AHCI_PC).unwrap();
    let mut scene = Scene::prepared("other-parts", on_a_vlan, guest_disk, power_on);
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
    let before = scene.old_checksum();
    scene
        .host
        .ok(&format!(
            "p2v copy e1 --to {image} && p2v cutover e1 --disarm-old-disk"
        ))
        .unwrap();
    scene.guest_says("p2v guest: boot 3");
    let mut scene = the_old_machine_does_not_start_by_itself(scene);
    scene.host.ok("p2v stop e1 --destroy").unwrap();
    let compared = scene
        .host
        .ok(&format!(
            "qemu-img check -q {image} && qemu-img convert -O raw {image} /var/tmp/e1.raw && {}",
            Scene::checksum("/var/tmp/e1.raw", scene.disk.bytes().unwrap())
        ))
        .unwrap();
    assert_eq!(compared, before);

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
