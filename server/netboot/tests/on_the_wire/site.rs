//! What else a site has on the client's side of the wire: dnsmasq, which knows nothing of us.

use std::time::Instant;

use crate::lab::{CLIENT, LIMIT, Lab, Running, ip, quiet};

/// The DHCP server on the bridge of a lab that has one, which gets the address 192.168.7.2. `more`: its
/// arguments.
pub fn beside_machines(lab: &Lab, more: &[&str]) -> Running {
    ip(&format!("-n {} addr add {CLIENT}/24 dev br0", lab.client.0));
    start(lab, "br0", more)
}

/// The DHCP server on an interface that has its address; ready to answer. It names itself as
/// `next-server`, as it does unless told otherwise.
pub fn start(lab: &Lab, iface: &str, more: &[&str]) -> Running {
    let range = "--dhcp-range=192.168.7.100,192.168.7.110";
    let mut running = dnsmasq(lab, iface, &[&[range], more].concat());
    // Ready when its port is taken.
    let deadline = Instant::now() + LIMIT;
    while lab
        .client
        .enter(|| p2v_netboot::port_holders(67))
        .join()
        .unwrap()
        .is_empty()
    {
        assert!(Instant::now() < deadline, "dnsmasq does not start");
        assert!(running.0.try_wait().unwrap().is_none(), "dnsmasq has ended");
        std::thread::yield_now();
    }
    running
}

/// A router that announces itself: the cards' ROMs (iPXE 1.0.0+git-20190125) wait 16 s for one before they
/// go on with the address they have.
pub fn ipv6_router(lab: &Lab) -> Running {
    ip(&format!(
        "-n {} addr add fd00:7::2/64 dev br0 nodad",
        lab.client.0
    ));
    let range = "--dhcp-range=::,constructor:br0,ra-only";
    dnsmasq(lab, "br0", &["--enable-ra", range])
}

fn dnsmasq(lab: &Lab, iface: &str, more: &[&str]) -> Running {
    let mut command = lab.client.command("dnsmasq");
    command
        .args(["--conf-file=/dev/null", "--keep-in-foreground", "--port=0"])
        .args([
            "--no-ping",
            "--user=root",
            "--bind-interfaces",
            "--pid-file",
        ])
        .arg(format!("--interface={iface}"))
        .arg(format!(
            "--dhcp-leasefile={}",
            lab.path("dnsmasq.leases").display()
        ))
        .args(more);
    Running(quiet(&mut command).spawn().unwrap())
}
