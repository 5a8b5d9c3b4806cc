//! btrfs, by the stretches of the disk that it has given to its chunks.
//!
//! Not by partclone: its btrfs maps lack metadata (partclone issues 176, 239, 242 and 303; with
//! 0.3.23 the copies of `dup` chunks), and what is copied by them cannot be mounted. All that btrfs
//! stores but its superblocks is in chunks, and the device tree lists what each takes of the disk.

use std::path::Path;

use super::examine::{Examiner, Refusal, number, value, whole};
use super::ranges::Range;

/// Where superblocks are, in bytes (btrfs(5), "Superblock"; btrfs_sb_offset in fs/btrfs/disk-io.h).
const SUPERBLOCKS: [u64; 4] = [64 << 10, 64 << 20, 256 << 30, 1 << 50];
/// What is kept free around one, in bytes: a stripe (BTRFS_STRIPE_LEN).
const SUPERBLOCK_ROOM: u64 = 64 << 10;

/// What is used, in bytes.
///
/// # Errors
/// [`Refusal`].
pub fn used(examiner: &Examiner<'_>, file: &Path, size: u64) -> Result<Vec<Range>, Refusal> {
    let inspect = |what: &[&str]| {
        let mut args: Vec<_> = ["inspect-internal"]
            .iter()
            .chain(what)
            .map(AsRef::as_ref)
            .collect();
        args.push(file.as_os_str());
        examiner.run("btrfs", &args)
    };
    let superblock = inspect(&["dump-super"])?.stdout;
    let device = clean(&superblock)?;
    if device.size > size {
        return whole("it is larger than its partition");
    }
    examiner.check(
        "btrfs",
        &["check".as_ref(), "--readonly".as_ref(), file.as_os_str()],
    )?;
    let tree = inspect(&["dump-tree", "-t", "dev"])?;
    let mut used = extents(&tree.stdout, &device)?;
    for at in SUPERBLOCKS.into_iter().filter(|at| *at < size) {
        used.push((at, SUPERBLOCK_ROOM.min(size - at)));
    }
    used.push((device.size, size - device.size));
    Ok(used)
}

/// The one device, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Device {
    id: u64,
    size: u64,
    /// Given to chunks.
    given: u64,
}

fn clean(superblock: &str) -> Result<Device, Refusal> {
    const PROGRAM: &str = "btrfs inspect-internal dump-super";
    let field = |key| number(superblock, PROGRAM, key, ' ');
    if field("num_devices")? != 1 {
        return whole("it has parts on other devices");
    }
    if field("log_root")? != 0 {
        return whole("unclean: it has a log of changes that are not in place yet");
    }
    // BTRFS_HEADER_FLAG_WRITTEN alone: no seed, no half-made image (fs/btrfs/fs.h).
    let flags = value(superblock, PROGRAM, "flags", ' ')?;
    if flags != "0x1" {
        return whole(format!("its flags are {flags}, which is not known"));
    }
    // Up to BTRFS_FEATURE_INCOMPAT_RAID1C34 (include/uapi/linux/btrfs.h): what came after it (zones,
    // new trees of extents, stripes and remapping) changes where things are.
    let features = value(superblock, PROGRAM, "incompat_flags", ' ')?;
    let bits = features
        .strip_prefix("0x")
        .and_then(|hex| u64::from_str_radix(hex, 16).ok());
    if bits.is_none_or(|bits| bits >= 1 << 12) {
        return whole(format!(
            "its features are {features}, which are not all known"
        ));
    }
    Ok(Device {
        id: field("dev_item.devid")?,
        size: field("dev_item.total_bytes")?,
        given: field("dev_item.bytes_used")?,
    })
}

