//! Which machine has which address, for the log and for `pxelinux.cfg/default`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pnet::util::MacAddr;

use crate::machine_id::MachineId;

/// Addresses remembered at most; then all are forgotten, and learned again.
const MAX: usize = 4096;

/// A UUID holds for its address so long: a loader asks by it and by its card in a row, and addresses are given anew.
const ID_HOLDS: Duration = Duration::from_secs(60);

/// What was learned from DHCP and from menu requests.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    cards: Mutex<HashMap<Ipv4Addr, MacAddr>>,
    ids: Mutex<HashMap<Ipv4Addr, (MachineId, Instant)>>,
}

fn insert<T>(known: &Mutex<HashMap<Ipv4Addr, T>>, address: Ipv4Addr, what: T) {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= MAX && !known.contains_key(&address) {
        known.clear();
    }
    known.insert(address, what);
}

impl Peers {
    pub fn learn(&self, address: Ipv4Addr, mac: MacAddr) {
        insert(&self.cards, address, mac);
    }

    /// It has asked for a menu by its SMBIOS UUID.
    pub fn learn_id(&self, address: Ipv4Addr, id: MachineId) {
        insert(&self.ids, address, (id, Instant::now()));
    }

    /// The UUID it has asked by just now.
    pub fn id(&self, address: Ipv4Addr) -> Option<MachineId> {
        let known = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, at) = known.get(&address)?;
        (at.elapsed() < ID_HOLDS).then_some(*id)
    }

    /// The kernel's neighbour table first: it is what the wire says now.
    pub fn find(&self, address: IpAddr) -> Option<MacAddr> {
        let IpAddr::V4(address) = address else {
            return None;
        };
        let table = std::fs::read_to_string("/proc/thread-self/net/arp").unwrap_or_default();
        in_arp_table(&table, address).or_else(|| {
            self.cards
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&address)
                .copied()
        })
    }
}

/// Columns: address, hardware type, flags (0x2: complete), hardware address, mask, device.
fn in_arp_table(table: &str, wanted: Ipv4Addr) -> Option<MacAddr> {
    table.lines().skip(1).find_map(|row| {
        let mut columns = row.split_whitespace();
        let address: Ipv4Addr = columns.next()?.parse().ok()?;
        let mac: MacAddr = columns.nth(2)?.parse().ok()?;
        (address == wanted && !mac.is_zero()).then_some(mac)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arp_table_is_read() {
        let table = "IP address  HW type  Flags  HW address  Mask  Device\n\
            10.0.0.7  0x1  0x0  00:00:00:00:00:00  *  eth0\n\
            10.0.0.9  0x1  0x2  52:54:00:00:00:09  *  eth0\n";
        let find = |last| in_arp_table(table, Ipv4Addr::new(10, 0, 0, last));
        assert_eq!(find(9), Some(MacAddr::new(0x52, 0x54, 0, 0, 0, 9)));
        assert_eq!((find(7), find(8)), (None, None));
    }
}
