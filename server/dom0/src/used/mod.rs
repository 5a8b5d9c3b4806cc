//! Which sectors of a disk must be copied because file systems may use them.
//!
//! A sector is left out only if it is in a partition (or a disk without a table) that holds nothing
//! but one file system of a known kind, which is clean, which its own checker finds no fault with,
//! and which says itself that nothing is in that sector. Whatever else there is (boot code, tables,
//! gaps, RAID, LVM, encryption, swap, what is unclean or not known) is copied whole, and the
//! [`Plan`] says why.
//!
//! Nothing of a file system is parsed here: `blkid` and `sfdisk` say what is where, each file
//! system's own tools whether it is well, and partclone what it uses. All of them read the disk
//! through a read-only FUSE file system (`window`) that only they see.
//!
//! The old disk must not be written from before [`plan`] until the copy's end.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::report::Report;
use crate::tool::Tools;

mod btrfs;
mod examine;
mod ext;
mod fat;
mod ntfs;
mod partclone;
mod probe;
mod ranges;
mod table;
mod view;
mod window;
mod xfs;

use examine::{Examiner, Refusal, whole};
use p2v_contract::SECTOR;
use p2v_copy::pieces;
use probe::Content;
use ranges::Range;
pub use view::SourceView;
use window::Windows;

/// What is used is rounded out to multiples of so many sectors from the partition's start: 64 KiB.
/// More than any block and most clusters, and few enough requests.
const GRAIN: u64 = 128;
/// Sectors that are not used and copied all the same, because they lie between used ones: 64 KiB.
const GAP: u64 = 128;
/// Sectors at a partition's begin and end that are copied in any case: 1 MiB. Boot code, copies of
/// boot sectors and traces of RAID are there.
const EDGE: u64 = 2048;

/// A disk that can be read anywhere, by several threads.
pub trait DiskView: Send + Sync {
    /// Its size in 512-byte sectors.
    fn sectors(&self) -> u64;

    /// Fills `buffer` (whole sectors) from `lba` on.
    ///
    /// # Errors
    /// It cannot be read there; what needed it is copied whole.
    fn read(&self, lba: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// How to plan.
pub struct Options<'a> {
    /// How long each program may take for one partition. A check reads all metadata of a file
    /// system: minutes for a large one.
    pub time_limit: Duration,
    /// Set when the operator wants an end.
    pub stop: &'a AtomicBool,
    /// Told of each step.
    pub report: &'a dyn Report,
}

/// The operator wanted an end before the plan was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stopped by the operator")]
pub struct Stopped;

/// What is copied of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole {
        /// Why, for the operator.
        why: String,
    },
    /// What its file system uses.
    UsedOnly,
}

/// A stretch of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// First sector.
    pub first: u64,
    /// Sectors.
    pub sectors: u64,
    /// What it is, for the operator: `ext4 on partition 1`, `gap`.
    pub what: String,
    /// What is copied of it.
    pub extent: Extent,
    /// How many of its sectors are copied.
    pub copied: u64,
}

/// What to copy of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By first sector; they cover the disk and overlap only where partitions do.
    pub parts: Vec<Part>,
    /// First sectors and counts of all that must be copied: ascending, apart from each other.
    pub copy: Vec<(u64, u64)>,
}

impl Plan {
    /// Number of sectors that must be copied.
    pub fn sectors(&self) -> u64 {
        ranges::total(&self.copy)
    }

    /// What is to be read, in few requests: [`copy`](Plan::copy) with its small gaps.
    pub fn extents(&self) -> Vec<(u64, u64)> {
        pieces::join(&self.copy, GAP)
    }
}

