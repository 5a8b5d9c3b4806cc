//! Serving until a signal ends it, over whatever happens to the interfaces meanwhile.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use p2v_aoe::blade::{
    self, Conflict, Disk, Durability, Event, Events, Export, Target, TargetConfig,
};
use p2v_aoe::wire::{OpenError, PacketSocket, Wire};
use p2v_contract::cmdline::BootArgs;
use p2v_contract::operation::Access;
use p2v_contract::{SECTOR, Size};

use super::Options;
use super::disk::{self, DiskRefused};
use crate::export::{ASK_TRIES, ASK_WAIT, words};
use crate::inventory;
use crate::link::Links;
use crate::refusals::Refusals;

/// A line for whoever reads; nobody need.
macro_rules! say {
    ($($words:tt)*) => {{
        let _ = writeln!(io::stdout(), $($words)*);
    }};
}

/// How often the interfaces are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Set by a signal: the end.
static STOP: AtomicBool = AtomicBool::new(false);

/// Why nothing is exported.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskRefused),
    /// An interface.
    #[error(transparent)]
    Socket(#[from] OpenError),
    /// Another machine has the address.
    #[error("{0}. Choose another --shelf or --slot, or end the other export")]
    Conflict(Conflict),
    /// Anything else that the system refuses.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl Fn(io::Error) -> ServeError {
    move |source| ServeError::System { what, source }
}

/// A line for each event, but for those that anybody can cause in any number.
struct Say(Refusals);

impl Events for Say {
    fn event(&self, event: Event) {
        if self.0.admit(&event, Instant::now()) {
            say!("{}", words(&event));
        }
    }
}

extern "C" fn stop(_: libc::c_int) {
    STOP.store(true, Ordering::Release);
}

fn stop_at_signals() -> Result<(), ServeError> {
    let action = SigAction::new(SigHandler::Handler(stop), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // SAFETY: the handler stores to an atomic and does nothing else.
        unsafe { sigaction(signal, &action) }.map_err(|e| system("take signals")(e.into()))?;
    }
    Ok(())
}

/// Exports until a signal ends it.
pub(super) fn serve(options: &Options) -> Result<(), ServeError> {
    let opened = disk::open(&options.disk, options.read_only)?;
    let wires = open_all(&options.interfaces)
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    for wire in &wires {
        let conflicts = blade::conflicts(&**wire, &[options.address], ASK_TRIES, ASK_WAIT)
            .map_err(system("ask the wire whether the address is free"))?;
        if let Some(conflict) = conflicts.first() {
            return Err(ServeError::Conflict(*conflict));
        }
    }
    stop_at_signals()?;
    let (access, mode) = match (options.read_only, options.waiting) {
        (true, _) => (Access::ReadOnly, "read-only"),
        (false, true) => (Access::Waiting, "WAITING for `p2v resume`"),
        (false, false) => (Access::ReadWrite, "read-write"),
    };
    let bytes = opened.disk.sectors() * SECTOR;
    // By which an initiator knows that several interfaces lead to one machine. There are no disks and
    // interfaces in it: nothing here is to be moved by `p2v`. But what stands in for an old machine tells of its disk.
    let key = inventory::new_key().map_err(system("make a key"))?;
    let mut machine = inventory::machine(Path::new("/sys"), &BootArgs::default());
    if options.waiting {
        machine.stands_in = true;
        machine.host_keys.clone_from(&options.keys);
        machine.disks = vec![inventory::of_disk(
            &options.disk,
            options.address,
            bytes / SECTOR,
        )];
    }
    let said = Arc::new(Say(Refusals::new(Instant::now())));
    let target = Target::new(
        TargetConfig {
            exports: vec![Export {
                address: options.address,
                disk: Arc::new(opened.disk),
                identify: opened.identify,
                access,
                durability: if options.fast_writes {
                    Durability::Fast
                } else {
                    Durability::Stable
                },
            }],
            hosts: options.allow.clone(),
            keys: options.keys.clone(),
            inventory: machine
                .to_document(&key)
                .map_err(|e| system("describe this machine")(e.into()))?,
            boot_id: machine.boot_id,
        },
        Arc::clone(&said) as Arc<dyn Events>,
    )
    .map_err(system("open the disk for writing"))?;
    if options.fast_writes {
        let _ = writeln!(
            io::stderr(),
            "warning: --fast-writes: what is acknowledged is NOT on stable storage; it is lost if this machine stops"
        );
    }
    for (wire, name) in wires.iter().zip(&options.interfaces) {
        say!(
            "exporting {} ({}, {mode}) as {} on {name} ({}), to {}",
            options.disk.display(),
            Size(bytes),
            options.address,
            wire.mac(),
            audience(options),
        );
    }
    keep_serving(options, &target, &said.0, wires);
    say!("{} is no longer exported", options.address);
    drop(opened.claim);
    Ok(())
}

