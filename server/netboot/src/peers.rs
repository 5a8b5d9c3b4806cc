//! Which machine has which address, for the log and for `pxelinux.cfg/default`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};

use pnet::util::MacAddr;

/// Addresses remembered at most; then all are forgotten, and learned again.
const MAX: usize = 4096;

/// What was learned from DHCP and from menu requests.
#[derive(Debug, Default)]
pub(crate) struct Peers(Mutex<HashMap<Ipv4Addr, MacAddr>>);

impl Peers {
    pub fn learn(&self, address: Ipv4Addr, mac: MacAddr) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX && !known.contains_key(&address) {
            known.clear();
        }
        known.insert(address, mac);
    }

    /// The kernel's neighbour table first: it is what the wire says now.
    pub fn find(&self, address: IpAddr) -> Option<MacAddr> {
        let IpAddr::V4(address) = address else {
            return None;
        };
        let table = std::fs::read_to_string("/proc/thread-self/net/arp").unwrap_or_default();
        in_arp_table(&table, address).or_else(|| {
            self.0
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