/// What the device tree gives to chunks, as `btrfs inspect-internal dump-tree -t dev` prints it: a
/// line `item 0 key (1 DEV_EXTENT 13631488) itemoff ..`, two lines on one with `length 8388608`.
fn extents(text: &str, device: &Device) -> Result<Vec<Range>, Refusal> {
    let odd = |line: &str| {
        whole(format!(
            "`btrfs inspect-internal dump-tree` printed what it should not: {line}"
        ))
    };
    let mut extents: Vec<Range> = Vec::new();
    let mut open = None;
    for line in text.lines() {
        if let Some((_, key)) = line.split_once(" key (") {
            if open.is_some() {
                return odd(line);
            }
            let key = key.split(')').next().unwrap_or("");
            let words: Vec<&str> = key.split(' ').collect();
            if let [id, "DEV_EXTENT", start] = words[..] {
                if id.parse() != Ok(device.id) {
                    return odd(line);
                }
                open = match start.parse::<u64>() {
                    Ok(start) => Some(start),
                    Err(_) => return odd(line),
                };
            }
        } else if let (Some(start), Some((_, length))) = (open, line.split_once(" length ")) {
            let Ok(length) = length.trim().parse::<u64>() else {
                return odd(line);
            };
            let after = extents.last().map_or(0, |e| e.0 + e.1);
            let fits = start
                .checked_add(length)
                .is_some_and(|end| end <= device.size);
            if start < after || !fits {
                return odd(line);
            }
            extents.push((start, length));
            open = None;
        }
    }
    let given: u64 = extents.iter().map(|e| e.1).sum();
    if open.is_some() || given != device.given || given == 0 {
        return whole(format!(
            "its device tree gives {given} bytes to chunks, and its superblock says {}",
            device.given
        ));
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "leaf 30556160 items 5 free space 15918 generation 6 owner DEV_TREE\n\
        \titem 0 key (DEV_STATS PERSISTENT_ITEM 1) itemoff 16243 itemsize 40\n\
        \titem 1 key (1 DEV_EXTENT 13631488) itemoff 16235 itemsize 48\n\
        \t\tdev extent chunk_tree 3\n\
        \t\tchunk_objectid 256 chunk_offset 13631488 length 8388608\n\
        \titem 2 key (1 DEV_EXTENT 22020096) itemoff 16187 itemsize 48\n\
        \t\tdev extent chunk_tree 3\n\
        \t\tchunk_objectid 256 chunk_offset 22020096 length 8388608\n";

    fn device(id: u64, size: u64, given: u64) -> Device {
        Device { id, size, given }
    }

    #[test]
    fn extents_that_add_up() {
        assert_eq!(
            extents(TREE, &device(1, 1 << 30, 16 << 20)),
            Ok(vec![(13_631_488, 8 << 20), (22_020_096, 8 << 20)])
        );
        for bad in [
            device(2, 1 << 30, 16 << 20),
            device(1, 24 << 20, 16 << 20),
            device(1, 1 << 30, 17 << 20),
        ] {
            assert!(extents(TREE, &bad).is_err(), "{bad:?}");
        }
        let cut = &TREE[..TREE.len() - 20];
        assert!(extents(cut, &device(1, 1 << 30, 16 << 20)).is_err());
        assert!(extents("", &device(1, 1 << 30, 0)).is_err());
    }

    #[test]
    fn one_clean_device() {
        let text = |devices, log, flags, features| {
            format!(
                "flags\t\t\t{flags}\nlog_root\t\t{log}\nlog_root_level\t\t0\nnum_devices\t\t{devices}\n\
                 incompat_flags\t\t{features}\n\t\t\t( MIXED_BACKREF )\n\
                 dev_item.total_bytes\t9\ndev_item.bytes_used\t7\ndev_item.devid\t\t1\n"
            )
        };
        assert_eq!(clean(&text(1, 0, "0x1", "0x341")), Ok(device(1, 9, 7)));
        for bad in [
            text(2, 0, "0x1", "0x341"),
            text(1, 5, "0x1", "0x341"),
            text(1, 0, "0x101", "0x341"),
            text(1, 0, "0x1", "0x1341"),
            text(1, 0, "0x1", "?"),
        ] {
            assert!(clean(&bad).is_err(), "{bad}");
        }
    }
}
