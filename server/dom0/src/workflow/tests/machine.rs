//! An old machine in memory, and the wire to it.
use p2v_contract::operation::Stats;

use super::*;

/// A little more than one range of the copy.
pub(super) const SECTORS: u64 = 9001;

/// The old machine.
pub(super) struct Machine {
    pub(super) inventory: Inventory,
    pub(super) data: Vec<Vec<u8>>,
    pub(super) bad: Vec<u64>,
    pub(super) stations: Vec<MacAddr>,
    pub(super) counter: u64,
    pub(super) writable: bool,
    /// Its agent was started anew and waits.
    pub(super) waits: bool,
    pub(super) reserved: bool,
    pub(super) on: bool,
    pub(super) orders: Vec<String>,
    /// A disk that takes no orders.
    pub(super) deaf: Option<usize>,
    /// Restarts after so many readings of its inventory.
    pub(super) restarts_after: Option<u32>,
    /// Takes so many writes, and no more.
    pub(super) writes_left: Option<u32>,
    /// It is read while a domain may write to it.
    pub(super) first_pass: bool,
    /// What else happens when a sector is read.
    pub(super) on_read: Option<Arc<dyn Fn(u64) + Send + Sync>>,
}

#[derive(Clone)]
pub(super) struct FakeWire(pub(super) Arc<Mutex<Machine>>);

pub(super) struct FakeExport {
    pub(super) machine: Arc<Mutex<Machine>>,
    pub(super) slot: usize,
    pub(super) mac: MacAddr,
}

impl Wire for FakeWire {
    fn discover(&self, _: Duration) -> Result<Vec<Found>, WireError> {
        let machine = self.0.lock().unwrap();
        if !machine.on {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for disk in &machine.inventory.disks {
            for mac in &machine.stations {
                found.push(Found {
                    address: disk.address.unwrap(),
                    mac: *mac,
                });
            }
        }
        Ok(found)
    }

    fn attach(&self, address: Address) -> Result<Box<dyn Export>, WireError> {
        let machine = self.0.lock().unwrap();
        match machine.stations.as_slice() {
            [mac] if machine.on => Ok(Box::new(FakeExport {
                machine: self.0.clone(),
                slot: address.slot.into(),
                mac: *mac,
            })),
            stations => Err(WireError(format!(
                "{} stations answer for {address}",
                stations.len()
            ))),
        }
    }
}

impl Source for FakeExport {
    fn sectors(&self) -> u64 {
        self.machine.lock().unwrap().data[self.slot].len() as u64 / SECTOR
    }

    fn read(&mut self, lba: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let (on_read, reserved) = {
            let machine = self.machine.lock().unwrap();
            (machine.on_read.clone(), machine.reserved)
        };
        // Not when a sector is only looked at.
        if let Some(on_read) = on_read.filter(|_| reserved || buffer.len() > SECTOR as usize) {
            on_read(lba);
        }
        let machine = self.machine.lock().unwrap();
        assert!(!machine.waits, "read from one that answers no reads");
        let end = lba + buffer.len() as u64 / SECTOR;
        let bad: Vec<u64> = machine
            .bad
            .iter()
            .copied()
            .filter(|b| (lba..end).contains(b))
            .collect();
        if !bad.is_empty() {
            return Err(SourceError::Unreadable { bad });
        }
        // A sector is no copy.
        if buffer.len() > SECTOR as usize && !machine.first_pass {
            assert!(!machine.writable, "copied while the disk could be written");
            // One that takes other hosts' orders only cannot be reserved.
            let ours = machine.inventory.menu_id.len() == 32;
            assert!(machine.reserved || !ours, "copied without a reservation");
        }
        buffer.copy_from_slice(&machine.data[self.slot][(lba * SECTOR) as usize..][..buffer.len()]);
        Ok(())
    }

