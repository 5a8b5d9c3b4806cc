//! The status screen: what is exported to whom, in what state.

use p2v_aoe::blade::ExportStatus;
use p2v_contract::cmdline::Hosts;
use p2v_contract::inventory::Inventory;
use p2v_contract::key::PublicKey;
use p2v_contract::operation::Access;
use p2v_contract::{MacAddr, SECTOR, Size};

/// IN USE, in letters that are read from the door.
const IN_USE: [&str; 5] = [
    "#####  #    #      #    #   ####   ######",
    "  #    ##   #      #    #  #       #     ",
    "  #    # #  #      #    #   ####   ##### ",
    "  #    #  # #      #    #       #  #     ",
    "#####  #   ##       ####    ####   ######",
];

/// All that the screen shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// What the machine is, and its disks.
    pub inventory: Inventory,
    /// The interface used; empty while there is none.
    pub interface: String,
    /// The agent's own address on it.
    pub own_mac: Option<MacAddr>,
    /// The interface has a link.
    pub link: bool,
    /// Mbit/s, 0 if unknown.
    pub speed: u32,
    /// Shelf given on the command line.
    pub shelf: Option<u16>,
    /// The Xen host given on the command line.
    pub hosts: Hosts,
    /// State and counters of what is exported.
    pub exports: Vec<ExportStatus>,
    /// Why nothing is exported; empty if something is.
    pub idle: String,
}

/// The size of a disk of so many sectors.
pub fn size(sectors: u64) -> Size {
    Size(sectors.saturating_mul(SECTOR))
}

impl Status {
    /// What is allowed, in words: of all exports alike, or of each.
    pub fn access_words(&self) -> String {
        let mut words: Vec<String> = self.exports.iter().map(|e| e.access.to_string()).collect();
        words.dedup();
        words.join(" ")
    }

    /// One line on the link.
    pub fn link_line(&self) -> String {
        let (name, mac) = match (&self.interface, self.own_mac) {
            (name, Some(mac)) if !name.is_empty() => (name, mac),
            _ => return "no interface yet".into(),
        };
        match (self.link, self.speed) {
            (true, 0) => format!("{name} as {mac}: link is up"),
            (true, speed) => format!("{name} as {mac}: link is up, {speed} Mbit/s"),
            (false, _) => format!("{name} as {mac}: NO CARRIER (cable? switch port?)"),
        }
    }

    /// Whom the disks are for.
    pub fn hosts_line(&self) -> String {
        if self.hosts.macs.is_empty() {
            return "nobody: no p2v.host on the kernel command line".into();
        }
        self.hosts.to_string()
    }

    /// The codes of the keys, to be compared with what the host says (`p2v show`).
    pub fn keys_line(&self) -> String {
        let own = self.inventory.key.map(|key| key.code());
        let hosts: Vec<String> = self.hosts.keys.iter().map(PublicKey::code).collect();
        let hosts = match hosts.is_empty() {
            true => "none: it takes no orders".to_owned(),
            false => hosts.join(" "),
        };
        format!("key codes: agent {}, host {hosts}", own.unwrap_or_default())
    }

    /// The counters of one export, of those that are not zero.
    fn counters(export: &ExportStatus) -> String {
        let named: Vec<String> = export
            .stats
            .iter()
            .filter(|(name, value)| *value > 0 && *name != "inventory_age_ms")
            .map(|(name, value)| format!("{} {value}", name.replace('_', " ")))
            .collect();
        named.join(", ")
    }

    /// The screen, line by line.
    pub fn screen(&self) -> Vec<String> {
        let inventory = &self.inventory;
        let machine = format!("{} {}", inventory.dmi.vendor, inventory.dmi.product);
        let mut lines = match self.is_in_use() {
            true => self.warning(),
            false => Vec::new(),
        };
        lines.extend([
            format!("p2v agent {}   {}", inventory.agent, machine.trim()),
            format!(
                "  {} x {}, {}, {}",
                inventory.cpu.threads,
                inventory.cpu.model,
                Size(inventory.memory_bytes),
                match inventory.firmware {
                    p2v_contract::inventory::Firmware::Bios => "BIOS",
                    p2v_contract::inventory::Firmware::Uefi => "UEFI",
                }
            ),
            format!("  wire   {}", self.link_line()),
            format!("  for    {}", self.hosts_line()),
            match self.shelf {
                Some(shelf) => format!("  shelf  {shelf}"),
                None => "  shelf  none: no p2v.shelf on the kernel command line".into(),
            },
            format!("  {}", self.keys_line()),
        ]);
        if !self.idle.is_empty() {
            lines.push(format!("  NOTHING IS EXPORTED: {}", self.idle));
        }
        lines.push(String::new());
        for disk in &inventory.disks {
            let export = disk
                .address
                .and_then(|a| self.exports.iter().find(|e| e.address == a));
            let state = match export {
                _ if !disk.refused.is_empty() => format!("not exported: {}", disk.refused),
                Some(export) => export.access.to_string(),
                None => "not exported".into(),
            };
            lines.push(format!(
                "  {:6} {:8} {:>9}  {state}   {}",
                disk.address.map(|a| a.to_string()).unwrap_or_default(),
                disk.name,
                size(disk.sectors),
                disk.model
            ));
            let counters = export.map(Status::counters).unwrap_or_default();
            if !counters.is_empty() {
                lines.push(format!("         {counters}"));
            }
        }
        lines
    }

