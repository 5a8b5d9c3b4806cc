//! A block device as destination: resumed or refused.

use std::fs::{self, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use p2v_contract::SECTOR;
use p2v_copy::{FileSink, Sink};

use super::error::{DestinationError, io_error};
use super::identity::{identify, is_drbd, is_read_only, is_secondary, logical_sector};
use super::link::stable_path;
use super::marks::{Marks, refuse_changed};
use super::place::Place;
use super::request::{Prepared, Request, refuse_domains_disk};
use crate::host::Host;
use crate::record::Destination;

/// The device at `path`, if it may be used.
pub(super) fn find(
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
    let destination = destination_of(host, &path, rdev);
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
        request.ask_for(host, &path)?;
    }
    Ok(Place::Device {
        path,
        rdev,
        ours,
        marks,
    })
}

/// Opens the device that was found, for this host's use alone.
pub(super) fn open_found(
    host: &Host,
    path: PathBuf,
    rdev: u64,
    (ours, marks): (bool, Marks),
    request: Request<'_>,
) -> Result<Prepared, DestinationError> {
    let sink = open(host, &path, request.sectors * SECTOR)?;
    let now = sink.file().metadata();
    if now.map_err(|e| io_error("look at", &path, e))?.rdev() != rdev {
        return Err(DestinationError::Changed(path));
    }
    if !ours {
        refuse_changed(&path, &sink, marks)?;
    }
    Ok(Prepared {
        destination: destination_of(host, &path, rdev),
        sink,
        in_pool: None,
        image: None,
        fresh: false,
        blank: false,
        ours,
    })
}

/// Opens a block device for this host's use alone, if it can hold a disk of `need` bytes.
pub(super) fn open(host: &Host, path: &Path, need: u64) -> Result<FileSink, DestinationError> {
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

fn destination_of(host: &Host, path: &Path, rdev: u64) -> Destination {
    let identity = identify(&host.paths, rdev).unwrap_or_default();
    Destination::Device {
        path: stable_path(&host.paths, path, rdev, &identity),
        identity,
    }
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
