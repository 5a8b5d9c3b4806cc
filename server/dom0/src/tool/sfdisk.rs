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

    /// The number of one of its partitions, as in `sda5`, `nvme0n1p5` or `ID-part5`.
    pub fn number(&self, entry: &Entry) -> Option<u32> {
        let number = entry.node.strip_prefix(&self.device)?;
        let joint = ["-part", "p"]
            .iter()
            .find_map(|joint| number.strip_prefix(joint));
        joint.unwrap_or(number).parse().ok()
    }

    /// Whether one of its partitions only holds others.
    pub fn is_container(&self, entry: &Entry) -> bool {
        let kind = entry.kind.to_ascii_lowercase();
        self.label == "dos" && CONTAINERS.contains(&kind.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_has_its_number_whatever_the_disk_is_called() {
        for (device, node, number) in [
            ("/dev/sda", "/dev/sda5", Some(5)),
            ("/dev/nvme0n1", "/dev/nvme0n1p2", Some(2)),
            (
                "/dev/disk/by-id/ata-X1",
                "/dev/disk/by-id/ata-X1-part3",
                Some(3),
            ),
            ("/dev/sda", "/dev/sdb1", None),
        ] {
            let json = format!(
                r#"{{"partitiontable": {{"label": "dos", "device": "{device}", "unit": "sectors",
                    "partitions": [{{"node": "{node}", "start": 1, "size": 1, "type": "83"}}]}}}}"#
            );
            let table = Table::parse(&json).unwrap();
            assert_eq!(table.number(&table.partitions[0]), number, "{node}");
        }
    }
}
