//! Finding or making the destination of a copy, and refusing one that holds something else.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use p2v_copy::FileSink;

use self::error::io_error;
use self::file::refuse_other;
use self::image::Format;
use self::place::Place;
use crate::host::Host;
use crate::name::MachineName;
use crate::record::Destination;
use crate::tool::qemu_storage_daemon::Shown;
use crate::tool::{ToolError, lvm};

mod device;
mod error;
mod file;
mod identity;
pub mod image;
mod link;
mod marks;
mod place;
mod raw_file;
mod request;
pub mod thin_pool;
mod volume;
mod wanted;

pub use error::DestinationError;
pub use identity::{Unknown, device_number, identify, mark_of, measure, overlap};
pub use request::{InPool, MayGo, Prepared, Request, refuse_domains_disk};
pub use wanted::Wanted;

/// Looks at what is there; the operator is asked last, when nothing else is in the way.
///
/// # Errors
/// What forbids its use.
fn find(host: &Host, wanted: &Wanted, request: Request<'_>) -> Result<Place, DestinationError> {
    let named = || request.name.volume_name(request.slot.into());
    match wanted {
        Wanted::Group(vg) => volume::find(host, vg, &named(), None, request),
        Wanted::Volume(vg, lv) => match lvm::volume(&host.tools, vg, lv)? {
            Some(pool) if pool.is_thin_pool => {
                volume::find(host, vg, &named(), Some(pool), request)
            }
            _ => volume::find(host, vg, lv, None, request),
        },
        Wanted::Path(path) => find_path(host, path, request),
    }
}

/// What `path` is.
fn find_path(host: &Host, path: &Path, request: Request<'_>) -> Result<Place, DestinationError> {
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
                None => device::find(host, path, m.rdev(), request),
            }
        }
        Some(m) if !m.is_file() => Err(DestinationError::Kind(path)),
        there => match Format::of(&path) {
            Format::Qcow2 => image::find(host, path, there.as_ref(), request),
            Format::Other(format) => Err(DestinationError::Format { path, format }),
            Format::Raw => match there {
                Some(metadata) => raw_file::find(host, path, &metadata, request),
                None => Ok(Place::NewFile(path)),
            },
        },
    }
}

/// What [`prepare`] would do, in words, and the thin pool that it would fill; nothing is done.
///
/// # Errors
/// What would stop it.
pub fn look(
    host: &Host,
    wanted: &Wanted,
    request: Request<'_>,
) -> Result<(String, Option<InPool>), DestinationError> {
    let place = find(host, wanted, request)?;
    Ok((place.to_string(), place.in_pool()))
}

/// Finds or makes the destination and opens it for this host's use alone.
///
/// # Errors
/// [`DestinationError`]; nothing that was there has been changed.
pub fn prepare(
    host: &Host,
    wanted: &Wanted,
    request: Request<'_>,
) -> Result<Prepared, DestinationError> {
    match find(host, wanted, request)? {
        Place::NewVolume { vg, lv, pool } => volume::make(host, vg, lv, pool, request),
        Place::Volume { volume, ours } => volume::open(host, volume, ours, request),
        Place::NewFile(path) => raw_file::make(path, request),
        Place::File {
            path,
            found,
            ours,
            marks,
        } => raw_file::open(host, path, &found, (ours, marks), request),
        Place::NewImage(path) => image::make_new(host, path, request),
        Place::Image { path, over } => image::open_found(host, path, over, request),
        Place::Device {
            path,
            rdev,
            ours,
            marks,
        } => device::open_found(host, path, rdev, (ours, marks), request),
    }
}

/// A copy that was made before, open again.
#[derive(Debug)]
pub struct Reopened {
    sink: FileSink,
    /// Closed after it.
    image: Option<Shown>,
}

impl Reopened {
    /// What it holds.
    pub fn sink(&self) -> &FileSink {
        &self.sink
    }

    /// The disk that it is, for other programs to read.
    pub fn raw<'a>(&'a self, path: &'a Path) -> &'a Path {
        self.image.as_ref().map_or(path, Shown::path)
    }
}

