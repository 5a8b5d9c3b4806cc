//! An old machine's disk on a wire of the test's own, and the real command beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};
use p2v_aoe::ata::Identify;
use p2v_aoe::blade::{Durability, Event, Events, Export, FileDisk, Target, TargetConfig};
use p2v_aoe::wire::{PacketSocket, Wire};
use p2v_contract::inventory::{Disk, Inventory, Nic};
use p2v_contract::key::{PublicKey, SecretKey};
use p2v_contract::operation::Access;
use p2v_contract::{Address, MacAddr};
use p2v_dom0::Timestamp;
use p2v_dom0::store::Store;

pub fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status()
        .expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

struct Quiet;

impl Events for Quiet {
    fn event(&self, _: Event) {}
}

/// The host's directory and the old machine.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub disk: PathBuf,
    pub data: Vec<u8>,
    menu_id: String,
    pub host_key: PublicKey,
    pub address: Address,
    end: Arc<AtomicBool>,
    serving: Option<JoinHandle<std::io::Result<()>>>,
    boot_id: String,
    access: Access,
}

/// Runs `story` with mounts and a network of its own: `host0` and `old0`, joined.
pub fn with_lab(sectors: u64, story: impl FnOnce(&mut Lab) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("the test needs root to make namespaces");
        let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        ip(
            "link add host0 address 02:00:00:00:00:01 type veth peer name old0 address 02:00:00:00:00:07",
        );
        ip("link set host0 up");
        ip("link set old0 up");
        let mut lab = Lab::new(sectors);
        lab.serve();
        story(&mut lab);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Byte `i` is `i / 512 * 7 + i % 509`. Made a sector at a time: a byte at a time takes seconds in a build that
/// is not optimised.
fn pattern(sectors: usize) -> Vec<u8> {
    let ramp = |start: usize| (0..509 + 512).map(|n| (start + n % 509) as u8).collect();
    let ramps: Vec<Vec<u8>> = (0..256).map(ramp).collect();
    let mut data = Vec::with_capacity(sectors * 512);
    for sector in 0..sectors {
        let at = sector * 512 % 509;
        data.extend_from_slice(&ramps[sector * 7 % 256][at..at + 512]);
    }
    data
}

impl Lab {
    fn new(sectors: u64) -> Lab {
        // Beside the sources: on a disk, not in memory.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let disk = dir.path().join("old.img");
        let mut data = pattern(sectors as usize);
        data[8 << 20..20 << 20].fill(0);
        fs::write(&disk, &data).unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        let host_key = p2v_dom0::host_key::secret(&dir.path().join("state"))
            .unwrap()
            .public();
        let menu = store
            .menu(MacAddr::new(0, 0, 0, 0, 0, 7), None, Timestamp::now())
            .unwrap();
        Lab {
            address: Address::new(menu.shelf, 0),
            menu_id: menu.menu_id,
            host_key,
            dir,
            disk,
            data,
            end: Arc::default(),
            serving: None,
            boot_id: "1".into(),
            access: Access::ReadOnly,
        }
    }

    /// Has the old machine answer, as it was started with this boot and access.
    pub fn serve_as(&mut self, boot_id: &str, access: Access) {
        self.go_silent();
        (self.boot_id, self.access) = (boot_id.into(), access);
        self.serve();
    }

    fn serve(&mut self) {
        let nic = Nic {
            name: "eth0".into(),
            mac: MacAddr::new(0, 0, 0, 0, 0, 7),
            driver: String::new(),
            pci_id: String::new(),
            carrier: true,
            speed: 0,
            boot: true,
        };
        let inventory = Inventory {
            menu_id: self.menu_id.clone(),
            host_keys: vec![self.host_key],
            boot_id: self.boot_id.clone(),
            nics: vec![nic],
            disks: vec![Disk {
                address: Some(self.address),
                sectors: self.data.len() as u64 / 512,
                ..Disk::default()
            }],
            ..Inventory::default()
        };
        let config = TargetConfig {
            exports: vec![Export {
                address: self.address,
                disk: Arc::new(FileDisk::open(&self.disk).unwrap()),
                identify: Identify::default(),
                access: self.access,
                durability: Durability::Stable,
            }],
            hosts: vec![MacAddr::new(2, 0, 0, 0, 0, 1)],
            keys: vec![self.host_key],
            inventory: inventory
                .to_document(&SecretKey::from_bytes(&[7; 32]))
                .unwrap(),
            boot_id: self.boot_id.clone(),
        };
        let target = Target::new(config, Arc::new(Quiet)).unwrap();
        let wire: Arc<dyn Wire> = Arc::new(PacketSocket::open("old0").unwrap());
        self.end = Arc::default();
        let end = self.end.clone();
        let serving = move || target.serve(std::slice::from_ref(&wire), &end);
        self.serving = Some(std::thread::spawn(serving));
    }

    /// The old machine answers no more.
    pub fn go_silent(&mut self) {
        self.end.store(true, Ordering::Release);
        if let Some(serving) = self.serving.take() {
            serving.join().unwrap().unwrap();
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2v"));
        command
            .args(["--iface", "host0", "--state"])
            .arg(self.path("state"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs the command to its end.
    pub fn p2v(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        eprintln!(
            "$ p2v {} -> {:?}\n{}{}",
            arguments.join(" "),
            output.status.code(),
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
        output
    }

    /// Starts the command; what it prints on standard output can be read.
    pub fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped());
        command.spawn().unwrap()
    }

    /// `p2v copy` of the disk to `to`.
    pub fn copy(&self, to: &Path, more: &[&str]) -> Output {
        let address = self.address.to_string();
        let mut arguments = vec!["--json", "copy", &address, "--to", to.to_str().unwrap()];
        arguments.extend(more);
        self.p2v(&arguments)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
    }
}

/// The events that a command printed.
pub fn events(output: &Output) -> Vec<serde_json::Value> {
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

pub fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
