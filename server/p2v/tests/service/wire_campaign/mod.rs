//! Strangers on the wire: nothing of a machine, its disks or its record changes by what nobody authorised, and machines boot
//! meanwhile.
//!
//! Real parts in namespaces of their own: `p2v serve` on a bridge, four `p2v-agent export`, two machines that boot all the
//! time. AoE, DHCP, TFTP and HTTP come from a stranger on the segment, from a guest's interface and through a router, with any
//! sender, in the thousands for every day and in the millions by `make campaign`. `P2V_CAMPAIGN` is the number of frames,
//! `P2V_CAMPAIGN_SEED` the seed that a run printed; each sender's frames follow from it, though not when they come.
//!
//! What is looked for: the disks' bytes, each export's MAC list, reservation, state and order counter, every file of the state
//! directory ([`records::Kept`] tells what a menu that is asked for may change), that nothing ends, and that memory,
//! descriptors and logs stay within bounds. [`aoe`] and [`dhcp`] say which frames are not sent, because
//! these protocols have no defence against them. A stranger with the host's address may also set the AoE config string, which p2v does not read.

mod aoe;
mod boots;
mod cast;
mod dhcp;
mod exports;
#[path = "../../../../netboot/tests/on_the_wire/fetch.rs"]
mod fetch;
mod http;
mod network;
mod random;
mod recorded;
mod records;
mod senders;
mod tftp;
mod udp;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use aoe::Known;
use cast::{BOOTING, GUEST, STRANGER};
use exports::Exports;
use network::{GUESTS_TAG, Network, inside};
use records::Kept;
use senders::{From, Sender, Sent, queues};

use crate::confinement::{Manager, USER, open_directory, started_by_root};
use crate::wire::run;

/// Frames of a run of every day.
const FRAMES: u64 = 20_000;
/// Between two looks at all that must not change.
const LOOK: Duration = Duration::from_secs(2);
/// What a process may grow by, in KiB: places for transfers, connections and notes, which are counted, and what the
/// allocator keeps.
const GROWTH: u64 = 192 << 10;
/// Bytes of all logs: for each kind of line about strangers or one machine there are some at once, and then some a while.
const LOG_AT_ONCE: u64 = 256 << 10;
const LOG_A_SECOND: u64 = 2 << 10;
/// Open files of the service: 1024 transfers and 512 connections at most, and its own.
const DESCRIPTORS: usize = 1700;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|e| panic!("{name} {text}: {e}")),
    )
}

fn settings(dir: &Path, files: &boots::Files) -> PathBuf {
    let own = ["vmlinuz", "initrd"].map(|name| dir.join(name));
    for (name, bytes) in files.iter() {
        if let Some(path) = own.iter().find(|path| path.ends_with(name)) {
            fs::write(path, bytes).unwrap();
        }
    }
    let path = dir.join("p2v.toml");
    let text = format!(
        "iface = \"{}\"\nstate = {:?}\nshelves = {{ first = 1, last = 20 }}\n[serve]\nmode = \"dhcp\"\nuser = {USER:?}\n\
         pool = {{ start = \"192.168.7.100\", end = \"192.168.7.199\" }}\nkernel = {:?}\ninitrd = {:?}\n{}",
        network::BRIDGE,
        dir.join("state"),
        own[0],
        own[1],
        records::settings(),
    );
    fs::write(&path, text).unwrap();
    path
}

/// What a machine fetches, in its order.
fn files() -> boots::Files {
    let usual = p2v_netboot::Settings::default();
    let bytes = |seed: u64, count| random::Random::new(seed, 0).bytes(count);
    Arc::new(vec![
        ("pxelinux.0", fs::read(usual.pxelinux).unwrap()),
        ("ldlinux.c32", fs::read(usual.ldlinux).unwrap()),
        ("vmlinuz", bytes(1, 300_001)),
        ("initrd", bytes(2, 1408 * 40)),
    ])
}

/// Resident memory in KiB, and open files.
fn size(process: u32) -> (u64, usize) {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.unwrap().split_whitespace().next().unwrap();
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).unwrap().count();
    (resident.parse().unwrap(), descriptors)
}

/// The most that was seen of each process, and what it had at first.
struct Sizes(Vec<(u32, u64, u64, usize)>);

impl Sizes {
    fn of(processes: Vec<u32>) -> Sizes {
        let at_first = |process| {
            let (resident, descriptors) = size(process);
            (process, resident, resident, descriptors)
        };
        Sizes(processes.into_iter().map(at_first).collect())
    }

    fn check(&mut self) {
        for (process, first, most, open) in &mut self.0 {
            let (resident, descriptors) = size(*process);
            *most = resident.max(*most);
            *open = descriptors.max(*open);
            assert!(
                *most < *first + GROWTH,
                "process {process}: {first} KiB, now {resident}"
            );
            assert!(
                *open < DESCRIPTORS,
                "process {process}: {descriptors} open files"
            );
        }
    }
}

