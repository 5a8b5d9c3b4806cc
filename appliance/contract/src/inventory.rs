//! What an old machine is made of: the JSON document that the agent sends in answer to the
//! Inventory operation, and that the Xen host keeps in the machine's record.
//!
//! Fields are added at the end and are optional when read, so that an older host reads a newer
//! agent's inventory and the other way round.

use pnet::util::MacAddr;
use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::key::{PublicKey, SIGNATURE_LEN, SecretKey};

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
    /// The id that its boot menu gave it (`p2v.boot`): by it the host knows its own menus. Empty: none.
    pub menu_id: String,
    /// The keys of the hosts whose orders it takes (`p2v.key`).
    pub host_keys: Vec<PublicKey>,
    /// Its own key, made at this start: the document is signed with it.
    pub key: Option<PublicKey>,
    /// It is `p2v-agent export --waiting`: not the old machine's own agent, but what has its disk now.
    pub stands_in: bool,
    /// A random value (32 hex digits) made at each start of the agent: tells one boot from the next.
    pub boot_id: String,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// DMI (SMBIOS) strings.
    pub dmi: Dmi,
    /// Processors.
    pub cpu: Cpu,
    /// Memory that is installed, in bytes; where the firmware does not tell, what the kernel has.
    pub memory_bytes: u64,
    /// Ethernet interfaces, boot interface first.
    pub nics: Vec<Nic>,
    /// Disks, boot disk first; also those that are not exported (see [`Disk::refused`]).
    pub disks: Vec<Disk>,
    /// Milliseconds from the processor's reset to the making of this document; 0 if it is not known.
    pub since_reset_ms: u64,
}

/// Before what is signed.
const SIGNED: &[u8] = b"p2v inventory 1";

/// Why a document is none.
#[derive(Debug, thiserror::Error)]
pub enum BadDocument {
    /// It does not end with a signature.
    #[error("it is not signed")]
    NotSigned,
    /// It was altered, or it is not by the key that it names.
    #[error("its signature is not right: it was not made by the agent that it names")]
    Forged,
    /// It is no inventory.
    #[error("it is no inventory: {0}")]
    Json(#[from] serde_json::Error),
}

impl Inventory {
    /// The document as it goes over the wire: its JSON, a line feed, and the signature in hex.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn to_document(&self, key: &SecretKey) -> serde_json::Result<Vec<u8>> {
        let mut document = serde_json::to_vec(&Inventory {
            key: Some(key.public()),
            ..self.clone()
        })?;
        let signature = key.sign(&[SIGNED, &document].concat());
        document.push(b'\n');
        document.extend(hex::encode(signature).as_bytes());
        Ok(document)
    }

    /// Reads such a document.
    ///
    /// # Errors
    /// Why it is none.
    pub fn from_document(document: &[u8]) -> Result<Inventory, BadDocument> {
        let at = document.iter().rposition(|byte| *byte == b'\n');
        let (json, signature) = document.split_at(at.ok_or(BadDocument::NotSigned)?);
        let mut bytes = [0; SIGNATURE_LEN];
        hex::decode_to_slice(&signature[1..], &mut bytes).map_err(|_| BadDocument::NotSigned)?;
        let mut value = serde_json::from_slice(json)?;
        one_line_each(&mut value);
        let inventory: Inventory = serde_json::from_value(value)?;
        let text = [SIGNED, json].concat();
        match inventory.key {
            Some(key) if key.verifies(&text, &bytes) => Ok(inventory),
            _ => Err(BadDocument::Forged),
        }
    }
}

/// Takes what ends lines and steers terminals out of all texts: they are shown, and kept in records and configs.
fn one_line_each(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => {
            *text = text
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect();
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(one_line_each),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(one_line_each),
        _ => {}
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
    /// By it a disk without a serial number is known again. MBR: the disk signature as eight hex digits; GPT: the disk's
    /// GUID, lower case. Empty: it has none.
    #[serde(default)]
    pub id: String,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_tells_is_shown_in_one_line() {
        let disk = Disk {
            model: "disk\u{1b}[2J\nnext: `rm -rf /`\u{9b}".into(),
            ..Disk::default()
        };
        let inventory = Inventory {
            disks: vec![disk],
            ..Inventory::default()
        };
        let key = SecretKey::from_bytes(&[3; 32]);
        let document = inventory.to_document(&key).unwrap();
        let read = Inventory::from_document(&document).unwrap();
        assert_eq!(read.disks[0].model, "disk?[2J?next: `rm -rf /`?");
    }

    #[test]
    fn a_document_is_its_agents_or_it_is_none() {
        let key = SecretKey::from_bytes(&[3; 32]);
        let inventory = Inventory {
            agent: "1".to_owned(),
            ..Inventory::default()
        };
        let document = inventory.to_document(&key).unwrap();
        let read = Inventory::from_document(&document).unwrap();
        assert_eq!((read.agent.as_str(), read.key), ("1", Some(key.public())));
        let text = String::from_utf8(document).unwrap();
        let altered = text.replace("\"agent\":\"1\"", "\"agent\":\"2\"");
        assert!(matches!(
            Inventory::from_document(altered.as_bytes()),
            Err(BadDocument::Forged)
        ));
        // Signed by another key than the one it names.
        let other = SecretKey::from_bytes(&[4; 32]);
        let by_other = inventory.to_document(&other).unwrap();
        let by_other = String::from_utf8(by_other).unwrap();
        let renamed = by_other.replace(&other.public().to_string(), &key.public().to_string());
        assert!(matches!(
            Inventory::from_document(renamed.as_bytes()),
            Err(BadDocument::Forged)
        ));
        let json = text.split_once('\n').unwrap().0;
        assert!(matches!(
            Inventory::from_document(json.as_bytes()),
            Err(BadDocument::NotSigned)
        ));
    }
}
