//! What the target knows of a disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc;
use p2v_contract::address::SECTOR;

use super::buffer::Buffers;

/// Bytes that one piece of advice is good for: the kernel fetches no more with it than the disk takes
/// as one request, which is 128 KiB with old IDE disks (`force_page_cache_readahead`).
pub(super) const ADVICE: u64 = 128 << 10;

/// Bytes before the last that were fetched that may still be on their way.
const ON_THEIR_WAY: u64 = 16 << 20;

/// A disk of 512-byte sectors. Ranges are checked by the caller.
pub trait Disk: Send + Sync {
    /// Size in sectors.
    fn sectors(&self) -> u64;

    /// Fills `data` (whole sectors) from `lba` on.
    ///
    /// # Errors
    /// The disk does not give all of it.
    fn read(&self, lba: u64, data: &mut [u8]) -> io::Result<()>;

    /// Writes `data` (whole sectors) from `lba` on. Need not be on stable storage before
    /// [`Disk::flush`] has returned.
    ///
    /// # Errors
    /// The disk does not take all of it.
    fn write(&self, lba: u64, data: &[u8]) -> io::Result<()>;

    /// Puts every write that has returned on stable storage.
    ///
    /// # Errors
    /// The disk fails: it is not known what is on stable storage.
    fn flush(&self) -> io::Result<()>;

    /// Allows or forbids writes. A disk starts with writes forbidden.
    ///
    /// # Errors
    /// The disk cannot be used so, or what was written before cannot be put on stable storage.
    fn set_writable(&self, writable: bool) -> io::Result<()>;

    /// Fills as much of `data` as is in memory already, without waiting for the disk.
    fn read_cached(&self, lba: u64, data: &mut [u8]) -> Look {
        let _ = (lba, data);
        Look::default()
    }

    /// Like [`Disk::read`], of what is in memory or on its way there.
    ///
    /// # Errors
    /// As [`Disk::read`].
    fn read_through_cache(&self, lba: u64, data: &mut [u8]) -> io::Result<()> {
        self.read(lba, data)
    }

    /// Fetches a range into memory because it will soon be read; need not wait for it.
    fn will_need(&self, lba: u64, bytes: usize) {
        let _ = (lba, bytes);
    }

    /// Fills `data` from `lba` on, as part of a long scan; the sectors `ahead` are fetched into memory because
    /// it will come to them soon.
    ///
    /// # Errors
    /// As [`Disk::read`].
    fn scan(&self, lba: u64, data: &mut [u8], ahead: Range<u64>) -> io::Result<()> {
        let _ = ahead;
        self.read(lba, data)
    }

    /// The files behind it, if reads and writes may be given to the kernel on them directly. They
    /// must be the ones that [`Disk::read`] and [`Disk::write`] would use now.
    fn files(&self) -> Option<Files> {
        None
    }
}

/// What a look into memory gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Bytes filled, from the start.
    pub bytes: usize,
    /// The rest may be on its way into memory now: it must be read through there, and nothing be written
    /// to it before that read has ended.
    pub begun: bool,
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
    /// Bytes that a scan had fetched last: they may still be on their way into memory.
    on_their_way: Mutex<Range<u64>>,
}

impl FileDisk {
    /// Opens `path` for reading; it has `sectors` sectors (of a regular file: its size).
    ///
    /// # Errors
    /// It cannot be opened for reading, or its size cannot be told.
    pub fn open(path: &Path) -> io::Result<FileDisk> {
        use std::io::{Seek, SeekFrom};
        let files = open(path, false)?;
        // Works for a block device too, whose metadata says 0.
        let bytes = (&*files.cached).seek(SeekFrom::End(0))?;
        Ok(FileDisk {
            path: path.to_owned(),
            sectors: bytes / SECTOR,
            files: RwLock::new((files, false)),
            on_their_way: Mutex::new(0..0),
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

/// Whether `RWF_NOWAIT` has the kernel begin to read what is not in memory. Linux 6.1 does not and 6.18
/// does (both tried); where the change is between them makes no difference to what is read, so all
/// after 6.1 count as if they did.
fn a_look_begins_a_read() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| match nix::sys::utsname::uname() {
        Ok(names) => begins_a_read(&names.release().to_string_lossy()),
        Err(_) => true,
    })
}

fn begins_a_read(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|n| n.parse::<u32>().ok());
    match (next(), next()) {
        (Some(major), Some(minor)) => (major, minor) > (6, 1),
        _ => true,
    }
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
        // SAFETY: no pointers are passed.
        let _ = unsafe {
            libc::posix_fadvise64(
                file.as_raw_fd(),
                from as libc::off64_t,
                bytes as libc::off64_t,
                libc::POSIX_FADV_WILLNEED,
            )
        };
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
        // What was written through the old descriptors is settled before they are let go, and what is on its
        // way into memory arrives before anything can be written beside it: it would stay there as it was.
        current.0.cached.sync_data()?;
        let mut on_their_way = self
            .on_their_way
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let ahead = std::mem::replace(&mut *on_their_way, 0..0);
        let mut piece = vec![0; ADVICE as usize];
        for from in ahead.clone().step_by(piece.len()) {
            let bytes = (ahead.end - from).min(ADVICE) as usize;
            // What cannot be read does not arrive.
            let _ = current.0.cached.read_exact_at(&mut piece[..bytes], from);
        }
        *current = (files, writable);
        Ok(())
    }

