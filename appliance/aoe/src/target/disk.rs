//! What the target knows of a disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use crate::address::SECTOR;

/// A disk of 512-byte sectors. Ranges are checked by the caller.
pub trait Disk: Send + Sync {
    /// Size in sectors.
    fn sectors(&self) -> u64;

    /// Fills `data` (whole sectors) from `lba` on.
    fn read(&self, lba: u64, data: &mut [u8]) -> io::Result<()>;

    /// Writes `data` (whole sectors) from `lba` on. Need not be on stable storage before
    /// [`Disk::flush`] has returned.
    fn write(&self, lba: u64, data: &[u8]) -> io::Result<()>;

    /// Puts every write that has returned on stable storage.
    fn flush(&self) -> io::Result<()>;

    /// Allows or forbids writes. A disk starts with writes forbidden.
    fn set_writable(&self, writable: bool) -> io::Result<()>;
}

/// A block device or a regular file.
///
/// It is opened for reading only, and opened anew when writes are allowed: while the export is
/// read-only there is no file descriptor through which anything could be written.
pub struct FileDisk {
    path: PathBuf,
    sectors: u64,
    file: RwLock<Arc<File>>,
}

impl FileDisk {
    /// Opens `path` for reading; it has `sectors` sectors (of a regular file: its size).
    pub fn open(path: &Path) -> io::Result<FileDisk> {
        use std::io::{Seek, SeekFrom};
        let mut file = File::open(path)?;
        // Works for a block device too, whose metadata says 0.
        let bytes = file.seek(SeekFrom::End(0))?;
        Ok(FileDisk {
            path: path.to_owned(),
            sectors: bytes / SECTOR,
            file: RwLock::new(Arc::new(file)),
        })
    }

    fn file(&self) -> Arc<File> {
        self.file
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }
}

impl Disk for FileDisk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&self, lba: u64, data: &mut [u8]) -> io::Result<()> {
        self.file().read_exact_at(data, lba * SECTOR)
    }

    fn write(&self, lba: u64, data: &[u8]) -> io::Result<()> {
        self.file().write_all_at(data, lba * SECTOR)
    }

    fn flush(&self) -> io::Result<()> {
        self.file().sync_data()
    }

    fn set_writable(&self, writable: bool) -> io::Result<()> {
        let file = OpenOptions::new()
            .read(true)
            .write(writable)
            .open(&self.path)?;
        let mut current = self
            .file
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        // What was written through the old descriptor is settled before it is let go.
        current.sync_data()?;
        *current = Arc::new(file);
        Ok(())
    }
}
