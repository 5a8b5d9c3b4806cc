//! A file or block device as destination: made, gone on with, or refused.

use std::fs::{self, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use p2v_aoe::SECTOR;

use super::error::{DestinationError, io_error};
use super::identity::{identify, is_drbd, is_read_only, is_secondary, logical_sector};
use super::link::stable_path;
use super::place::Place;
use super::{MayGo, Prepared, Request, file, refuse_domains_disk, volume};
use crate::copy::image::{self, Format};
use crate::copy::{FileSink, Sink};
use crate::host::Host;
use crate::record::Destination;
use crate::tool::blkid;

/// Bytes at the start of a device that must be zero for it to count as empty: partition tables,
/// file systems, RAID and LVM all leave a mark here.
const HEAD: usize = 1 << 20;
/// The same at its end (a GPT's second header, old RAID superblocks).
const TAIL: usize = 128 << 10;

/// What `path` is.
pub(super) fn find(
    host: &Host,
    path: &Path,
    request: Request<'_>,
) -> Result<Place, DestinationError> {
    let path = std::path::absolute(path).map_err(|e| io_error("find", path, e))?;
    let there = match fs::metadata(&path) {
        Ok(metadata) => Some(metadata),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(io_error("look at", &path, e)),
    };
    match there {
        Some(m) if m.file_type().is_block_device() => {
            // Its tags say whose it is, by whatever path it was named.
            match volume::at(host, m.rdev())? {
                Some((vg, lv)) => volume::find(host, &vg, &lv, None, request),
                None => find_device(host, path, m.rdev(), request),
            }
        }
        Some(m) if !m.is_file() => Err(DestinationError::Kind(path)),
        there => match Format::of(&path) {
            Format::Qcow2 => image::find(host, path, there.as_ref(), request),
            Format::Other(format) => Err(DestinationError::Format { path, format }),
            Format::Raw => match there {
                Some(metadata) => find_file(host, path, &metadata, request),
                None => Ok(Place::NewFile(path)),
            },
        },
    }
}

fn find_file(
    host: &Host,
    path: PathBuf,
    there: &fs::Metadata,
    request: Request<'_>,
) -> Result<Place, DestinationError> {
    refuse_domains_disk(host, &path)?;
    let found = file::raw(&path, there);
    let ours = request.before == Some(&found);
    let file = fs::File::open(&path).map_err(|e| io_error("open", &path, e))?;
    let marks = Marks::of(there.len(), |at, bytes| file.read_exact_at(bytes, at))
        .map_err(|e| io_error("read", &path, e))?;
    if !ours && there.len() > 0 {
        ask_for(host, &path, request.may_go)?;
    }
    Ok(Place::File {
        path,
        found,
        ours,
        marks,
    })
}

fn find_device(
    host: &Host,
    path: PathBuf,
    rdev: u64,
    request: Request<'_>,
) -> Result<Place, DestinationError> {
    refuse_domains_disk(host, &path)?;
    refuse_read_only(host, &path, rdev)?;
    refuse_large_sectors(host, &path, rdev)?;
    // Nothing is written; it is only seen that nobody else has it (open(2), O_EXCL).
    let device = OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_EXCL.bits())
        .open(&path)
        .map_err(|e| open_error(&path, rdev, e))?;
    let size = (&device)
        .seek(SeekFrom::End(0))
        .map_err(|e| io_error("measure", &path, e))?;
    refuse_short(&path, size, request.sectors * SECTOR)?;
    // A device that has nothing to know it by may be another one after a restart: it is ours only
    // if the operator says so.
    let destination = device_destination(host, &path, rdev);
    let known =
        matches!(&destination, Destination::Device { identity, .. } if !identity.is_empty());
    let ours = known
        && request
            .before
            .is_some_and(|before| before.is_same(&destination));
    let marks = Marks::of(size, |at, bytes| device.read_exact_at(bytes, at))
        .map_err(|e| io_error("read", &path, e))?;
    drop(device);
    if !ours && !marks.blank {
        ask_for(host, &path, request.may_go)?;
    }
    Ok(Place::Device {
        path,
        rdev,
        ours,
        marks,
    })
}

/// Makes the file, as large as the disk.
pub(super) fn make_file(path: PathBuf, request: Request<'_>) -> Result<Prepared, DestinationError> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| io_error("create", &path, e))?;
    file.set_len(request.sectors * SECTOR)
        .map_err(|e| io_error("size", &path, e))?;
    Ok(Prepared {
        fresh: true,
        blank: true,
        ours: true,
        ..lock_file(path)?
    })
}

/// Opens the file that was found, and gives it the disk's size.
pub(super) fn open_file(
    host: &Host,
    path: PathBuf,
    found: &Destination,
    (ours, marks): (bool, Marks),
    request: Request<'_>,
) -> Result<Prepared, DestinationError> {
    refuse_domains_disk(host, &path)?;
    let prepared = lock_file(path.clone())?;
    if prepared.destination != *found {
        return Err(DestinationError::Changed(path));
    }
    if !ours {
        refuse_changed(&path, &prepared.sink, marks)?;
    }
    let need = request.sectors * SECTOR;
    if prepared.sink.bytes() == need {
        return Ok(Prepared { ours, ..prepared });
    }
    // The domain is given the whole file: what looks for a disk's end must find it.
    prepared
        .sink
        .file()
        .set_len(need)
        .map_err(|e| io_error("size", &path, e))?;
    drop(prepared);
    lock_file(path)
}

