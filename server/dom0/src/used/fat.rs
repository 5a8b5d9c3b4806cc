//! FAT16 and FAT32.

use std::path::Path;

use super::examine::{Examiner, Refusal, whole};
use super::partclone;
use super::ranges::Range;

/// The line of `fsck.fat -v` that tells FAT12. partclone.fat 0.3.23 reads its entries wrongly: what
/// is copied by its map lacks the ends of files. There is little to save in its 32 MiB at most.
const TWELVE_BITS: &str = "FATs, 12 bit entries";

/// What is used, in bytes.
///
/// # Errors
/// [`Refusal`].
pub fn used(examiner: &Examiner<'_>, file: &Path, size: u64) -> Result<Vec<Range>, Refusal> {
    // Fails on the dirty bits, on tables that differ and on chains that do not fit the files.
    examiner.check("fsck.fat", &["-n".as_ref(), file.as_os_str()])?;
    let check = examiner.run(
        "fsck.fat",
        &["-n".as_ref(), "-v".as_ref(), file.as_os_str()],
    )?;
    let free = free(&check.stdout)?;
    partclone::used(examiner, "partclone.fat", file, size, free)
}

/// The free bytes, by the last line that `fsck.fat -v` prints: `FILE: 3 files, 12/1000 clusters`.
fn free(text: &str) -> Result<u64, Refusal> {
    if text.lines().any(|l| l.trim_end().ends_with(TWELVE_BITS)) {
        return whole("it is FAT12, which partclone.fat does not read rightly");
    }
    let bytes = text
        .lines()
        .find_map(|l| l.trim().strip_suffix(" bytes per cluster"))
        .and_then(|n| n.trim().parse::<u64>().ok());
    let clusters = text.lines().last().and_then(|line| {
        let counts = line.strip_suffix(" clusters")?.rsplit(' ').next()?;
        let (used, all) = counts.split_once('/')?;
        let (used, all): (u64, u64) = (used.parse().ok()?, all.parse().ok()?);
        all.checked_sub(used)
    });
    match (bytes, clusters) {
        (Some(bytes), Some(clusters)) => Ok(bytes.saturating_mul(clusters)),
        _ => whole("`fsck.fat` did not print how many clusters are used"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_clusters() {
        let text = "fsck.fat 4.2 (2021-01-31)\n      4096 bytes per cluster\n\
            Checking free cluster summary.\n/x/0+5: 0 files, 1/76643 clusters\n";
        assert_eq!(free(text), Ok(76642 * 4096));
        let twelve = text.replace("Checking", "         2 FATs, 12 bit entries\nChecking");
        assert!(free(&twelve).is_err());
        assert!(free("").is_err());
        assert!(free("4096 bytes per cluster\nx: 0 files, 9/4 clusters\n").is_err());
    }
}
