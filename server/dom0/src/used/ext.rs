//! ext2, ext3 and ext4.

use std::path::Path;

use super::examine::{Examiner, Refusal, number, value, whole};
use super::partclone;
use super::ranges::Range;

/// Features with which the block bitmap says for each block whether it is used, as e2fsprogs names
/// them (lib/e2p/feature.c). Not here: `needs_recovery` and `orphan_present` (unclean), `journal_dev`
/// (no file system), `bigalloc` (partclone reads its bitmap, of clusters, as one of blocks),
/// `shared_blocks`, `snapshot_bitmap`, `compression`, and what is not known yet.
const KNOWN: &[&str] = &[
    "casefold",
    "dir_index",
    "dir_nlink",
    "dir_prealloc",
    "ea_inode",
    "encrypt",
    "ext_attr",
    "extent",
    "extents",
    "extra_isize",
    "fast_commit",
    "filetype",
    "flex_bg",
    "has_journal",
    "huge_file",
    "inline_data",
    "large_dir",
    "large_file",
    "meta_bg",
    "metadata_csum",
    "metadata_csum_seed",
    "mmp",
    "orphan_file",
    "project",
    "quota",
    "resize_inode",
    "sparse_super",
    "sparse_super2",
    "stable_inodes",
    "uninit_bg",
    "verity",
    "64bit",
];

/// What is used, in bytes.
///
/// # Errors
/// [`Refusal`].
pub fn used(examiner: &Examiner<'_>, file: &Path, size: u64) -> Result<Vec<Range>, Refusal> {
    let header = examiner.run("dumpe2fs", &["-h".as_ref(), file.as_os_str()])?;
    let free = clean(&header.stdout)?;
    // partclone takes the bitmap's word; this checks it against every file.
    examiner.check("e2fsck", &["-f".as_ref(), "-n".as_ref(), file.as_os_str()])?;
    partclone::used(examiner, "partclone.extfs", file, size, free)
}

/// The free bytes of a file system that is clean and of a known kind, by what `dumpe2fs -h` prints.
fn clean(header: &str) -> Result<u64, Refusal> {
    const PROGRAM: &str = "dumpe2fs";
    let features = value(header, PROGRAM, "Filesystem features", ':')?;
    for feature in features.split_ascii_whitespace() {
        match feature {
            "needs_recovery" => {
                return whole("unclean: its journal holds changes that are not in place yet");
            }
            "journal_dev" => return whole("the journal of another file system"),
            "(none)" => {}
            other if KNOWN.contains(&other) => {}
            other => return whole(format!("it has the feature `{other}`, which is not known")),
        }
    }
    let state = value(header, PROGRAM, "Filesystem state", ':')?;
    if state != "clean" {
        return whole(format!("unclean: its state is `{state}`"));
    }
    let external = |l: &str| {
        let line = l.trim_start();
        line.starts_with("Journal device:") || line.starts_with("Journal UUID:")
    };
    if header.lines().any(external) {
        return whole("its journal is on another device");
    }
    let blocks = number(header, PROGRAM, "Free blocks", ':')?;
    let size = number(header, PROGRAM, "Block size", ':')?;
    Ok(blocks.saturating_mul(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(features: &str, state: &str, more: &str) -> String {
        format!(
            "Filesystem volume name:   <none>\nFilesystem features:      {features}\n\
             Filesystem state:         {state}\nFree blocks:              100\n\
             Block size:               1024\n{more}"
        )
    }

    #[test]
    fn only_what_is_clean_and_known() {
        let known = "has_journal ext_attr sparse_super";
        assert_eq!(clean(&header(known, "clean", "")), Ok(102_400));
        assert_eq!(clean(&header("(none)", "clean", "")), Ok(102_400));
        for text in [
            header("has_journal needs_recovery", "clean", ""),
            header("bigalloc", "clean", ""),
            header("FEATURE_I31", "clean", ""),
            header("journal_dev", "clean", ""),
            header(known, "not clean", ""),
            header(known, "clean with errors", ""),
            header(known, "clean", "Journal UUID:   1-2\n"),
            header(known, "clean", "Journal device:  0x0801\n"),
            // A volume name with a line break.
            header(known, "clean", "Filesystem state: clean\n"),
            String::new(),
        ] {
            assert!(clean(&text).is_err(), "{text}");
        }
    }
}
