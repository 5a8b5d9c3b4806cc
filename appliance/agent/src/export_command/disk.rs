//! The disk that is to be exported: is it one, is it free, and what is it called?

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use p2v_aoe::ata::Identify;
use p2v_aoe::blade::{Disk, FileDisk};
use p2v_contract::SECTOR;

use crate::sysfs;

/// Why a disk is not exported.
#[derive(Debug, thiserror::Error)]
pub enum DiskRefused {
    /// It cannot be opened.
    #[error("cannot open {}: {source}{}", path.display(), hint(source))]
    Open {
        /// The disk.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A directory, a terminal, ...
    #[error("{} is neither a block device nor a file", .0.display())]
    Kind(PathBuf),
    /// Something uses it.
    #[error(
        "{} is in use on this machine (a mount, LVM, RAID or another mapping; `lsblk` shows which), and two writers would \
         destroy it: end that use first, or export with --read-only if nothing writes to it", .0.display()
    )]
    InUse(PathBuf),
    /// Not even a sector.
    #[error("{} has {bytes} bytes, which is less than a sector", path.display())]
    Empty {
        /// The disk.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// AoE has sectors of 512 bytes.
    #[error(
        "{} has sectors of {bytes} bytes, and ATA over Ethernet has sectors of 512: an initiator would find every \
         partition in the wrong place", path.display()
    )]
    LogicalSector {
        /// The disk.
        path: PathBuf,
        /// Bytes of its sectors.
        bytes: u32,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => " (`lsblk` lists the disks)",
        io::ErrorKind::PermissionDenied => " (root may)",
        _ => "",
    }
}

/// A disk that may be exported.
pub(super) struct Opened {
    pub(super) disk: FileDisk,
    pub(super) identify: Identify,
    /// Keeps others of this machine from mounting it while it is exported for writing.
    pub(super) claim: Option<File>,
}

/// Opens and checks it.
pub(super) fn open(path: &Path, read_only: bool) -> Result<Opened, DiskRefused> {
    let failed = |source| DiskRefused::Open {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    let block = metadata.file_type().is_block_device();
    if !block && !metadata.is_file() {
        return Err(DiskRefused::Kind(path.to_owned()));
    }
    let sys = block.then(|| of_device(metadata.rdev()));
    // What the disk is called, for a partition too.
    let whole = sys.as_ref().map(|dir| {
        if dir.join("partition").exists() {
            dir.join("..")
        } else {
            dir.clone()
        }
    });
    let number = |file: &str| whole.as_ref().and_then(|dir| sysfs::number(dir.join(file)));
    let logical: u32 = number("queue/logical_block_size").unwrap_or(512);
    if u64::from(logical) != SECTOR {
        return Err(DiskRefused::LogicalSector {
            path: path.to_owned(),
            bytes: logical,
        });
    }
    let claim = if block && !read_only {
        let claimed = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_EXCL)
            .open(path);
        Some(claimed.map_err(|source| match source.kind() {
            io::ErrorKind::ResourceBusy => DiskRefused::InUse(path.to_owned()),
            _ => failed(source),
        })?)
    } else {
        None
    };
    let disk = FileDisk::open(path).map_err(failed)?;
    if disk.sectors() == 0 {
        return Err(DiskRefused::Empty {
            path: path.to_owned(),
            bytes: metadata.len(),
        });
    }
    let text = |file: &str| {
        let text = whole.as_ref().and_then(|dir| sysfs::text(dir.join(file)));
        text.unwrap_or_default().trim().to_owned()
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let model = Some(text("device/model")).filter(|model| !model.is_empty());
    let identify = Identify {
        sectors: disk.sectors(),
        model: crate::export::ascii(model.as_deref().unwrap_or(&name), 40),
        serial: crate::export::ascii(&text("device/serial"), 20),
        firmware: crate::export::ascii(env!("CARGO_PKG_VERSION"), 8),
        physical_sector: number("queue/physical_block_size").unwrap_or(512),
    };
    Ok(Opened {
        disk,
        identify,
        claim,
    })
}

/// The device's directory in sysfs.
fn of_device(device: u64) -> PathBuf {
    let (major, minor) = (libc::major(device), libc::minor(device));
    fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_disks_and_other_things_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("old disk.img");
        fs::write(&path, vec![0; 5000]).unwrap();
        let opened = open(&path, false).unwrap();
        assert_eq!(opened.disk.sectors(), 9);
        assert_eq!(opened.identify.model, "old disk.img");
        assert!(opened.claim.is_none());

        let refused = |path: &Path| open(path, false).err().unwrap().to_string();
        assert!(refused(directory.path()).contains("neither a block device nor a file"));
        assert!(refused(&directory.path().join("none")).contains("lsblk"));
        fs::write(&path, [0; 511]).unwrap();
        assert!(refused(&path).contains("less than a sector"));
    }
}
