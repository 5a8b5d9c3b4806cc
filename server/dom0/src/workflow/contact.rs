//! The old machine as the commands speak with it: which one answers, and the orders it is given.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2v_contract::inventory::{Disk, Inventory};
use p2v_contract::key::SecretKey;
use p2v_contract::{Address, MacAddr};

use super::{Code, Context, Error, refused};
use crate::name::MachineName;
use crate::record::{NotOurs, Record, State, exported};
use crate::timestamp::Timestamp;
use crate::wire::{Access, Export, Found, Reservation, WireError};

/// An old machine that answers.
#[derive(Clone)]
pub(super) struct Contact {
    /// Its record, with what it is made of now.
    pub(super) record: Record,
    pub(super) inventory: Inventory,
    /// The exported disks, in slot order.
    pub(super) disks: Vec<(Address, Disk)>,
    pub(super) mac: MacAddr,
}

impl Contact {
    /// When its processor was reset, if that is known and its inventory is so old now.
    pub(super) fn reset_at(&self, age: Duration, now: Timestamp) -> Option<Timestamp> {
        let since = Duration::from_millis(self.inventory.since_reset_ms);
        match since.is_zero() || self.inventory.stands_in {
            true => None,
            false => now.before(since.saturating_add(age)),
        }
    }
}

impl<'a> Context<'a> {
    /// Reaches the machine of `record`: one station answers for its shelf, and it is the machine of the
    /// record, started by a menu of this host. Remembers its inventory.
    pub(super) fn contact(&self, name: &MachineName) -> Result<Contact, Error> {
        self.contact_of(name, false)
    }

    /// The same; `vouched`: also one that another host started, on the operator's word.
    pub(super) fn contact_of(&self, name: &MachineName, vouched: bool) -> Result<Contact, Error> {
        let copies = self.host.store.get(name)?.disks;
        let mut copies = copies.values().filter_map(|disk| disk.copy.as_ref());
        // He gave it when it was copied.
        let vouched = vouched || copies.any(|copy| copy.unguarded);
        let contact = self.reach(name, vouched)?;
        if contact.inventory.stands_in {
            return refused(
                Code::StandsIn,
                format!(
                    "the disks of {name} are exported by another machine (`p2v-agent export --waiting`), which is for the domain that \
                     waits for them: `p2v resume {name}`, and `p2v stop {name}`, nothing else"
                ),
            );
        }
        Ok(contact)
    }

    /// The machine, or what has its disks in its place.
    pub(super) fn contact_or_stand_in(&self, name: &MachineName) -> Result<Contact, Error> {
        self.reach(name, false)
    }

    /// The same, also where the record does not know the menu that it was started by: what takes orders signed with this
    /// host's key may be made read-only.
    pub(super) fn contact_to_stop(&self, name: &MachineName) -> Result<Contact, Error> {
        self.reach(name, true)
    }

