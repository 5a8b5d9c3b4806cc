//! Everything that an old machine, its wire and its Xen host go through while a Linux guest writes to its disk. Long: for
//! `make campaign`.

use std::time::{Duration, Instant};

use p2v_lab::artifacts::Artifacts;
use p2v_lab::debian::Drive;
use p2v_lab::disk::Disk;
use p2v_lab::linux_host::LinuxHost;
use p2v_lab::monitor::Monitor;
use p2v_lab::old_server::{IDE_PC, MAC, OldServer};
use p2v_lab::run::Run;
use p2v_lab::writer::{self, Acknowledged};
use p2v_lab::xen_host::{self, XenHost};
use serde_json::json;

use crate::frames::write;
use crate::scene::{EXPORT_LIMIT, Scene, guest_disk};
use crate::strangers::{LBA, is_written};

const LOG: &str = "/var/log/p2v-watch.log";
const IS_PAUSED: &str = "xl list e1 | grep -- '--p---'";

/// A guest that writes, and `p2v watch`.
struct Writing {
    host: XenHost,
    old: Option<OldServer>,
    disk: Disk,
    run: Run,
}

impl Writing {
    fn new(name: &str) -> Writing {
        Writing::with(name, |_| {})
    }

    /// With what `prepare` does on the host before it serves.
    fn with(name: &str, prepare: impl FnOnce(&mut XenHost)) -> Writing {
        let mut scene = Scene::prepared(name, prepare, guest_disk, |work, disk| {
            OldServer::power_on(work, disk, IDE_PC).unwrap()
        });
        writer::install(&scene.artifacts, &mut scene.host).unwrap();
        scene.host.ok("p2v start e1").unwrap();
        let Scene {
            host,
            old,
            disk,
            run,
            ..
        } = scene;
        let mut writing = Writing {
            host,
            old: Some(old),
            disk,
            run,
        };
        writing.watch();
        writing
            .host
            .wait_for_line(writer::SERIAL, "p2v guest: acked 20 ")
            .unwrap();
        // It has been seen by the watch.
        writing
            .host
            .ok("until test -s /run/p2v/seen/e1.json; do sleep 0.2; done")
            .unwrap();
        writing
    }

    fn watch(&mut self) {
        // What was said before is not what is waited for.
        self.host
            .ok(&format!("cat {LOG} >>{LOG}.before 2>/dev/null; true"))
            .unwrap();
        self.host
            .background("p2v-watch", "p2v watch", "watching")
            .unwrap();
    }

    fn kill_watch(&mut self) {
        self.host.ok("kill -9 $(cat /run/p2v-watch.pid)").unwrap();
        self.watch();
    }

    fn old(&mut self) -> &mut OldServer {
        self.old.as_mut().unwrap()
    }

    fn power_off(&mut self) {
        self.old = None;
    }

    fn power_on(&mut self) {
        let old = OldServer::power_on(self.run.directory(), &self.disk, IDE_PC).unwrap();
        self.old = Some(old);
    }

    fn waits(&mut self) {
        self.old()
            .wait_for("exporting e1.0 WAITING", EXPORT_LIMIT)
            .unwrap();
    }

    /// What the operator does, if the watch has not done it.
    fn resume(&mut self) {
        let said = self
            .host
            .ok("p2v resume e1 --old-system-did-not-run")
            .unwrap();
        eprintln!("{}", said.trim());
    }

    /// The guest goes on, nothing complained, and all that it was told is written is on the disk.
    fn is_well(&mut self, what: &str, began: Instant) -> Acknowledged {
        writer::goes_on(&mut self.host).unwrap();
        let took = began.elapsed();
        let told = writer::acknowledged(&mut self.host).unwrap();
        assert!(told.complaints.is_empty(), "{what}: {:?}", told.complaints);
        told.are_on(&self.disk).unwrap();
        let kernel = self.host.ok("dmesg").unwrap();
        for error in ["I/O error", "lost async", "ata error"] {
            assert!(!kernel.contains(error), "{what}: {error:?} in {kernel}");
        }
        eprintln!(
            "| {what} | {:.0} s until it wrote again | the guest's longest write {:.1} s of its own time | no error |",
            took.as_secs_f64(),
            told.longest
        );
        told
    }

