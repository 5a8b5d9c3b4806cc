//! A system that moves to an image in a Ceph cluster: it is found again by the image's id, and nothing else is taken for
//! it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use p2v_lab::artifacts::{Artifacts, checked};
use p2v_lab::local_host::with_own_network;
use p2v_lab::old_server::IDE_PC;
use p2v_lab::run::Run;
use p2v_lab::xen_host::XenHost;

use crate::scene::Scene;

/// The cluster's address, on the loopback interface of the story's own network; the host comes there by its second
/// network card (QEMU's user network).
const MONITOR: &str = "192.0.2.10";

/// A monitor and one OSD that keeps its objects in memory.
struct Cluster {
    settings: PathBuf,
    daemons: Vec<Child>,
    // Its logs are kept when the story fails.
    run: Option<Run>,
    work: PathBuf,
}

impl Cluster {
    fn start(run: Run) -> Cluster {
        let work = run.directory().to_owned();
        let file = |name: &str| work.join(name).display().to_string();
        for words in [
            "link set lo up".to_owned(),
            format!("address add {MONITOR}/32 dev lo"),
        ] {
            checked(Command::new("ip").args(words.split(' '))).unwrap();
        }
        let [fsid, osd] = [(); 2].map(|()| {
            let id = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
            id.trim().to_owned()
        });
        let settings = work.join("ceph.conf");
        let text = format!(
            "[global]\nfsid = {fsid}\nmon host = v1:{MONITOR}:6789\nmon initial members = a\n\
             public addr = {MONITOR}\npublic network = {MONITOR}/32\n\
             auth cluster required = none\nauth service required = none\nauth client required = none\n\
             osd pool default size = 1\nosd pool default min size = 1\nmon allow pool size one = true\n\
             osd crush chooseleaf type = 0\nosd crush update on start = false\n\
             osd class update on start = false\nosd objectstore = memstore\nmon data avail crit = 1\n\
             run dir = {work}\nadmin socket = {work}/$name.asok\npid file = {work}/$name.pid\n\
             log file = {work}/$name.log\nmon data = {work}/mon\nosd data = {work}/osd\n",
            work = work.display(),
        );
        fs::write(&settings, text).unwrap();
        for directory in ["mon", "osd"] {
            fs::create_dir(work.join(directory)).unwrap();
        }
        let mut cluster = Cluster {
            settings,
            daemons: Vec::new(),
            run: Some(run),
            work: work.clone(),
        };
        let map = file("monmap");
        let monitor = format!("v1:{MONITOR}:6789");
        let map_of = ["--create", "--addv", "a", &monitor, "--fsid", &fsid, &map];
        checked(Command::new("monmaptool").args(map_of)).unwrap();
        let new = ["--mkfs", "-i", "a", "--monmap", &map];
        checked(&mut cluster.command("ceph-mon", &new)).unwrap();
        cluster.daemon("ceph-mon", "a");
        cluster.says("ceph", &["--connect-timeout", "60", "osd", "new", &osd]);
        let new = ["--mkfs", "-i", "0", "--osd-uuid", &osd];
        checked(&mut cluster.command("ceph-osd", &new)).unwrap();
        cluster.daemon("ceph-osd", "0");
        // By default the OSD asks for its place in the map, in the name of no cluster if that is sooner than the monitor
        // has told it of one ("wrong fsid"), and then it ends.
        let place = ["crush", "add", "osd.0", "1", "root=default", "host=lab"];
        cluster.says("ceph", &[&["osd"], &place[..]].concat());
        cluster.says("ceph", &["osd", "pool", "create", "rbd", "8", "8"]);
        cluster
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        // `setpriv`: gone with the story, also when that is interrupted or killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program, "-c"]);
        command.arg(&self.settings).args(arguments);
        command
    }

    fn daemon(&mut self, program: &str, id: &str) {
        let log = fs::File::create(self.work.join(format!("{program}.log"))).unwrap();
        let mut command = self.command(program, &["-f", "-i", id]);
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.daemons.push(command.spawn().unwrap());
    }