    fn reach(&self, name: &MachineName, vouched: bool) -> Result<Contact, Error> {
        let record = self.host.store.get(name)?;
        self.report.step(&format!(
            "looking for the old machine at shelf e{}",
            record.shelf
        ));
        let wait = Duration::from_secs(self.host.settings.discovery_seconds.max(1));
        let answers: Vec<_> = self
            .wire
            .discover(wait)?
            .into_iter()
            .filter(|f| f.address.shelf == record.shelf)
            .collect();
        let macs: BTreeSet<MacAddr> = answers.iter().map(|f| f.mac).collect();
        let Some(first) = answers.iter().map(|f| f.address).min() else {
            return refused(
                Code::OldMachineSilent,
                format!(
                    "no disk of {name} (shelf e{}) answers on {}. Is the old machine on, did it boot the p2v image, and \
                     is it on this segment? Its screen shows what it waits for{}",
                    record.shelf,
                    self.host.iface,
                    match record.state {
                        State::Moved => {
                            ". (A moved machine that was restarted is held there, but for boot = \"agent\" in its settings; to \
                             release it, switch it off by hand and say --off)"
                        }
                        _ => "",
                    }
                ),
            );
        };
        if macs.len() > 1 {
            let macs: Vec<String> = macs.iter().map(MacAddr::to_string).collect();
            return refused(
                Code::SeveralMachines,
                format!(
                    "{} machines answer for shelf e{} ({}): their disks would be mixed up. Switch off all but one",
                    macs.len(),
                    record.shelf,
                    macs.join(", ")
                ),
            );
        }
        let mut session = self.wire.attach(first)?;
        let inventory = session.inventory()?;
        if inventory.stands_in {
            return self.stand_in(record, inventory, answers, session.mac());
        }
        match record.is_ours(&inventory) {
            Ok(()) => {}
            Err(NotOurs::NoMenuOfOurs) if vouched => {}
            Err(why) => {
                return Err(Error::NotOurs {
                    name: record.name,
                    shelf: record.shelf,
                    why,
                });
            }
        }
        let disks: Vec<(Address, Disk)> = exported(&inventory)
            .into_iter()
            .map(|(address, disk)| (address, disk.clone()))
            .collect();
        if let Some((address, _)) = disks.iter().find(|(a, _)| a.shelf != record.shelf) {
            return refused(
                Code::SeveralMachines,
                format!(
                    "the inventory of {name} names the disk {address}, which is not on its shelf e{}",
                    record.shelf
                ),
            );
        }
        let mut record = self.host.store.update(name, |record| {
            record.take_inventory(inventory.clone(), Timestamp::now());
            Ok::<_, Error>(record.clone())
        })?;
        // That of a moved machine keeps the one of its copies.
        record.inventory = Some(inventory.clone());
        Ok(Contact {
            record,
            inventory,
            disks,
            mac: session.mac(),
        })
    }

    /// The machine of `record` is gone, and its disks are exported by another one (`p2v-agent export --waiting`): one
    /// export for each disk. What such a machine says it is does not go into the record.
    fn stand_in(
        &self,
        record: Record,
        inventory: Inventory,
        answers: Vec<Found>,
        mac: MacAddr,
    ) -> Result<Contact, Error> {
        let mut disks = BTreeMap::new();
        for answer in answers {
            let inventory = self.wire.attach(answer.address)?.inventory()?;
            if !inventory.stands_in {
                return refused(
                    Code::SeveralMachines,
                    format!(
                        "{} is exported by something else than the other disks of {}: export all with `p2v-agent export \
                         --waiting`",
                        answer.address, record.name
                    ),
                );
            }
            for (address, disk) in exported(&inventory) {
                if address == answer.address {
                    disks.insert(address, disk.clone());
                }
            }
        }
        Ok(Contact {
            record,
            inventory,
            disks: disks.into_iter().collect(),
            mac,
        })
    }

    /// A session with one address, by the station that `contact` found.
    pub(super) fn session(
        &self,
        contact: &Contact,
        address: Address,
    ) -> Result<Box<dyn Export>, Error> {
        let session = self.wire.attach(address)?;
        if session.mac() != contact.mac {
            return refused(
                Code::SeveralMachines,
                format!(
                    "{address} is answered by {}, and the machine's other disks by {}: two machines share a shelf",
                    session.mac(),
                    contact.mac
                ),
            );
        }
        Ok(session)
    }

    /// A session with one disk, by the station that `contact` found, of the size the inventory says.
    pub(super) fn attach(
        &self,
        contact: &Contact,
        address: Address,
        disk: &Disk,
    ) -> Result<Box<dyn Export>, Error> {
        let session = self.session(contact, address)?;
        if session.sectors() != disk.sectors {
            return refused(
                Code::DiskChanged,
                format!(
                    "{address} has {} sectors, and the inventory says {}: restart the old machine and look at its disks",
                    session.sectors(),
                    disk.sectors
                ),
            );
        }
        Ok(session)
    }

