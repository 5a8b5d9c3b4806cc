//! The lab itself, without the product: unless this works the other stories prove nothing.

use p2v_lab::artifacts::Artifacts;
use p2v_lab::run::Run;
use p2v_lab::xen_host::XenHost;

const DOMAIN: &str = r#"
name = "guest"
type = "hvm"
memory = 64
disk = [ "format=raw, vdev=hda, access=rw, target=/dev/vg0/guest" ]
boot = "c"
vnc = 0
serial = "file:/var/log/xen/guest.serial"
"#;

#[test]
fn xen_runs_a_guest_that_counts_its_boots_on_a_volume() {
    let artifacts = Artifacts::find().unwrap();
    let run = Run::new(&artifacts.lab, "smoke").unwrap();
    let boot_sector = artifacts.boot_sector(run.directory()).unwrap();
    let mut host = XenHost::start(&artifacts, run.directory()).unwrap();
    let info = host.ok("xl info").unwrap();
    assert!(info.contains("virt_caps") && info.contains("hvm"), "{info}");

    let octal: String = boot_sector.iter().map(|b| format!("\\{b:03o}")).collect();
    host.ok("lvcreate -q -Wn -n guest -L 8M vg0").unwrap();
    host.ok(&format!("printf '{octal}' >/dev/vg0/guest"))
        .unwrap();
    host.ok(&format!("cat >/etc/xen/guest.cfg <<'END'{DOMAIN}END"))
        .unwrap();
    for boot in ["p2v guest: boot 1", "p2v guest: boot 2"] {
        host.ok("xl create -q /etc/xen/guest.cfg").unwrap();
        host.wait_for_line("/var/log/xen/guest.serial", boot)
            .unwrap();
        host.ok("xl destroy guest").unwrap();
    }
    drop(host);
    run.succeeded();
}