    fn digest(&mut self, lba: u64, sectors: u32) -> Result<Digest, SourceError> {
        let machine = self.machine.lock().unwrap();
        let end = lba + u64::from(sectors);
        if let Some(bad) = machine.bad.iter().find(|b| (lba..end).contains(*b)) {
            return Err(SourceError::Unreadable { bad: vec![*bad] });
        }
        let span = &machine.data[self.slot][(lba * SECTOR) as usize..(end * SECTOR) as usize];
        Ok(Digest {
            zero: span.iter().all(|b| *b == 0),
            blake3: *blake3::hash(span).as_bytes(),
        })
    }
}

impl FakeExport {
    pub(super) fn order(
        &self,
        key: &SecretKey,
        counter: u64,
        order: String,
    ) -> Result<(), WireError> {
        let mut machine = self.machine.lock().unwrap();
        assert!(
            counter > machine.counter,
            "a control counter was used twice"
        );
        machine.counter = counter;
        if !machine.inventory.host_keys.contains(&key.public()) {
            return Err(WireError("wrong key".into()));
        }
        if machine.deaf == Some(self.slot) {
            return Err(WireError("does not answer".into()));
        }
        machine.orders.push(order);
        Ok(())
    }
}

impl FakeExport {
    /// As the standard has it, which agents that take orders refuse.
    fn set_reserved(&self, reserved: bool) -> Result<(), WireError> {
        let mut machine = self.machine.lock().unwrap();
        if !machine.inventory.host_keys.is_empty() {
            return Err(WireError("is reserved by order only".into()));
        }
        machine.reserved = reserved;
        Ok(())
    }
}

impl Export for FakeExport {
    fn mac(&self) -> MacAddr {
        self.mac
    }

    fn wait_out_silence(&mut self, _: Duration, _: crate::wire::SilenceListener) {}

    fn inventory(&mut self) -> Result<Inventory, WireError> {
        let mut machine = self.machine.lock().unwrap();
        match &mut machine.restarts_after {
            Some(0) => machine.inventory.boot_id = "restarted".into(),
            Some(count) => *count -= 1,
            None => {}
        }
        Ok(machine.inventory.clone())
    }

    fn write(&mut self, lba: u64, data: &[u8]) -> Result<(), WireError> {
        let mut machine = self.machine.lock().unwrap();
        if !machine.writable {
            return Err(WireError("is read-only".into()));
        }
        if let Some(0) = machine.writes_left {
            return Err(WireError("does not answer".into()));
        }
        machine.writes_left = machine.writes_left.map(|left| left - 1);
        machine.data[self.slot][(lba * SECTOR) as usize..][..data.len()].copy_from_slice(data);
        machine.bad.retain(|bad| *bad != lba);
        Ok(())
    }

    fn access(&mut self, key: &SecretKey, counter: u64, access: Access) -> Result<(), WireError> {
        self.order(key, counter, format!("{access:?}"))?;
        let mut machine = self.machine.lock().unwrap();
        machine.writable = access == Access::ReadWrite;
        machine.waits = false;
        Ok(())
    }

    fn finish(&mut self, key: &SecretKey, counter: u64, finish: Finish) -> Result<(), WireError> {
        self.order(key, counter, format!("{finish:?}"))?;
        let mut machine = self.machine.lock().unwrap();
        assert!(!machine.writable);
        machine.on = false;
        Ok(())
    }

    fn stats(&mut self) -> Result<Stats, WireError> {
        let machine = self.machine.lock().unwrap();
        let mut stats = Stats::default();
        let state = Stats::NAMES
            .iter()
            .position(|name| *name == "read_write")
            .unwrap();
        stats.0[state] = if machine.waits {
            2
        } else {
            machine.writable.into()
        };
        Ok(stats)
    }

    fn reserve_by_order(
        &mut self,
        key: &SecretKey,
        counter: u64,
        reservation: Reservation,
    ) -> Result<(), WireError> {
        self.order(key, counter, format!("{reservation:?}"))?;
        self.machine.lock().unwrap().reserved = reservation == Reservation::Take;
        Ok(())
    }

    fn reserve(&mut self) -> Result<(), WireError> {
        self.set_reserved(true)
    }

    fn release(&mut self) -> Result<(), WireError> {
        self.set_reserved(false)
    }
}
