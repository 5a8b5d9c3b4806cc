//! What the target knows of a disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc;

use super::buffer::Buffers;
use crate::address::SECTOR;

/// Bytes that one piece of advice is good for: the kernel fetches no more with it than the disk takes
/// as one request, which is 128 KiB with old IDE disks (`force_page_cache_readahead`).
pub(super) const ADVICE: u64 = 128 << 10;

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

    /// Fills as much of `data` as is in memory already, without waiting for the disk, and returns
    /// the number of bytes (from the start of `data`).
    fn read_cached(&self, lba: u64, data: &mut [u8]) -> usize {
        let _ = (lba, data);
        0
    }

    /// Fetches a range into memory because it will soon be read; need not wait for it.
    fn will_need(&self, lba: u64, bytes: usize) {
        let _ = (lba, bytes);
    }

    /// Fills `data` from `lba` on, as part of a long scan that will go on for `ahead` bytes.
    fn scan(&self, lba: u64, data: &mut [u8], ahead: usize) -> io::Result<()> {
        let _ = ahead;
        self.read(lba, data)
    }

    /// The files behind it, if reads and writes may be given to the kernel on them directly. They
    /// must be the ones that [`Disk::read`] and [`Disk::write`] would use now.
    fn files(&self) -> Option<Files> {
        None
    }
}

/// Two ways to one disk. The kernel keeps them in step: direct reads see what was written through the
/// page cache, and direct writes drop the pages they make stale.
#[derive(Clone)]
pub struct Files {
    /// Through the page cache: for data that will be read soon, or is there already.
    pub cached: Arc<File>,
    /// Past the page cache (`O_DIRECT`, 512-byte granularity), where the file can do that.
    pub direct: Option<Arc<File>>,
}

impl Files {
    /// The file for reads that gain nothing from the page cache, and for writes.
    pub fn direct(&self) -> &Arc<File> {
        self.direct.as_ref().unwrap_or(&self.cached)
    }
}

/// A block device or a regular file.
///
/// It is opened for reading only, and opened anew when writes are allowed: while the export is
/// read-only there is no file descriptor through which anything could be written.
pub struct FileDisk {
    path: PathBuf,
    sectors: u64,
    /// And whether they may be written through.
    files: RwLock<(Files, bool)>,
}

impl FileDisk {
    /// Opens `path` for reading; it has `sectors` sectors (of a regular file: its size).
    pub fn open(path: &Path) -> io::Result<FileDisk> {
        use std::io::{Seek, SeekFrom};
        let files = open(path, false)?;
        // Works for a block device too, whose metadata says 0.
        let bytes = (&*files.cached).seek(SeekFrom::End(0))?;
        Ok(FileDisk {
            path: path.to_owned(),
            sectors: bytes / SECTOR,
            files: RwLock::new((files, false)),
        })
    }

    fn now(&self) -> Files {
        self.files
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .0
            .clone()
    }
}

fn open(path: &Path, writable: bool) -> io::Result<Files> {
    let cached = OpenOptions::new().read(true).write(writable).open(path)?;
    // What is read ahead, and when, is decided by the target, which knows who reads what.
    let advised = posix_fadvise(&cached, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM);
    advised.map_err(io::Error::from)?;
    let direct = OpenOptions::new()
        .read(true)
        .write(writable)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .ok()
        .filter(takes_sectors);
    Ok(Files {
        cached: Arc::new(cached),
        direct: direct.map(Arc::new),
    })
}

/// Whether single 512-byte sectors can be read directly: not where the file lies on a disk of larger
/// sectors, and not on every file system.
fn takes_sectors(file: &File) -> bool {
    let mut buffer = Buffers::default().take(SECTOR as usize);
    let sector = &mut buffer[..SECTOR as usize];
    match file.read_at(sector, SECTOR) {
        Ok(_) => true,
        Err(error) => error.raw_os_error() != Some(libc::EINVAL),
    }
}

/// Asks the kernel to fetch a range. Only a hint: if it fails, the read itself fetches the data.
fn fetch(file: &File, at: u64, bytes: usize) {
    let end = at + bytes as u64;
    for from in (at..end).step_by(ADVICE as usize) {
        let bytes = (end - from).min(ADVICE);
        let _ = posix_fadvise(
            file,
            from as libc::off_t,
            bytes as libc::off_t,
            PosixFadviseAdvice::POSIX_FADV_WILLNEED,
        );
    }
}

/// Whether a slice is aligned for direct I/O in sectors.
fn aligned(data: &[u8]) -> bool {
    data.as_ptr() as usize % SECTOR as usize == 0
}

impl Disk for FileDisk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&self, lba: u64, data: &mut [u8]) -> io::Result<()> {
        let files = self.now();
        match files.direct {
            Some(direct) if aligned(data) => direct.read_exact_at(data, lba * SECTOR),
            _ => files.cached.read_exact_at(data, lba * SECTOR),
        }
    }

    fn write(&self, lba: u64, data: &[u8]) -> io::Result<()> {
        let files = self.now();
        match files.direct {
            Some(direct) if aligned(data) => direct.write_all_at(data, lba * SECTOR),
            _ => files.cached.write_all_at(data, lba * SECTOR),
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.now().cached.sync_data()
    }

    fn set_writable(&self, writable: bool) -> io::Result<()> {
        let files = open(&self.path, writable)?;
        let mut current = self
            .files
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        // What was written through the old descriptors is settled before they are let go.
        current.0.cached.sync_data()?;
        *current = (files, writable);
        Ok(())
    }

    fn read_cached(&self, lba: u64, data: &mut [u8]) -> usize {
        let files = self.files.read();
        let files = files.unwrap_or_else(|poisoned| poisoned.into_inner());
        let file = &files.0.cached;
        let into = libc::iovec {
            iov_base: data.as_mut_ptr().cast(),
            iov_len: data.len(),
        };
        // SAFETY: `into` describes `data`, which is borrowed for the length of the call.
        let read = unsafe {
            libc::preadv2(
                file.as_raw_fd(),
                &raw const into,
                1,
                (lba * SECTOR) as libc::off_t,
                libc::RWF_NOWAIT,
            )
        };
        // Not in memory, or a file that cannot tell: the disk is asked.
        usize::try_from(read).unwrap_or(0)
    }

    fn will_need(&self, lba: u64, bytes: usize) {
        fetch(&self.now().cached, lba * SECTOR, bytes);
    }

    fn scan(&self, lba: u64, data: &mut [u8], ahead: usize) -> io::Result<()> {
        let files = self
            .files
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let (files, writable) = &*files;
        // A read through the page cache beside a direct write could leave stale pages behind. Holding
        // the lock keeps writes from being allowed meanwhile.
        if *writable {
            return match &files.direct {
                Some(direct) if aligned(data) => direct.read_exact_at(data, lba * SECTOR),
                _ => files.cached.read_exact_at(data, lba * SECTOR),
            };
        }
        // What is scanned is mostly read over the wire next: it stays in memory for that.
        fetch(&files.cached, lba * SECTOR, data.len() + ahead);
        files.cached.read_exact_at(data, lba * SECTOR)
    }

    fn files(&self) -> Option<Files> {
        Some(self.now())
    }
}
