//! FAT12, FAT16 and FAT32.

use std::path::Path;

use super::examine::{Examiner, Refusal, whole};
use super::partclone;
use super::ranges::Range;

/// What is used, in bytes.
///
/// # Errors
/// [`Refusal`].
pub fn used(examiner: &Examiner<'_>, file: &Path, size: u64) -> Result<Vec<Range>, Refusal> {
    // Fails on the dirty bits, on tables that differ and on chains that do not fit the files.
    let check = examiner.run(
        "fsck.fat",
        &["-n".as_ref(), "-v".as_ref(), file.as_os_str()],
    )?;
    let free = free(&check.stdout)?;
    partclone::used(examiner, "partclone.fat", file, size, free)
}

/// The free bytes, by the last line that `fsck.fat -v` prints: `FILE: 3 files, 12/1000 clusters`.
fn free(text: &str) -> Result<u64, Refusal> {
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
        assert!(free("").is_err());
        assert!(free("4096 bytes per cluster\nx: 0 files, 9/4 clusters\n").is_err());
    }
}
