//! The old server, its two network cards and its disks; and the wire to what it starts over the network.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use p2v_contract::inventory::{Disk, Dmi, Inventory, Nic};
use p2v_contract::key::{PublicKey, SecretKey};
use p2v_contract::operation::Stats;
use p2v_contract::{Address, MacAddr, SECTOR};
use p2v_copy::boundary;
use p2v_copy::{Digest, Source, SourceError};
use serde::{Deserialize, Serialize};

use super::world::{SECTORS, Trouble, World, trouble};
use crate::wire::{Access, Export, Finish, Found, Reservation, SilenceListener, Wire, WireError};

/// Its SMBIOS UUID.
pub(super) const UUID: &str = "44454c4c-4400-1035-8035-b4c04f4e3231";

/// The address of one of its cards; the third one no agent has a driver for.
pub(super) fn card(n: u8) -> MacAddr {
    MacAddr::new(0x00, 0x0c, 0x29, 1, 2, 3 + n)
}

/// What it does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Does {
    #[default]
    Off,
    /// It runs its own system.
    OwnSystem,
    /// It shows a message and waits.
    Held,
    Agent(Agent),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Agent {
    /// The card it was booted by.
    card: u8,
    pub(super) shelf: u16,
    menu_id: String,
    boot_id: String,
    pub(super) disks: Vec<Lets>,
    pub(super) reserved: bool,
    counter: u64,
}

/// What is let be done with a disk, as its statistics number it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Lets {
    Read = 0,
    Write = 1,
    Nothing = 2,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct OldServer {
    pub(super) does: Does,
    disks: u8,
    /// This host's, as its menus have it.
    key: Option<PublicKey>,
    starts: u32,
    /// Something else that answers for a shelf.
    pub(super) stray: Option<u16>,
}

impl OldServer {
    pub(super) fn new(disks: u8, key: PublicKey) -> OldServer {
        OldServer {
            does: Does::OwnSystem,
            disks,
            key: Some(key),
            ..OldServer::default()
        }
    }

    pub(super) fn agent(&self) -> Option<&Agent> {
        match &self.does {
            Does::Agent(agent) => Some(agent),
            _ => None,
        }
    }

    fn agent_at(&mut self, shelf: u16) -> Result<&mut Agent, WireError> {
        match &mut self.does {
            Does::Agent(agent) if agent.shelf == shelf => Ok(agent),
            _ => Err(WireError(format!("e{shelf} does not answer"))),
        }
    }

    /// It boots the agent by one of its cards.
    pub(super) fn start_agent(
        &mut self,
        root: &Path,
        card: u8,
        shelf: u16,
        menu: &str,
        waits: bool,
    ) {
        self.starts += 1;
        let lets = if waits { Lets::Nothing } else { Lets::Read };
        self.does = Does::Agent(Agent {
            card,
            shelf,
            menu_id: menu.to_owned(),
            boot_id: format!("start {}", self.starts),
            disks: vec![lets; self.disks.into()],
            reserved: false,
            counter: 0,
        });
        // The kernel's driver finds them.
        for slot in 0..self.disks {
            let node = root
                .join("dev/etherd")
                .join(Address::new(shelf, slot).to_string());
            let _ = fs::remove_file(&node);
            symlink(root.join(format!("disk{slot}")), node).unwrap();
        }
    }

    fn inventory(&self, agent: &Agent) -> Inventory {
        let nics = (0..2).map(|n| Nic {
            name: format!("eth{n}"),
            mac: card(n),
            driver: "e1000".into(),
            carrier: true,
            speed: 1000,
            boot: n == agent.card,
            pci_id: String::new(),
        });
        let disks = (0..self.disks).map(|slot| Disk {
            address: Some(Address::new(agent.shelf, slot)),
            serial: format!("S{slot}"),
            sectors: SECTORS,
            controller: "ata_piix".into(),
            ..Disk::default()
        });
        Inventory {
            menu_id: agent.menu_id.clone(),
            host_keys: self.key.into_iter().collect(),
            boot_id: agent.boot_id.clone(),
            memory_bytes: 500 << 20,
            dmi: Dmi {
                uuid: UUID.to_owned(),
                ..Dmi::default()
            },
            nics: nics.collect(),
            disks: disks.collect(),
            ..Inventory::default()
        }
    }
}