    fn read_cached(&self, lba: u64, data: &mut [u8]) -> Look {
        let files = self.files.read();
        let files = files.unwrap_or_else(|poisoned| poisoned.into_inner());
        let file = &files.0.cached;
        let into = libc::iovec {
            iov_base: data.as_mut_ptr().cast(),
            iov_len: data.len(),
        };
        // SAFETY: `into` describes `data`, which is borrowed for the length of the call.
        let read = unsafe {
            libc::preadv64v2(
                file.as_raw_fd(),
                &raw const into,
                1,
                (lba * SECTOR) as libc::off64_t,
                libc::RWF_NOWAIT,
            )
        };
        // Not in memory, or a file that cannot tell: the disk is asked.
        let bytes = usize::try_from(read).unwrap_or(0);
        Look {
            bytes,
            begun: bytes < data.len() && a_look_begins_a_read(),
        }
    }

    fn read_through_cache(&self, lba: u64, data: &mut [u8]) -> io::Result<()> {
        self.now().cached.read_exact_at(data, lba * SECTOR)
    }

    fn will_need(&self, lba: u64, bytes: usize) {
        fetch(&self.now().cached, lba * SECTOR, bytes);
    }

    fn scan(&self, lba: u64, data: &mut [u8], ahead: Range<u64>) -> io::Result<()> {
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
        let (from, to) = (ahead.start * SECTOR, ahead.end * SECTOR);
        if from < to {
            fetch(&files.cached, from, (to - from) as usize);
            let mut on_their_way = self
                .on_their_way
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            let kept = match on_their_way.end == from {
                true => on_their_way.start.max(to.saturating_sub(ON_THEIR_WAY)),
                false => from,
            };
            *on_their_way = kept..to;
        }
        // Less than was asked for comes when the rest cannot be read: asking for that again would only have
        // the disk fail again, which may take it minutes.
        match files.cached.read_at(data, lba * SECTOR) {
            Ok(bytes) if bytes == data.len() => Ok(()),
            Ok(_) => Err(io::Error::from_raw_os_error(libc::EIO)),
            Err(error) => Err(error),
        }
    }

    fn files(&self) -> Option<Files> {
        Some(self.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of `file` that are in memory, in whole pages.
    fn resident(file: &File, bytes: usize) -> usize {
        // SAFETY: a new mapping, unmapped below; `pages` has a byte for each page of it (of 4 KiB or
        // more).
        let pages = unsafe {
            let fd = file.as_raw_fd();
            let at = libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                fd,
                0,
            );
            assert_ne!(at, libc::MAP_FAILED);
            let mut pages = vec![0; bytes / 4096];
            assert_eq!(libc::mincore(at, bytes, pages.as_mut_ptr()), 0);
            libc::munmap(at, bytes);
            pages
        };
        pages.iter().filter(|page| **page & 1 == 1).count() * 4096
    }

    #[test]
    fn what_a_look_begins_is_told() {
        const BYTES: usize = 1 << 20;
        let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        std::io::Write::write_all(&mut file, &[7; BYTES]).unwrap();
        file.as_file().sync_all().unwrap();
        let gone = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        posix_fadvise(file.as_file(), 0, 0, gone).unwrap();
        if resident(file.as_file(), BYTES) > 0 {
            eprintln!("not run: this file system keeps everything in memory");
            return;
        }
        let disk = FileDisk::open(file.path()).unwrap();
        posix_fadvise(file.as_file(), 0, 0, gone).unwrap();
        let mut data = [0; 64 << 10];
        let look = disk.read_cached(512, &mut data);
        if !look.begun {
            // What is on its way would have arrived by the time that a disk read has.
            disk.read(1024, &mut Buffers::default().take(512)[..512])
                .unwrap();
            assert_eq!((look.bytes, resident(file.as_file(), BYTES)), (0, 0));
        }
        disk.read_through_cache(512, &mut data).unwrap();
        assert!(data.iter().all(|byte| *byte == 7));
        let look = disk.read_cached(512, &mut data);
        assert_eq!((look.bytes, look.begun), (data.len(), false));
    }

    #[test]
    fn kernels_that_read_when_looked_at() {
        let old = [
            "5.10.0-28-amd64",
            "6.1.0-49-amd64",
            "6.1",
            "4.19.0",
            "3.2.0",
        ];
        let new = ["6.2.0", "6.18.44-x", "7.0", "6.12.0-1-amd64", "none"];
        assert!(old.iter().all(|release| !begins_a_read(release)));
        assert!(new.iter().all(|release| begins_a_read(release)));
    }
}
