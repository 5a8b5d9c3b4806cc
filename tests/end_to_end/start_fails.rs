//! `p2v start` that does not come to its end: what it had done is taken back, or is put in order by
//! the operator's next command.

use p2v_lab::xen_host::{self, XenHost};

use crate::frames;
use crate::scene::Scene;

/// That nothing of a started domain is left on the Xen host, and nobody can write to the old disk.
fn nothing_is_left(host: &mut XenHost) {
    let domains = host.ok("xl list").unwrap();
    assert!(!domains.contains("e1"), "{domains}");
    let devices = host.ok("dmsetup ls").unwrap();
    assert!(!devices.contains("p2v-e1"), "{devices}");
    let devices = host.ok("ls /dev/etherd 2>/dev/null || true").unwrap();
    assert!(!devices.contains("e1.0"), "{devices}");
    // Tried: a sector that nobody needs.
    let frame = frames::write(xen_host::MAC, 9);
    let answer = host
        .ok(&format!("/lab/lab-guest send old7 {frame}"))
        .unwrap();
    assert!(frames::is_refused(&answer), "{answer}");
}

/// To a machine that is exported, whose guest then has booted once.
pub fn a_start_that_fails_is_taken_back(scene: &mut Scene) {
    let hash = scene.disk.hash().unwrap();
    let host = &mut scene.host;

    // xl makes the domain, and cannot put its interface on the bridge that an operator wrote.
    // (`p2v list` reads the inventory that the config is made from.)
    host.ok("p2v list && p2v config e1 --write").unwrap();
    host.ok("sed -i.good 's/bridge=xenbr0/bridge=nobridge/' /etc/xen/e1.cfg && ! cmp -s /etc/xen/e1.cfg /etc/xen/e1.cfg.good")
        .unwrap();
    let refused = host.run("p2v start e1").unwrap().failure().unwrap();
    assert!(
        refused.contains("xl create") && refused.contains("was taken back"),
        "{refused}"
    );
    nothing_is_left(host);
    let modules = host.ok("cat /proc/modules").unwrap();
    assert!(!modules.contains("aoe "), "{modules}");

    // p2v itself is killed at the last step: the export is read-write, the device is mapped.
    host.ok("mv /etc/xen/e1.cfg.good /etc/xen/e1.cfg").unwrap();
    host.ok(
        "mkdir /tmp/killer && printf '#!/bin/sh\\n[ \"$1\" != create ] || kill -9 $PPID\\nexec %s \"$@\"\\n' \
         \"$(command -v xl)\" >/tmp/killer/xl && chmod +x /tmp/killer/xl",
    )
    .unwrap();
    let killed = host.run("PATH=/tmp/killer:$PATH p2v start e1").unwrap();
    assert_eq!(killed.status, 137, "{killed:?}");
    assert!(host.ok("dmsetup ls").unwrap().contains("p2v-e1-0"));
    assert_eq!(scene.disk.hash().unwrap(), hash, "nobody wrote");
    host.run("xl destroy e1").unwrap();
    host.ok("p2v stop e1").unwrap();
    nothing_is_left(host);

    // And then it goes as it should.
    host.ok("p2v start e1").unwrap();
    scene.guest_says("p2v guest: boot 1");
    scene.host.ok("p2v stop e1 --destroy").unwrap();
    nothing_is_left(&mut scene.host);
    assert_eq!(scene.disk.boots().unwrap(), 1);
}
