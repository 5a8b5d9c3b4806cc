//! Owners of blocks in ext2, ext3 and ext4: `dumpe2fs`, and `debugfs`'s `icheck` and `ncheck`.
//!
//! e2fsprogs takes a file system at an offset of a file or device as `NAME?offset=BYTES`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::Path;

use super::partitions::Partition;
use super::{Deadline, Owner, Stretch};
use crate::tool::{ToolError, Tools};

/// Blocks (inodes) in one request: 4096 numbers fit an argument, which is 128 KiB long at most
/// (`MAX_ARG_STRLEN`). Each request reads all inode tables (directories).
const AT_ONCE: usize = 4096;

/// What `dumpe2fs` says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Layout {
    /// Bytes.
    block: u64,
    free: Vec<RangeInclusive<u64>>,
}

pub(super) fn owners(
    tools: &Tools,
    copy: &Path,
    partition: &Partition,
    bad: &[Stretch],
    deadline: Deadline,
) -> Result<Vec<(Owner, Stretch)>, ToolError> {
    let mut image = OsString::from(copy);
    image.push(format!("?offset={}", partition.start * 512));
    let printed = tools.run_within("dumpe2fs", [&image], deadline.left())?;
    let layout = layout(&printed);
    if layout.block < 512 {
        return Err(ToolError::Output {
            command: "dumpe2fs".into(),
            why: "no block size".into(),
        });
    }
    let per_block = layout.block / 512;
    let block_of = |lba: u64| (lba - partition.start) / per_block;
    let blocks: BTreeSet<u64> = bad
        .iter()
        .flat_map(|(lba, count)| block_of(*lba)..=block_of(lba + count - 1))
        .collect();
    let ask = |what: &str, numbers: &[u64]| {
        let mut request = what.to_owned();
        for number in numbers {
            request.push_str(&format!(" {number}"));
        }
        let args = [OsString::from("-R"), request.into(), image.clone()];
        tools.run_within("debugfs", args, deadline.left())
    };
    let mut inode_of = BTreeMap::new();
    for part in blocks.into_iter().collect::<Vec<_>>().chunks(AT_ONCE) {
        inode_of.extend(inodes(&ask("icheck", part)?));
    }
    let inodes: BTreeSet<u64> = inode_of.values().copied().collect();
    let mut paths: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for part in inodes.into_iter().collect::<Vec<_>>().chunks(AT_ONCE) {
        for (inode, path) in names(&ask("ncheck", part)?) {
            paths.entry(inode).or_default().push(path);
        }
    }
    let mut owners = Vec::new();
    for (lba, count) in bad {
        for block in block_of(*lba)..=block_of(lba + count - 1) {
            let from = (*lba).max(partition.start + block * per_block);
            let to = (lba + count).min(partition.start + (block + 1) * per_block);
            let stretch = (from, to - from);
            match inode_of.get(&block) {
                None if layout.free.iter().any(|range| range.contains(&block)) => {
                    owners.push((Owner::NoFile, stretch));
                }
                None => owners.push((
                    Owner::Metadata("tables and bitmaps, or a file that lost its inode".into()),
                    stretch,
                )),
                Some(inode) => match paths.get(inode) {
                    Some(paths) => owners.extend(
                        paths
                            .iter()
                            .map(|path| (Owner::File(path.clone()), stretch)),
                    ),
                    None => owners.push((Owner::Metadata(reserved(*inode)), stretch)),
                },
            }
        }
    }
    Ok(owners)
}

/// The inodes with a fixed meaning (`ext2_fs.h`, "Special inode numbers").
fn reserved(inode: u64) -> String {
    match inode {
        1 => "list of bad blocks".into(),
        2 => "root directory".into(),
        7 => "space to grow".into(),
        8 => "journal".into(),
        inode => format!("inode {inode}, which has no name"),
    }
}

fn layout(printed: &str) -> Layout {
    let mut layout = Layout::default();
    for line in printed.lines() {
        if let Some(size) = line.strip_prefix("Block size:") {
            layout.block = size.trim().parse().unwrap_or(0);
        }
        // Of a group, indented; the sum of all in the superblock is not.
        let Some(free) = line.strip_prefix("  Free blocks: ") else {
            continue;
        };
        for range in free.split(',').map(str::trim) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            if let (Ok(first), Ok(last)) = (first.parse(), last.parse()) {
                layout.free.push(first..=last);
            }
        }
    }
    layout
}

/// Lines of a block and its inode; `<block not found>` where it has none.
fn inodes(printed: &str) -> Vec<(u64, u64)> {
    let pair = |line: &str| {
        let (block, inode) = line.split_once('\t')?;
        Some((block.trim().parse().ok()?, inode.trim().parse().ok()?))
    };
    printed.lines().filter_map(pair).collect()
}

/// Lines of an inode and its path, which may have line ends in it.
fn names(printed: &str) -> Vec<(u64, String)> {
    let mut names: Vec<(u64, String)> = Vec::new();
    for line in printed.lines().skip(1) {
        let pair = line.split_once('\t');
        match pair.and_then(|(inode, path)| Some((inode.parse().ok()?, path))) {
            Some((inode, path)) => {
                names.push((inode, format!("/{}", path.trim_start_matches('/'))));
            }
            None => {
                if let Some((_, path)) = names.last_mut() {
                    path.push('\n');
                    path.push_str(line);
                }
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tools_print() {
        let printed = "Free blocks:              13764\nBlock size:               1024\n\
            Group 0: (Blocks 1-8192)\n  Free blocks: 1467-8192, 9000\nGroup 1:\n  Free blocks: \n";
        let expected = Layout {
            block: 1024,
            free: vec![1467..=8192, 9000..=9000],
        };
        assert_eq!(layout(printed), expected);
        assert_eq!(
            inodes("Block\tInode number\n1\t<block not found>\n5\t7\n"),
            [(5, 7)]
        );
        let odd = "Inode\tPathname\n12\t//we ird\nname\n13\t/a/b\n";
        assert_eq!(
            names(odd),
            [(12, "/we ird\nname".into()), (13, "/a/b".into())]
        );
    }
}
