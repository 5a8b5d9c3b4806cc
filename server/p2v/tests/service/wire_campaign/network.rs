//! The wire: a Xen host with a bridge, old machines, a stranger's port, a guest and another network behind a router.

use std::fs::File;
use std::process::Command;
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns};
use p2v_dom0::tool::Tools;
use p2v_dom0::tool::nft;

use super::cast::{BOOTING, EXPORTS, FAR_ROUTER, GUEST, HOST, ROUTER, SERVER, STRANGER};
use crate::wire::{Wire, ip, run};

/// The host's bridge.
pub const BRIDGE: &str = "xenbr0";
/// In the tag of every AoE frame of the guest's, and of no other: its first two bytes.
pub const GUESTS_TAG: u16 = 0x6775;

/// A network namespace beside those of the [`Wire`], gone when dropped.
pub struct Place(pub String);

impl Place {
    fn new(what: &str, wire: &Wire) -> Place {
        let name = wire.host.replace("-host-", &format!("-{what}-"));
        ip(&format!("netns add {name}"));
        Place(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Runs `f` on a thread in that namespace; what it starts is there too.
pub fn inside<T: Send + 'static>(
    namespace: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        f()
    })
}

/// All of it. `wire.host` is the Xen host, `wire.machine` the first machine that boots.
pub struct Network {
    pub wire: Wire,
    pub second: Place,
    pub old: Place,
    pub stranger: Place,
    pub guest: Place,
    pub far: Place,
    _router: Place,
    /// The product's table holds: nothing of the guest's AoE arrives.
    pub guarded: bool,
}

impl Network {
    pub fn new() -> Network {
        let wire = Wire::new();
        let place = |what| Place::new(what, &wire);
        let (second, old, stranger) = (place("second"), place("old"), place("stranger"));
        let (guest, far, router) = (place("guest"), place("far"), place("router"));
        let (host, machine) = (&wire.host, &wire.machine);
        let on_host = |line: &str| ip(&format!("-n {host} {line}"));
        on_host(&format!(
            "link add {BRIDGE} address {HOST} type bridge forward_delay 0"
        ));
        on_host("addr flush dev p2vs");
        on_host("link set p2vs master xenbr0");
        on_host(&format!("addr add {SERVER}/24 dev {BRIDGE}"));
        on_host(&format!("link set {BRIDGE} up"));
        let port = |port: &str, end: &str, to: &Place, mac| {
            on_host(&format!(
                "link add {port} type veth peer name {end} address {mac} netns {}",
                to.0
            ));
            on_host(&format!("link set {port} master {BRIDGE} up"));
            ip(&format!("-n {} link set {end} up", to.0));
            ip(&format!("-n {} link set lo up", to.0));
        };
        for (number, (_, mac)) in EXPORTS.iter().enumerate() {
            port(
                &format!("p2vo{number}"),
                &format!("old{number}"),
                &old,
                *mac,
            );
        }
        port("p2vp", "eth0", &stranger, STRANGER);
        port("vif3.0", "eth0", &guest, GUEST);
        port("p2vr", "lan", &router, ROUTER);
        port("p2vm", "p2vc", &second, BOOTING[1].0);
        // A switch that learns where a sender is would take others' answers away from them, which p2v cannot help.
        for port in ["p2vp", "vif3.0", "p2vr"] {
            on_host(&format!("link set {port} type bridge_slave learning off"));
        }
        ip(&format!("-n {machine} addr flush dev p2vc"));
        ip(&format!(
            "-n {machine} link set p2vc address {}",
            BOOTING[0].0
        ));
        for (place, (_, address)) in [machine, &second.0].into_iter().zip(BOOTING) {
            ip(&format!("-n {place} addr add {address}/24 dev p2vc"));
            ip(&format!(
                "-n {place} route replace 255.255.255.255 dev p2vc"
            ));
        }
        ip(&format!(
            "-n {} addr add 192.168.7.66/24 dev eth0",
            stranger.0
        ));
        ip(&format!("-n {} addr add 192.168.7.30/24 dev eth0", guest.0));
        ip(&format!(
            "-n {} link add wan address {FAR_ROUTER} type veth peer name eth0 netns {}",
            router.0, far.0
        ));
        for line in [
            format!("-n {} link set wan up", router.0),
            format!("-n {} addr add 192.168.7.254/24 dev lan", router.0),
            format!("-n {} addr add 10.9.0.1/16 dev wan", router.0),
            format!("-n {} link set eth0 up", far.0),
            format!("-n {} addr add 10.9.0.2/16 dev eth0", far.0),
            format!("-n {} route add default via 10.9.0.1", far.0),
            format!("-n {host} route add 10.9.0.0/16 via 192.168.7.254"),
        ] {
            ip(&line);
        }
        run(Command::new("ip")
            .args(["netns", "exec", &router.0, "sysctl", "-q"])
            .args([
                "net.ipv4.ip_forward=1",
                "net.ipv4.conf.lan.rp_filter=0",
                "net.ipv4.conf.wan.rp_filter=0",
            ]));
        let guarded = inside(host, || {
            nft::keep_guests_off(&Tools::new(), &[BRIDGE.into()])
        });
        let guarded = match guarded.join().unwrap() {
            Ok(()) => true,
            // Some kernels have no such tables for bridges.
            Err(error) => {
                let why = error.to_string();
                assert!(why.contains("Operation not supported"), "{why}");
                false
            }
        };
        let network = Network {
            wire,
            second,
            old,
            stranger,
            guest,
            far,
            _router: router,
            guarded,
        };
        network.count_the_guests_frames();
        network
    }

    /// Where the old machines are, nft counts AoE with the guest's tag, also behind a VLAN tag.
    fn count_the_guests_frames(&self) {
        let mut rules = String::from("add table netdev seen; add counter netdev seen guests");
        for number in 0..EXPORTS.len() {
            let chain = format!("netdev seen old{number}");
            rules += &format!(
                "; add chain {chain} {{ type filter hook ingress device \"old{number}\" priority 0; }}"
            );
            for (at, tag) in [(96, 160), (128, 192)] {
                rules += &format!(
                    "; add rule {chain} @ll,{at},16 0x88a2 @ll,{tag},16 {GUESTS_TAG} counter name guests"
                );
            }
        }
        run(Command::new("ip")
            .args(["netns", "exec", &self.old.0, "nft"])
            .arg(rules));
    }

    /// AoE frames of the guest's that reached an old machine.
    pub fn guests_frames(&self) -> u64 {
        let told = run(Command::new("ip").args([
            "netns",
            "exec",
            &self.old.0,
            "nft",
            "list",
            "counter",
            "netdev",
            "seen",
            "guests",
        ]));
        let mut words = told.split_whitespace();
        words.find(|word| *word == "packets").unwrap();
        words.next().unwrap().parse().unwrap()
    }
}
