//! Both engines over real packet sockets, on a veth pair in a network namespace of the test's own,
//! and the initiator against `vblade`. Needs root, iproute2 and Debian's `vblade`.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use p2v_aoe::ata::Identify;
use p2v_aoe::blade::{Durability, Event, Events, Export, FileDisk, Target, TargetConfig};
use p2v_aoe::config::QueryConfig;
use p2v_aoe::frame::{self, Header, command};
use p2v_aoe::initiator::{Error, Initiator, Session};
use p2v_aoe::wire::{PacketSocket, Wire};
use p2v_contract::inventory::Inventory;
use p2v_contract::key::SecretKey;
use p2v_contract::operation::Access;
use p2v_contract::{Address, MacAddr};

const E7_0: Address = Address::new(7, 0);

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status()
        .expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

/// Runs the story in a thread with a network of its own: `host0` and `old0`, joined. The network
/// is gone when the thread is.
fn with_wire(mtu: u32, story: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("the test needs root to make a network namespace");
        ip(
            "link add host0 address 02:00:00:00:00:01 type veth peer name old0 address 02:00:00:00:00:07",
        );
        for name in ["host0", "old0"] {
            ip(&format!("link set {name} mtu {mtu} up"));
        }
        story();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn disk_image(directory: &Path) -> (std::path::PathBuf, Vec<u8>) {
    let path = directory.join("disk.img");
    let data: Vec<u8> = (0..8u32 << 20)
        .map(|i| (i / 512 * 7 + i % 509) as u8)
        .collect();
    fs::write(&path, &data).unwrap();
    (path, data)
}

struct Quiet;

impl Events for Quiet {
    fn event(&self, _: Event) {}
}

#[test]
fn target_and_initiator_over_packet_sockets() {
    with_wire(1500, || {
        let directory = tempfile::tempdir().unwrap();
        let (path, mut data) = disk_image(directory.path());
        let key = SecretKey::from_bytes(&[9; 32]);
        let host = Initiator::open("host0").unwrap();
        assert_eq!(host.mac(), MacAddr::new(2, 0, 0, 0, 0, 1));
        let target = Target::new(
            TargetConfig {
                exports: vec![Export {
                    address: E7_0,
                    disk: Arc::new(FileDisk::open(&path).unwrap()),
                    identify: Identify {
                        model: "OLD DISK".into(),
                        serial: "S1".into(),
                        ..Identify::default()
                    },
                    access: Access::ReadOnly,
                    durability: Durability::Stable,
                }],
                hosts: vec![host.mac()],
                keys: vec![key.public()],
                inventory: Inventory {
                    boot_id: "1".into(),
                    ..Inventory::default()
                }
                .to_document(&key)
                .unwrap(),
                boot_id: "1".into(),
            },
            Arc::new(Quiet),
        )
        .unwrap();
        let wire: Arc<dyn Wire> = Arc::new(PacketSocket::open_with_ring("old0").unwrap());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| target.serve(&[wire], &stop));
            let mut session = host.attach(E7_0).unwrap();
            assert_eq!(
                (session.identify().model.as_str(), session.sectors()),
                ("OLD DISK", 16384)
            );
            let mut read = vec![0; data.len()];
            session.read(0, &mut read).unwrap();
            assert!(read == data);

            assert!(matches!(
                session.write(3, &[1; 512]),
                Err(Error::Ata { .. })
            ));
            assert!(fs::read(&path).unwrap() == data, "written while read-only");
            session.access(&key, 1, Access::ReadWrite).unwrap();
            // The link goes away in the middle and comes back.
            ip("link set old0 down");
            let flap = scope.spawn(|| ip("link set old0 up"));
            session.write(3, &[1; 64 << 10]).unwrap();
            flap.join().unwrap();
            data[3 * 512..3 * 512 + (64 << 10)].fill(1);
            assert!(fs::read(&path).unwrap() == data);
            let digest = session.digest(0, 16384).unwrap();
            assert_eq!(digest.blake3, *blake3::hash(&data).as_bytes());
            stop.store(true, Ordering::Release);
            serving.join().unwrap().unwrap();
        });
    });
}

/// Joins an interface of ours, which takes jumbo frames, to the switch.
fn plug_in(name: &str, octet: u8, switch_mtu: u32) {
    ip(&format!(
        "link add {name}0 address 02:00:00:00:00:0{octet} mtu 9000 type veth peer name {name}1 mtu {switch_mtu}"
    ));
    ip(&format!("link set {name}1 master switch up"));
    ip(&format!("link set {name}0 up"));
}

