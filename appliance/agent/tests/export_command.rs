//! `p2v-agent export` as a person starts it, on a wire of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use p2v_aoe::initiator::Initiator;
use p2v_contract::{Address, MacAddr};

const E1_0: Address = Address::new(1, 0);

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status()
        .expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

/// Runs the story in a thread with a network of its own: `host0` and `old0`, joined.
fn with_wire(story: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("the test needs root to make a network namespace");
        ip(
            "link add host0 address 02:00:00:00:00:01 type veth peer name old0 address 02:00:00:00:00:07",
        );
        for name in ["host0", "old0"] {
            ip(&format!("link set {name} up"));
        }
        story();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn agent(words: &str, disk: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2v-agent"));
    command
        .arg("export")
        .args(words.split_whitespace())
        .arg(disk);
    command
}

/// An export at work; it is killed when the test is over.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(words: &str, disk: &Path) -> Running {
        let mut child = agent(words, disk).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Running { child, lines }
    }

    /// The next line that has `wanted` in it.
    fn says(&mut self, wanted: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "it ended before it said {wanted:?}");
            if line.contains(wanted) {
                return line;
            }
        }
    }

    /// Processor time used, in hundredths of a second (`proc(5)`, fields 14 and 15 of `stat`).
    fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
        let times = fields.skip(11).take(2);
        times.map(|field| field.parse::<u64>().unwrap()).sum()
    }

    fn end(&mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_file_is_exported_written_and_let_go() {
    with_wire(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.img");
        let mut data: Vec<u8> = (0..1u32 << 20).map(|i| (i / 512 + i % 251) as u8).collect();
        fs::write(&path, &data).unwrap();
        let words = "--shelf 1 --slot 0 --iface old0";
        let mut running = Running::start(words, &path);
        let line = running.says("exporting");
        for wanted in [
            "read-write",
            "e1.0",
            "old0",
            "02:00:00:00:00:07",
            "everybody",
        ] {
            assert!(line.contains(wanted), "{line}");
        }
        let host = Initiator::open("host0").unwrap();
        let mut session = host.attach(E1_0).unwrap();
        assert_eq!(session.identify().model, "disk.img");
        let mut read = vec![0; data.len()];
        session.read(0, &mut read).unwrap();
        assert!(read == data);
        session.write(9, &[0xa5; 40 * 512]).unwrap();
        data[9 * 512..49 * 512].fill(0xa5);
        assert!(fs::read(&path).unwrap() == data);

        // The address is taken now.
        let second = agent("--shelf 1 --slot 0 --iface host0", &path)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&second.stderr).into_owned();
        assert_eq!(second.status.code(), Some(1), "{error}");
        assert!(
            error.contains("02:00:00:00:00:07") && error.contains("--shelf"),
            "{error}"
        );

        // The link goes and comes; then the MTU grows, for which a new socket is needed.
        ip("link set old0 down");
        running.says("no link");
        ip("link set old0 up");
        running.says("the link is up");
        session.read(0, &mut read).unwrap();
        assert!(read == data);
        for name in ["host0", "old0"] {
            ip(&format!("link set {name} mtu 9000"));
        }
        running.says("serving on 1 of 1");
        let mut session = host.attach(E1_0).unwrap();
        assert_eq!(session.sectors_per_frame(), 17);
        session.read(0, &mut read).unwrap();
        assert!(read == data);

        assert_eq!(running.end(Signal::SIGTERM), Some(0));
        let found = host.discover(Duration::from_millis(200)).unwrap();
        assert!(found.is_empty(), "{found:?}");
    });
}

