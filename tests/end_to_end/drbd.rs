//! A system that moves to a DRBD device, which has no mark of its own: it is found again, and nothing else is taken
//! for it.

use p2v_lab::xen_host::XenHost;

use crate::scene::Scene;

/// The resource `web`, as an operator writes it. Its peer is not there.
fn configure(host: &mut XenHost, minor: u32, disk: &str) {
    host.ok(&format!(
        "cat >/etc/drbd.d/web.res <<'END'\n\
         resource web {{ device minor {minor}; disk {disk}; meta-disk internal;\n\
           on xenhost {{ address 127.0.0.1:7789; }} on peer {{ address 127.0.0.1:7790; }} }}\n\
         END"
    ))
    .unwrap();
}

/// Moves the old server, whose disk is exported and whose guest has booted once.
pub fn moves_to_a_drbd_device(scene: &mut Scene, boot: u32) {
    let host = &mut scene.host;
    host.ok("modprobe drbd && mkdir -p /etc/drbd.d /var/lib/drbd && \
             for volume in web other; do lvcreate -q -Wn -y -L 64M -n $volume vg0; done")
        .unwrap();
    for disk in ["/dev/vg0/other", "/dev/vg0/web"] {
        configure(host, 0, disk);
        host.ok("drbdadm create-md --force web").unwrap();
    }
    host.ok("drbdadm up web && drbdadm primary --force web && udevadm settle")
        .unwrap();
    let copied = host.ok("p2v copy e1 --to /dev/drbd0").unwrap();
    assert!(copied.contains("device /dev/drbd/by-res/web/0"), "{copied}");
    host.ok("p2v cutover e1").unwrap();
    scene.guest_says(&format!("p2v guest: boot {boot}"));
    let host = &mut scene.host;
    host.ok("p2v stop e1 --destroy && p2v devices down && drbdadm down web")
        .unwrap();

    let refused = |host: &mut XenHost| {
        let outcome = host.run("p2v devices up").unwrap();
        outcome.failure().unwrap()
    };
    // The host starts again: DRBD is not up yet, or nobody made it Primary.
    let gone = refused(host);
    assert!(gone.contains("bring that up first"), "{gone}");
    configure(host, 25, "/dev/vg0/web");
    host.ok("drbdadm up web && udevadm settle").unwrap();
    let secondary = refused(host);
    assert!(secondary.contains("`drbdadm primary"), "{secondary}");
    // The resource of that name is on another disk.
    host.ok("drbdadm down web").unwrap();
    configure(host, 0, "/dev/vg0/other");
    host.ok("drbdadm up web && drbdadm primary --force web && udevadm settle")
        .unwrap();
    let other = refused(host);
    assert!(other.contains("is not the device"), "{other}");
    assert!(!host.ok("dmsetup ls").unwrap().contains("p2v-e1"));
    // It is the right one, with another number.
    host.ok("drbdadm down web").unwrap();
    configure(host, 25, "/dev/vg0/web");
    host.ok("drbdadm up web && drbdadm primary web && udevadm settle && p2v devices up")
        .unwrap();
    let table = host.ok("dmsetup table p2v-e1-0").unwrap();
    assert_eq!(table.trim(), "0 98304 linear 147:25 0");
    let count = host
        .ok("dd if=/dev/mapper/p2v-e1-0 bs=512 skip=1 count=1 status=none | od -An -tu4 -N4")
        .unwrap();
    assert_eq!(count.trim(), boot.to_string());
}
