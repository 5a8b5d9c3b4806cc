//! Owners of clusters in NTFS: `ntfscluster`.
//!
//! It knows no offsets, so the partition is shown to it as a loop device, which is read-only: with
//! `--force`, without which it does not look at a volume that was not shut down, it must not be able
//! to write.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::partitions::Partition;
use super::{Deadline, Owner, Stretch};
use crate::tool::{ToolError, Tools};

/// Stretches that are looked up. Each is a run through the whole master file table.
const LOOKUPS: usize = 64;

/// A loop device, for as long as this lives.
struct Loop<'a> {
    tools: &'a Tools,
    device: PathBuf,
}

impl Loop<'_> {
    fn new<'a>(
        tools: &'a Tools,
        copy: &Path,
        partition: &Partition,
        deadline: Deadline,
    ) -> Result<Loop<'a>, ToolError> {
        let mut args: Vec<OsString> = ["--find", "--show", "--read-only", "--offset"]
            .map(OsString::from)
            .into();
        args.push((partition.start * 512).to_string().into());
        if partition.number.is_some() {
            args.push("--sizelimit".into());
            args.push((partition.sectors * 512).to_string().into());
        }
        args.push(copy.into());
        let printed = tools.run_within("losetup", args, deadline.left())?;
        let device = printed.trim();
        if !device.starts_with("/dev/") {
            return Err(ToolError::Output {
                command: "losetup --find --show".into(),
                why: format!("`{device}` is not a device"),
            });
        }
        Ok(Loop {
            tools,
            device: device.into(),
        })
    }
}

impl Drop for Loop<'_> {
    fn drop(&mut self) {
        // A read-only loop device that stays harms nobody but who wants to remove the volume, and
        // is told by that.
        let args = ["--detach".as_ref(), self.device.as_os_str()];
        let _ = self.tools.run("losetup", args);
    }
}

pub(super) fn owners(
    tools: &Tools,
    copy: &Path,
    partition: &Partition,
    bad: &[Stretch],
    deadline: Deadline,
) -> Result<Vec<(Owner, Stretch)>, ToolError> {
    let volume = Loop::new(tools, copy, partition, deadline)?;
    let mut owners = Vec::new();
    for (index, (lba, count)) in bad.iter().enumerate() {
        let stretch = (*lba, *count);
        let first = lba - partition.start;
        let range = format!("{first}-{}", first + count - 1);
        let args = ["--force", "--quiet", "--sector", &range].map(OsString::from);
        let args = args.into_iter().chain([volume.device.clone().into()]);
        let printed = if index < LOOKUPS {
            tools.run_within("ntfscluster", args, deadline.left())
        } else {
            Err(ToolError::NotDone(
                "too many places to look them all up".into(),
            ))
        };
        match printed {
            Ok(printed) => {
                let found = parse(&printed);
                if found.is_empty() {
                    owners.push((Owner::NoFile, stretch));
                }
                owners.extend(found.into_iter().map(|owner| (owner, stretch)));
            }
            Err(error) => owners.push((Owner::Unknown(error.to_string()), stretch)),
        }
    }
    Ok(owners)
}

/// Lines like `Inode 64 /data.bin/$DATA`, `Inode 0 /$MFT/$DATA`: path, then attribute (and stream).
fn parse(printed: &str) -> Vec<Owner> {
    let mut owners = Vec::new();
    for line in printed.lines() {
        let Some((inode, path)) = line
            .strip_prefix("Inode ")
            .and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        let (path, attribute) = path.rsplit_once("/$").unwrap_or((path, "DATA"));
        let owner = match inode.parse::<u64>() {
            // The first 24 are reserved (NTFS_FIRST_USER_FILE, ntfs-3g layout.h); 5 is the root.
            Ok(5) => Owner::Metadata("root directory".into()),
            Ok(0..24) => Owner::Metadata(path.trim_start_matches('/').to_owned()),
            _ if attribute.starts_with("DATA") => Owner::File(path.to_owned()),
            _ => Owner::File(format!("{path} (${attribute})")),
        };
        if !owners.contains(&owner) {
            owners.push(owner);
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ntfscluster_prints() {
        let printed = "Inode 0 /$MFT/$DATA\nInode 0 /$MFT/$BITMAP\nInode 64 /a b/data.bin/$DATA\n\
            Inode 70 /dir/$INDEX_ALLOCATION\n* 3 inodes found\n";
        assert_eq!(
            parse(printed),
            [
                Owner::Metadata("$MFT".into()),
                Owner::File("/a b/data.bin".into()),
                Owner::File("/dir ($INDEX_ALLOCATION)".into()),
            ]
        );
        assert!(parse("* no inode found\n").is_empty());
    }
}
