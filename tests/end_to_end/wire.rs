//! A wire that loses, doubles and reorders frames, between Linux's `aoe` driver and our target.
//!
//! The driver works in the initial network namespace only, so the target gets one of its own, in the
//! same machine. Between them are two network cards and a cable, and at the target's end of it `netem`
//! both ways: on what leaves, and by way of an `ifb` interface on what arrives.

use p2v_lab::artifacts::Artifacts;
use p2v_lab::debian::Drive;
use p2v_lab::disk::Disk;
use p2v_lab::linux_host::LinuxHost;
use p2v_lab::run::Run;

/// The exported disk where it is, and where the driver has it.
pub const DISK: &str = "/dev/disk/by-id/virtio-old";
pub const DEVICE: &str = "/dev/etherd/e1.0";

/// A host with the driver, and the target with a disk.
pub struct WireScene {
    pub host: LinuxHost,
    pub disk: Disk,
    pub run: Run,
}

impl WireScene {
    /// Sets it up, with a disk of `bytes` in a pattern.
    pub fn new(name: &str, bytes: u64) -> WireScene {
        let artifacts = Artifacts::find().unwrap();
        let run = Run::new(&artifacts.lab, name).unwrap();
        let disk = Disk::with_pattern(&run.directory().join("old.disk"), bytes).unwrap();
        let drive = Drive::quick(&disk.path, "old");
        let mut host = LinuxHost::start(&artifacts, run.directory(), &[drive]).unwrap();
        host.ok(
            "modprobe -a ifb sch_netem sch_ingress cls_matchall act_mirred && \
                 mount -t debugfs debugfs /sys/kernel/debug && \
                 ip netns add target && ip link set eth2 netns target && \
                 ip -n target link add arriving type ifb && \
                 ip -n target link set arriving up && ip -n target link set eth2 up && \
                 ip link set eth1 up && \
                 tc -n target qdisc add dev eth2 ingress && \
                 tc -n target filter add dev eth2 parent ffff: matchall \
                     action mirred egress redirect dev arriving && \
                 modprobe aoe aoe_iflist=eth1",
        )
        .unwrap();
        host.background(
            "target",
            &format!(
                "ip netns exec target p2v-agent export --shelf 1 --slot 0 --iface eth2 {DISK}"
            ),
            "as e1.0 on eth2",
        )
        .unwrap();
        host.ok(&format!(
            "aoe-discover && {}",
            wait_until(&format!(
                "test -b {DEVICE} && aoe-stat | grep -q 'e1.0.*up'"
            ))
        ))
        .unwrap();
        WireScene { host, disk, run }
    }

    /// Makes the wire do to frames, both ways, what `netem` says: options as for `tc`; none: a good
    /// wire.
    pub fn netem(&mut self, options: &str) {
        self.netem_one_way("eth2", options);
        self.netem_arriving(options);
    }

    /// The same for what arrives at the target only.
    pub fn netem_arriving(&mut self, options: &str) {
        self.netem_one_way("arriving", options);
    }

    fn netem_one_way(&mut self, way: &str, options: &str) {
        // Not `replace`, which leaves what is not named as it was.
        let qdisc = |what: &str| format!("tc -n target qdisc {what} dev {way} root");
        self.host.run(&qdisc("del")).unwrap();
        if !options.is_empty() {
            // Room for many times a window of frames: none is dropped but by order.
            self.host
                .ok(&format!("{} netem limit 4000 {options}", qdisc("add")))
                .unwrap();
        }
    }

    /// Frames that `netem` has lost since it was set.
    pub fn lost(&mut self) -> u64 {
        let said = self
            .host
            .ok("tc -n target -s qdisc show dev eth2 root; tc -n target -s qdisc show dev arriving")
            .unwrap();
        said.split("(dropped ")
            .skip(1)
            .map(|rest| rest.split(',').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }

    /// That the disk, read past every cache, is what the driver reads of it.
    pub fn both_ends_agree(&mut self) {
        let mut sum = |path: &str| {
            self.host
                .ok(&format!(
                    "dd if={path} bs=64k iflag=direct status=none | sha256sum"
                ))
                .unwrap()
        };
        assert_eq!(sum(DEVICE), sum(DISK));
    }

    /// Switches the machine off, so that its disk can be looked at.
    pub fn end(self) -> (Disk, Run) {
        drop(self.host);
        (self.disk, self.run)
    }
}

/// A shell command that waits for a condition, without a limit of its own.
pub fn wait_until(condition: &str) -> String {
    format!("until {condition}; do sleep 0.1; done")
}
