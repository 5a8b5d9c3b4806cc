//! Which files have sectors that could not be read, where a tool can tell.
//!
//! Asked of the finished copy: e2fsprogs for ext2, ext3 and ext4, ntfs-3g for NTFS. Best effort:
//! what cannot be told is said to be so, and nothing here is an error for the copy. Everything is
//! opened for reading only.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::tool::{ToolError, Tools};

mod ext;
mod ntfs;
mod partitions;

use partitions::Partition;

/// What a stretch of sectors belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A file, by its path in the file system.
    File(String),
    /// The file system's own, in words.
    Metadata(String),
    /// Nothing: free space.
    NoFile,
    /// No partition: boot loader, partition table or a gap.
    OutsidePartitions,
    /// It cannot be told, for this reason.
    Unknown(String),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The name comes from a disk that may be damaged: it must not steer the terminal.
            Owner::File(path) => write!(f, "{}", path.replace(char::is_control, "?")),
            Owner::Metadata(what) => write!(f, "the file system's {what}"),
            Owner::NoFile => write!(f, "no file (free space)"),
            Owner::OutsidePartitions => write!(f, "no partition (boot loader or a gap)"),
            Owner::Unknown(why) => write!(f, "it cannot be told what: {why}"),
        }
    }
}

/// Something that has unreadable sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHit {
    /// The partition's number; `None` outside of them, and for a file system on the whole disk.
    pub partition: Option<u32>,
    /// What is hit.
    pub owner: Owner,
    /// The first unreadable sector of it, counted from the disk's start in 512 bytes.
    pub lba: u64,
    /// Unreadable sectors that are in it, wholly or by sharing a block with it.
    pub sectors: u64,
}

/// An end to the time that may be taken.
#[derive(Clone, Copy)]
struct Deadline(Instant);

impl Deadline {
    fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// A stretch of unreadable sectors: first one, from the disk's start, and their number.
type Stretch = (u64, u64);

/// What the sectors in `bad` (first one and count, ascending, in 512 bytes) of the disk whose copy
/// `copy` is belong to. `copy` is a file or block device, and must not be open exclusively (a
/// [`p2v_copy::FileSink`] of a block device is). Takes `limit` at most, and a little for programs to
/// end.
pub fn files_hit(tools: &Tools, copy: &Path, bad: &[Stretch], limit: Duration) -> Vec<FileHit> {
    let deadline = Deadline(Instant::now() + limit);
    if bad.is_empty() {
        return Vec::new();
    }
    let partitions = match partitions::partitions(tools, copy, deadline) {
        Ok(partitions) => partitions,
        Err(error) => {
            return collect(None, unknown(bad, &error.to_string()));
        }
    };
    let mut hits = Vec::new();
    let mut outside: Vec<Stretch> = bad.to_vec();
    for partition in &partitions {
        let (mut inside, mut rest) = (Vec::new(), Vec::new());
        for stretch in outside {
            let (before, within, after) = partition.split(stretch);
            inside.extend(within);
            rest.extend(before.into_iter().chain(after));
        }
        outside = rest;
        if !inside.is_empty() {
            let owners = owners(tools, copy, partition, &inside, deadline);
            hits.extend(collect(partition.number, owners));
        }
    }
    let none = |stretch: Stretch| (Owner::OutsidePartitions, stretch);
    hits.extend(collect(None, outside.into_iter().map(none).collect()));
    hits.sort_by_key(|hit| hit.lba);
    hits
}

/// The owners of stretches that lie in a partition.
fn owners(
    tools: &Tools,
    copy: &Path,
    partition: &Partition,
    bad: &[Stretch],
    deadline: Deadline,
) -> Vec<(Owner, Stretch)> {
    let found = match partition.file_system.as_deref() {
        Some("ext2" | "ext3" | "ext4") => ext::owners(tools, copy, partition, bad, deadline),
        Some("ntfs") => ntfs::owners(tools, copy, partition, bad, deadline),
        Some("swap") => {
            let swap = |stretch: &Stretch| (Owner::Metadata("swap space".into()), *stretch);
            Ok(bad.iter().map(swap).collect())
        }
        Some(other) => Ok(unknown(bad, &format!("no tool for {other}"))),
        None => Ok(unknown(bad, "no file system is known there")),
    };
    found.unwrap_or_else(|error: ToolError| unknown(bad, &error.to_string()))
}

fn unknown(bad: &[Stretch], why: &str) -> Vec<(Owner, Stretch)> {
    bad.iter()
        .map(|stretch| (Owner::Unknown(why.to_owned()), *stretch))
        .collect()
}

/// One hit for each owner.
fn collect(partition: Option<u32>, owners: Vec<(Owner, Stretch)>) -> Vec<FileHit> {
    let mut hits: Vec<FileHit> = Vec::new();
    let mut at = std::collections::BTreeMap::new();
    for (owner, (lba, sectors)) in owners {
        let index = *at.entry(owner.clone()).or_insert(hits.len());
        match hits.get_mut(index) {
            Some(hit) => {
                hit.sectors += sectors;
                hit.lba = hit.lba.min(lba);
            }
            None => hits.push(FileHit {
                partition,
                owner,
                lba,
                sectors,
            }),
        }
    }
    hits
}

#[cfg(test)]
mod tests;