fn audience(options: &Options) -> String {
    if options.allow.is_empty() {
        return "everybody".into();
    }
    let macs: Vec<String> = options.allow.iter().map(ToString::to_string).collect();
    macs.join(", ")
}

fn open_all(interfaces: &[String]) -> Vec<Result<Arc<dyn Wire>, OpenError>> {
    interfaces
        .iter()
        .map(|name| Ok(Arc::new(PacketSocket::open_with_ring(name)?) as Arc<dyn Wire>))
        .collect()
}

/// Serves on all interfaces there are, and takes it up again when one goes, comes back, or changes so
/// that a new socket is needed.
fn keep_serving(
    options: &Options,
    target: &Target,
    refusals: &Refusals,
    mut wires: Vec<Arc<dyn Wire>>,
) {
    let end = || STOP.load(Ordering::Acquire);
    while !end() {
        let again = AtomicBool::new(false);
        let ended = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| watch(options, refusals, &again, wires.len()));
            let _ = announce(options, &wires);
            let ended = target.serve(&wires, &again);
            again.store(true, Ordering::Release);
            let _ = watcher.join();
            ended
        });
        if end() {
            return;
        }
        if let Err(error) = ended {
            say!("serving ended ({error}); it is taken up again as soon as an interface is there");
        }
        wires = Vec::new();
        while wires.is_empty() && !end() {
            wires = open_all(&options.interfaces)
                .into_iter()
                .flatten()
                .collect();
            if wires.is_empty() {
                std::thread::sleep(LOOK);
            }
        }
        if !wires.is_empty() {
            say!(
                "serving on {} of {} interfaces",
                wires.len(),
                options.interfaces.len()
            );
        }
    }
}

fn announce(options: &Options, wires: &[Arc<dyn Wire>]) -> io::Result<()> {
    wires
        .iter()
        .try_for_each(|wire| blade::announce(&**wire, &[options.address]))
}

/// Sets `again` at a signal, and when an interface that was away is back. Announces the target when a
/// link has come up. Tells of refused orders without a line.
fn watch(options: &Options, refusals: &Refusals, again: &AtomicBool, served: usize) {
    let Ok(handle) = Links::open() else {
        return;
    };
    let carrier = |name: &String| handle.has_link(name) == Some(true);
    let mut links: Vec<bool> = options.interfaces.iter().map(carrier).collect();
    while !again.load(Ordering::Acquire) {
        std::thread::sleep(LOOK);
        if let Some(line) = refusals.left_out(Instant::now()) {
            say!("{line}");
        }
        let there = options.interfaces.iter();
        let there = there.filter(|name| handle.has_link(name).is_some()).count();
        if STOP.load(Ordering::Acquire) || there > served {
            again.store(true, Ordering::Release);
        }
        for (name, was) in options.interfaces.iter().zip(&mut links) {
            let is = carrier(name);
            if is && !*was {
                say!("{name}: the link is up");
                // It only spares initiators time.
                if let Ok(wire) = PacketSocket::open(name) {
                    let _ = blade::announce(&wire, &[options.address]);
                }
            } else if !is && *was {
                say!("{name}: no link");
            }
            *was = is;
        }
    }
}