    /// The output of a command that must succeed.
    fn says(&self, program: &str, arguments: &[&str]) -> Vec<u8> {
        // It would wait for a cluster that is not there as long as it takes.
        let output = Command::new("timeout")
            .args(["120", program, "-c"])
            .arg(&self.settings)
            .args(arguments)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {error}");
        output.stdout
    }

    fn image(&self, name: &str) {
        let options = ["--size", "48M", "--image-feature", "layering"];
        self.says("rbd", &[&["create", name][..], &options].concat());
    }

    fn succeeded(mut self) {
        self.stop();
        if let Some(run) = self.run.take() {
            run.succeeded();
        }
    }

    fn stop(&mut self) {
        for mut daemon in self.daemons.drain(..) {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// What is in the image, as the cluster has it.
    fn export(&self, name: &str, to: &Path) {
        let to = to.to_str().unwrap();
        self.says("rbd", &["export", "--no-progress", name, to]);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// By the kernel's own interface: the host has nothing else of Ceph's.
fn map(host: &mut XenHost, image: &str) {
    host.ok(&format!(
        "echo '{MONITOR}:6789 name=admin rbd {image}' >/sys/bus/rbd/add_single_major && udevadm settle || \
         {{ dmesg | tail -n 20 >&2; false; }}"
    ))
    .unwrap();
}

fn unmap(host: &mut XenHost, number: u32) {
    host.ok(&format!(
        "udevadm settle && echo {number} >/sys/bus/rbd/remove_single_major && udevadm settle"
    ))
    .unwrap();
}

#[test]
fn an_old_server_moves_to_a_ceph_image() {
    with_own_network(|| {
        let lab = Artifacts::find().unwrap().lab;
        let cluster = Cluster::start(Run::new(&lab, "rbd-cluster").unwrap());
        let mut scene = Scene::with_guest("rbd", IDE_PC);
        for image in ["web", "other"] {
            cluster.image(image);
        }
        let host = &mut scene.host;
        host.ok(&format!(
            "modprobe rbd && ip link set eth1 up && ip address add 10.0.2.15/24 dev eth1 && \
             ip route add {MONITOR} via 10.0.2.2"
        ))
        .unwrap();
        map(host, "web");
        let copied = host.ok("p2v copy e1 --to /dev/rbd0").unwrap();
        assert!(copied.contains("device /dev/rbd0"), "{copied}");
        let exported = scene.run.directory().join("web.img");
        cluster.export("web", &exported);
        assert_eq!(
            fs::read(&exported).unwrap(),
            fs::read(&scene.disk.path).unwrap()
        );
        scene.host.ok("p2v cutover e1").unwrap();
        scene.guest_says("p2v guest: boot 1");
        let host = &mut scene.host;
        host.ok("p2v stop e1 --destroy && p2v devices down")
            .unwrap();
        unmap(host, 0);

        let refused = |host: &mut XenHost| {
            let outcome = host.run("p2v devices up").unwrap();
            outcome.failure().unwrap()
        };
        // The host starts again, and nobody has mapped it.
        let gone = refused(host);
        assert!(gone.contains("/dev/rbd0"), "{gone}");
        // Another image has its number.
        map(host, "other");
        let other = refused(host);
        assert!(other.contains("is not the device"), "{other}");
        assert!(!host.ok("dmsetup ls").unwrap().contains("p2v-e1"));
        unmap(host, 0);
        // So has one that is there in its place, by its name.
        for (from, to) in [("web", "kept"), ("other", "web")] {
            cluster.says("rbd", &["rename", from, to]);
        }
        map(host, "web");
        let in_its_place = refused(host);
        assert!(in_its_place.contains("is not the device"), "{in_its_place}");
        unmap(host, 0);
        map(host, "kept");
        host.ok("p2v devices up").unwrap();
        let count = host
            .ok("dd if=/dev/mapper/p2v-e1-0 bs=512 skip=1 count=1 status=none | od -An -tu4 -N4")
            .unwrap();
        assert_eq!(count.trim(), "1");
        host.ok("p2v devices down").unwrap();
        unmap(host, 0);
        scene.run.succeeded();
        drop(scene.host);
        cluster.succeeded();
    });
}
