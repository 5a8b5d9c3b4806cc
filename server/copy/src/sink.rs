//! Where a copy is written: a file or a block device, past the page cache where that can be done, and
//! read back from the medium.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};

use super::pool::{ALIGN, Buffer};

/// Bytes per direct read; of an image, bytes of any read and write: what the kernel's FUSE asks for at once
/// (256 pages, Linux fs/fuse/fuse_i.h, `FUSE_MAX_MAX_PAGES`).
const CHUNK: usize = 1 << 20;

/// A destination of a copy. Offsets and lengths in bytes, multiples of 512.
pub trait Sink: Sync {
    /// Its size.
    fn bytes(&self) -> u64;

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// What the system said.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Has `bytes` bytes from `offset` on read as zeros, in the cheapest way there is.
    ///
    /// # Errors
    /// What the system said.
    fn zero(&self, offset: u64, bytes: usize) -> io::Result<()> {
        self.write_at(offset, &vec![0; bytes])
    }

    /// Has everything written put on stable storage.
    ///
    /// # Errors
    /// What the system said.
    fn sync(&self) -> io::Result<()>;

    /// Fills `buffer` from `offset` on with what the medium holds, not what the page cache does.
    ///
    /// # Errors
    /// What the system said.
    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// What a sink writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    BlockDevice,
    /// An image that `qemu-storage-daemon` shows.
    Image,
}

/// A regular file or a block device, or an image that is shown as a file.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    /// The same file opened with O_DIRECT; `None` where the file system has no direct I/O (tmpfs).
    direct: Option<File>,
    kind: Kind,
    /// Held while an image is read or written; see [`FileSink::alone`].
    gate: Mutex<()>,
    bytes: u64,
}

mod ioctl {
    // BLKZEROOUT (linux/fs.h): first byte and number of bytes.
    nix::ioctl_write_ptr_bad!(zero_out, nix::request_code_none!(0x12, 127), [u64; 2]);
}

impl FileSink {
    /// Opens `path`. A block device is opened with `O_EXCL`, which the kernel refuses while it is
    /// mounted, part of a volume group or RAID, or under a device-mapper device.
    ///
    /// # Errors
    /// What the system said; `EBUSY` for a device in use.
    pub fn open(path: &Path, block_device: bool) -> io::Result<FileSink> {
        let kind = if block_device {
            Kind::BlockDevice
        } else {
            Kind::File
        };
        FileSink::open_as(kind, path)
    }

    /// Opens `path`, where `qemu-storage-daemon` shows an image.
    ///
    /// # Errors
    /// What the system said.
    pub fn open_image(path: &Path) -> io::Result<FileSink> {
        FileSink::open_as(Kind::Image, path)
    }

    fn open_as(kind: Kind, path: &Path) -> io::Result<FileSink> {
        let exclusive = match kind {
            Kind::BlockDevice => nix::libc::O_EXCL,
            Kind::File | Kind::Image => 0,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(exclusive)
            .open(path)?;
        let bytes = io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        // Not exclusive: the first one is, and would be in its way.
        let direct = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_DIRECT)
            .open(path);
        let direct = match direct {
            Ok(direct) => Some(direct),
            Err(e) if e.raw_os_error() == Some(nix::libc::EINVAL) => None,
            Err(e) => return Err(e),
        };
        Ok(FileSink {
            file,
            direct,
            kind,
            gate: Mutex::default(),
            bytes,
        })
    }

    /// The open file, for locking and its metadata.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Does `io`; with an image, while nothing else is done with it.
    ///
    /// `qemu-storage-daemon` before QEMU 10.1 takes the next request while it works on a write, into the
    /// buffer that it writes from ("fuse: Copy write buffer content before polling", H. Czenczek, 2025). So
    /// there is one request at a time: one thread, and no more than the kernel sends as one.
    fn alone<T>(&self, io: impl FnOnce() -> T) -> T {
        let _gate = (self.kind == Kind::Image)
            .then(|| self.gate.lock().unwrap_or_else(PoisonError::into_inner));
        io()
    }

    /// Bytes that are read or written at once.
    fn at_once(&self) -> usize {
        match self.kind {
            Kind::File | Kind::BlockDevice => usize::MAX,
            Kind::Image => CHUNK,
        }
    }

    fn read_direct(&self, direct: &File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if is_aligned(offset, buffer) {
            let mut at = offset;
            for part in buffer.chunks_mut(self.at_once()) {
                self.alone(|| direct.read_exact_at(part, at))?;
                at += part.len() as u64;
            }
            return Ok(());
        }
        // Reads begin and end on ALIGN so that they suit every device; the end of the file cuts
        // the last one short, which direct I/O allows.
        let mut space = Buffer::new(CHUNK + ALIGN);
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let start = at - at % ALIGN as u64;
            let lead = (at - start) as usize;
            let want = (lead + buffer.len() - done).min(CHUNK);
            let window = &mut space[..want.next_multiple_of(ALIGN)];
            let got = match self.alone(|| direct.read_at(window, start)) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if got <= lead {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let usable = (got - lead).min(buffer.len() - done);
            buffer[done..done + usable].copy_from_slice(&window[lead..lead + usable]);
            done += usable;
        }
        Ok(())
    }
}