/// Runs a story in which our two interfaces take jumbo frames and the switch between them takes frames
/// of this size.
fn with_a_switch(mtu: u32, story: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("the test needs root to make a network namespace");
        ip("link add switch type bridge");
        for (name, octet) in [("host", 1), ("old", 7)] {
            plug_in(name, octet, mtu);
        }
        ip("link set switch up");
        story();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Serves a file on `old0`, writable for everybody, while `story` runs.
fn with_target(path: &Path, story: impl FnOnce(&Initiator)) {
    let target = Target::new(
        TargetConfig {
            exports: vec![Export {
                address: E7_0,
                disk: Arc::new(FileDisk::open(path).unwrap()),
                identify: Identify::default(),
                access: Access::ReadWrite,
                durability: Durability::Stable,
            }],
            hosts: Vec::new(),
            keys: vec![],
            inventory: Vec::new(),
            boot_id: String::new(),
        },
        Arc::new(Quiet),
    )
    .unwrap();
    let wire: Arc<dyn Wire> = Arc::new(PacketSocket::open_with_ring("old0").unwrap());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| target.serve(&[wire], &stop));
        story(&Initiator::open("host0").unwrap());
        stop.store(true, Ordering::Release);
        serving.join().unwrap().unwrap();
    });
}

/// Reads all, writes a part, and compares with the file.
fn read_and_write(session: &mut Session, path: &Path, data: &mut [u8]) {
    let mut read = vec![0; data.len()];
    session.read(0, &mut read).unwrap();
    assert!(read == data);
    session.write(1001, &[0x77; 300 * 512]).unwrap();
    data[1001 * 512..1301 * 512].fill(0x77);
    assert!(fs::read(path).unwrap() == data);
    session.read(0, &mut read).unwrap();
    assert!(read == data);
}

#[test]
fn long_frames_are_used_when_they_have_made_the_way() {
    with_wire(9000, || {
        let directory = tempfile::tempdir().unwrap();
        let (path, mut data) = disk_image(directory.path());
        with_target(&path, |host| {
            let said = |host: &Initiator| {
                host.discover(Duration::from_millis(200)).unwrap()[0].sectors_per_frame
            };
            assert_eq!(said(host), 2, "nothing was tried yet");
            let mut session = host.attach(E7_0).unwrap();
            assert_eq!(session.sectors_per_frame(), 17);
            read_and_write(&mut session, &path, &mut data);
            assert_eq!(said(host), 17, "now the kernel's driver may use them too");
        });
    });
}

#[test]
fn a_switch_that_drops_long_frames_is_found_out_before_it_costs_anything() {
    with_a_switch(1500, || {
        let directory = tempfile::tempdir().unwrap();
        let (path, mut data) = disk_image(directory.path());
        with_target(&path, |host| {
            let mut session = host.attach(E7_0).unwrap();
            assert_eq!(session.sectors_per_frame(), 2);
            read_and_write(&mut session, &path, &mut data);
            let found = host.discover(Duration::from_millis(200)).unwrap();
            assert_eq!(found[0].sectors_per_frame, 2);
        });
        // And a target that promises what the way does not hold.
        let _vblade = Vblade::start(&path);
        let host = Initiator::open("host0").unwrap();
        let found = (0..50).find_map(|_| {
            let found = host.discover(Duration::from_millis(200)).unwrap();
            (!found.is_empty()).then_some(found)
        });
        assert_eq!(found.expect("vblade answers")[0].sectors_per_frame, 17);
        let mut session = host.attach(E7_0).unwrap();
        assert_eq!(session.sectors_per_frame(), 2);
        read_and_write(&mut session, &path, &mut data);
    });
}

#[test]
fn a_session_goes_on_when_the_way_carries_less_than_it_did() {
    with_a_switch(9000, || {
        let directory = tempfile::tempdir().unwrap();
        let (path, mut data) = disk_image(directory.path());
        with_target(&path, |host| {
            let mut session = host.attach(E7_0).unwrap();
            assert_eq!(session.sectors_per_frame(), 17);
            for port in ["host1", "old1"] {
                ip(&format!("link set {port} mtu 1500"));
            }
            // Long enough that the target is asked whether it is there: short frames still arrive, and it is
            // not to be taken for one whose disk takes long.
            session.wait_for_disk(Duration::from_secs(3600));
            session.set_patience(Duration::from_secs(4));
            read_and_write(&mut session, &path, &mut data);
            assert_eq!(session.sectors_per_frame(), 2);
        });
    });
}

