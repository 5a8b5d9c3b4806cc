//! Putting the inventory together: what the machine is, its interfaces and its disks.

use std::fs;
use std::io;
use std::path::Path;

use p2v_contract::Address;
use p2v_contract::address::SLOT_MAX;
use p2v_contract::cmdline::BootArgs;
use p2v_contract::inventory::{Disk, Firmware, INVENTORY_VERSION, Inventory, Nic};
use p2v_contract::key::SecretKey;

use crate::disk_order::{self, Because};
use crate::disks::{self, Found};
use crate::{cpu, dmi, memory, reset};

/// The disks in their order, with addresses on the shelf if there is one, and how the boot disk
/// was told.
pub fn disks(sys: &Path, firmware: Firmware, shelf: Option<u16>) -> (Vec<Disk>, Option<Because>) {
    let mut found = disks::list(sys, disks::read_layout);
    let edd = disk_order::read_edd(sys);
    let because = disk_order::sort(&mut found, firmware, edd.as_ref());
    let mut disks: Vec<Disk> = found.into_iter().map(listed).collect();
    if let Some(shelf) = shelf {
        assign_slots(&mut disks, shelf);
    }
    (disks, because)
}

/// One disk, as far as it is known here: a file or a partition has a size only.
pub fn of_disk(path: &Path, address: Address, sectors: u64) -> Disk {
    let device = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    let mut all = disks::list(Path::new("/sys"), disks::read_layout).into_iter();
    let disk = all.find(|disk| disk.name == name).map(listed);
    Disk {
        address: Some(address),
        sectors,
        ..disk.unwrap_or_else(|| Disk {
            name: name.into_owned(),
            ..Disk::default()
        })
    }
}

/// A disk as the inventory has it.
fn listed(found: Found) -> Disk {
    Disk {
        address: None,
        name: found.name,
        model: found.model,
        serial: found.serial,
        sectors: found.sectors,
        logical_sector: found.logical_sector,
        physical_sector: found.physical_sector,
        controller: found.attachment.driver,
        controller_pci_id: found.attachment.pci_id,
        read_only: found.read_only,
        table: found.layout.table,
        boot_code: found.layout.boot_code,
        refused: found.refused,
    }
}

/// Everything but interfaces and disks.
pub fn machine(sys: &Path, args: &BootArgs) -> Inventory {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    Inventory {
        version: INVENTORY_VERSION,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        menu_id: args.menu_id.clone(),
        host_keys: args.hosts.keys.clone(),
        key: None,
        stands_in: false,
        // 32 hex digits without its dashes.
        boot_id: text(RANDOM).trim().replace('-', ""),
        firmware: dmi::firmware(sys),
        dmi: dmi::read(sys),
        cpu: cpu::parse(&text("/proc/cpuinfo")),
        memory_bytes: memory::installed(
            &fs::read(sys.join("firmware/dmi/tables/DMI")).unwrap_or_default(),
            &text("/proc/meminfo"),
        ),
        nics: Vec::new(),
        disks: Vec::new(),
        since_reset_ms: 0,
    }
}

/// A random UUID (122 bits), made by the kernel at each reading. It never waits, as getrandom(2) and in some kernels
/// `/dev/urandom` do: a machine without a random number generator may take minutes until it has enough for those.
const RANDOM: &str = "/proc/sys/kernel/random/uuid";

/// The key of this start of the agent.
///
/// # Errors
/// There are no random bytes.
pub fn new_key() -> io::Result<SecretKey> {
    let text =
        fs::read_to_string(RANDOM)? + &fs::read_to_string(RANDOM)? + &fs::read_to_string(RANDOM)?;
    let bytes = blake3::derive_key("p2v 2026 key of an agent's start", text.as_bytes());
    Ok(SecretKey::from_bytes(&bytes))
}

/// The document that goes to the host, made now and signed with the agent's key.
///
/// # Errors
/// It cannot be written as JSON.
pub fn document(sys: &Path, inventory: &Inventory, key: &SecretKey) -> serde_json::Result<Vec<u8>> {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let scaled = sys.join("devices/system/cpu/cpu0/cpufreq").exists();
    let inventory = Inventory {
        since_reset_ms: reset::since_reset_ms(&processors, scaled),
        ..inventory.clone()
    };
    inventory.to_document(key)
}

/// Marks the boot interface and puts it first.
pub fn boot_first(mut nics: Vec<Nic>, boot: &str) -> Vec<Nic> {
    for nic in &mut nics {
        nic.boot = nic.name == boot;
    }
    nics.sort_by_key(|nic| !nic.boot);
    nics
}

/// Gives each disk that is not refused a slot, in order; the first disk is slot 0, and a refused
/// one takes no slot.
pub fn assign_slots(disks: &mut [Disk], shelf: u16) {
    let mut next = 0u8;
    for disk in disks {
        disk.address = None;
        if !disk.refused.is_empty() {
            continue;
        }
        if next > SLOT_MAX {
            disk.refused = format!("more than {} disks", u16::from(SLOT_MAX) + 1);
            continue;
        }
        disk.address = Some(Address::new(shelf, next));
        next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_interface_is_first_and_marked() {
        let nic = |name: &str| Nic {
            name: name.into(),
            mac: p2v_contract::MacAddr::zero(),
            driver: String::new(),
            pci_id: String::new(),
            carrier: false,
            speed: 0,
            boot: true,
        };
        let nics = boot_first(vec![nic("eth0"), nic("eth1"), nic("eth2")], "eth1");
        let order: Vec<_> = nics.iter().map(|n| (n.name.as_str(), n.boot)).collect();
        assert_eq!(order, [("eth1", true), ("eth0", false), ("eth2", false)]);
    }

    #[test]
    fn this_machine_has_processors_and_a_boot_id() {
        let machine = machine(Path::new("/sys"), &BootArgs::default());
        assert!(machine.cpu.threads > 0 && machine.memory_bytes > 0);
        assert_eq!(machine.boot_id.len(), 32);
        assert_eq!(machine.menu_id, "");
    }

    #[test]
    fn refused_disks_take_no_slot() {
        let disk = |name: &str, refused: &str| Disk {
            name: name.into(),
            refused: refused.into(),
            ..Disk::default()
        };
        let mut disks = vec![disk("sda", ""), disk("sdb", "4Kn"), disk("sdc", "")];
        assign_slots(&mut disks, 7);
        let addresses: Vec<_> = disks.iter().map(|d| d.address).collect();
        assert_eq!(
            addresses,
            [Some(Address::new(7, 0)), None, Some(Address::new(7, 1))]
        );
        let mut many: Vec<Disk> = (0..300).map(|n| disk(&format!("sd{n}"), "")).collect();
        assign_slots(&mut many, 7);
        assert_eq!(many.iter().filter(|d| d.address.is_some()).count(), 255);
        assert!(many[299].refused.contains("more than 255"));
    }
}
