//! What an old machine is made of: the JSON document that the agent sends by the vendor command's
//! Inventory operation, and that the Xen host keeps in the machine's record.
//!
//! Fields are added at the end and are optional when read, so that an older host reads a newer
//! agent's inventory and the other way round.

use pnet::util::MacAddr;
use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::token::Token;

/// Version of the document; raised when the meaning of a field changes.
pub const INVENTORY_VERSION: u32 = 1;

/// How the old machine's firmware started it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// PC BIOS (or UEFI's compatibility module).
    #[default]
    Bios,
    /// UEFI: `/sys/firmware/efi` is there.
    Uefi,
}

/// A whole machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// [`INVENTORY_VERSION`] of the agent that wrote it.
    pub version: u32,
    /// Version of the agent.
    pub agent: String,
    /// First 16 hex digits of the boot token's fingerprint (see `vendor::Token::fingerprint`), so
    /// that the host knows which of the tokens it gave out this boot uses. Empty: no token.
    pub token_id: String,
    /// A random value (32 hex digits) made at each start of the agent: tells one boot from the next.
    pub boot_id: String,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// DMI (SMBIOS) strings.
    pub dmi: Dmi,
    /// Processors.
    pub cpu: Cpu,
    /// Memory the kernel sees (`MemTotal`), in bytes.
    pub memory_bytes: u64,
    /// Ethernet interfaces, boot interface first.
    pub nics: Vec<Nic>,
    /// Disks, boot disk first; also those that are not exported (see [`Disk::refused`]).
    pub disks: Vec<Disk>,
    /// Milliseconds from the processor's reset to the making of this document; 0 if it is not known.
    pub since_reset_ms: u64,
}

impl Inventory {
    /// Whether it is of `p2v-agent export --waiting`: not the old machine's own agent, but what has its disk now.
    pub fn stands_in(&self) -> bool {
        self.token_id == Token::of_stand_in().fingerprint()
    }
}

/// DMI strings as in `/sys/class/dmi/id`; empty where the firmware says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dmi {
    /// `sys_vendor`.
    pub vendor: String,
    /// `product_name`.
    pub product: String,
    /// `product_serial`.
    pub serial: String,
    /// `product_uuid`, lower case with dashes.
    pub uuid: String,
    /// `bios_version` and `bios_date`, for the record.
    pub bios: String,
}

/// Processors as the kernel sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// `model name` of `/proc/cpuinfo`.
    pub model: String,
    /// Logical processors online.
    pub threads: u32,
    /// Sockets.
    pub sockets: u32,
    /// The flag `lm`: can run 64-bit code.
    pub long_mode: bool,
}

/// One Ethernet interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The kernel's name on the agent, such as `eth0`.
    pub name: String,
    /// The permanent address, the one the old system used.
    pub mac: MacAddr,
    /// Kernel driver, such as `e1000`; empty if unknown.
    #[serde(default)]
    pub driver: String,
    /// PCI `vendor:device` in lower-case hex, such as `8086:100e`; empty if not on PCI.
    #[serde(default)]
    pub pci_id: String,
    /// Whether the link is up.
    #[serde(default)]
    pub carrier: bool,
    /// Mbit/s, 0 if unknown.
    #[serde(default)]
    pub speed: u32,
    /// The interface the machine booted from and that carries AoE.
    #[serde(default)]
    pub boot: bool,
}

/// One disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// Its AoE address; `None` if it is not exported ([`Disk::refused`] says why).
    pub address: Option<Address>,
    /// The kernel's name on the agent, such as `sda`.
    pub name: String,
    /// Model string of the disk.
    pub model: String,
    /// Serial number; empty if it has none.
    pub serial: String,
    /// Size in 512-byte sectors.
    pub sectors: u64,
    /// Logical sector size in bytes: 512, or 4096 for a 4Kn disk.
    pub logical_sector: u32,
    /// Physical sector size in bytes: 4096 for a 512e disk.
    pub physical_sector: u32,
    /// Driver of the controller, such as `ahci`, `ata_piix`, `megaraid_sas`.
    pub controller: String,
    /// PCI `vendor:device` of the controller, lower-case hex; empty if not on PCI.
    pub controller_pci_id: String,
    /// Whether the disk says it cannot be written.
    pub read_only: bool,
    /// Partition table, if one was recognised.
    pub table: Option<PartitionTable>,
    /// Whether the first sector ends in 0x55 0xAA and holds code (its first byte is not zero).
    pub boot_code: bool,
    /// Why it is not exported; empty if it is.
    pub refused: String,
}

/// Kind of partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// DOS (MBR) partition table.
    Mbr,
    /// GUID partition table.
    Gpt,
}

/// A partition table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionTable {
    /// MBR or GPT.
    pub kind: TableKind,
    /// The partitions in the table's order.
    pub partitions: Vec<Partition>,
}

/// One partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Partition {
    /// Number as Linux counts (`sda1` is 1).
    pub number: u32,
    /// First sector (512 bytes each).
    pub start: u64,
    /// Length in 512-byte sectors.
    pub sectors: u64,
    /// MBR: type byte as two hex digits (`83`); GPT: type GUID, lower case.
    pub kind: String,
    /// MBR: the active flag; GPT: the legacy-BIOS-bootable attribute.
    pub bootable: bool,
    /// GPT name; empty on MBR.
    pub name: String,
}