#[test]
fn an_interface_that_is_made_anew_is_opened_anew_and_one_that_is_gone_is_named() {
    with_a_switch(1500, || {
        let directory = tempfile::tempdir().unwrap();
        let (path, mut data) = disk_image(directory.path());
        with_target(&path, |host| {
            let mut session = host.attach(E7_0).unwrap();
            read_and_write(&mut session, &path, &mut data);
            ip("link del host0");
            plug_in("host", 1, 1500);
            let mut read = vec![0; data.len()];
            session.read(0, &mut read).unwrap();
            assert!(read == data);
            read_and_write(&mut session, &path, &mut data);

            ip("link del host0");
            session.set_patience(Duration::from_secs(3));
            let error = session.read(0, &mut read).unwrap_err();
            assert!(
                matches!(&error, Error::Wire { iface, .. } if iface == "host0"),
                "{error}"
            );
            eprintln!("{error}");
        });
    });
}

#[test]
fn an_interface_for_longer_frames_than_there_is_room_for_is_used_with_shorter_ones() {
    with_wire(1500, || {
        ip("link set lo up");
        let wire = PacketSocket::open_with_ring("lo").unwrap();
        for _ in 0..2 {
            assert_eq!(wire.mtu(), 9216 - 14);
            assert_eq!(wire.receive(Duration::ZERO, &mut |_| {}).unwrap(), 0);
            wire.refresh();
        }
    });
}

#[test]
fn a_frame_of_a_vlan_is_for_that_vlan() {
    with_wire(1500, || {
        let directory = tempfile::tempdir().unwrap();
        let (path, _) = disk_image(directory.path());
        with_target(&path, |host| {
            // The target is up.
            host.attach(E7_0).unwrap();
            let wire = PacketSocket::open("host0").unwrap();
            let query = |tag: u32| {
                let to = MacAddr::new(2, 0, 0, 0, 0, 7);
                Header::request(wire.mac(), to, E7_0, command::CONFIG, tag)
                    .frame(&[&QueryConfig::default().to_bytes()])
            };
            // IEEE 802.1Q: four bytes between the addresses and the EtherType.
            let tagged = |vlan: u8, tag: u32| {
                let mut frame = query(tag);
                frame.splice(12..12, [0x81, 0x00, 0x00, vlan]);
                frame
            };
            let (of_a_vlan, priority_only, plain) = (0x8000_0001, 0x8000_0002, 0x8000_0003);
            wire.send(&[tagged(5, of_a_vlan), tagged(0, priority_only), query(plain)])
                .unwrap();
            let mut answered = Vec::new();
            while !answered.contains(&plain) {
                let got = wire.receive(Duration::from_secs(10), &mut |bytes| {
                    answered.extend(frame::parse(bytes).map(|(header, _)| header.tag));
                });
                assert_ne!(got.unwrap(), 0, "no answer");
            }
            assert_eq!(answered, [priority_only, plain]);
        });
    });
}

struct Vblade(Child);

impl Vblade {
    fn start(path: &Path) -> Vblade {
        let child = Command::new("vblade")
            .args(["-b", "64", "7", "0", "old0"])
            .arg(path)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("vblade is installed");
        Vblade(child)
    }
}

impl Drop for Vblade {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_initiator_reads_and_writes_vblade_with_jumbo_frames() {
    with_wire(9000, || {
        let directory = tempfile::tempdir().unwrap();
        let (path, mut data) = disk_image(directory.path());
        let _vblade = Vblade::start(&path);
        let host = Initiator::open("host0").unwrap();
        // It does not say when it is ready, but it answers then.
        let found = (0..50).find_map(|_| {
            let found = host.discover(Duration::from_millis(200)).unwrap();
            (!found.is_empty()).then_some(found)
        });
        let found = found.expect("vblade answers");
        assert_eq!(found[0].sectors_per_frame, 17);
        let mut session = host.attach(E7_0).unwrap();
        assert_eq!(session.sectors_per_frame(), 17);
        let mut read = vec![0; data.len()];
        session.read(0, &mut read).unwrap();
        assert!(read == data);
        session.write(1000, &[0x5a; 100 * 512]).unwrap();
        data[1000 * 512..1100 * 512].fill(0x5a);
        assert!(fs::read(&path).unwrap() == data);
        // It is no agent of ours, and says so.
        assert!(
            matches!(session.inventory(), Err(Error::Refused { code: 1, .. })),
            "{:?}",
            session.inventory()
        );
    });
}

#[test]
fn no_interface_and_no_target_are_told_apart() {
    with_wire(1500, || {
        let error = Initiator::open("nope0").err().unwrap().to_string();
        assert!(
            error.contains("nope0") && error.contains("ip link"),
            "{error}"
        );
        let error = Initiator::open("host0")
            .unwrap()
            .attach(E7_0)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("nobody answers for e7.0"), "{error}");
    });
}
