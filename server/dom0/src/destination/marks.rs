//! Whether a destination is empty, and still what it was.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use p2v_copy::{FileSink, Sink};

use super::error::{DestinationError, io_error};

/// Bytes at the start of a device that must be zero for it to count as empty: partition tables,
/// file systems, RAID and LVM all leave a mark here.
const HEAD: usize = 1 << 20;
/// The same at its end (a GPT's second header, old RAID superblocks).
const TAIL: usize = 128 << 10;

/// What is in the places where anything leaves its mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    /// In bytes.
    size: u64,
    /// They are zero.
    pub blank: bool,
    digest: blake3::Hash,
}

impl Marks {
    /// Of something of `size` bytes, which `read` reads from an offset on.
    pub(super) fn of(
        size: u64,
        read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<Marks> {
        let mut head = vec![0; usize::try_from(size).unwrap_or(HEAD).min(HEAD)];
        read(0, &mut head)?;
        let mut tail = vec![0; usize::try_from(size).unwrap_or(TAIL).min(TAIL)];
        read(size - tail.len() as u64, &mut tail)?;
        head.append(&mut tail);
        Ok(Marks {
            size,
            blank: head.iter().all(|byte| *byte == 0),
            digest: blake3::hash(&head),
        })
    }
}

/// What was given up, or found empty, is what it was then: the operator may have taken long to answer, and
/// nobody held it meanwhile.
pub(super) fn refuse_changed(
    path: &Path,
    sink: &FileSink,
    then: Marks,
) -> Result<(), DestinationError> {
    let now = Marks::of(sink.bytes(), |at, bytes| sink.read_back(at, bytes));
    match now.map_err(|e| io_error("read", path, e))? == then {
        true => Ok(()),
        false => Err(DestinationError::Changed(path.to_owned())),
    }
}

/// A file as it was when it was said that it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    inode: u64,
    /// When it was last written, in seconds and nanoseconds: a domain writes in the middle.
    modified: (i64, i64),
    marks: Marks,
}

impl Seen {
    pub(super) fn at(path: &Path) -> Result<Seen, DestinationError> {
        let error = |e| io_error("read", path, e);
        let file = File::open(path).map_err(error)?;
        let metadata = file.metadata().map_err(error)?;
        let read = |at, bytes: &mut [u8]| file.read_exact_at(bytes, at);
        Ok(Seen {
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            marks: Marks::of(metadata.len(), read).map_err(error)?,
        })
    }
}
