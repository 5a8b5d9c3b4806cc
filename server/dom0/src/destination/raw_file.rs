//! A regular file as destination: made, resumed or refused.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use p2v_contract::SECTOR;
use p2v_copy::{FileSink, Sink};

use super::error::{DestinationError, io_error};
use super::file;
use super::marks::{Marks, refuse_changed};
use super::place::Place;
use super::request::{Prepared, Request, refuse_domains_disk};
use crate::host::Host;
use crate::record::Destination;

/// The file that is at `path`, if it may be used.
pub(super) fn find(
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
        request.ask_for(host, &path)?;
    }
    Ok(Place::File {
        path,
        found,
        ours,
        marks,
    })
}

/// Makes the file, as large as the disk.
pub(super) fn make(path: PathBuf, request: Request<'_>) -> Result<Prepared, DestinationError> {
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
        ..lock(path)?
    })
}

/// Opens the file that was found, and gives it the disk's size.
pub(super) fn open(
    host: &Host,
    path: PathBuf,
    found: &Destination,
    (ours, marks): (bool, Marks),
    request: Request<'_>,
) -> Result<Prepared, DestinationError> {
    refuse_domains_disk(host, &path)?;
    let prepared = lock(path.clone())?;
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
    lock(path)
}

fn lock(path: PathBuf) -> Result<Prepared, DestinationError> {
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