impl World {
    /// Reads and writes of a domain's disk get an answer.
    pub(super) fn answers(&self, root: &Path, disk: &Path) -> bool {
        match old_disk(root, disk) {
            None => true,
            Some(address) => self.lets(address).is_some_and(|lets| lets != Lets::Nothing),
        }
    }

    /// What is let be done with an old disk at this moment; `None`: it does not answer.
    pub(super) fn lets(&self, address: Address) -> Option<Lets> {
        let agent = self
            .old
            .agent()
            .filter(|agent| agent.shelf == address.shelf)?;
        agent.disks.get(usize::from(address.slot)).copied()
    }
}

/// The old disk that is under a domain's disk, by the path that the device has.
pub(super) fn old_disk(root: &Path, disk: &Path) -> Option<Address> {
    let under = fs::read_link(disk).ok()?;
    let name = under.strip_prefix(root.join("dev/etherd")).ok()?;
    name.to_str()?.parse().ok()
}

/// The segment.
pub(super) struct Segment {
    pub(super) root: PathBuf,
    /// A disk may be read while it can be written.
    pub(super) precopy: bool,
}

impl Wire for Segment {
    fn discover(&self, _: Duration) -> Result<Vec<Found>, WireError> {
        let old = World::load(&self.root).old;
        let mut found = Vec::new();
        if let Some(agent) = old.agent() {
            for slot in 0..old.disks {
                let mac = card(0x80 | agent.card);
                let address = Address::new(agent.shelf, slot);
                found.push(Found { address, mac });
            }
        }
        found.extend(old.stray.map(|shelf| Found {
            address: Address::new(shelf, 0),
            mac: card(0xf0),
        }));
        Ok(found)
    }

    fn attach(&self, address: Address) -> Result<Box<dyn Export>, WireError> {
        let mut old = World::load(&self.root).old;
        let stray = old.stray == Some(address.shelf) && address.slot == 0;
        let agent = old.agent_at(address.shelf).ok();
        let agent = agent.filter(|agent| usize::from(address.slot) < agent.disks.len());
        let station = match (agent, stray) {
            (Some(agent), false) => card(0x80 | agent.card),
            (None, true) => card(0xf0),
            (agent, _) => {
                let stations = u8::from(agent.is_some()) + u8::from(stray);
                return Err(WireError(format!(
                    "{stations} stations answer for {address}"
                )));
            }
        };
        Ok(Box::new(Session {
            root: self.root.clone(),
            address,
            station,
            precopy: self.precopy,
            stray,
        }))
    }
}

struct Session {
    root: PathBuf,
    address: Address,
    station: MacAddr,
    precopy: bool,
    stray: bool,
}

impl Session {
    fn span(&self, lba: u64, bytes: usize) -> Result<Vec<u8>, SourceError> {
        let failed = |why: String| SourceError::Failed(why);
        let world = World::load(&self.root);
        match world.lets(self.address) {
            None | Some(Lets::Nothing) => {
                return Err(failed(format!("{} is silent", self.address)));
            }
            Some(_) => {}
        }
        let file = fs::File::open(self.root.join(format!("disk{}", self.address.slot)));
        let mut data = vec![0; bytes];
        let read = file.and_then(|file| file.read_exact_at(&mut data, lba * SECTOR));
        read.map_err(|error| failed(error.to_string()))?;
        Ok(data)
    }

    /// An order of this host's, in one word.
    fn order(
        &self,
        key: &SecretKey,
        counter: u64,
        what: &str,
        act: impl FnOnce(&mut Agent) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        boundary::reached(&format!("before order {what}"));
        let trouble = trouble();
        if trouble == Some(Trouble::Nothing) {
            return Err(WireError("the order got lost".into()));
        }
        let done = World::with(&self.root, |world| {
            let known = world.old.key == Some(key.public());
            let agent = world.old.agent_at(self.address.shelf)?;
            if !known {
                return Err(WireError("another key".into()));
            }
            if counter <= agent.counter {
                let text = format!("the counter {counter} was used before");
                if !world.forgives_counters {
                    world.violations.push(text.clone());
                }
                return Err(WireError(text));
            }
            agent.counter = counter;
            act(agent)?;
            if what == "PowerOff" {
                world.old.does = Does::Off;
            }
            Ok(())
        });
        boundary::reached(&format!("after order {what}"));
        match trouble {
            Some(_) => Err(WireError("the answer to the order got lost".into())),
            None => done,
        }
    }
}

