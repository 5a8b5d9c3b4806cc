//! NTFS.

use std::path::Path;

use super::examine::{Examiner, Refusal, number, whole};
use super::partclone;
use super::ranges::Range;

/// In the names of the files in `System Volume Information` that hold shadow copies (Microsoft,
/// "Volume Shadow Copy Service"; libvshadow's format documentation, section 2).
const SHADOW_COPIES: &str = "3808876b-c176-4e48-b7ae-04046e6cc752";
/// Where they are.
const SYSTEM: &str = "System Volume Information";

/// What is used, in bytes.
///
/// # Errors
/// [`Refusal`].
pub fn used(examiner: &Examiner<'_>, file: &Path, size: u64) -> Result<Vec<Range>, Refusal> {
    // What Windows left behind: hibernation, fast start, a log with changes. partclone looks at the
    // dirty flag only.
    examiner.check("ntfs-3g.probe", &["--readwrite".as_ref(), file.as_os_str()])?;
    // Checks the bitmap against every file, and the dirty flag. It changes nothing with --info.
    examiner.check(
        "ntfsresize",
        &[
            "--info".as_ref(),
            "--no-progress-bar".as_ref(),
            file.as_os_str(),
        ],
    )?;
    no_shadow_copies(examiner, file)?;
    let info = examiner.run("ntfsinfo", &["--mft".as_ref(), file.as_os_str()])?;
    let cluster = number(&info.stdout, "ntfsinfo", "Cluster Size", ':')?;
    let free = number(&info.stdout, "ntfsinfo", "Free Clusters", ':')?.saturating_mul(cluster);
    partclone::used(examiner, "partclone.ntfs", file, size, free)
}

/// A shadow copy is made of what was overwritten since and, where nothing was, of the volume's own
/// clusters, also those of files that were deleted: these are free in the volume's bitmap.
fn no_shadow_copies(examiner: &Examiner<'_>, file: &Path) -> Result<(), Refusal> {
    let list = |path: &str| {
        examiner.run(
            "ntfsls",
            &[
                "--all".as_ref(),
                "--system".as_ref(),
                "--path".as_ref(),
                path.as_ref(),
                file.as_os_str(),
            ],
        )
    };
    let root = list("/")?.stdout;
    let Some(system) = root.lines().find(|l| l.trim().eq_ignore_ascii_case(SYSTEM)) else {
        return Ok(());
    };
    let names = list(&format!("/{}", system.trim()))?.stdout;
    if names.to_ascii_lowercase().contains(SHADOW_COPIES) {
        return whole(
            "it has shadow copies (Previous Versions, restore points), which are partly in free space",
        );
    }
    Ok(())
}
