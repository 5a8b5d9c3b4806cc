//! Frames that must change nothing: from a station that is not on the list, a write while read-only,
//! forged and replayed control requests.

use p2v_lab::xen_host::{self, XenHost};

use crate::frames::{aoe, is_refused, read, write};
use crate::scene::Scene;

const STRANGER: &str = "02:00:00:00:00:99";

/// To a machine that is exported, whose guest then has booted once.
pub fn nothing_changes_by_frames_that_nobody_authorised(scene: &mut Scene) {
    let hash = scene.disk.hash().unwrap();
    let host = &mut scene.host;
    let send = |frame: &str| format!("/lab/lab-guest send xenbr0 {frame}");

    // The frames are right: the host on the list gets its sector.
    let answer = host.ok(&send(&read(xen_host::MAC))).unwrap();
    assert_eq!(
        &answer[48..56],
        "40000140",
        "status 0x40, no error: {answer}"
    );
    // The same from another station is not answered at all.
    assert_eq!(host.ok(&send(&read(STRANGER))).unwrap().trim(), "silence");
    assert_eq!(
        host.ok(&send(&write(STRANGER, 9))).unwrap().trim(),
        "silence"
    );
    // A write while read-only is refused with ATA status, abort.
    let answer = host.ok(&send(&write(xen_host::MAC, 9))).unwrap();
    assert!(is_refused(&answer), "{answer}");

    // A forged control request: right in all but the signature.
    let forged = aoe(
        xen_host::MAC,
        0xf0,
        &format!(
            "04000000{}{}{}",
            "0200000000000000",
            "7fffffffffffffff",
            "ab".repeat(64)
        ),
    );
    let answer = host.ok(&send(&forged)).unwrap();
    assert_eq!(&answer[48..52], "0403", "not authorised: {answer}");

    // A recorded one: start and stop make the disk writable and read-only again.
    host.background(
        "capture",
        "/lab/lab-guest capture xenbr0 /tmp/control.hex",
        "capturing",
    )
    .unwrap();
    host.ok("p2v start e1").unwrap();
    host.wait_for_line("/var/log/xen/e1.serial", "p2v guest: boot 1")
        .unwrap();
    host.ok("p2v stop e1 --destroy").unwrap();
    host.end_background("capture").unwrap();
    let recorded = host.ok("cat /tmp/control.hex").unwrap();
    assert!(recorded.lines().count() >= 2, "{recorded}");
    // All but the last, whose repetition is answered like a retransmission and asks for read-only.
    let replies = host
        .ok("sed -i '$d' /tmp/control.hex; /lab/lab-guest replay xenbr0 /tmp/control.hex")
        .unwrap();
    assert_ne!(replies, "", "nothing was replayed");
    for reply in replies.lines() {
        assert_eq!(&reply[48..52], "0404", "replayed: {reply}");
    }
    let answer = host.ok(&send(&write(xen_host::MAC, 9))).unwrap();
    assert!(is_refused(&answer), "{answer}");
    scene
        .old
        .wait_for("refused", std::time::Duration::from_secs(10))
        .unwrap();

    // The guest counted one boot; nothing else is different.
    assert_eq!(scene.disk.boots().unwrap(), 1);
    let boot_sector = scene.artifacts.boot_sector(scene.run.directory()).unwrap();
    let path = scene.run.directory().join("expected.disk");
    let fresh =
        p2v_lab::disk::Disk::with_guest(&path, scene.disk.bytes().unwrap(), &boot_sector).unwrap();
    assert_eq!(fresh.hash().unwrap(), hash);
    let expected = format!(
        "cmp -l {} {} | wc -l",
        path.display(),
        scene.disk.path.display()
    );
    let differences = std::process::Command::new("sh")
        .args(["-c", &expected])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&differences.stdout).trim(), "1");
}

/// While a domain has the disk, which can be written then: AoE knows a sender by its address alone, and a guest on the
/// bridge can have this host's. The interface is called as those of guests are.
pub fn a_guest_cannot_write(host: &mut XenHost) {
    host.ok(
        "ip link add vif99.0 type veth peer name guest0 && ip link set vif99.0 master xenbr0 up && ip link set guest0 up",
    )
    .unwrap();
    let plain = write(xen_host::MAC, LBA);
    // In a tag of VLAN 0, which the receiver takes off.
    let tagged = format!("{}81000000{}", &plain[..24], &plain[24..]);
    let send = |frame: &str| format!("/lab/lab-guest send guest0 {frame}");
    for frame in [&plain, &tagged] {
        host.ok(&send(frame)).unwrap();
        assert!(!is_written(host), "{frame}");
    }
    // It is the rules that keep it off.
    host.ok("nft delete table bridge p2v").unwrap();
    host.ok(&send(&plain)).unwrap();
    assert!(is_written(host));
    host.ok(&format!(
        "dd if=/dev/zero of=/dev/mapper/p2v-e1-0 bs=512 seek={LBA} count=1 oflag=direct conv=notrunc 2>&1; ip link del vif99.0"
    ))
    .unwrap();
    assert!(!is_written(host));
}

/// A sector that neither the guest nor a partition table uses.
pub const LBA: u8 = 40;

/// Whether the old disk has there what [`write`] writes.
pub fn is_written(host: &mut XenHost) -> bool {
    let sector = format!(
        "dd if=/dev/mapper/p2v-e1-0 bs=512 skip={LBA} count=1 iflag=direct 2>/dev/null | od -An -tx1 -N2"
    );
    host.ok(&sector).unwrap().trim() == "ee ee"
}