/// Opens the copy at `path` to be looked at: a block device for this host's use alone, an image read-only,
/// if it is one of a disk of `sectors` sectors.
///
/// # Errors
/// It cannot be opened, or is in use; a file is not the one that was copied to.
pub fn reopen(
    host: &Host,
    name: &MachineName,
    slot: u8,
    destination: &Destination,
    path: &Path,
    sectors: u64,
) -> Result<Reopened, DestinationError> {
    let opened = match destination {
        Destination::Qcow2 { .. } => {
            let (sink, image) = image::show_again(host, name, slot, (destination, path), sectors)?;
            return Ok(Reopened {
                sink,
                image: Some(image),
            });
        }
        Destination::File { .. } => FileSink::open(path, false),
        Destination::Volume { .. } | Destination::Device { .. } => FileSink::open(path, true),
    };
    let sink = opened.map_err(|source| {
        ToolError::NotDone(format!(
            "cannot open {destination}: {source}. It may be mounted or in use"
        ))
    })?;
    if let Destination::File { .. } = destination {
        // Of what was opened: the name may lead to another file by now.
        let metadata = sink.file().metadata();
        let metadata = metadata.map_err(|e| io_error("look at", path, e))?;
        refuse_other(destination, &metadata)?;
    }
    Ok(Reopened { sink, image: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_copy::Sink;

    fn host(dir: &Path) -> Host {
        let mut host = Host::open(crate::Settings::default(), "lo", &dir.join("state")).unwrap();
        host.tools = crate::tool::Tools::in_dir(dir);
        host.paths = crate::Paths::under(dir);
        host
    }

    #[test]
    fn a_file_of_ones_own_is_gone_on_with_and_another_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let host = host(dir.path());
        let name: MachineName = "web".parse().unwrap();
        let request = |before| Request {
            name: &name,
            slot: 0,
            tag: "p2v.web.0.00",
            sectors: 10,
            before,
            may_go: &|_, _| false,
        };
        let path = dir.path().join("disk.img");
        let wanted = Wanted::Path(path.clone());
        let says = |request| look(&host, &wanted, request).map(|(words, _)| words);
        let shown = |what: &str| format!("{}{what}", path.display());
        assert_eq!(
            says(request(None)).unwrap(),
            format!("a new file {}", path.display())
        );
        assert!(!path.exists());
        let first = prepare(&host, &wanted, request(None)).unwrap();
        assert_eq!(first.sink.bytes(), 5120);
        let destination = first.destination.clone();
        // Two copies to one file do not run at once.
        assert!(matches!(
            prepare(&host, &wanted, request(Some(&destination))),
            Err(DestinationError::Busy(_))
        ));

        drop(first);
        assert_eq!(
            says(request(Some(&destination))).unwrap(),
            shown(", an earlier copy of this disk: what differs is moved")
        );
        assert!(prepare(&host, &wanted, request(Some(&destination))).is_ok());
        assert!(matches!(
            prepare(&host, &wanted, request(None)),
            Err(DestinationError::Holds { .. })
        ));
        // Another file of that name (the old one still has its inode).
        fs::rename(&path, dir.path().join("old")).unwrap();
        fs::write(&path, "something else").unwrap();
        // A dry run refuses what the copy refuses.
        assert!(matches!(
            says(request(Some(&destination))),
            Err(DestinationError::Holds { .. })
        ));
        assert!(matches!(
            prepare(&host, &wanted, request(Some(&destination))),
            Err(DestinationError::Holds { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"something else");
        // Somebody else's copy came there while the operator was asked.
        let agreed_too_late = Request {
            may_go: &|_, _| fs::write(&path, "someone else").is_ok(),
            ..request(None)
        };
        assert!(matches!(
            prepare(&host, &wanted, agreed_too_late),
            Err(DestinationError::Changed(_))
        ));
        assert_eq!(fs::read(&path).unwrap(), b"someone else");
        let forced = Request {
            may_go: &|name, _| name.ends_with("disk.img"),
            ..request(None)
        };
        assert_eq!(
            says(forced).unwrap(),
            shown(": what is on it is overwritten")
        );
        assert_eq!(prepare(&host, &wanted, forced).unwrap().sink.bytes(), 5120);
        let wanted = Wanted::Path(dir.path().to_owned());
        assert!(matches!(
            prepare(&host, &wanted, request(None)),
            Err(DestinationError::Kind(_))
        ));
    }
}
