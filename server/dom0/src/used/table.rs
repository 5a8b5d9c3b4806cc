//! Partitions, as `sfdisk --json` lists them.

use std::path::Path;

use p2v_contract::SECTOR;

use super::examine::{Examiner, Refusal, whole};
use super::ranges::Range;
use crate::tool::sfdisk::Table;

/// A partition that holds data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, as in `sda5`.
    pub number: u32,
    /// Its sectors, all of them on the disk.
    pub sectors: Range,
    /// Why it is copied whole, if that can be told from the table alone.
    pub refused: Option<String>,
}

/// Types of partitions that are a part of something larger, with what that is (`sfdisk
/// --list-types --label dos` and `--label gpt`).
const MEMBERS: [(&str, &str); 9] = [
    ("42", "a Windows dynamic disk"),
    ("8e", "LVM"),
    ("fd", "a Linux RAID"),
    (
        "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3",
        "a Windows dynamic disk",
    ),
    (
        "af9b60a0-1431-4f62-bc68-3311714a69ad",
        "a Windows dynamic disk",
    ),
    ("e75caf8f-f680-4cee-afa3-b001e56efc2d", "Storage Spaces"),
    ("e6d6d379-f507-44c2-a23c-238f2a3df928", "LVM"),
    ("a19d880f-05fc-4d3b-a006-743f0f84911e", "a Linux RAID"),
    ("ee", "a GPT that cannot be read"),
];

/// The partitions of the disk in `file`, which has `sectors` sectors and a table of the type
/// `label` (`dos`, `gpt`).
///
/// # Errors
/// [`Refusal`]; also if sfdisk has anything to say about the table.
pub fn partitions(
    examiner: &Examiner<'_>,
    file: &Path,
    label: &str,
    sectors: u64,
) -> Result<Vec<Partition>, Refusal> {
    if label != "dos" && label != "gpt" {
        return whole(format!("its partition table is of the type {label}"));
    }
    let printed = examiner.run("sfdisk", &["--json".as_ref(), file.as_os_str()])?;
    if !printed.stderr.is_empty() {
        return whole(format!(
            "`sfdisk` is not content with its partition table: {}",
            printed.stderr
        ));
    }
    read(&printed.stdout, label, sectors)
}

fn read(json: &str, label: &str, sectors: u64) -> Result<Vec<Partition>, Refusal> {
    let table = match Table::parse(json) {
        Ok(table) => table,
        Err(error) => {
            return whole(format!(
                "`sfdisk --json` printed what it should not: {error}"
            ));
        }
    };
    if table.label != label || table.unit != "sectors" || table.sectorsize != SECTOR {
        return whole(format!(
            "`blkid` finds a partition table of the type {label}, `sfdisk` one of the type {} in {} of {} bytes",
            table.label, table.unit, table.sectorsize
        ));
    }
    let mut partitions = Vec::new();
    for entry in &table.partitions {
        if table.is_container(entry) {
            continue;
        }
        let Some(number) = table.number(entry) else {
            return whole(format!("`sfdisk` lists a partition `{}`", entry.node));
        };
        // What is not on the disk cannot be copied, and nobody can have put anything there.
        let end = entry.start.saturating_add(entry.size);
        let start = entry.start.min(sectors);
        let refused = if end > sectors {
            Some("it goes past the end of the disk".to_owned())
        } else {
            MEMBERS
                .iter()
                .find(|m| entry.kind.eq_ignore_ascii_case(m.0))
                .map(|m| format!("its type says that it belongs to {}", m.1))
        };
        partitions.push(Partition {
            number,
            sectors: (start, end.min(sectors) - start),
            refused,
        });
    }
    partitions.retain(|p| p.sectors.1 > 0);
    partitions.sort_by_key(|p| p.sectors);
    refuse_overlaps(&mut partitions);
    Ok(partitions)
}

fn refuse_overlaps(partitions: &mut [Partition]) {
    let ranges: Vec<(u32, Range)> = partitions.iter().map(|p| (p.number, p.sectors)).collect();
    for (index, partition) in partitions.iter_mut().enumerate() {
        let (first, count) = partition.sectors;
        let other = ranges.iter().enumerate().find(|(i, (_, other))| {
            *i != index && other.0 < first + count && first < other.0 + other.1
        });
        if let Some((_, (number, _))) = other {
            partition.refused = Some(format!("it overlaps partition {number}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(label: &str, sector: u32, entries: &[(u32, u64, u64, &str)]) -> String {
        let entries: Vec<String> = entries
            .iter()
            .map(|(n, start, size, kind)| {
                format!(
                    r#"{{"node": "/x/0+9p{n}", "start": {start}, "size": {size}, "type": "{kind}"}}"#
                )
            })
            .collect();
        format!(
            r#"{{"partitiontable": {{"label": "{label}", "id": "0x1", "device": "/x/0+9", "unit": "sectors",
            "sectorsize": {sector}, "partitions": [{}]}}}}"#,
            entries.join(",")
        )
    }

    #[test]
    fn logical_ones_count_and_their_container_does_not() {
        let text = json(
            "dos",
            512,
            &[
                (1, 63, 1000, "83"),
                (2, 2000, 3000, "f"),
                (5, 2063, 500, "7"),
                (6, 2700, 500, "fd"),
            ],
        );
        let partitions = read(&text, "dos", 5000).unwrap();
        assert_eq!(
            partitions
                .iter()
                .map(|p| (p.number, p.sectors, p.refused.is_some()))
                .collect::<Vec<_>>(),
            [
                (1, (63, 1000), false),
                (5, (2063, 500), false),
                (6, (2700, 500), true)
            ]
        );
    }

    #[test]
    fn what_is_odd_is_refused() {
        let text = json(
            "gpt",
            512,
            &[
                (1, 100, 100, "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
                (2, 150, 100, "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
                (3, 300, 1000, "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
                (4, 500, 10, "E6D6D379-F507-44C2-A23C-238F2A3DF928"),
                (
                    5,
                    u64::MAX,
                    u64::MAX,
                    "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
                ),
            ],
        );
        let partitions = read(&text, "gpt", 1000).unwrap();
        assert_eq!(partitions.len(), 4);
        assert!(partitions.iter().all(|p| p.refused.is_some()));
        assert_eq!(partitions[2].sectors, (300, 700));
        assert!(read(&text, "dos", 1000).is_err());
        assert!(read(&json("gpt", 4096, &[]), "gpt", 1000).is_err());
        assert!(read("{}", "gpt", 1000).is_err());
    }
}