#[test]
fn two_interfaces_are_two_ways_to_one_disk() {
    with_wire(|| {
        ip(
            "link add host1 address 02:00:00:00:01:01 type veth peer name old1 address 02:00:00:00:01:07",
        );
        for name in ["host1", "old1"] {
            ip(&format!("link set {name} up"));
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.img");
        let data: Vec<u8> = (0..4u32 << 20).map(|i| (i / 512 + i % 251) as u8).collect();
        fs::write(&path, &data).unwrap();
        let mut running = Running::start("--shelf 1 --slot 0 --iface old0 --iface old1", &path);
        running.says("on old1");
        let open = |name| Initiator::open(name).unwrap();
        let received = |name: &str| -> u64 {
            let all = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            let numbers = all.lines().find_map(|line| line.trim().strip_prefix(name));
            let received = numbers.unwrap()[1..].split_whitespace().next();
            received.unwrap().parse().unwrap()
        };
        let mut session = open("host0").and(open("host1")).attach(E1_0).unwrap();
        assert_eq!(session.paths(), 2);
        let before = ["host0", "host1"].map(received);
        let mut read = vec![0; data.len()];
        session.read(0, &mut read).unwrap();
        assert!(read == data);
        for (name, before) in ["host0", "host1"].into_iter().zip(before) {
            assert!(
                received(name) - before > 1 << 20,
                "{name} carried too little"
            );
        }
        // Either cable may be pulled; an interface of ours may even be taken away.
        for name in ["old0", "host1"] {
            ip(&format!("link set {name} down"));
            read.fill(0);
            session.read(0, &mut read).unwrap();
            assert!(read == data);
            let before = running.ticks();
            std::thread::sleep(Duration::from_millis(500));
            let used = running.ticks() - before;
            assert!(
                used < 25,
                "{used} of 50 ticks used for nothing, {name} down"
            );
            ip(&format!("link set {name} up"));
        }
        // Taken away, and there again: with a peer as new as itself, to be used by the next session.
        ip("link del host1");
        read.fill(0);
        session.read(0, &mut read).unwrap();
        assert!(read == data);
        running.says("serving on 1 of 2");
        ip(
            "link add host1 address 02:00:00:00:01:01 type veth peer name old1 address 02:00:00:00:01:07",
        );
        for name in ["host1", "old1"] {
            ip(&format!("link set {name} up"));
        }
        running.says("serving on 2 of 2");
        let mut session = open("host0").and(open("host1")).attach(E1_0).unwrap();
        assert_eq!(session.paths(), 2);
        session.read(0, &mut read).unwrap();
    });
}

#[test]
fn read_only_and_for_some_only() {
    with_wire(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.img");
        fs::write(&path, vec![7; 64 << 10]).unwrap();
        let words = "--shelf 1 --slot 0 --iface old0 --read-only --allow 02:00:00:00:00:01";
        let mut running = Running::start(words, &path);
        assert!(running.says("exporting").contains("read-only"));
        let mut session = Initiator::open("host0").unwrap().attach(E1_0).unwrap();
        assert!(session.write(0, &[0; 512]).is_err());
        assert!(fs::read(&path).unwrap().iter().all(|b| *b == 7));
        assert_eq!(running.end(Signal::SIGINT), Some(0));

        let words = "--shelf 1 --slot 0 --iface old0 --allow 02:00:00:00:00:99";
        let mut running = Running::start(words, &path);
        running.says("exporting");
        let refused = Initiator::open("host0")
            .unwrap()
            .attach(E1_0)
            .err()
            .unwrap();
        let own = MacAddr::new(2, 0, 0, 0, 0, 1).to_string();
        assert!(refused.to_string().contains(&own), "{refused}");
    });
}

#[test]
fn what_cannot_be_exported_is_refused_in_words() {
    with_wire(|| {
        let refused = |words: &str, disk: &str| {
            let output = agent(words, Path::new(disk)).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.code(), error)
        };
        let good = "--shelf 1 --slot 0 --iface old0";
        let (code, error) = refused(good, "/dev/none");
        assert_eq!(code, Some(1));
        assert!(
            error.contains("/dev/none") && error.contains("lsblk"),
            "{error}"
        );
        let (code, error) = refused(good, "/dev/null");
        assert_eq!(code, Some(1));
        assert!(
            error.contains("neither a block device nor a file"),
            "{error}"
        );
        let (code, error) = refused(
            "--shelf 1 --slot 0 --iface none0",
            env!("CARGO_BIN_EXE_p2v-agent"),
        );
        assert_eq!(code, Some(1));
        assert!(error.contains("none0"), "{error}");
        let (code, error) = refused("--shelf 4095 --slot 0 --iface old0", "x");
        assert_eq!(code, Some(2));
        assert!(error.contains("0 to 4094"), "{error}");
    });
}
