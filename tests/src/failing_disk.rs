//! A disk with sectors that cannot be read, until one is written: as drives put a good sector in the
//! place of a bad one then.
//!
//! QEMU's `blkdebug` fails the reads. ENODATA is what its SCSI disks report as a medium error (sense
//! 3/11/00, `scsi_sense_from_errno` in scsi/utils.c), which Linux takes for what it is. An IDE disk of
//! QEMU's says "aborted" to every error, which Linux tries five more times.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::disk::Disk;

const ENODATA: u32 = 61;
const NO_SECTOR: u64 = 1 << 40;

/// Such a disk.
pub struct FailingDisk {
    rules: PathBuf,
    image: PathBuf,
}

impl FailingDisk {
    /// `disk`, of which these sectors cannot be read; the rules for QEMU go into `work`.
    ///
    /// # Errors
    /// The rules cannot be written.
    pub fn new(work: &Path, disk: &Disk, bad: &[u64]) -> Result<FailingDisk> {
        let mut text = String::new();
        // In the second state there is a rule, too, for a sector that no disk has: rules last until
        // others take their place.
        let rules = bad.iter().map(|sector| (1, *sector));
        for (state, sector) in rules.chain([(2, NO_SECTOR)]) {
            writeln!(
                text,
                "[inject-error]\nevent = \"read_aio\"\nstate = \"{state}\"\nerrno = \"{ENODATA}\"\n\
                 sector = \"{sector}\"\nonce = \"off\""
            )?;
        }
        text += "[set-state]\nevent = \"write_aio\"\nstate = \"1\"\nnew_state = \"2\"\n";
        let rules = work.join("failing.conf");
        fs::write(&rules, text)?;
        Ok(FailingDisk {
            rules,
            image: disk.path.clone(),
        })
    }

    /// What QEMU finds it by.
    pub fn file(&self) -> String {
        format!("blkdebug:{}:{}", self.rules.display(), self.image.display())
    }
}
