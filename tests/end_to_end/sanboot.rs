//! iPXE, the ROM of many network cards, boots a machine without a disk from our target.

use std::time::Duration;

use p2v_lab::artifacts::Artifacts;
use p2v_lab::debian::Drive;
use p2v_lab::disk::Disk;
use p2v_lab::linux_host::LinuxHost;
use p2v_lab::old_server::{AHCI_PC, IDE_PC, OldServer};
use p2v_lab::run::Run;

use crate::wire::DISK;

const BYTES: u64 = 16 << 20;

/// DHCP as for any SAN boot: an address, and a root path that names the disk.
const UDHCPD: &str = "interface eth0
start 192.168.7.200
end 192.168.7.250
lease_file /run/udhcpd.leases
option subnet 255.255.255.0
option rootpath aoe:e1.0
";

#[test]
fn ipxe_boots_a_machine_without_a_disk_from_our_target() {
    let artifacts = Artifacts::find().unwrap();
    let run = Run::new(&artifacts.lab, "sanboot").unwrap();
    let work = run.directory().to_owned();
    let boot_sector = artifacts.boot_sector(&work).unwrap();
    let disk = Disk::with_guest(&work.join("old.disk"), BYTES, &boot_sector).unwrap();
    let drive = Drive::quick(&disk.path, "old");
    let mut host = LinuxHost::start(&artifacts, &work, &[drive]).unwrap();
    host.background(
        "target",
        &format!("p2v-agent export --shelf 1 --slot 0 --iface eth0 {DISK}"),
        "as e1.0 on eth0",
    )
    .unwrap();
    host.ok(&format!(
        "printf %s '{UDHCPD}' >/etc/udhcpd.conf && : >/run/udhcpd.leases"
    ))
    .unwrap();
    host.background("udhcpd", "udhcpd -f /etc/udhcpd.conf", "started")
        .unwrap();

    // It reads by INT 13h, and writes: the second machine finds what the first has counted.
    for (hardware, said) in [
        (IDE_PC, "p2v guest: boot 1"),
        (AHCI_PC, "p2v guest: boot 2"),
    ] {
        let mut machine = OldServer::diskless(&work, hardware).unwrap();
        machine.wait_for(said, Duration::from_secs(120)).unwrap();
    }
    drop(host);
    assert_eq!(disk.boots().unwrap(), 2);
    assert!(disk.has_pattern(1024, BYTES).unwrap(), "more was written");
    run.succeeded();
}
