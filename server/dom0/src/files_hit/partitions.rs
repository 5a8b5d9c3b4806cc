//! Where the file systems of a copy are: from `sfdisk` and `blkid`.

use std::path::Path;

use p2v_contract::SECTOR;

use super::{Deadline, Stretch};
use crate::tool::sfdisk::Table;
use crate::tool::{ToolError, Tools, blkid};

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
        let offset = partition.start.saturating_mul(SECTOR).to_string();
        // `-o value -s TYPE` would not tell a swap partition from what has none.
        let args = ["-p", "-o", "export", "-O", &offset];
        let args = args.iter().map(std::ffi::OsStr::new);
        let printed = tools.run_within("blkid", args.chain([copy.as_os_str()]), deadline.left());
        partition.file_system = match printed {
            Ok(text) => blkid::values(&text, "TYPE").next().map(str::to_owned),
            // It exits with 2 where it finds nothing.
            Err(ToolError::Failed { .. }) => None,
            Err(other) => return Err(other),
        };
    }
    Ok(partitions)
}

fn parse(text: &str) -> Result<Vec<Partition>, String> {
    let table = Table::parse(text).map_err(|error| error.to_string())?;
    let scale = table.sectorsize.max(SECTOR) / SECTOR;
    let partitions = table.partitions.iter();
    let partitions = partitions.filter(|entry| !table.is_container(entry));
    Ok(partitions
        .map(|entry| Partition {
            number: table.number(entry),
            start: entry.start.saturating_mul(scale),
            sectors: entry.size.saturating_mul(scale),
            file_system: None,
        })
        .collect())
}