/// Sets the flag, also when a look finds something: nobody goes on for nothing.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn nothing_changes_by_what_strangers_send_and_machines_boot_meanwhile() {
    let frames = number("P2V_CAMPAIGN").unwrap_or(FRAMES);
    let seed = number("P2V_CAMPAIGN_SEED")
        .unwrap_or_else(|| std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0));
    println!("P2V_CAMPAIGN={frames} P2V_CAMPAIGN_SEED={seed}");
    let (dir, network) = (open_directory(), Network::new());
    let (files, state) = (files(), dir.path().join("state"));
    let config = settings(dir.path(), &files);
    let key = records::make(&state);
    let agents = exports::start(&network, dir.path(), &key);
    let manager = Manager::new(&dir.path().join("notify"));
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let mut service = started_by_root(&network.wire, dir.path(), &config, Stdio::from(log));
    manager.wait_for("READY=1");
    let manager = std::thread::spawn(move || manager.wait_for("STOPPING=1"));
    let process = service.0.id();

    let orders = Arc::new(Mutex::new(Vec::new()));
    let (place, kept) = (dir.path().to_owned(), Arc::clone(&orders));
    let met = inside(&network.wire.host, move || {
        Exports::meet(agents, &place, key, &kept)
    });
    let mut exports = met.join().unwrap();
    exports.check();
    let kept = Kept::of(&state);
    let mut sizes = Sizes::of([vec![process], exports.processes()].concat());

    let (over, boots_over) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let ends = (Over(Arc::clone(&over)), Over(Arc::clone(&boots_over)));
    let begun = Instant::now();
    let machines = [&network.wire.machine, &network.second.0]
        .into_iter()
        .zip(BOOTING)
        .map(|(namespace, machine)| {
            boots::again_and_again(namespace, machine, &files, &boots_over)
        });
    let machines: Vec<_> = machines.collect();
    let parts = [
        (
            From::Segment,
            &network.stranger,
            STRANGER,
            [192, 168, 7, 66],
            frames / 2,
        ),
        (
            From::Guest,
            &network.guest,
            GUEST,
            [192, 168, 7, 30],
            frames / 4,
        ),
        (
            From::OtherNetwork,
            &network.far,
            STRANGER,
            [10, 9, 0, 2],
            frames - frames / 2 - frames / 4,
        ),
    ];
    let (mut threads, mut counts) = (Vec::new(), Vec::new());
    for (from, place, own, address, frames) in parts {
        let is_guest = from == From::Guest;
        let sent = Arc::<Sent>::default();
        counts.push((from, Arc::clone(&sent)));
        let sender = Sender {
            from,
            namespace: place.0.clone(),
            known: Known {
                own,
                orders: Arc::clone(&orders),
                boot_ids: exports.boot_ids(),
                tag: is_guest.then_some(GUESTS_TAG),
                kept_off: is_guest && network.guarded,
            },
            address: Ipv4Addr::from(address),
            seed,
            process,
            frames,
            sent,
            over: Arc::clone(&over),
        };
        threads.extend(sender.start());
    }
    let (done, waits) = mpsc::channel::<()>();
    let all = std::thread::spawn(move || {
        let ends: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        drop(done);
        ends
    });
    let mut looks = 0;
    loop {
        let ended = waits.recv_timeout(LOOK) == Err(RecvTimeoutError::Disconnected);
        looks += 1;
        exports.check();
        kept.check();
        sizes.check();
        assert!(
            service.0.try_wait().unwrap().is_none(),
            "the service has ended"
        );
        assert!(
            !machines.iter().any(|machine| machine.is_finished()),
            "a machine does not boot"
        );
        if ended {
            break;
        }
    }
    let took = begun.elapsed();
    for end in all.join().unwrap() {
        end.expect("a sender");
    }
    drop(ends);
    let mut boots: Vec<Duration> = machines
        .into_iter()
        .flat_map(|machine| machine.join().expect("a machine does not boot"))
        .collect();
    boots.sort();
    let of_agents = exports.check();
    let made_up = kept.check();
    sizes.check();
    let dropped = queues(process).map(|queue| queue.dropped);
    run(Command::new("kill").arg(process.to_string()));
    assert!(service.0.wait().unwrap().success());
    manager.join().unwrap();
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    let agents_logs = exports::log_bytes(dir.path());
    let logs = log.len() as u64 + agents_logs.iter().sum::<u64>();
    assert!(
        logs < LOG_AT_ONCE + LOG_A_SECOND * took.as_secs(),
        "{logs} bytes of log in {took:.1?}"
    );

    let total: u64 = counts.iter().flat_map(|(_, sent)| sent.all()).sum();
    println!(
        "{total} frames in {took:.1?}, {:.0} a second, {looks} looks",
        total as f64 / took.as_secs_f64()
    );
    for (from, sent) in &counts {
        let [aoe, dhcp, tftp, http] = sent.all();
        println!("{from:?}: AoE {aoe}, DHCP {dhcp}, TFTP {tftp}, HTTP {http}");
    }
    let [dhcp, tftp] = dropped;
    println!(
        "found no room at the service: DHCP {dhcp}, TFTP {tftp}; its log has {} bytes, the agents' have {agents_logs:?}",
        log.len()
    );
    println!("agents, each [frames, no room, orders refused]: {of_agents:?}");
    let arrived = network.guests_frames();
    match network.guarded {
        true => assert_eq!(arrived, 0, "frames of the guest's arrived"),
        false => println!(
            "this kernel has no nft for bridges: {arrived} of the guest's AoE frames arrived, as from a stranger"
        ),
    }
    println!(
        "{} boots, median {:.1?}, slowest {:.1?}; {made_up} machines made up",
        boots.len(),
        boots[boots.len() / 2],
        boots[boots.len() - 1]
    );
    for (process, first, most, open) in &sizes.0 {
        println!(
            "process {process}: {first} KiB at first, {most} at most, {open} open files at most"
        );
    }
}
