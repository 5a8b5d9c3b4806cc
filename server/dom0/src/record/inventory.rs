//! Which inventories count as a machine's, and what its record learns from them.

use std::collections::BTreeSet;

use p2v_contract::inventory::{Disk, Inventory};
use p2v_contract::{Address, MacAddr};

use super::{DiskChanged, DiskRecord, Record, State, exported};
use crate::timestamp::Timestamp;

/// Why an inventory does not count as a machine's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// It was not started by a menu that this host gave it.
    #[error("it was not started by a boot menu of this host")]
    NoMenuOfOurs,
    /// It names no network card that it booted from: `p2v-agent export`, or nothing of ours.
    #[error("it does not say which network card it boots from, as an old machine's agent does")]
    NoCard,
    /// It boots from another card.
    #[error("it boots from the network card {is}, and this machine from {was}")]
    OtherCard {
        /// Its card.
        is: MacAddr,
        /// The machine's.
        was: MacAddr,
    },
    /// It has another SMBIOS UUID than the machine had when its domain was started.
    #[error("its SMBIOS UUID is {is}, and this machine's was {was} when its domain was started")]
    OtherUuid {
        /// The machine's.
        was: String,
        /// Its own.
        is: String,
    },
    /// It claims the boot id of the agent that answered before, with another key.
    #[error(
        "it says that it is the agent that answered before, and is not: its key is another one"
    )]
    OtherKey,
}

impl Record {
    /// Whether an inventory is of the machine's own agent, started by one of our menus.
    ///
    /// # Errors
    /// What it is instead.
    pub fn is_ours(&self, inventory: &Inventory) -> Result<(), NotOurs> {
        let card = inventory.nics.iter().find(|nic| nic.boot);
        match card.map(|nic| nic.mac) {
            None => return Err(NotOurs::NoCard),
            Some(mac) if mac != self.boot_mac => {
                return Err(NotOurs::OtherCard {
                    is: mac,
                    was: self.boot_mac,
                });
            }
            Some(_) => {}
        }
        if let Some((was, is)) = self.other_uuid(inventory) {
            return Err(NotOurs::OtherUuid {
                was: was.to_owned(),
                is: is.to_owned(),
            });
        }
        let known = self.inventory.as_ref();
        if known.is_some_and(|k| k.boot_id == inventory.boot_id && k.key != inventory.key) {
            return Err(NotOurs::OtherKey);
        }
        match self.menus.know(&inventory.menu_id) {
            true => Ok(()),
            false => Err(NotOurs::NoMenuOfOurs),
        }
    }

    /// Takes in an inventory that the machine's agent sent: remembers it, notes which menu the
    /// agent was started by, and moves `seen` on to `exported`. Cards, slots and UUIDs that were known stay so; nothing more
    /// is learned of a machine whose server is here: what is known of it is its fence.
    pub fn take_inventory(&mut self, inventory: Inventory, now: Timestamp) {
        self.menus.hear(&inventory.menu_id);
        if matches!(self.state, State::Moved | State::Released) && self.inventory.is_some() {
            return;
        }
        if self.state == State::Seen {
            self.state = State::Exported;
            self.note(now, "its disks are exported");
        }
        for inventory in self.inventory.iter().chain([&inventory]) {
            self.slots
                .extend(exported(inventory).iter().map(|(a, _)| a.slot));
            self.cards.extend(inventory.nics.iter().map(|nic| nic.mac));
            let uuid = &inventory.dmi.uuid;
            self.uuids.extend((!uuid.is_empty()).then(|| uuid.clone()));
        }
        self.inventory = Some(inventory);
        self.inventory_read = Some(now);
    }

    /// The SMBIOS UUID that the machine had and the one of this inventory, where they differ while a domain runs on
    /// its disks. (Else a board may have been replaced.)
    pub fn other_uuid<'r>(&'r self, inventory: &'r Inventory) -> Option<(&'r str, &'r str)> {
        let was = &self.inventory.as_ref()?.dmi.uuid;
        let is = &inventory.dmi.uuid;
        // One that says none is not known to be the same.
        let differ = self.has_domain_on_old_disks() && !was.is_empty() && was != is;
        differ.then_some((was, is))
    }

    /// Refuses a disk without a serial number that has changed places with another one since they were first used. Known by
    /// the ids of partition tables; one that several disks have or had (mirrors, clones) tells nothing.
    ///
    /// # Errors
    /// Where it was, or where what was there is now.
    pub fn same_place(
        &self,
        inventory: &Inventory,
        here: Address,
        disk: &Disk,
    ) -> Result<(), DiskChanged> {
        let at_present: Vec<(Address, &str)> = exported(inventory)
            .into_iter()
            .map(|(address, disk)| (address, table_id(disk)))
            .collect();
        let place_of = |id: &str| {
            let mut places = at_present.iter().filter(|(_, at)| *at == id);
            match (places.next(), places.next()) {
                (Some((address, _)), None) => Some(*address),
                _ => None,
            }
        };
        let known = || {
            self.disks
                .iter()
                .filter(|(_, known)| known.serial.is_empty())
        };
        let before = known().find_map(|(slot, disk)| {
            let id = &disk.table_id;
            if id.is_empty() || known().filter(|(_, other)| other.table_id == *id).count() > 1 {
                return None;
            }
            let was = Address::new(here.shelf, *slot);
            let is = place_of(id).filter(|is| *is != was)?;
            match (was == here, is == here) {
                (true, _) => Some(format!(
                    "one with partition table {id}, which is at {is} now,"
                )),
                (_, true) => Some(format!("at {was}, with partition table {id},")),
                _ => None,
            }
        });
        match before.filter(|_| disk.serial.is_empty()) {
            None => Ok(()),
            Some(before) => Err(DiskChanged {
                address: here,
                before,
                now: DiskRecord::new(disk).to_string(),
            }),
        }
    }

    /// The slots that were exported or used once and are not in the last inventory.
    pub fn missing(&self) -> BTreeSet<u8> {
        let there: BTreeSet<u8> = self
            .inventory
            .iter()
            .flat_map(exported)
            .map(|(a, _)| a.slot)
            .collect();
        let known = self.slots.iter().chain(self.disks.keys());
        known.copied().filter(|s| !there.contains(s)).collect()
    }
}

/// The id of a disk's partition table; empty: it has none.
pub(super) fn table_id(disk: &Disk) -> &str {
    disk.table.as_ref().map_or("", |table| &table.id)
}