    fn ends(mut self) {
        self.host.ok("p2v stop e1 --destroy").unwrap();
        let Writing { host, old, run, .. } = self;
        drop((host, old));
        run.succeeded();
    }
}

fn cable_out_for(name: &str, seconds: u64) {
    let mut writing = Writing::new(name);
    let began = Instant::now();
    writing.old().set_cable(false).unwrap();
    // How long an outage is, is what this is about.
    std::thread::sleep(Duration::from_secs(seconds));
    if seconds >= 60 {
        writing.host.ok(IS_PAUSED).unwrap();
    }
    writing.old().set_cable(true).unwrap();
    writing.is_well(&format!("cable out for {seconds} s"), began);
    writing.ends();
}

#[test]
#[ignore = "make campaign"]
fn cable_out_for_5_seconds() {
    cable_out_for("cable-5", 5);
}

#[test]
#[ignore = "make campaign"]
fn cable_out_for_a_minute() {
    cable_out_for("cable-60", 60);
}

#[test]
#[ignore = "make campaign"]
fn cable_out_for_ten_minutes() {
    cable_out_for("cable-600", 600);
}

#[test]
#[ignore = "make campaign"]
fn the_old_machine_is_off_and_on_and_the_watch_is_killed_in_each_phase() {
    let mut writing = Writing::new("off-and-on");
    writing.kill_watch();
    writer::goes_on(&mut writing.host).unwrap();
    writing
        .host
        .ok("rm /run/p2v/seen/e1.json; until test -s /run/p2v/seen/e1.json; do sleep 0.2; done")
        .unwrap();
    let began = Instant::now();
    writing.power_off();
    writing.power_on();
    writing.host.wait_for_line(LOG, "SILENT").unwrap();
    writing.kill_watch();
    writing
        .host
        .ok(&format!("until {IS_PAUSED}; do sleep 0.2; done"))
        .unwrap();
    writing.kill_watch();
    writing.waits();
    writing.kill_watch();
    writing.resume();
    writing.is_well("off and on, watch killed four times", began);
    let begun = Instant::now();
    writing.old().reset().unwrap();
    writing.waits();
    writing.resume();
    writing.is_well("reset", begun);
    writing.ends();
}

#[test]
#[ignore = "make campaign"]
fn the_agent_is_killed_and_started_again() {
    let mut writing = Writing::with("agent-killed", |host| {
        // The agent turns SysRq off; this argument of the kernel counts more.
        host.ok(&format!(
            "printf '[machines.\"{MAC}\"]\nappend = \"sysrq_always_enabled\"\n' >>/etc/p2v/p2v.toml"
        ))
        .unwrap();
    });
    let began = Instant::now();
    writing.old().kill_all_processes().unwrap();
    writing
        .old()
        .wait_for("the agent ended (killed by SIGKILL)", EXPORT_LIMIT)
        .unwrap();
    writing
        .old()
        .wait_for("exporting e1.0 READ-WRITE", EXPORT_LIMIT)
        .unwrap();
    writing.is_well("the agent killed", began);
    writing.ends();
}

