//! `sfdisk --json`: what it prints of a partition table.

use p2v_contract::SECTOR;
use serde::Deserialize;

/// Types of partitions that only hold others (`sfdisk --list-types`).
const CONTAINERS: [&str; 3] = ["5", "f", "85"];

/// A partition table.
#[derive(Debug, Deserialize)]
pub struct Table {
    /// Its type: `dos`, `gpt`.
    pub label: String,
    /// The device or file.
    pub device: String,
    /// What starts and sizes are counted in: `sectors`.
    pub unit: String,
    /// Bytes of a sector.
    #[serde(default = "sector")]
    pub sectorsize: u64,
    /// Its partitions.
    #[serde(default)]
    pub partitions: Vec<Entry>,
}

fn sector() -> u64 {
    SECTOR
}

/// A partition.
#[derive(Debug, Deserialize)]
pub struct Entry {
    /// The table's device with a number.
    pub node: String,
    /// First sector.
    pub start: u64,
    /// Number of sectors.
    pub size: u64,
    /// Its type, as it is printed.
    #[serde(rename = "type")]
    pub kind: String,
}

impl Table {
    /// From what `sfdisk --json` printed.
    ///
    /// # Errors
    /// It is not that.
    pub fn parse(json: &str) -> Result<Table, serde_json::Error> {
        #[derive(Deserialize)]
        struct Printed {
            partitiontable: Table,
        }
        serde_json::from_str::<Printed>(json).map(|printed| printed.partitiontable)
    }

    /// The number of one of its partitions, as in `sda5`.
    pub fn number(&self, entry: &Entry) -> Option<u32> {
        let number = entry.node.strip_prefix(&self.device)?;
        number.trim_start_matches('p').parse().ok()
    }

    /// Whether one of its partitions only holds others.
    pub fn is_container(&self, entry: &Entry) -> bool {
        let kind = entry.kind.to_ascii_lowercase();
        self.label == "dos" && CONTAINERS.contains(&kind.as_str())
    }
}