    /// What has changed since `before` that is worth a line at once: the link, the exports, their
    /// state, and new errors. Traffic is not.
    pub fn changes(&self, before: &Status) -> Vec<String> {
        let mut lines = Vec::new();
        let wire = |s: &Status| (s.interface.clone(), s.own_mac, s.link);
        if wire(self) != wire(before) {
            lines.push(self.link_line());
        }
        for export in &self.exports {
            let old = before.exports.iter().find(|e| e.address == export.address);
            if old.is_some_and(|old| old.access != export.access) {
                lines.push(format!("{} is {} now", export.address, export.access));
            }
        }
        if self.idle != before.idle && !self.idle.is_empty() {
            lines.push(format!("NOTHING IS EXPORTED: {}", self.idle));
        }
        lines
    }

    /// The counters, a line for each export that has any: for serial lines, every so often.
    pub fn traffic(&self) -> Vec<String> {
        self.exports
            .iter()
            .map(|e| (e, Status::counters(e)))
            .filter(|(_, counters)| !counters.is_empty())
            .map(|(e, counters)| format!("{} {}: {counters}", e.address, e.access))
            .collect()
    }

    /// Whether a server runs on a disk of this machine, or did before the machine restarted.
    pub fn is_in_use(&self) -> bool {
        self.exports.iter().any(|e| e.access != Access::ReadOnly)
    }

    /// Whether the disks wait for the Xen host.
    fn waits(&self) -> bool {
        self.exports.iter().any(|e| e.access == Access::Waiting)
    }

    /// For whoever stands before the machine with a finger at its switch.
    fn warning(&self) -> Vec<String> {
        let mut lines: Vec<String> = IN_USE.iter().map(|line| format!("  {line}")).collect();
        let who = self.hosts_line();
        lines.push(format!(
            "  A SERVER RUNS ON THESE DISKS, on the Xen host {who}."
        ));
        lines.push("  Leave this machine on, and its network cable in.".to_owned());
        if self.waits() {
            lines.push(
                "  It restarted: the server waits until the Xen host takes the disks back."
                    .to_owned(),
            );
            lines.push("  If nothing happens, look there: p2v show, then p2v resume.".to_owned());
        }
        lines.push(String::new());
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_contract::Address;
    use p2v_contract::inventory::{Disk, Dmi};
    use p2v_contract::operation::Stats;

    fn sample() -> Status {
        let address = Address::new(7, 0);
        Status {
            inventory: Inventory {
                dmi: Dmi {
                    vendor: "Dell".into(),
                    product: "PowerEdge 1950".into(),
                    ..Dmi::default()
                },
                disks: vec![
                    Disk {
                        address: Some(address),
                        name: "sda".into(),
                        sectors: 143_374_650,
                        ..Disk::default()
                    },
                    Disk {
                        name: "sdb".into(),
                        refused: "4Kn".into(),
                        ..Disk::default()
                    },
                ],
                ..Inventory::default()
            },
            interface: "eth0".into(),
            own_mac: Some(MacAddr::new(2, 0, 0, 0, 0, 1)),
            link: true,
            speed: 1000,
            shelf: Some(7),
            hosts: Hosts::new(vec![MacAddr::new(0, 0, 0, 0, 0, 9)], "xen1", vec![]),
            exports: vec![ExportStatus {
                address,
                access: Access::ReadOnly,
                stats: Stats::default(),
            }],
            idle: String::new(),
        }
    }

    #[test]
    fn the_screen_says_all_of_it() {
        let screen = sample().screen().join("\n");
        for part in [
            "PowerEdge 1950",
            "eth0 as 02:00:00:00:00:01: link is up, 1000 Mbit/s",
            "00:00:00:00:00:09",
            "e7.0",
            "68.37 GiB",
            "read-only",
            "not exported: 4Kn",
            "host none: it takes no orders",
        ] {
            assert!(screen.contains(part), "{part} in\n{screen}");
        }
        let mut status = sample();
        status.exports[0].access = Access::ReadWrite;
        status.exports[0].stats.0[1] = 42;
        let screen = status.screen().join("\n");
        for part in [
            "READ-WRITE",
            "sectors read 42",
            IN_USE[0],
            "on the Xen host xen1 (00:00:00:00:00:09)",
        ] {
            assert!(screen.contains(part), "{part} in\n{screen}");
        }
        assert!(!screen.contains("p2v resume") && !sample().screen().join("").contains("###"));
        status.exports[0].access = Access::Waiting;
        assert!(status.screen().join("\n").contains("p2v resume"));
    }

    #[test]
    fn only_what_matters_is_told_at_once() {
        let before = sample();
        let mut now = sample();
        now.exports[0].stats.0[0] = 5;
        assert!(now.changes(&before).is_empty());
        assert_eq!(now.traffic(), ["e7.0 read-only: requests 5"]);
        now.link = false;
        now.exports[0].access = Access::ReadWrite;
        let lines = now.changes(&before).join("\n");
        assert!(
            lines.contains("NO CARRIER") && lines.contains("e7.0 is READ-WRITE now"),
            "{lines}"
        );
        assert!(now.is_in_use() && !before.is_in_use());
    }
}