#[test]
#[ignore = "make campaign"]
fn one_of_two_machines_is_silent_and_the_other_is_moved_meanwhile() {
    let mut writing = Writing::new("two-machines");
    let artifacts = Artifacts::find().unwrap();
    let work = writing.run.directory().join("second");
    std::fs::create_dir_all(&work).unwrap();
    let disk = guest_disk(&artifacts, &work);
    let mut second = OldServer::power_on_second(writing.run.directory(), &disk, IDE_PC).unwrap();
    second
        .wait_for("exporting e2.0 read-only", EXPORT_LIMIT)
        .unwrap();
    let began = Instant::now();
    writing.old().set_cable(false).unwrap();
    writing
        .host
        .ok(&format!("until {IS_PAUSED}; do sleep 0.2; done"))
        .unwrap();
    for command in [
        "p2v list",
        "p2v start e2",
        "p2v stop e2 --destroy",
        "p2v copy e2 --to vg0",
        "p2v cutover e2",
    ] {
        let begun = Instant::now();
        writing.host.ok(command).unwrap();
        let took = begun.elapsed().as_secs_f64();
        eprintln!("| `{command}` while e1 is silent | {took:.0} s |");
    }
    writing.host.ok(IS_PAUSED).unwrap();
    writing
        .host
        .wait_for_line("/var/log/xen/e2.serial", "p2v guest: boot")
        .unwrap();
    writing.old().set_cable(true).unwrap();
    writing.is_well("the cable out, another machine moved meanwhile", began);
    writing.host.ok("xl destroy e2").unwrap();
    drop(second);
    writing.ends();
}

/// A Linux guest that sends one frame with this host's address, by a network card that xl made.
fn guest_sends(host: &mut XenHost, frame: &str) {
    host.ok(&format!(
        "set -e; rm -rf /tmp/guest; mkdir -p /tmp/guest/bin /tmp/guest/proc /tmp/guest/dev; cd /tmp/guest\n\
         cp /bin/busybox /lab/lab-guest bin/\n\
         for file in $(ldd /lab/lab-guest | grep -o '/[^ )]*'); do cp -L --parents $file .; done\n\
         cp $(modinfo -n e1000) e1000.ko\n\
         cat >init <<'END'\n\
         #!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         mount -t proc proc /proc; mount -t devtmpfs devtmpfs /dev; exec >/dev/ttyS0 2>&1\n\
         insmod /e1000.ko; ip link set eth0 up\n\
         until [ \"$(cat /sys/class/net/eth0/carrier 2>/dev/null)\" = 1 ]; do mkdir -p /sys; mount -t sysfs sysfs /sys; sleep 1; done\n\
         echo \"p2v guest: answer $(lab-guest send eth0 {frame})\"\n\
         sleep 1000\n\
         END\n\
         sed -i 's/^ *//' init; chmod 755 init; find . | cpio --quiet -o -H newc | gzip -1 >/var/tmp/guest.gz\n\
         rm -f /var/log/xen/guest.serial\n\
         cat >/tmp/guest.cfg <<END\n\
         name = \"guest\"\n\
         type = \"hvm\"\n\
         memory = 256\n\
         kernel = \"$(echo /boot/vmlinuz-*)\"\n\
         ramdisk = \"/var/tmp/guest.gz\"\n\
         cmdline = \"console=ttyS0\"\n\
         vif = [ \"bridge=xenbr0,model=e1000\" ]\n\
         serial = \"file:/var/log/xen/guest.serial\"\n\
         xen_platform_pci = 0\n\
         vga = \"none\"\n\
         vnc = 0\n\
         END\n\
         sed -i 's/^ *//' /tmp/guest.cfg; xl create /tmp/guest.cfg"
    ))
    .unwrap();
    host.wait_for_line("/var/log/xen/guest.serial", "p2v guest: answer")
        .unwrap();
    host.ok("ip -br link show master xenbr0; xl destroy guest")
        .unwrap();
}

#[test]
#[ignore = "make campaign"]
fn a_guest_on_the_bridge_cannot_write_to_another_ones_old_disk() {
    let mut scene = Scene::with_guest("guest-writes", IDE_PC);
    scene.host.ok("p2v list >/dev/null; p2v start e1").unwrap();
    scene.guest_says("p2v guest: boot 1");
    let frame = write(xen_host::MAC, LBA);
    guest_sends(&mut scene.host, &frame);
    assert!(!is_written(&mut scene.host));
    // It is the rules that keep it off.
    scene.host.ok("nft delete table bridge p2v").unwrap();
    guest_sends(&mut scene.host, &frame);
    assert!(is_written(&mut scene.host));
    scene.host.ok("p2v stop e1 --destroy").unwrap();
    let Scene { host, old, run, .. } = scene;
    drop((host, old));
    run.succeeded();
}

