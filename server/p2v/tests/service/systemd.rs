//! The unit as it is shipped, under a running systemd.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use crate::wire::{LIMIT, Service, Wire, run};

/// The watchdog's time, so that it need not be waited for, and the journal, which else starts with what is left out here;
/// else the unit is as it is.
const DROP_IN: &str = "[Unit]\nRequires=systemd-journald.service\nAfter=systemd-journald.service\n\
    [Service]\nWatchdogSec=10\n";

/// A host with systemd, gone when dropped.
struct Host {
    wire: Wire,
    dir: tempfile::TempDir,
    _init: Service,
}

impl Host {
    fn new() -> Host {
        let (dir, wire) = (tempfile::tempdir().unwrap(), Wire::new());
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        write("drop-in.conf", DROP_IN);
        write("vmlinuz", "the kernel");
        write("initrd", "the initial RAM disk");
        write("p2v.toml", "iface = \"p2vs\"\n[serve]\nmode = \"off\"\n");
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let log = File::create(dir.path().join("log")).unwrap();
        let init = Command::new(here.join("tests/service/systemd-host"))
            .args([dir.path(), Path::new(env!("CARGO_BIN_EXE_p2v"))])
            .arg(here.join("systemd"))
            .arg(&wire.host)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Host {
            wire,
            dir,
            _init: Service(init),
        }
    }

    /// A file from the service, when it serves.
    fn fetched(&self, url: &str) -> String {
        let mut curl = Command::new("ip");
        curl.args(["netns", "exec", &self.wire.machine, "curl", "-sS", "-f"])
            .args(["--connect-timeout", "2", "--max-time", "10"])
            .args([
                "--retry",
                "30",
                "--retry-delay",
                "1",
                "--retry-all-errors",
                url,
            ]);
        let output = curl.output().unwrap();
        if !output.status.success() {
            let logs = ["log", "console"].map(|file| {
                let log = fs::read(self.dir.path().join(file)).unwrap_or_default();
                String::from_utf8_lossy(&log).into_owned()
            });
            panic!("{url}: {output:?}\n{}", logs.concat());
        }
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A command that will run there, as root.
    fn command(&self, program: &str) -> Command {
        let pid = fs::read_to_string(self.dir.path().join("pid")).unwrap();
        let mut command = Command::new("nsenter");
        command.args(["-m", "-p", "-n", "-i", "-u", "-t", pid.trim(), program]);
        command
    }

    /// A property of the unit.
    fn property(&self, name: &str) -> String {
        run(self
            .command("systemctl")
            .args(["show", "--value", "-p", name, "p2v-serve"]))
        .trim()
        .to_owned()
    }

    /// What becomes of a program that sees what the service sees, by its exit code.
    fn in_its_place(&self, arguments: &[&str]) -> Output {
        self.command("nsenter")
            .args(["-m", "-t", &self.property("MainPID")])
            .args(arguments)
            .output()
            .unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self._init.0.kill();
        let _ = self._init.0.wait();
        // The control groups are left, and empty when all that was in them has ended.
        let Ok(group) = fs::read_to_string(self.dir.path().join("group")) else {
            return;
        };
        let until = Instant::now() + LIMIT;
        while Path::new(group.trim()).exists() && Instant::now() < until {
            let _ = Command::new("find")
                .args([group.trim(), "-depth", "-type", "d", "-exec", "rmdir"])
                .args(["{}", ";"])
                .output();
        }
    }
}

#[test]
fn the_unit_is_ready_confined_and_comes_back() {
    let host = Host::new();
    let kernel = || assert_eq!(host.fetched("http://192.168.7.1/vmlinuz"), "the kernel");
    kernel();
    assert_eq!(host.property("ActiveState"), "active");
    let status = host.property("StatusText");
    let told = |part| status.contains(part);
    assert!(told("serving") || told("vmlinuz"), "{status}");

    let status = run(host
        .command("cat")
        .arg(format!("/proc/{}/status", host.property("MainPID"))));
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in {status}")).trim()
    };
    let user = run(host.command("id").args(["-u", "p2v"]));
    assert_eq!(field("Uid:"), [user.trim(); 4].join("\t"));
    for (name, value) in [
        ("CapPrm:", "0000000000000000"),
        ("CapEff:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
        ("Seccomp:", "2"),
    ] {
        assert_eq!(field(name), value, "{name}");
    }
    // Even root, where the service is, writes only its two directories.
    for (place, may) in [
        ("/etc/p2v", false),
        ("/usr/share/p2v", false),
        ("/var/lib/p2v", false),
        ("/var/lib/p2v/machines", true),
        ("/var/lib/p2v/netboot", true),
    ] {
        let touched = host.in_its_place(&["touch", &format!("{place}/touched")]);
        assert_eq!(touched.status.success(), may, "{place}: {touched:?}");
        let said = String::from_utf8_lossy(&touched.stderr);
        assert!(may || said.contains("Read-only"), "{said}");
    }
    let devices = host.in_its_place(&["ls", "/dev"]);
    let devices = String::from_utf8_lossy(&devices.stdout).into_owned();
    assert!(devices.contains("null") && !devices.contains("kmsg"));

    // It reads what root approves, however careful root is with files, and from then on.
    let menu = || host.fetched("tftp://192.168.7.1/pxelinux.cfg/01-52-54-00-12-34-56");
    assert!(menu().contains("LOCALBOOT"), "{}", menu());
    let approve = "umask 077; exec p2v approve 52:54:00:12:34:56";
    run(host.command("sh").args(["-c", approve]));
    // It makes a record, and answers by TFTP.
    assert!(menu().contains("p2v.boot="), "{}", menu());
    let owner = host
        .command("stat")
        .args(["-c", "%U %a", "/var/lib/p2v/machines/e1.json"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&owner.stdout), "p2v 600\n");

    // What is logged about a machine is found by the machine, by its name from the next question on.
    menu();
    let found = || {
        let mut journal = host.command("journalctl");
        journal.args([
            "-u",
            "p2v-serve",
            "-o",
            "json",
            "--no-pager",
            "MAC=52:54:00:12:34:56",
        ]);
        run(&mut journal)
    };
    let is_of_e1 = |line: &str| {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        entry["MACHINE"] == "e1" && entry["PRIORITY"] == "6" && entry["EVENT"] == "menu sent"
    };
    let until = Instant::now() + LIMIT;
    while !found().lines().any(is_of_e1) {
        assert!(Instant::now() < until, "{}", found());
    }

    // It is started anew when it hangs, and when it is killed.
    let restarts = || host.property("NRestarts").parse::<u32>().unwrap();
    for signal in ["-STOP", "-KILL"] {
        let (before, pid) = (restarts(), host.property("MainPID"));
        run(host.command("kill").args([signal, &pid]));
        let until = Instant::now() + LIMIT;
        while restarts() == before || host.property("SubState") != "running" {
            assert!(Instant::now() < until, "it is not started again");
            kernel();
        }
        assert_ne!(host.property("MainPID"), pid);
        kernel();
    }
    run(host.command("systemctl").args(["stop", "p2v-serve"]));
    assert_eq!(host.property("ActiveState"), "inactive");
    assert_eq!(host.property("Result"), "success");
}
