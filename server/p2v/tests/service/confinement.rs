//! What the service may do, what it tells the service manager, and whose its files are.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use p2v_dom0::store::StoreError;
use p2v_dom0::{State, Store};

use crate::site_dhcp::boot_file_by_dhcp;
use crate::wire::{LIMIT, Service, Wire, run};

/// A user that every Debian system has, and that has nothing to do with p2v.
pub const USER: &str = "daemon";
/// None (`linux/capability.h`).
const CAPABILITIES: &str = "0000000000000000";

/// The service manager's end of `NOTIFY_SOCKET`.
pub struct Manager(UnixDatagram);

impl Manager {
    pub fn new(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Manager(socket)
    }

    /// The next message with this line.
    pub fn wait_for(&self, line: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self
                .0
                .recv(&mut buffer)
                .unwrap_or_else(|e| panic!("no {line}: {e}"));
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.lines().any(|l| l == line) {
                return text;
            }
        }
    }

    /// Nothing more can be told it until it reads.
    fn be_busy(path: &Path) {
        let full = UnixDatagram::unbound().unwrap();
        full.connect(path).unwrap();
        full.set_nonblocking(true).unwrap();
        while full.send(b"STATUS=busy").is_ok() {}
    }
}

/// A field of a process's or thread's status, its words.
fn status(path: &Path, field: &str) -> Vec<String> {
    let text = fs::read_to_string(path.join("status")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {text}"))
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// A directory that other users can look into, as `/var/lib` is.
pub fn open_directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn settings(dir: &Path, more: &str) -> PathBuf {
    for file in ["vmlinuz", "initrd"] {
        fs::write(dir.join(file), file).unwrap();
    }
    let path = dir.join("p2v.toml");
    let text = format!(
        "iface = \"p2vs\"\nstate = {state:?}\n[serve]\nkernel = {kernel:?}\ninitrd = {initrd:?}\nallow = [\"*\"]\n{more}\n",
        state = dir.join("state"),
        kernel = dir.join("vmlinuz"),
        initrd = dir.join("initrd"),
    );
    fs::write(&path, text).unwrap();
    path
}

/// Waits until it is ready, and looks at what it may do: not only the process, each thread has a user and
/// capabilities of its own.
fn ready_and_confined(manager: &Manager, service: &Service, sets: &[&str]) {
    let ready = manager.wait_for("READY=1");
    assert!(ready.contains("STATUS=serving"), "{ready}");
    let uid = uid();
    let tasks = PathBuf::from(format!("/proc/{}/task", service.0.id()));
    let mut threads = 0;
    for task in fs::read_dir(tasks).unwrap() {
        let task = task.unwrap().path();
        assert_eq!(status(&task, "Uid"), [&*uid; 4]);
        assert_eq!(status(&task, "Groups"), [""; 0]);
        for set in sets {
            assert_eq!(status(&task, set), [CAPABILITIES], "{set}");
        }
        assert_eq!(status(&task, "NoNewPrivs"), ["1"]);
        threads += 1;
    }
    assert!(threads > 1);
}

fn uid() -> String {
    run(Command::new("id").args(["-u", USER])).trim().to_owned()
}

fn menu(wire: &Wire) -> String {
    fetched(wire, "pxelinux.cfg/01-52-54-00-12-34-56")
}

pub fn fetched(wire: &Wire, name: &str) -> String {
    run(Command::new("ip")
        .args(["netns", "exec", &wire.machine, "curl", "-sS", "-m", "50"])
        .arg(format!("tftp://192.168.7.1/{name}")))
}

/// Two machines with an image each: of `old` there is a kernel that everybody can read, of `roots` one that only
/// root can. A third shall have an image that there is none of.
fn with_images(dir: &Path) -> String {
    let mut text = String::from("[machines.\"52:54:00:12:34:58\"]\nimage = \"gone\"\n");
    for (name, mode, mac) in [("old", 0o644, "56"), ("roots", 0o600, "57")] {
        let kernel = dir.join(name);
        fs::write(&kernel, name).unwrap();
        fs::set_permissions(&kernel, fs::Permissions::from_mode(mode)).unwrap();
        text += &format!(
            "[serve.images.{name}]\nkernel = {kernel:?}\ninitrd = {initrd:?}\n\
             [machines.\"52:54:00:12:34:{mac}\"]\nimage = \"{name}\"\n",
            initrd = dir.join("initrd"),
        );
    }
    text
}

/// What the service manager's end in `dir` is told of, with a watchdog.
pub fn started_by_root(wire: &Wire, dir: &Path, config: &Path, log: Stdio) -> Service {
    let mut command = wire.on_host(env!("CARGO_BIN_EXE_p2v"));
    command.arg("--config").arg(config).arg("serve");
    command.env("NOTIFY_SOCKET", dir.join("notify"));
    command.env("WATCHDOG_USEC", "100000");
    Service(command.stderr(log).spawn().unwrap())
}

/// As the unit does it.
#[test]
fn started_as_its_user_it_gives_up_the_capabilities_of_the_start_and_still_answers() {
    let (dir, wire) = (open_directory(), Wire::new());
    let config = settings(dir.path(), &with_images(dir.path()));
    let manager = Manager::new(&dir.path().join("notify"));
    for part in ["machines", "netboot"] {
        let part = dir.path().join("state").join(part);
        fs::create_dir_all(&part).unwrap();
        run(Command::new("chown").arg(USER).arg(part));
    }
    let service = Service(
        wire.on_host("setpriv")
            .args(["--reuid", USER, "--regid", USER, "--clear-groups"])
            .args(["--inh-caps", "-all,+net_bind_service,+net_raw"])
            .args(["--ambient-caps", "-all,+net_bind_service,+net_raw"])
            .arg(env!("CARGO_BIN_EXE_p2v"))
            .arg("--config")
            .arg(config)
            .arg("serve")
            .env("NOTIFY_SOCKET", dir.path().join("notify"))
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap(),
    );
    ready_and_confined(
        &manager,
        &service,
        &["CapEff", "CapPrm", "CapInh", "CapAmb"],
    );
    // By a frame of its own making; then a port of its own for the transfer.
    assert_eq!(boot_file_by_dhcp(&wire), "pxelinux.0");
    let menu = menu(&wire);
    assert!(menu.contains("p2v.shelf=1 "), "{menu}");
    assert!(menu.contains("KERNEL image/old/vmlinuz\n"), "{menu}");
    assert_eq!(fetched(&wire, "image/old/vmlinuz"), "old");
    // An image that it cannot read, or knows nothing of, did not keep it from starting.
    for mac in ["57", "58"] {
        let menu = fetched(&wire, &format!("pxelinux.cfg/01-52-54-00-12-34-{mac}"));
        assert!(menu.contains("KERNEL vmlinuz\n"), "{menu}");
    }
}

#[test]
fn started_by_root_it_goes_on_as_its_user_and_shares_the_records_with_root() {
    let (dir, wire) = (open_directory(), Wire::new());
    let images = with_images(dir.path());
    let config = settings(dir.path(), &format!("user = {USER:?}\n{images}"));
    let manager = Manager::new(&dir.path().join("notify"));
    // As a command of root's would leave it, run before the service ever was.
    let store = Store::open(&dir.path().join("state")).unwrap();
    let mut service = started_by_root(&wire, dir.path(), &config, Stdio::inherit());
    ready_and_confined(
        &manager,
        &service,
        &["CapEff", "CapPrm", "CapInh", "CapBnd"],
    );
    // A manager that does not read keeps no machine waiting.
    Manager::be_busy(&dir.path().join("notify"));
    let uid = uid();
    let menu = || menu(&wire);
    assert!(menu().contains("p2v.shelf=1 "));
    // Files are read before root is given up.
    assert_eq!(fetched(&wire, "image/roots/vmlinuz"), "roots");
    let name = "e1".parse().unwrap();
    let owner = || {
        let file = fs::metadata(store.path(&name)).unwrap();
        (file.uid().to_string(), file.mode() & 0o777)
    };
    assert_eq!(owner(), (uid.clone(), 0o600));
    // Root writes the record: the service still has it, and root's change.
    store
        .update(&name, |record| {
            record.state = State::Released;
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(owner(), (uid, 0o600));
    assert!(menu().contains("this machine waits here"));
    // What root writes into is root's.
    for root_s in ["locks", "copies"] {
        let file = fs::metadata(dir.path().join("state").join(root_s)).unwrap();
        assert_eq!((file.uid(), file.mode() & 0o777), (0, 0o700), "{root_s}");
    }

    manager.wait_for("WATCHDOG=1");
    run(Command::new("kill").arg(service.0.id().to_string()));
    manager.wait_for("STOPPING=1");
    assert!(service.0.wait().unwrap().success());
}

/// A terminal that was stopped, or a pager that was left.
#[test]
fn where_nobody_reads_its_log_machines_are_served() {
    let (dir, wire) = (open_directory(), Wire::new());
    let config = settings(dir.path(), &format!("user = {USER:?}"));
    let manager = Manager::new(&dir.path().join("notify"));
    let (mut reader, full) = UnixStream::pair().unwrap();
    full.set_nonblocking(true).unwrap();
    while (&full).write(b"\n").is_ok() {}
    full.set_nonblocking(false).unwrap();
    let mut service = started_by_root(&wire, dir.path(), &config, OwnedFd::from(full).into());
    manager.wait_for("READY=1");
    assert!(menu(&wire).contains("p2v.shelf=1 "));
    // What it had to say is there for who reads on.
    let reads = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    run(Command::new("kill").arg(service.0.id().to_string()));
    assert!(service.0.wait().unwrap().success());
    let text = reads.join().unwrap().unwrap();
    assert!(text.contains("52:54:00:12:34:56: menu sent"), "{text}");
    assert!(text.ends_with("p2v serve: stopped\n"), "{text}");
}

#[test]
fn a_user_that_is_not_there_or_cannot_reach_the_records_is_an_error() {
    let (dir, wire) = (open_directory(), Wire::new());
    let serve = |more: &str| {
        let output = wire
            .on_host(env!("CARGO_BIN_EXE_p2v"))
            .arg("--config")
            .arg(settings(dir.path(), more))
            .arg("serve")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = serve("user = \"p2v-nobody-here\"");
    assert!(error.contains("useradd --system"), "{error}");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let error = serve(&format!("user = {USER:?}"));
    assert!(error.contains("chmod o+x"), "{error}");
}

/// The unit as it is shipped, with the built command in the place of the installed one.
#[test]
fn the_unit_is_one_that_systemd_understands_and_finds_well_confined() {
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("p2v-serve.service");
    let text = include_str!("../../systemd/p2v-serve.service");
    let command = env!("CARGO_BIN_EXE_p2v");
    fs::write(&unit, text.replace("/usr/sbin/p2v", command)).unwrap();
    // It could not give up its capabilities: systemd counts that system call among the privileged ones.
    let (_, after) = text.split_once("SystemCallFilter=~@privileged\n").unwrap();
    assert!(after.starts_with("SystemCallFilter=capset\n"));
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&unit)
        .output()
        .expect("systemd-analyze (Debian package systemd)");
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success(), "{said}");
    assert!(!said.contains("p2v-serve.service"), "{said}");
    // Exposure in tenths, of 100: what is left is the network it is there for.
    run(Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--threshold=20"])
        .arg(&unit));
}