#[test]
#[ignore = "make campaign"]
fn the_bridge_is_down_for_a_while() {
    let mut writing = Writing::new("bridge-down");
    let began = Instant::now();
    writing
        .host
        .ok("ip link set xenbr0 down; sleep 40; ip link set xenbr0 up")
        .unwrap();
    writing.is_well("the bridge down for 40 s", began);
    writing.ends();
}

#[test]
#[ignore = "make campaign"]
fn the_old_machine_stays_away() {
    let mut writing = Writing::new("stays-away");
    let began = Instant::now();
    writing.power_off();
    writing
        .host
        .ok(&format!("until {IS_PAUSED}; do sleep 0.2; done"))
        .unwrap();
    let told = writer::acknowledged(&mut writing.host).unwrap();
    let ended = writing.host.run("p2v stop e1 --destroy").unwrap();
    let ended = ended.success().unwrap();
    assert!(
        ended.err.contains("is missing on the old disk"),
        "{ended:?}"
    );
    assert!(!writing.host.ok("xl list").unwrap().contains("e1"));
    told.are_on(&writing.disk).unwrap();
    eprintln!(
        "| stays away, `p2v stop --destroy` | ended {:.0} s after the power went | what was acknowledged is there |",
        began.elapsed().as_secs_f64()
    );
    // It comes back with nothing to wait for, and the domain starts on its disk as ever.
    writing.power_on();
    writing
        .old()
        .wait_for("exporting e1.0 read-only", EXPORT_LIMIT)
        .unwrap();
    // What it says is of this start: QEMU makes the file anew.
    writing
        .host
        .ok(&format!("rm {}; p2v start e1", writer::SERIAL))
        .unwrap();
    writing
        .host
        .wait_for_line(writer::SERIAL, "p2v guest: acked 20 ")
        .unwrap();
    writing.ends();
}

#[test]
#[ignore = "make campaign"]
fn the_old_machine_stays_away_beyond_the_limit() {
    let mut writing = Writing::new("beyond-limit");
    writing
        .host
        .ok("echo 'domain_waits_seconds = 60' >>/etc/p2v/p2v.toml && kill $(cat /run/p2v-watch.pid)")
        .unwrap();
    writing.watch();
    writing
        .host
        .ok("until test $(cat /sys/module/aoe/parameters/aoe_deadsecs) = 60; do sleep 0.2; done")
        .unwrap();
    let began = Instant::now();
    writing.power_off();
    writing
        .host
        .ok("until ! xl list e1 >/dev/null 2>&1; do sleep 0.5; done")
        .unwrap();
    writing.host.wait_for_line(LOG, "OLD DISK FAILED").unwrap();
    let show = writing.host.ok("p2v show e1").unwrap();
    assert!(show.contains("is missing on them"), "{show}");
    eprintln!(
        "| stays away, limit 60 s | ended by p2v watch after {:.0} s |",
        began.elapsed().as_secs_f64()
    );
    let Writing { host, run, .. } = writing;
    drop(host);
    run.succeeded();
}