/// Whether this can be read and written directly.
fn is_aligned(offset: u64, data: &[u8]) -> bool {
    let all = offset as usize | data.len() | data.as_ptr() as usize;
    all.is_multiple_of(ALIGN)
}

impl Drop for FileSink {
    fn drop(&mut self) {
        // Ends a lock the opener took, as `lock::Held` does; closing follows.
        let _ = self.file.unlock();
    }
}

impl Sink for FileSink {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let Some(direct) = &self.direct else {
            return self.alone(|| self.file.write_all_at(data, offset));
        };
        // The end of a disk of an odd size goes through the page cache.
        let whole = data.len() - data.len() % ALIGN;
        let (whole, rest) = data.split_at(whole);
        if !is_aligned(offset, whole) {
            return self.alone(|| self.file.write_all_at(data, offset));
        }
        let mut at = offset;
        for part in whole.chunks(self.at_once()) {
            self.alone(|| direct.write_all_at(part, at))?;
            at += part.len() as u64;
        }
        match rest {
            [] => Ok(()),
            rest => self.alone(|| self.file.write_all_at(rest, at)),
        }
    }

    fn zero(&self, offset: u64, bytes: usize) -> io::Result<()> {
        let allocate = |how| {
            let how = how | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let (from, bytes) = (offset.cast_signed(), bytes as i64);
            self.alone(|| fallocate(&self.file, how, from, bytes))
                .is_ok()
        };
        let zeroed = match self.kind {
            Kind::BlockDevice => {
                // SAFETY: the range is two numbers, which the kernel reads during the call.
                unsafe { ioctl::zero_out(self.file.as_raw_fd(), &[offset, bytes as u64]) }.is_ok()
            }
            Kind::File => allocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE),
            Kind::Image => {
                // To QEMU a hole is only a wish (block/export/fuse.c has it as a discard, which leaves parts of
                // clusters as they are): it gives the room back, and the zeros come by the second call.
                allocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE);
                allocate(FallocateFlags::FALLOC_FL_ZERO_RANGE)
            }
        };
        if zeroed {
            return Ok(());
        }
        // What cannot be had cheaply is written.
        let zeros = Buffer::new(bytes.min(CHUNK));
        for from in (0..bytes).step_by(CHUNK) {
            let part = &zeros[..(bytes - from).min(CHUNK)];
            self.write_at(offset + from as u64, part)?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.alone(|| self.file.sync_data())
    }

    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if let Some(direct) = &self.direct {
            return self.read_direct(direct, offset, buffer);
        }
        let (at, length) = (offset.cast_signed(), buffer.len() as i64);
        posix_fadvise(
            &self.file,
            at,
            length,
            PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        )?;
        self.file.read_exact_at(buffer, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_zeros_and_nothing_beside_them() {
        for base in [Path::new(env!("CARGO_MANIFEST_DIR")), Path::new("/dev/shm")] {
            let file = tempfile::NamedTempFile::new_in(base).unwrap();
            let size = 2 * CHUNK + 1536;
            let sink_of = || FileSink::open(file.path(), false).unwrap();
            file.as_file().set_len(size as u64).unwrap();
            for (from, to) in [
                (0, size),
                (512, 1536),
                (4096, CHUNK + 4096),
                (CHUNK + 512, size),
            ] {
                let sink = sink_of();
                let mut all = Buffer::new(size);
                all.fill(7);
                sink.write_at(0, &all).unwrap();
                sink.zero(from as u64, to - from).unwrap();
                sink.sync().unwrap();
                all[from..to].fill(0);
                let mut back = vec![1; size];
                sink.read_back(0, &mut back).unwrap();
                assert!(back[..] == all[..], "{from}..{to} in {}", base.display());
            }
        }
    }

    #[test]
    fn reads_back_what_was_written_at_any_sector() {
        // Beside the sources (a disk) and in memory (tmpfs): with and without direct I/O.
        for base in [Path::new(env!("CARGO_MANIFEST_DIR")), Path::new("/dev/shm")] {
            let file = tempfile::NamedTempFile::new_in(base).unwrap();
            let size = 3 * CHUNK + 5 * 512;
            file.as_file().set_len(size as u64).unwrap();
            let sink = FileSink::open(file.path(), false).unwrap();
            let data: Vec<u8> = (0..size).map(|i| (i * 7 / 3) as u8).collect();
            sink.write_at(0, &data).unwrap();
            sink.sync().unwrap();
            for (from, to) in [
                (0, size),
                (512, 1024),
                (4096 * 3 + 512, 2 * CHUNK + 512),
                (size - 512, size),
            ] {
                let mut back = vec![0; to - from];
                sink.read_back(from as u64, &mut back).unwrap();
                assert!(back == data[from..to], "{from}..{to} in {}", base.display());
            }
            assert!(sink.read_back(size as u64, &mut [0; 512]).is_err());
        }
    }
}