    /// Whether the agent takes this host's orders.
    pub(super) fn takes_orders(&self, contact: &Contact) -> bool {
        contact
            .inventory
            .host_keys
            .contains(&self.host.key.public())
    }

    pub(super) fn need_orders(&self, contact: &Contact) -> Result<(), Error> {
        if self.takes_orders(contact) {
            return Ok(());
        }
        let name = &contact.record.name;
        refused(
            Code::NoHostKey,
            match contact.inventory.stands_in {
                false => format!(
                    "the agent on {name} was started without this host's key, so it takes no orders from it. Restart the old \
                     machine so that it boots from `p2v serve` here"
                ),
                true => format!(
                    "what exports the disks of {name} was started without this host's key: start it with --key {}",
                    self.host.key.public()
                ),
            },
        )
    }

    /// Sets the access of the disks by authorised requests. Write access is given disk by disk until
    /// one refuses; it is taken from every disk that lets it be taken.
    pub(super) fn set_access(
        &self,
        contact: &Contact,
        addresses: &[Address],
        access: Access,
    ) -> Result<(), Error> {
        let mut failed = Vec::new();
        for address in addresses {
            let ordered = self.order(contact, *address, |session, key, counter| {
                session.access(key, counter, access)
            });
            match ordered {
                Err(error) if access == Access::ReadOnly => {
                    failed.push(format!("{address}: {error}"));
                }
                other => other?,
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        refused(
            Code::OldMachineRefuses,
            format!("not every export was made read-only: {}", failed.join("; ")),
        )
    }

    /// Gives one authorised order to the machine of `contact`, in the boot that was contacted: a
    /// machine that restarted since may have run its own system, and its disks may be others.
    pub(super) fn order(
        &self,
        contact: &Contact,
        address: Address,
        give: impl FnOnce(&mut dyn Export, &SecretKey, u64) -> Result<(), WireError>,
    ) -> Result<(), Error> {
        let mut session = self.session(contact, address)?;
        if !self.is_same_start(contact, &mut *session)? {
            return refused(
                Code::OldMachineRestarted,
                format!(
                    "the old machine restarted just now, so {address} was not given the order: run the command again"
                ),
            );
        }
        // Taken just before it is used, and never again.
        let counter = self.host.store.next_counter(&contact.record.name)?;
        Ok(give(&mut *session, &self.host.key, counter)?)
    }

    /// Whether the agent is the one that was contacted, and was not started again since.
    fn is_same_start(&self, contact: &Contact, session: &mut dyn Export) -> Result<bool, Error> {
        let inventory = session.inventory()?;
        let start = |of: &Inventory| (of.boot_id.clone(), of.key);
        // Each disk of a stand-in has an agent of its own.
        Ok(match contact.inventory.stands_in {
            true => inventory.stands_in,
            false => start(&inventory) == start(&contact.inventory),
        })
    }

    /// Reserves a disk for this host: by an order, where its agent takes ours. False: it takes those of other hosts only.
    pub(super) fn reserve(
        &self,
        contact: &Contact,
        address: Address,
        session: &mut dyn Export,
    ) -> Result<bool, Error> {
        if !self.takes_orders(contact) {
            let may = contact.inventory.host_keys.is_empty();
            if may {
                session.reserve()?;
            }
            return Ok(may);
        }
        self.order(contact, address, |session, key, counter| {
            session.reserve_by_order(key, counter, Reservation::Take)
        })?;
        Ok(true)
    }

    /// Ends the reservation; one that was started again has none.
    pub(super) fn end_reservation(
        &self,
        contact: &Contact,
        address: Address,
        session: &mut dyn Export,
    ) -> Result<(), Error> {
        if !self.takes_orders(contact) {
            return Ok(session.release()?);
        }
        match self.is_same_start(contact, &mut *self.session(contact, address)?)? {
            false => Ok(()),
            true => self.order(contact, address, |session, key, counter| {
                session.reserve_by_order(key, counter, Reservation::End)
            }),
        }
    }
}