#[test]
#[ignore = "make campaign"]
fn the_old_disk_goes_into_the_xen_host() {
    let mut writing = Writing::new("other-machine");
    let began = Instant::now();
    writing.power_off();
    writing.host.wait_for_line(LOG, "SILENT").unwrap();
    let file = json!({ "driver": "file", "filename": writing.disk.path });
    let mut monitor = Monitor::open(&writing.run.directory().join("xen-host.qmp")).unwrap();
    let disk = json!({ "driver": "raw", "node-name": "moved", "file": file });
    monitor.execute("blockdev-add", &disk).unwrap();
    let device = json!({ "driver": "virtio-blk-pci", "drive": "moved", "bus": "spare-slot", "serial": "moved" });
    monitor.execute("device_add", &device).unwrap();
    let device = "/dev/disk/by-id/virtio-moved";
    writing.host.ok(&format!(
        "until test -b {device}; do sleep 0.2; done; ip link add old0 type veth peer name old0p; \
         ip link set old0p master xenbr0 up; ip link set old0 up"
    ))
    .unwrap();
    let export = |slot: &str, device: &str| {
        format!(
            "p2v-agent export --waiting --shelf 1 --slot {slot} --iface old0 --allow {} {device}",
            xen_host::MAC
        )
    };
    // Another disk of that size is not taken for it.
    writing.host.ok("truncate -s 48M /var/tmp/other").unwrap();
    let other = export("0", "/var/tmp/other");
    writing.host.background("other", &other, "WAITING").unwrap();
    let resume = "p2v resume e1 --old-system-did-not-run";
    let refused = writing.host.run(resume).unwrap().failure().unwrap();
    assert!(refused.contains("NOT AS IT WAS"), "{refused}");
    writing.host.end_background("other").unwrap();
    writing
        .host
        .background("moved", &export("0", device), "WAITING")
        .unwrap();
    let unsure = writing.host.run("p2v resume e1").unwrap();
    let unsure = unsure.failure().unwrap();
    assert!(unsure.contains("--old-system-did-not-run"), "{unsure}");
    writing.host.ok(resume).unwrap();
    writing.is_well("its disk in the Xen host", began);
    writing.ends();
}

#[test]
#[ignore = "make campaign"]
fn the_old_disk_goes_into_another_machine() {
    let mut writing = Writing::new("another-machine");
    let began = Instant::now();
    let directory = writing.run.directory().to_owned();
    writing.power_off();
    writing.host.wait_for_line(LOG, "SILENT").unwrap();
    let drive = Drive::new(&writing.disk.path, "moved");
    let work = directory.join("other");
    std::fs::create_dir(&work).unwrap();
    let artifacts = Artifacts::find().unwrap();
    let mut other = LinuxHost::start(&artifacts, &work, &[drive]).unwrap();
    other
        .ok("ip link set eth0 address 52:54:00:aa:00:03 && ip link set eth0 up")
        .unwrap();
    other.join(&directory.join("second-wire.sock")).unwrap();
    let key = writing.host.ok("p2v key").unwrap();
    let export = format!(
        "p2v-agent export --waiting --shelf 1 --slot 0 --iface eth0 --allow {} --key {} /dev/disk/by-id/virtio-moved",
        xen_host::MAC,
        key.trim()
    );
    other.background("moved", &export, "WAITING").unwrap();
    writing
        .host
        .ok("p2v resume e1 --old-system-did-not-run")
        .unwrap();
    writing.is_well("its disk in another machine", began);
    writing.host.ok("p2v stop e1 --destroy").unwrap();
    let Writing { host, run, .. } = writing;
    drop((host, other));
    run.succeeded();
}

#[test]
#[ignore = "make campaign"]
fn the_xen_host_restarts_while_its_domain_waits() {
    let mut writing = Writing::new("host-restarts");
    writing.power_off();
    writing
        .host
        .ok(&format!("until {IS_PAUSED}; do sleep 0.2; done"))
        .unwrap();
    let told = writer::acknowledged(&mut writing.host).unwrap();
    told.are_on(&writing.disk).unwrap();
    let artifacts = Artifacts::find().unwrap();
    let Writing {
        host, disk, run, ..
    } = writing;
    let mut host = host.power_cut(&artifacts).unwrap();
    host.background("p2v-serve", "p2v serve", "serving DHCP")
        .unwrap();
    let show = host.ok("p2v show e1").unwrap();
    assert!(show.contains("there is no domain"), "{show}");
    host.ok("p2v devices up").unwrap();
    let mut old = OldServer::power_on(run.directory(), &disk, IDE_PC).unwrap();
    old.wait_for("exporting e1.0 WAITING", EXPORT_LIMIT)
        .unwrap();
    let refused = host.run("p2v resume e1").unwrap().failure().unwrap();
    assert!(refused.contains("p2v start e1"), "{refused}");
    host.ok("p2v start e1").unwrap();
    host.wait_for_line(writer::SERIAL, "p2v guest: acked 20 ")
        .unwrap();
    host.ok("p2v stop e1 --destroy").unwrap();
    drop((host, old));
    run.succeeded();
}