impl Source for Session {
    fn sectors(&self) -> u64 {
        SECTORS
    }

    fn read(&mut self, lba: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let world = World::load(&self.root);
        let writable = world.lets(self.address) == Some(Lets::Write);
        let reserved = world.old.agent().is_some_and(|agent| agent.reserved);
        let is_copied = !self.precopy && buffer.len() > SECTOR as usize;
        if is_copied && (writable || !reserved) {
            let text = format!("read for a copy: writable {writable}, reserved {reserved}");
            World::with(&self.root, |world| world.violations.push(text));
        }
        buffer.copy_from_slice(&self.span(lba, buffer.len())?);
        Ok(())
    }

    fn digest(&mut self, lba: u64, sectors: u32) -> Result<Digest, SourceError> {
        // As the agent: what is not on the disk is refused.
        if lba.saturating_add(sectors.into()) > SECTORS {
            return Err(SourceError::Failed("beyond the end of the disk".into()));
        }
        let span = self.span(lba, sectors as usize * SECTOR as usize)?;
        Ok(Digest {
            zero: span.iter().all(|byte| *byte == 0),
            blake3: *blake3::hash(&span).as_bytes(),
        })
    }
}

impl Export for Session {
    fn mac(&self) -> MacAddr {
        self.station
    }

    fn wait_out_silence(&mut self, _: Duration, _: SilenceListener) {}

    fn inventory(&mut self) -> Result<Inventory, WireError> {
        if self.stray {
            return Ok(Inventory::default());
        }
        let mut old = World::load(&self.root).old;
        let agent = old.agent_at(self.address.shelf)?.clone();
        Ok(old.inventory(&agent))
    }

    fn write(&mut self, lba: u64, data: &[u8]) -> Result<(), WireError> {
        boundary::reached("before write");
        let trouble = trouble();
        if trouble == Some(Trouble::Nothing) {
            return Err(WireError("the write got lost".into()));
        }
        let world = World::load(&self.root);
        if world.lets(self.address) != Some(Lets::Write) {
            return Err(WireError(format!("{} is read-only", self.address)));
        }
        let mut disks = world.domains.iter().flat_map(|domain| &domain.disks);
        if disks.any(|disk| old_disk(&self.root, disk) == Some(self.address)) {
            let text = format!("{} was written under a domain", self.address);
            World::with(&self.root, |world| world.violations.push(text));
        }
        let path = self.root.join(format!("disk{}", self.address.slot));
        let file = fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(data, lba * SECTOR).unwrap();
        boundary::reached("after write");
        match trouble {
            Some(_) => Err(WireError("the answer to the write got lost".into())),
            None => Ok(()),
        }
    }

    fn access(&mut self, key: &SecretKey, counter: u64, access: Access) -> Result<(), WireError> {
        let slot = usize::from(self.address.slot);
        self.order(key, counter, &format!("{access:?}"), |agent| {
            agent.disks[slot] = match access {
                Access::ReadOnly => Lets::Read,
                Access::ReadWrite => Lets::Write,
            };
            Ok(())
        })
    }

    fn finish(&mut self, key: &SecretKey, counter: u64, finish: Finish) -> Result<(), WireError> {
        self.order(key, counter, &format!("{finish:?}"), |agent| {
            match agent.disks.contains(&Lets::Write) {
                true => Err(WireError("a disk may be written".into())),
                false => Ok(()),
            }
        })
    }

    fn reserve_by_order(
        &mut self,
        key: &SecretKey,
        counter: u64,
        reservation: Reservation,
    ) -> Result<(), WireError> {
        self.order(key, counter, &format!("{reservation:?}"), |agent| {
            agent.reserved = reservation == Reservation::Take;
            Ok(())
        })
    }

    fn stats(&mut self) -> Result<Stats, WireError> {
        let lets = World::load(&self.root).lets(self.address);
        let lets = lets.ok_or_else(|| WireError(format!("{} is silent", self.address)))?;
        let mut stats = Stats::default();
        let place = Stats::NAMES.iter().position(|name| *name == "read_write");
        stats.0[place.unwrap()] = lets as u64;
        Ok(stats)
    }

    fn reserve(&mut self) -> Result<(), WireError> {
        Err(WireError("is reserved by order only".into()))
    }

    fn release(&mut self) -> Result<(), WireError> {
        Err(WireError("is reserved by order only".into()))
    }
}
