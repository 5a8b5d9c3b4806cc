//! The machine's disks on the wire: the edge to the target engine.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use p2v_aoe::ata::Identify;
use p2v_aoe::blade::{
    self, Conflict, Durability, Event, Events, Export, ExportStatus, FileDisk, Target, TargetConfig,
};
use p2v_aoe::wire::{OpenError, PacketSocket, Wire};
use p2v_contract::Address;
use p2v_contract::cmdline::BootArgs;
use p2v_contract::inventory::{Disk, Inventory};
use p2v_contract::key::SecretKey;
use p2v_contract::operation::Access;

use crate::inventory;
use crate::refusals::Refusals;
use crate::standing::Standing;

/// How often, and how long each time, the wire is asked whether an address is free.
pub(crate) const ASK_TRIES: u32 = 3;
pub(crate) const ASK_WAIT: Duration = Duration::from_millis(300);

/// Why nothing is exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The inventory does not become JSON.
    #[error("writing the inventory: {0}")]
    Inventory(#[from] serde_json::Error),
    /// A disk cannot be opened.
    #[error("opening /dev/{name}: {source}")]
    Disk {
        /// The disk.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A disk is not as large as the kernel said.
    #[error("/dev/{name} has {opened} sectors when opened, and {listed} in sysfs")]
    Size {
        /// The disk.
        name: String,
        /// Sectors found.
        opened: u64,
        /// Sectors listed.
        listed: u64,
    },
    /// No socket.
    #[error(transparent)]
    Socket(#[from] OpenError),
    /// The wire fails.
    #[error("asking the wire whether the addresses are free: {0}")]
    Wire(io::Error),
    /// Another machine has the address.
    #[error("{0}; give each machine a shelf of its own, then restart this one")]
    Conflict(Conflict),
    /// A thread cannot be started.
    #[error("starting the target: {0}")]
    Start(io::Error),
}

/// What the kernel command line lacks, so that nothing may be exported; `None` if all is there.
pub fn missing(args: &BootArgs) -> Option<String> {
    match (args.shelf, args.hosts.macs.is_empty()) {
        (Some(_), false) => None,
        (None, false) => Some("no p2v.shelf=N on the kernel command line".into()),
        (Some(_), true) => Some("no p2v.host=MAC on the kernel command line".into()),
        (None, true) => {
            Some("no p2v.shelf=N and no p2v.host=MAC on the kernel command line".into())
        }
    }
}

/// Hands the engine's events to the worker's loop.
struct Forward {
    events: mpsc::Sender<Event>,
    refusals: Arc<Refusals>,
    standing: Mutex<Standing>,
    disks: Vec<Disk>,
}

impl Events for Forward {
    fn event(&self, event: Event) {
        // Here, before the order is acknowledged: a worker that ends now leaves word of it.
        if let Event::Access {
            address, access, ..
        } = event
            && let Some(disk) = self.disks.iter().find(|disk| disk.address == Some(address))
        {
            let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
            // In memory: it fails only where there is none left.
            let _ = standing.ordered(address, disk, access);
        }
        // Before they queue up: the worker may wait for a slow serial line meanwhile.
        if !self.refusals.admit(&event, Instant::now()) {
            return;
        }
        // The receiver is gone only when the worker ends.
        let _ = self.events.send(event);
    }
}

/// The exports at work.
pub struct Exporter {
    target: Arc<Target>,
    interface: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
    /// What the engine has to tell.
    pub events: mpsc::Receiver<Event>,
    refusals: Arc<Refusals>,
}

impl Exporter {
    /// Exports every disk of the inventory that has an address on `interface`: as was ordered in this boot, else
    /// waiting or read-only, as the orders on the command line say.
    ///
    /// # Errors
    /// [`ExportError`]; nothing is exported then.
    pub fn start(
        inventory: &Inventory,
        args: &BootArgs,
        key: &SecretKey,
        standing: &Standing,
        interface: &str,
    ) -> Result<Exporter, ExportError> {
        let at_first = match args.waits {
            true => Access::Waiting,
            false => Access::ReadOnly,
        };
        let mut exports = Vec::new();
        for disk in &inventory.disks {
            let Some(address) = disk.address else {
                continue;
            };
            let opened = FileDisk::open(&Path::new("/dev").join(&disk.name)).map_err(|source| {
                ExportError::Disk {
                    name: disk.name.clone(),
                    source,
                }
            })?;
            let sectors = p2v_aoe::blade::Disk::sectors(&opened);
            if sectors != disk.sectors {
                return Err(ExportError::Size {
                    name: disk.name.clone(),
                    opened: sectors,
                    listed: disk.sectors,
                });
            }
            exports.push(Export {
                address,
                disk: Arc::new(opened),
                identify: identify(disk),
                access: standing.of(address, disk).unwrap_or(at_first),
                durability: Durability::Stable,
            });
        }
        let addresses: Vec<Address> = exports.iter().map(|e| e.address).collect();
        let wire: Arc<dyn Wire> = Arc::new(PacketSocket::open_with_ring(interface)?);
        let conflicts =
            blade::conflicts(&*wire, &addresses, ASK_TRIES, ASK_WAIT).map_err(ExportError::Wire)?;
        if let Some(conflict) = conflicts.first() {
            return Err(ExportError::Conflict(*conflict));
        }
        let (sender, events) = mpsc::channel();
        let refusals = Arc::new(Refusals::new(Instant::now()));
        let target = Target::new(
            TargetConfig {
                exports,
                hosts: args.hosts.macs.clone(),
                keys: args.hosts.keys.clone(),
                inventory: inventory::document(Path::new("/sys"), inventory, key)?,
                boot_id: inventory.boot_id.clone(),
            },
            Arc::new(Forward {
                events: sender,
                refusals: Arc::clone(&refusals),
                standing: Mutex::new(standing.clone()),
                disks: inventory.disks.clone(),
            }),
        )
        .map_err(ExportError::Start)?;
        let mut exporter = Exporter {
            target: Arc::new(target),
            interface: interface.to_owned(),
            stop: Arc::new(AtomicBool::new(false)),
            thread: None,
            events,
            refusals,
        };
        exporter.serve(wire).map_err(ExportError::Start)?;
        exporter.announce();
        Ok(exporter)
    }

    fn serve(&mut self, wire: Arc<dyn Wire>) -> io::Result<()> {
        let (target, stop) = (self.target.clone(), self.stop.clone());
        self.thread = Some(
            thread::Builder::new()
                .name("target".into())
                .spawn(move || target.serve(&[wire], &stop))?,
        );
        Ok(())
    }

    /// Tells initiators that wait that the disks are there: at the start, and when the link is
    /// back. It only spares them time, so a failure is of no account.
    pub fn announce(&self) {
        let addresses: Vec<Address> = self.status().iter().map(|e| e.address).collect();
        if let Ok(wire) = PacketSocket::open(&self.interface) {
            let _ = blade::announce(&wire, &addresses);
        }
    }

    /// If serving has ended (the interface went away, the engine failed), says why and takes it up
    /// again on a new socket. The exports keep their state.
    pub fn revive(&mut self) -> Option<String> {
        let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        if !ended {
            return None;
        }
        let mut said = match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => Some(format!("serving on {} ended: {error}", self.interface)),
            Some(Ok(Ok(()))) => Some(format!("serving on {} ended", self.interface)),
            Some(Err(_)) => Some("the target engine failed; it is started again".to_owned()),
            None => None,
        };
        // A socket that cannot be had yet (the interface is gone) is tried for at the next look; what
        // ended the serving is said once.
        if let Ok(wire) = PacketSocket::open_with_ring(&self.interface) {
            said = Some(match self.serve(Arc::new(wire)) {
                Ok(()) => format!("serving on {} again", self.interface),
                Err(error) => format!("starting the target: {error}"),
            });
        }
        said
    }

    /// Once in a while, how many orders were refused for which there was no event.
    pub fn refusals_left_out(&self) -> Option<String> {
        self.refusals.left_out(Instant::now())
    }

    /// State and counters of every export.
    pub fn status(&self) -> Vec<ExportStatus> {
        self.target.status()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// A text for a field of IDENTIFY DEVICE, which hold short ASCII strings.
pub(crate) fn ascii(text: &str, length: usize) -> String {
    text.chars()
        .map(|c| {
            if c == ' ' || c.is_ascii_graphic() {
                c
            } else {
                '?'
            }
        })
        .take(length)
        .collect()
}

/// What the disk says to IDENTIFY DEVICE.
fn identify(disk: &Disk) -> Identify {
    Identify {
        sectors: disk.sectors,
        model: ascii(&disk.model, 40),
        serial: ascii(&disk.serial, 20),
        firmware: ascii(env!("CARGO_PKG_VERSION"), 8),
        physical_sector: disk.physical_sector,
    }
}

/// What an event means, for the console.
pub fn words(event: &Event) -> String {
    match event {
        Event::Access {
            address,
            access,
            by,
        } => format!("{address}: {access} now, by order of {by}"),
        Event::Finish { finish, by } => match finish {
            p2v_contract::operation::Finish::PowerOff => format!("powering off, by order of {by}"),
            p2v_contract::operation::Finish::Restart => format!("restarting, by order of {by}"),
        },
        Event::ControlRefused {
            address,
            status,
            by,
        } => format!("{address}: an order from {by} was refused: {status}"),
        Event::DiskFailed {
            address,
            what,
            error,
        } => format!("{address}: the disk failed to {what}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_orders_nothing_is_exported() {
        let missing = |line: &str| super::missing(&BootArgs::parse(line));
        assert_eq!(missing("p2v.shelf=7 p2v.host=00:16:3e:00:00:01"), None);
        assert!(missing("p2v.shelf=7").unwrap().contains("p2v.host"));
        assert!(
            missing("p2v.host=00:16:3e:00:00:01")
                .unwrap()
                .contains("p2v.shelf")
        );
        assert!(missing("quiet p2v.host=x").unwrap().contains("p2v.host"));
    }
}
