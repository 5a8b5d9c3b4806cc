//! The lab itself: without this the other tests prove nothing.

use p2v_lab::artifacts::Artifacts;
use p2v_lab::run::Run;
use p2v_lab::xen_host::{self, XenHost};

#[test]
fn xen_runs_a_guest_that_counts_its_boots_on_a_volume() {
    let artifacts = Artifacts::find().unwrap();
    let run = Run::new(&artifacts.lab, "smoke").unwrap();
    let mut host = XenHost::start(&artifacts, run.directory(), xen_host::SETTINGS).unwrap();
    let info = host.ok("xl info").unwrap();
    assert!(info.contains("hvm"), "{info}");
    println!("{info}");
    drop(host);
    run.succeeded();
}
