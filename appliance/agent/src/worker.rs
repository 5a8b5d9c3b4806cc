//! The worker: from a bare machine to disks on the wire, and then watching over them.

use std::fs;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use p2v_aoe::blade::Event;
use p2v_contract::MacAddr;
use p2v_contract::cmdline::BootArgs;
use p2v_contract::inventory::Inventory;
use p2v_contract::key::SecretKey;

use crate::console::Console;
use crate::export::{self, ExportError, Exporter};
use crate::link::Links;
use crate::modules::Loader;
use crate::nics::{self, Choice};
use crate::standing::Standing;
use crate::status::{self, Status};
use crate::uevent::Uevents;
use crate::{drivers, inventory, power};

const SYS: &str = "/sys";

/// How often the link and the counters are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How often the counters are written to serial lines, if they changed.
const TRAFFIC: Duration = Duration::from_secs(60);

/// How long until a failed export is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Why the worker gives up. The supervisor starts it again.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No socket for interface requests.
    #[error("opening a socket for interface requests: {0}")]
    Socket(#[source] nix::errno::Errno),
    /// No key can be made.
    #[error("making a key: {0}")]
    Key(#[from] std::io::Error),
}

/// What the worker has in hand.
struct Worker {
    args: BootArgs,
    console: Console,
    loader: Option<Loader>,
    events: Option<Uevents>,
    links: Links,
    status: Status,
    key: SecretKey,
}

/// Runs until the machine is switched off; returns only with a reason not to go on.
///
/// # Errors
/// There is no socket for interface requests, or no key can be made.
pub fn run() -> Result<(), WorkerError> {
    let mut console = Console::open();
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let args = BootArgs::parse(&cmdline);
    let links = Links::open().map_err(WorkerError::Socket)?;
    let events = match Uevents::open() {
        Ok(events) => Some(events),
        Err(error) => {
            console.say(&format!(
                "no device events ({error}): looking again and again"
            ));
            None
        }
    };
    let loader = match Loader::of_running_kernel() {
        Ok(loader) => Some(loader),
        Err(error) => {
            console.say(&format!("no drivers can be loaded: {error}"));
            None
        }
    };
    let key = inventory::new_key()?;
    let status = Status {
        inventory: Inventory {
            key: Some(key.public()),
            ..inventory::machine(Path::new(SYS), &args)
        },
        shelf: args.shelf,
        hosts: args.hosts.clone(),
        ..Status::default()
    };
    let mut worker = Worker {
        args,
        console,
        loader,
        events,
        links,
        status,
        key,
    };
    worker.introduce();
    worker.load_drivers();
    let interface = worker.find_interface();
    worker.wait_for_link(&interface);
    let exporter = worker.export(&interface);
    worker.watch(&interface, exporter)
}

impl Worker {
    fn introduce(&mut self) {
        let dmi = &self.status.inventory.dmi;
        let machine = format!("{} {} {}", dmi.vendor, dmi.product, dmi.serial);
        self.console.say(&format!(
            "agent {} on {}: exports this machine's disks to the Xen host; does not change them",
            self.status.inventory.agent,
            machine.trim()
        ));
        self.console
            .say(&format!("for {}", self.status.hosts_line()));
        self.console.say(&self.status.keys_line());
        for word in &self.args.unknown {
            self.console.say(&format!(
                "not understood on the kernel command line: {word}"
            ));
        }
    }

    fn load_drivers(&mut self) {
        let Some(loader) = &mut self.loader else {
            return;
        };
        let console = &mut self.console;
        drivers::load_all(loader, self.events.as_ref(), |line| console.say(line));
        // Not for a device, so nothing asks for it: what the BIOS calls disk 0x80.
        // It fails on machines whose BIOS does not say, and under UEFI.
        let _ = loader.load("edd");
        for orphan in drivers::orphans(Path::new(SYS)) {
            console.say(&with_firmware(&format!(
                "no driver took the {} adapter PCI {} at {}",
                orphan.kind, orphan.id, orphan.address
            )));
        }
    }

    /// Waits for something to happen to the machine's devices, then takes care of new ones.
    fn wait_for_devices(&mut self) {
        let event = match &self.events {
            Some(events) => events.wait(1000),
            None => {
                std::thread::sleep(Duration::from_secs(1));
                false
            }
        };
        if let (true, Some(loader)) = (event, &mut self.loader) {
            let console = &mut self.console;
            drivers::load_all(loader, self.events.as_ref(), |line| console.say(line));
        }
    }

    /// Finds the boot interface, gives it the agent's address and sets it up. Says what it waits
    /// for, each time that changes.
    fn find_interface(&mut self) -> String {
        let mut said = String::new();
        loop {
            let sys = Path::new(SYS);
            let nics = nics::list(sys, |name| self.links.permanent_address(name));
            let index = match nics::choose(&nics, self.args.boot_mac, &drivers::orphans(sys)) {
                Choice::Use(index) => Some(index),
                Choice::FirstWithLink => {
                    for nic in &nics {
                        // One that cannot be set up gets no link, and another one is taken.
                        let _ = self.links.set_up(&nic.name, true);
                    }
                    let found = nics.iter().position(|n| nics::carrier(sys, &n.name));
                    let why = "no BOOTIF on the kernel command line and several interfaces: \
                               waiting for one to get a link";
                    if found.is_none() && said != why {
                        self.console.say(why);
                        said = why.to_owned();
                    }
                    found
                }
                Choice::Wait(why) => {
                    if said != why {
                        self.console.say(&why);
                        said = why;
                    }
                    None
                }
            };
            if let Some(nic) = index.and_then(|i| nics.get(i)) {
                match self.set_up(&nic.name, nic.mac) {
                    Ok(()) => return nic.name.clone(),
                    Err(error) => {
                        let why = with_firmware(&error.to_string());
                        if said != why {
                            self.console.say(&why);
                            said = why;
                        }
                    }
                }
            }
            self.wait_for_devices();
        }
    }

    /// Gives an interface the agent's address and sets it up.
    fn set_up(&mut self, name: &str, permanent: MacAddr) -> Result<(), crate::link::LinkError> {
        let own = nics::own_address(permanent);
        self.links.set_up(name, false)?;
        let taken = match self.links.set_address(name, own) {
            Ok(()) => own,
            Err(error) => {
                self.console.say(&format!(
                    "{error}: the permanent address {permanent} is used, so give the domain \
                     another one while this machine runs"
                ));
                permanent
            }
        };
        self.links.set_up(name, true)?;
        if taken == own {
            let how = if permanent.0 & 0x02 == 0 {
                "the local bit set"
            } else {
                "bit 0x04 turned over: it is a local one already"
            };
            self.console
                .say(&format!("{name} {permanent} speaks as {own} ({how})"));
        }
        self.status.interface = name.to_owned();
        self.status.own_mac = Some(taken);
        Ok(())
    }

    fn wait_for_link(&mut self, interface: &str) {
        let sys = Path::new(SYS);
        let mut said = false;
        while !nics::carrier(sys, interface) {
            if !said {
                self.console.say(&format!(
                    "waiting: no carrier on {interface} (cable, or a switch port that is off)"
                ));
                said = true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.status.link = true;
        self.status.speed = nics::speed(sys, interface);
        self.console.say(&self.status.link_line());
    }

    /// Takes the inventory and exports the disks; waits as long as that is not possible.
    fn export(&mut self, interface: &str) -> Option<Exporter> {
        let sys = Path::new(SYS);
        let missing = export::missing(&self.args);
        let shelf = self.args.shelf.filter(|_| missing.is_none());
        loop {
            let inventory = &mut self.status.inventory;
            let nics = nics::list(sys, |name| self.links.permanent_address(name));
            inventory.nics = inventory::boot_first(nics, interface);
            let (disks, because) = inventory::disks(sys, inventory.firmware, shelf);
            inventory.disks = disks;
            let before = self.status.idle.clone();
            self.status.idle = match &missing {
                Some(missing) => missing.clone(),
                None if !self
                    .status
                    .inventory
                    .disks
                    .iter()
                    .any(|d| d.address.is_some()) =>
                {
                    "no disk that can be exported; waiting for one".into()
                }
                None => match Exporter::start(
                    &self.status.inventory,
                    &self.args,
                    &self.key,
                    &Standing::read(),
                    interface,
                ) {
                    Ok(exporter) => {
                        self.status.idle.clear();
                        self.list_disks(because);
                        self.status.exports = exporter.status();
                        self.say_exported();
                        return Some(exporter);
                    }
                    Err(error) => why_not(&error),
                },
            };
            if self.status.idle != before {
                self.list_disks(because);
                let idle = format!("NOTHING IS EXPORTED: {}", self.status.idle);
                self.console.say(&idle);
            }
            self.console.show(self.status.screen());
            if missing.is_some() {
                return None;
            }
            let until = Instant::now() + RETRY;
            while Instant::now() < until {
                self.wait_for_devices();
            }
        }
    }

    fn list_disks(&mut self, because: Option<crate::disk_order::Because>) {
        if let (Some(first), Some(because)) = (self.status.inventory.disks.first(), because) {
            self.console
                .say(&format!("boot disk is {}: {}", first.name, because.words()));
        }
        for disk in &self.status.inventory.disks {
            let state = match (&disk.address, disk.refused.as_str()) {
                (Some(address), _) => format!("{address}"),
                (None, "") => "not exported".into(),
                (None, why) => format!("not exported: {why}"),
            };
            self.console.say(&format!(
                "disk {} {} {}, {} sectors, on {} [{}]: {state}",
                disk.name,
                status::size(disk.sectors),
                disk.model,
                disk.sectors,
                disk.controller,
                disk.controller_pci_id,
            ));
        }
    }

    fn say_exported(&mut self) {
        let addresses: Vec<String> = self
            .status
            .exports
            .iter()
            .map(|e| e.address.to_string())
            .collect();
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        self.console.say(&format!(
            "exporting {} {} to {} ({} s after the kernel started)",
            addresses.join(" "),
            self.status.access_words(),
            self.status.hosts_line(),
            uptime.split_whitespace().next().unwrap_or("?")
        ));
    }

    /// Keeps the exports going and the consoles up to date until the machine is switched off.
    fn watch(&mut self, interface: &str, mut exporter: Option<Exporter>) -> ! {
        let sys = Path::new(SYS);
        let mut told = (Instant::now(), Vec::new());
        loop {
            self.console.show(self.status.screen());
            match &exporter {
                Some(exporter) => match exporter.events.recv_timeout(LOOK) {
                    Ok(event) => self.handle(&event),
                    // The target holds the sender as long as there is an exporter.
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
                },
                None => std::thread::sleep(LOOK),
            }
            let before = self.status.clone();
            self.status.link = nics::carrier(sys, interface);
            self.status.speed = nics::speed(sys, interface);
            if let Some(exporter) = &mut exporter {
                if let Some(said) = exporter.revive() {
                    self.console.say(&said);
                }
                if self.status.link && !before.link {
                    exporter.announce();
                }
                self.status.exports = exporter.status();
                if let Some(line) = exporter.refusals_left_out() {
                    self.console.say(&line);
                }
            }
            for line in self.status.changes(&before) {
                self.console.say(&line);
            }
            if told.0.elapsed() >= TRAFFIC {
                let traffic = self.status.traffic();
                if traffic != told.1 {
                    for line in &traffic {
                        self.console.say(line);
                    }
                }
                told = (Instant::now(), traffic);
            }
        }
    }

    fn handle(&mut self, event: &Event) {
        self.console.say(&export::words(event));
        if let Event::Finish { finish, .. } = event {
            let error = power::finish(*finish);
            self.console.say(&format!(
                "the kernel refuses: {error}; switch the machine off by hand"
            ));
        }
    }
}

/// A failure and the firmware files that were not there, which is the usual reason for it.
fn with_firmware(failure: &str) -> String {
    let files = drivers::missing_firmware(&drivers::kernel_messages());
    if files.is_empty() {
        return failure.to_owned();
    }
    let files: Vec<String> = files.into_iter().collect();
    format!(
        "{failure}; drivers asked for firmware that this image does not have: {} \
         (make the image with p2v-image build --firmware DIR)",
        files.join(" ")
    )
}

/// Why the export failed, for the screen.
fn why_not(error: &ExportError) -> String {
    format!("{error}; trying again")
}