/// Plans the copy of `disk`. Needs root, for the mount; where anything fails, more is copied.
///
/// # Errors
/// [`Stopped`].
pub fn plan(
    disk: Arc<dyn DiskView>,
    tools: &Tools,
    options: &Options<'_>,
) -> Result<Plan, Stopped> {
    let sectors = disk.sectors();
    // A thread of its own, because it gets a mount namespace of its own.
    let parts = std::thread::scope(|scope| {
        let thread = scope.spawn(|| examine_disk(disk, tools, options));
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok(assemble(parts, sectors))
}

/// A part, and what is to be copied of it, in sectors of the disk.
type Examined = (Part, Vec<Range>);

fn examine_disk(
    disk: Arc<dyn DiskView>,
    tools: &Tools,
    options: &Options<'_>,
) -> Result<Vec<Examined>, Stopped> {
    let sectors = disk.sectors();
    let all = (0, sectors);
    let windows = match Windows::open(disk) {
        Ok(windows) => windows,
        Err(error) => {
            let why = format!(
                "the disk cannot be shown to the programs that look into it ({error}): is /dev/fuse there, and is \
                 this run as root?"
            );
            return Ok(vec![copied_whole("disk".into(), all, why)]);
        }
    };
    let examiner = Examiner {
        windows: &windows,
        tools,
        options,
    };
    let file = windows.file(all);
    options.report.step("looking for partitions");
    let partitions = match probe::probe(&examiner, &file) {
        Ok(Content::Table(label)) => table::partitions(&examiner, &file, &label, sectors),
        content => return Ok(vec![examine(&examiner, content, None, all)?]),
    };
    let partitions = match partitions {
        Ok(partitions) => partitions,
        Err(Refusal::Whole(why)) => return Ok(vec![copied_whole("disk".into(), all, why)]),
        Err(Refusal::Stopped) => return Err(Stopped),
    };
    partitions
        .into_iter()
        .map(|partition| {
            let number = partition.number;
            options
                .report
                .step(&format!("looking what partition {number} uses"));
            match partition.refused {
                Some(why) => Ok(copied_whole(
                    format!("partition {number}"),
                    partition.sectors,
                    why,
                )),
                None => {
                    let content = probe::probe(&examiner, &windows.file(partition.sectors));
                    examine(&examiner, content, Some(number), partition.sectors)
                }
            }
        })
        .collect()
}

/// Decides on a partition, or on the disk if it has no table.
fn examine(
    examiner: &Examiner<'_>,
    content: Result<Content, Refusal>,
    number: Option<u32>,
    sectors: Range,
) -> Result<Examined, Stopped> {
    let place = match number {
        Some(number) => format!("partition {number}"),
        None => "the whole disk".to_owned(),
    };
    let (what, result) = match content {
        Ok(Content::FileSystem(kind)) => {
            let file = examiner.windows.file(sectors);
            let used = used_bytes(examiner, &kind, &file, sectors.1 * SECTOR);
            (format!("{kind} on {place}"), used)
        }
        Ok(Content::Other(kind, usage)) => {
            let why = match usage.as_str() {
                "raid" => format!("{kind} is a part of something larger"),
                "crypto" => format!("{kind} is encrypted"),
                _ => format!("{kind} is not a file system"),
            };
            (format!("{kind} on {place}"), whole(why))
        }
        Ok(Content::Table(label)) => (
            place,
            whole(format!(
                "it has a partition table of its own ({label}) in it"
            )),
        ),
        Ok(Content::Nothing) => (place, whole("what is in it is not known")),
        Err(refusal) => (place, Err(refusal)),
    };
    match result {
        Ok(used) => Ok(copied_in_part(what, sectors, &used)),
        Err(Refusal::Whole(why)) => {
            // The window's name says nothing to the operator.
            let file = examiner.windows.file(sectors).display().to_string();
            let place = number.map_or("disk".to_owned(), |n| format!("partition {n}"));
            Ok(copied_whole(what, sectors, why.replace(&file, &place)))
        }
        Err(Refusal::Stopped) => Err(Stopped),
    }
}

fn used_bytes(
    examiner: &Examiner<'_>,
    kind: &str,
    file: &Path,
    size: u64,
) -> Result<Vec<Range>, Refusal> {
    match kind {
        "ext2" | "ext3" | "ext4" => ext::used(examiner, file, size),
        "xfs" => xfs::used(examiner, file, size),
        "ntfs" => ntfs::used(examiner, file, size),
        "vfat" => fat::used(examiner, file, size),
        "btrfs" => btrfs::used(examiner, file, size),
        _ => whole(format!(
            "p2v does not know how to tell what {kind} does not use"
        )),
    }
}

fn copied_whole(what: String, (first, sectors): Range, why: String) -> Examined {
    let part = Part {
        first,
        sectors,
        what,
        extent: Extent::Whole { why },
        copied: sectors,
    };
    (part, vec![(first, sectors)])
}

/// `used` in bytes of the part.
fn copied_in_part(what: String, (first, sectors): Range, used: &[Range]) -> Examined {
    let mut copy: Vec<Range> = used
        .iter()
        .map(|&(position, size)| {
            let start = position / SECTOR;
            (
                start,
                position.saturating_add(size).div_ceil(SECTOR) - start,
            )
        })
        .collect();
    copy.push((0, EDGE));
    copy.push((sectors.saturating_sub(EDGE), EDGE));
    let copy: Vec<Range> = ranges::round_out(&copy, GRAIN, sectors)
        .into_iter()
        .map(|(start, count)| (first + start, count))
        .collect();
    let part = Part {
        first,
        sectors,
        what,
        extent: Extent::UsedOnly,
        copied: ranges::total(&copy),
    };
    (part, copy)
}

/// Adds what is between the parts.
fn assemble(examined: Vec<Examined>, sectors: u64) -> Plan {
    let covered = ranges::merge(examined.iter().map(|(p, _)| (p.first, p.sectors)).collect());
    let between = ranges::gaps(&covered, sectors).into_iter().map(|gap| {
        let what = if gap.0 == 0 {
            "boot code and partition table"
        } else if gap.0 + gap.1 == sectors {
            "after the last partition"
        } else {
            "gap"
        };
        copied_whole(what.into(), gap, "it is outside of partitions".into())
    });
    let (mut parts, copy): (Vec<Part>, Vec<Vec<Range>>) =
        examined.into_iter().chain(between).unzip();
    parts.sort_by_key(|p| (p.first, p.sectors));
    Plan {
        parts,
        copy: ranges::merge(copy.into_iter().flatten().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_what_a_file_system_leaves_out() {
        let whole = copied_whole("swap on partition 2".into(), (40_000, 1000), "why".into());
        // One byte in the middle of 32 MiB, at an odd place.
        let some = copied_in_part(
            "ext4 on partition 1".into(),
            (63, 30_001),
            &[(7_000_000, 1)],
        );
        let plan = assemble(vec![whole, some], 50_000);
        let cell = 63 + (7_000_000 / 512) / 128 * 128;
        // The last MiB begins in the middle of a cell.
        let end = (30_001 - 2048) / 128 * 128;
        assert_eq!(
            plan.copy,
            [(0, 63 + 2048), (cell, 128), (63 + end, 50_000 - 63 - end),]
        );
        assert_eq!(
            plan.parts
                .iter()
                .map(|p| (p.what.as_str(), p.first, p.sectors))
                .collect::<Vec<_>>(),
            [
                ("boot code and partition table", 0, 63),
                ("ext4 on partition 1", 63, 30_001),
                ("gap", 30_064, 9_936),
                ("swap on partition 2", 40_000, 1000),
                ("after the last partition", 41_000, 9_000)
            ]
        );
        assert_eq!(plan.parts[1].copied, 2048 + 128 + 30_001 - end);
        assert_eq!(plan.sectors(), plan.copy.iter().map(|c| c.1).sum::<u64>());
    }

    #[test]
    fn a_part_smaller_than_its_edges_is_copied() {
        let (part, copy) = copied_in_part("x".into(), (5, 100), &[]);
        assert_eq!((part.copied, copy), (100, vec![(5, 100)]));
    }
}