fn lock_file(path: PathBuf) -> Result<Prepared, DestinationError> {
    let sink = FileSink::open(&path, false).map_err(|e| io_error("open", &path, e))?;
    if sink.file().try_lock().is_err() {
        return Err(DestinationError::Busy(path));
    }
    let metadata = sink
        .file()
        .metadata()
        .map_err(|e| io_error("look at", &path, e))?;
    Ok(Prepared {
        destination: file::raw(&path, &metadata),
        sink,
        in_pool: None,
        image: None,
        fresh: false,
        blank: false,
        ours: false,
    })
}

/// Opens the device that was found, for this host's use alone.
pub(super) fn open_found_device(
    host: &Host,
    path: PathBuf,
    rdev: u64,
    (ours, marks): (bool, Marks),
    request: Request<'_>,
) -> Result<Prepared, DestinationError> {
    let sink = open_device(host, &path, request.sectors * SECTOR)?;
    let now = sink.file().metadata();
    if now.map_err(|e| io_error("look at", &path, e))?.rdev() != rdev {
        return Err(DestinationError::Changed(path));
    }
    if !ours {
        refuse_changed(&path, &sink, marks)?;
    }
    Ok(Prepared {
        destination: device_destination(host, &path, rdev),
        sink,
        in_pool: None,
        image: None,
        fresh: false,
        blank: false,
        ours,
    })
}

fn device_destination(host: &Host, path: &Path, rdev: u64) -> Destination {
    let identity = identify(&host.paths, rdev).unwrap_or_default();
    Destination::Device {
        path: stable_path(&host.paths, path, rdev, &identity),
        identity,
    }
}

/// Refuses what is not empty, unless the operator says that it may go.
fn ask_for(host: &Host, path: &Path, may_go: MayGo<'_>) -> Result<(), DestinationError> {
    let holds_what = blkid::content(&host.tools, path);
    if may_go(&path.display().to_string(), holds_what.as_deref()) {
        return Ok(());
    }
    Err(DestinationError::Holds {
        path: path.to_owned(),
        holds_what,
    })
}

/// Opens a block device for this host's use alone, if it can hold a disk of `need` bytes.
pub(super) fn open_device(
    host: &Host,
    path: &Path,
    need: u64,
) -> Result<FileSink, DestinationError> {
    refuse_domains_disk(host, path)?;
    let sink = FileSink::open(path, true).map_err(|e| {
        let rdev = fs::metadata(path).map_or(0, |m| m.rdev());
        open_error(path, rdev, e)
    })?;
    refuse_short(path, sink.bytes(), need)?;
    let metadata = sink.file().metadata();
    let metadata = metadata.map_err(|e| io_error("look at", path, e))?;
    refuse_large_sectors(host, path, metadata.rdev())?;
    Ok(sink)
}

fn open_error(path: &Path, rdev: u64, source: io::Error) -> DestinationError {
    match source.kind() {
        _ if is_secondary(rdev, &source) => DestinationError::Secondary(path.to_owned()),
        io::ErrorKind::ResourceBusy => DestinationError::Busy(path.to_owned()),
        _ => io_error("open", path, source),
    }
}

fn refuse_short(path: &Path, have: u64, need: u64) -> Result<(), DestinationError> {
    if have >= need {
        return Ok(());
    }
    Err(DestinationError::Short {
        what: path.display().to_string(),
        have,
        need,
    })
}

fn refuse_read_only(host: &Host, path: &Path, rdev: u64) -> Result<(), DestinationError> {
    match is_read_only(&host.paths, rdev) {
        false => Ok(()),
        true if is_drbd(rdev) => Err(DestinationError::Secondary(path.to_owned())),
        true => Err(DestinationError::ReadOnly(path.to_owned())),
    }
}

/// An old disk has sectors of 512 bytes, and so must what its domain is to run from.
fn refuse_large_sectors(host: &Host, path: &Path, rdev: u64) -> Result<(), DestinationError> {
    match logical_sector(&host.paths, rdev).filter(|size| *size != SECTOR) {
        None => Ok(()),
        Some(size) => Err(DestinationError::SectorSize {
            path: path.to_owned(),
            size,
        }),
    }
}

/// What was given up, or found empty, is what it was then: the operator may have taken long to answer, and
/// nobody held it meanwhile.
fn refuse_changed(path: &Path, sink: &FileSink, then: Marks) -> Result<(), DestinationError> {
    let now = Marks::of(sink.bytes(), |at, bytes| sink.read_back(at, bytes));
    match now.map_err(|e| io_error("read", path, e))? == then {
        true => Ok(()),
        false => Err(DestinationError::Changed(path.to_owned())),
    }
}

/// What is in the places where anything leaves its mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::copy) struct Marks {
    /// In bytes.
    size: u64,
    /// They are zero.
    pub blank: bool,
    digest: blake3::Hash,
}

impl Marks {
    /// Of something of `size` bytes, which `read` reads from an offset on.
    pub(in crate::copy) fn of(
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
