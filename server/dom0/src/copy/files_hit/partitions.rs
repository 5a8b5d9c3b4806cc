//! Where the file systems of a copy are: from `sfdisk` and `blkid`.

use std::path::Path;

use serde::Deserialize;

use super::{Deadline, Stretch};
use crate::tool::{ToolError, Tools};

/// A partition, or the whole disk. In sectors of 512 bytes.
pub(super) struct Partition {
    pub(super) number: Option<u32>,
    pub(super) start: u64,
    /// `u64::MAX`: to the end of the disk.
    pub(super) sectors: u64,
    /// As `blkid` calls it.
    pub(super) file_system: Option<String>,
}

impl Partition {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.sectors)
    }

    /// What of a stretch lies before, in and after it.
    pub(super) fn split(
        &self,
        (lba, count): Stretch,
    ) -> (Option<Stretch>, Option<Stretch>, Option<Stretch>) {
        let end = lba + count;
        let cut = |from: u64, to: u64| (from < to).then(|| (from, to - from));
        (
            cut(lba, end.min(self.start)),
            cut(lba.max(self.start), end.min(self.end())),
            cut(lba.max(self.end()), end),
        )
    }
}

#[derive(Deserialize)]
struct Printed {
    partitiontable: Table,
}

#[derive(Deserialize)]
struct Table {
    #[serde(default = "usual_sector")]
    sectorsize: u64,
    #[serde(default)]
    partitions: Vec<Entry>,
}

fn usual_sector() -> u64 {
    512
}

#[derive(Deserialize)]
struct Entry {
    node: String,
    start: u64,
    size: u64,
    #[serde(rename = "type")]
    kind: String,
}

/// The partitions of `copy` with what is in them; a disk without a partition table is one.
pub(super) fn partitions(
    tools: &Tools,
    copy: &Path,
    deadline: Deadline,
) -> Result<Vec<Partition>, ToolError> {
    let args = ["--json".as_ref(), copy.as_os_str()];
    let mut partitions = match tools.run_within("sfdisk", args, deadline.left()) {
        Ok(text) => parse(&text).map_err(|why| ToolError::Output {
            command: format!("sfdisk --json {}", copy.display()),
            why,
        })?,
        // No partition table.
        Err(ToolError::Failed { .. }) => Vec::new(),
        Err(other) => return Err(other),
    };
    if partitions.is_empty() {
        partitions.push(Partition {
            number: None,
            start: 0,
            sectors: u64::MAX,
            file_system: None,
        });
    }
    for partition in &mut partitions {
        let offset = (partition.start * 512).to_string();
        // `-o value -s TYPE` would not tell a swap partition from what has none.
        let args = ["-p", "-o", "export", "-O", &offset];
        let args = args.iter().map(std::ffi::OsStr::new);
        let printed = tools.run_within("blkid", args.chain([copy.as_os_str()]), deadline.left());
        partition.file_system = match printed {
            Ok(text) => text
                .lines()
                .find_map(|line| line.strip_prefix("TYPE="))
                .map(str::to_owned),
            // It exits with 2 where it finds nothing.
            Err(ToolError::Failed { .. }) => None,
            Err(other) => return Err(other),
        };
    }
    Ok(partitions)
}

fn parse(text: &str) -> Result<Vec<Partition>, String> {
    let Printed { partitiontable } =
        serde_json::from_str(text).map_err(|error| error.to_string())?;
    let scale = partitiontable.sectorsize.max(512) / 512;
    Ok(partitiontable
        .partitions
        .into_iter()
        // An extended partition only holds others.
        .filter(|entry| !matches!(entry.kind.as_str(), "5" | "f" | "85"))
        .map(|entry| {
            let digits = entry.node.trim_end_matches(|c: char| c.is_ascii_digit());
            Partition {
                number: entry.node[digits.len()..].parse().ok(),
                start: entry.start.saturating_mul(scale),
                sectors: entry.size.saturating_mul(scale),
                file_system: None,
            }
        })
        .collect())
}
