//! The target engine: serves disks to the initiators on its list. AoE calls what answers at a shelf
//! and slot a blade; vblade is one in software, as this is.
//!
//! One thread does it all, and waits for nothing but the next event: a frame, or a disk request that
//! ended. Frames come and go in batches, neighbours are read and written together, what is in memory is
//! answered at once, and the kernel has all other disk requests at the same time, so that a slow one
//! holds up nobody else. Long scans have a thread for each disk. Failures of the disk are ATA status,
//! never the AoE error flag: the Linux driver throws a reply with that flag away and asks again for
//! three minutes (AOE.md).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pnet::util::MacAddr;

use crate::wire::Wire;

mod announce;
mod buffer;
mod control;
mod disk;
mod engine;
mod export;
mod incoming;
mod late;
mod operation;
mod outbox;
mod paths;
mod pool;
mod ring;
mod scan;
mod scan_job;
mod schedule;
mod stream;

pub use announce::{Conflict, announce, conflicts};
pub use disk::{Disk, FileDisk, Files, Look};
pub use export::{Durability, Export};

use control::ControlState;
use engine::Engine;
use export::Served;
use p2v_contract::address::Address;
use p2v_contract::key::PublicKey;
use p2v_contract::operation::{Access, Finish, Stats, Status};
use paths::Paths;

/// Requests that one initiator may have outstanding: the Linux driver uses no more than 64
/// (`aoe_maxout`), and the socket's buffer holds many times that.
pub const BUFFER_COUNT: u16 = 64;
/// Sectors in a frame that every Ethernet carries. More are not advertised before frames of that
/// size have made the round trip, because no initiator falls back (AOE.md).
pub const SECTORS_PER_FRAME: u8 = 2;
/// Waits for something to do are no longer than this.
const TICK: Duration = Duration::from_millis(500);
/// How often the interfaces are looked at anew.
const LOOK: Duration = Duration::from_secs(1);
/// Firmware version in config replies.
const FIRMWARE: u16 = 1;

/// What to serve and to whom.
pub struct TargetConfig {
    /// The disks.
    pub exports: Vec<Export>,
    /// MAC addresses that are answered for data; empty: everybody.
    pub hosts: Vec<MacAddr>,
    /// The hosts' public keys; without one control requests are refused.
    pub keys: Vec<PublicKey>,
    /// The inventory document ([`Inventory::to_document`](p2v_contract::inventory::Inventory::to_document)).
    pub inventory: Vec<u8>,
    /// The inventory's `boot_id`, which control requests are bound to.
    pub boot_id: String,
}

/// Something worth a line on the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The export's state was changed by an authorised request.
    Access {
        /// Which export.
        address: Address,
        /// Its state now.
        access: Access,
        /// By whom.
        by: MacAddr,
    },
    /// The machine is to power off or restart, by an authorised request. The reply has been sent, unless
    /// the wire has failed.
    Finish {
        /// Which of the two.
        finish: Finish,
        /// By whom.
        by: MacAddr,
    },
    /// A control request was refused.
    ControlRefused {
        /// Which export.
        address: Address,
        /// Why.
        status: Status,
        /// Who sent it.
        by: MacAddr,
    },
    /// A disk failed at something other than a single read or write, which are counted.
    DiskFailed {
        /// Which export.
        address: Address,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        error: String,
    },
}

/// Where events go.
pub trait Events: Send + Sync {
    /// Called on the target's own threads: must not take long.
    fn event(&self, event: Event);
}

/// The state of one export, for a status screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportStatus {
    /// Its address.
    pub address: Address,
    /// What is allowed.
    pub access: Access,
    /// Its counters.
    pub stats: Stats,
}

/// The engine. Dropping it ends its disk threads after the work they have.
pub struct Target {
    exports: Vec<Arc<Served>>,
    engine: Mutex<Engine>,
    paths: Mutex<Paths>,
    /// Requests without an answer, for tests that wait for the last one.
    pending: AtomicUsize,
    control: Arc<ControlState>,
    inventory: Vec<u8>,
    events: Arc<dyn Events>,
}

impl Drop for Target {
    fn drop(&mut self) {
        for export in &self.exports {
            export.scan.close();
        }
    }
}

impl Target {
    /// Starts the disk threads. A disk that may be written from the start is opened for that.
    ///
    /// # Errors
    /// A disk cannot be opened for writing, a thread cannot be started, or there is no event descriptor to be had.
    pub fn new(config: TargetConfig, events: Arc<dyn Events>) -> io::Result<Target> {
        let takes_orders = !config.keys.is_empty();
        let control = Arc::new(ControlState::new(config.keys, config.boot_id));
        let mut exports = Vec::new();
        for export in config.exports {
            if export.access == Access::ReadWrite {
                export.disk.set_writable(true)?;
            }
            let export = Arc::new(Served::new(export, &config.hosts, takes_orders));
            let name = export.address.to_string();
            let served = export.clone();
            std::thread::Builder::new()
                .name(format!("{name} scan"))
                .spawn(move || scan::scan_thread(&served))?;
            exports.push(export);
        }
        let engine = Engine::new(&exports, control.clone(), events.clone())?;
        Ok(Target {
            exports,
            engine: Mutex::new(engine),
            paths: Mutex::default(),
            pending: AtomicUsize::new(0),
            control,
            inventory: config.inventory,
            events,
        })
    }

    /// Serves what comes over `wires` until `stop` is set (looked at twice a second) or one of them
    /// fails, which is the error: its interface is gone. What was being done goes on when serving is
    /// taken up again. One caller at a time serves; another one waits.
    ///
    /// # Errors
    /// A wire fails.
    pub fn serve(&self, wires: &[Arc<dyn Wire>], stop: &AtomicBool) -> io::Result<()> {
        let mut engine = self
            .engine
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        // What is known of the ways is known by the wires' places, which may be others now.
        *self.paths() = Paths::default();
        let served = self.serve_with(&mut engine, wires, stop);
        engine.leave();
        served
    }

    fn serve_with(
        &self,
        engine: &mut Engine,
        wires: &[Arc<dyn Wire>],
        stop: &AtomicBool,
    ) -> io::Result<()> {
        let mut looked = Instant::now();
        while !stop.load(Ordering::Acquire) {
            let mut finish = None;
            let received = engine.receive(wires, TICK, &mut |engine, index, bytes| {
                let told = self.accept(engine, bytes, index, &wires[index]);
                finish = told.or(finish.take());
            });
            let pending = engine.go_on();
            self.pending.store(pending, Ordering::Release);
            let sent = engine.send(wires);
            // Also when a wire has failed: whoever asks again is told that it was done.
            if let Some(event) = finish {
                self.events.event(event);
            }
            received.and(sent)?;
            if engine.now().duration_since(looked) > LOOK {
                looked = engine.now();
                for wire in wires {
                    wire.refresh();
                }
                let dropped = wires.iter().map(|wire| wire.dropped()).sum();
                for export in &self.exports {
                    export.dropped(dropped);
                }
            }
        }
        Ok(())
    }

    /// The exports' states, in the order of their addresses.
    pub fn status(&self) -> Vec<ExportStatus> {
        self.exports
            .iter()
            .map(|export| ExportStatus {
                address: export.address,
                access: export.access(),
                stats: export.stats(),
            })
            .collect()
    }

    fn paths(&self) -> MutexGuard<'_, Paths> {
        self.paths
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests;
