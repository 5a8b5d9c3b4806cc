//! `p2v copy` to a file over real packet sockets, on a veth pair in a network namespace of the
//! test's own, from the agent's own target engine: stopped half way, run again, checked. Needs root
//! and iproute2.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sched::{CloneFlags, unshare};
use p2v_aoe::ata::Identify;
use p2v_aoe::blade::{Durability, Event, Events, Export, FileDisk, Target, TargetConfig};
use p2v_aoe::initiator::Initiator;
use p2v_aoe::wire::{PacketSocket, Wire};
use p2v_contract::inventory::{Disk, Inventory, Nic};
use p2v_contract::key::SecretKey;
use p2v_contract::operation::Access;
use p2v_contract::{Address, MacAddr};
use p2v_copy::Progress;
use p2v_dom0::tool::Tools;
use p2v_dom0::workflow::{Context, CopyRequest, CopyTarget, Error, copy};
use p2v_dom0::{Host, Paths, Report, Settings, State, Timestamp};

/// 48 MiB and one sector.
const SECTORS: u64 = 98_305;

fn ip(arguments: &str) {
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

/// Ends the target also when the test fails, so that it fails rather than hangs.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Sets `stop` once `after` bytes are in place.
struct StopAfter<'a> {
    after: u64,
    stop: &'a AtomicBool,
}

impl Report for StopAfter<'_> {
    fn step(&self, _: &str) {}
    fn warn(&self, text: &str) {
        panic!("{text}");
    }
    fn progress(&self, _: &str, progress: Progress) {
        if progress.checked >= self.after {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn stopped_half_way_and_run_again() {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("the test needs root to make a network namespace");
        ip(
            "link add host0 address 02:00:00:00:00:01 type veth peer name old0 address 02:00:00:00:00:07",
        );
        ip("link set host0 up");
        ip("link set old0 up");
        story();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn story() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("old.img");
    let mut data: Vec<u8> = (0..SECTORS * 512)
        .map(|i| (i / 512 * 7 + i % 509) as u8)
        .collect();
    data[8 << 20..20 << 20].fill(0);
    fs::write(&disk, &data).unwrap();

    let mut host = Host::open(Settings::default(), "host0", &dir.path().join("state")).unwrap();
    host.tools = Tools::in_dir(dir.path());
    host.paths = Paths::under(dir.path());
    let mac = MacAddr::new(0, 0, 0, 0, 0, 7);
    let menu = host.store.menu(mac, None, Timestamp::now()).unwrap();
    let address = Address::new(menu.shelf, 0);
    let inventory = Inventory {
        menu_id: menu.menu_id,
        host_keys: vec![host.key.public()],
        boot_id: "0123".into(),
        nics: vec![Nic {
            name: "eth0".into(),
            mac,
            driver: String::new(),
            pci_id: String::new(),
            carrier: true,
            speed: 0,
            boot: true,
        }],
        disks: vec![Disk {
            address: Some(address),
            sectors: SECTORS,
            ..Disk::default()
        }],
        ..Inventory::default()
    };
    let target = Target::new(
        TargetConfig {
            exports: vec![Export {
                address,
                disk: Arc::new(FileDisk::open(&disk).unwrap()),
                identify: Identify::default(),
                access: Access::ReadOnly,
                durability: Durability::Stable,
            }],
            hosts: vec![MacAddr::new(2, 0, 0, 0, 0, 1)],
            keys: vec![host.key.public()],
            inventory: inventory
                .to_document(&SecretKey::from_bytes(&[7; 32]))
                .unwrap(),
            boot_id: "0123".into(),
        },
        Arc::new(Quiet),
    )
    .unwrap();
    let wire: Arc<dyn Wire> = Arc::new(PacketSocket::open("old0").unwrap());
    let initiator = Initiator::open("host0").unwrap();
    let image = dir.path().join("copy.img");
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| target.serve(std::slice::from_ref(&wire), &end));
        let ending = EndOnDrop(&end);
        let run = |after| {
            let stop = AtomicBool::new(false);
            let report = StopAfter { after, stop: &stop };
            let context = Context {
                host: &host,
                wire: &initiator,
                report: &report,
            };
            let target = CopyTarget::Disk(address);
            let to = image.to_str().unwrap();
            copy(
                context,
                CopyRequest {
                    // The reader is never far ahead of what is checked.
                    memory: Some(28 << 20),
                    limit: Some(16 << 20),
                    ..CopyRequest::new(&target, to, &stop)
                },
            )
        };
        // The reader may be some ranges ahead of what is checked, but not at the end.
        let error = run(1).unwrap_err();
        assert!(matches!(error, Error::Copy(_)), "{error}");
        assert!(
            error
                .to_string()
                .contains("Run the same command again to resume")
        );
        assert_eq!(host.store.get(&menu.name).unwrap().state, State::Copying);
        assert!(fs::read(&image).unwrap() != data);

        let started = std::time::Instant::now();
        let done = run(u64::MAX).unwrap();
        let summary = &done[0].summary;
        println!("{summary:?} in {:?}", started.elapsed());
        assert!(summary.before > 0 && summary.moved > 0);
        assert_eq!(
            summary.before + summary.equal + summary.moved + summary.zeroed,
            SECTORS * 512
        );
        assert!(fs::read(&image).unwrap() == data);
        assert_eq!(host.store.get(&menu.name).unwrap().state, State::Copied);
        // Nothing of the old disk was changed.
        assert!(fs::read(&disk).unwrap() == data);
        drop(ending);
        serving.join().unwrap().unwrap();
    });
}
