//! XFS.

use std::path::Path;

use super::examine::{Examiner, Refusal, number, value, whole};
use super::partclone;
use super::ranges::Range;

/// Most blocks of a file system that partclone's map is used of. Its xfsclone.c of 0.3.23 (Debian 12)
/// multiplies group number and group size in 32 bits, so that in larger ones the free blocks of late
/// groups are taken for such of the first ones (partclone issue 161).
const MOST_BLOCKS: u64 = u32::MAX as u64;

/// What is used, in bytes.
///
/// # Errors
/// [`Refusal`].
pub fn used(examiner: &Examiner<'_>, file: &Path, size: u64) -> Result<Vec<Range>, Refusal> {
    let superblock = examiner.run(
        "xfs_db",
        &[
            "-r".as_ref(),
            "-f".as_ref(),
            "-c".as_ref(),
            "sb 0".as_ref(),
            "-c".as_ref(),
            "print dblocks blocksize logstart rextents inprogress".as_ref(),
            file.as_os_str(),
        ],
    )?;
    let block = plain(&superblock.stdout)?;
    // Neither partclone nor xfs_db minds a log that is not empty. Not -f, which takes the file for
    // a log alone.
    let log = examiner.run("xfs_logprint", &["-t".as_ref(), file.as_os_str()])?;
    clean(&log.stdout)?;
    examiner.check(
        "xfs_repair",
        &["-n".as_ref(), "-f".as_ref(), file.as_os_str()],
    )?;
    // xfs_db's own walk of the trees of free space.
    let freesp = examiner.run(
        "xfs_db",
        &[
            "-r".as_ref(),
            "-f".as_ref(),
            "-c".as_ref(),
            "freesp -s".as_ref(),
            file.as_os_str(),
        ],
    )?;
    let free = number(&freesp.stdout, "xfs_db", "total free blocks", ' ')?.saturating_mul(block);
    partclone::used(examiner, "partclone.xfs", file, size, free)
}

/// The block size in bytes of a file system that has all its parts here.
fn plain(superblock: &str) -> Result<u64, Refusal> {
    let field = |key| number(superblock, "xfs_db", key, '=');
    if field("logstart")? == 0 {
        return whole("its log is on another device");
    }
    if field("rextents")? != 0 {
        return whole("it has a real-time section");
    }
    if field("inprogress")? != 0 {
        return whole("its making was never finished");
    }
    let blocks = field("dblocks")?;
    if blocks > MOST_BLOCKS {
        return whole(format!(
            "it has {blocks} blocks, more than partclone.xfs can count"
        ));
    }
    field("blocksize")
}

fn clean(log: &str) -> Result<(), Refusal> {
    match value(log, "xfs_logprint", "log tail", ':') {
        Ok(line) if line.ends_with("state: <CLEAN>") => Ok(()),
        Ok(line) if line.ends_with("state: <DIRTY>") => {
            whole("unclean: its log holds changes that are not in place yet")
        }
        Ok(line) => whole(format!("the state of its log is not known: {line}")),
        Err(refusal) => Err(refusal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_plain_and_clean() {
        let sb = |blocks: u64, log, real, progress| {
            format!(
                "dblocks = {blocks}\nblocksize = 4096\nlogstart = {log}\nrextents = {real}\ninprogress = {progress}\n"
            )
        };
        assert_eq!(plain(&sb(MOST_BLOCKS, 5, 0, 0)), Ok(4096));
        for text in [
            sb(MOST_BLOCKS + 1, 5, 0, 0),
            sb(9, 0, 0, 0),
            sb(9, 5, 1, 0),
            sb(9, 5, 0, 1),
        ] {
            assert!(plain(&text).is_err(), "{text}");
        }
        assert!(clean("x\n\n    log tail: 178 head: 178 state: <CLEAN>\n").is_ok());
        assert!(clean("    log tail: 2 head: 172 state: <DIRTY>\n").is_err());
        assert!(clean("").is_err());
    }
}
