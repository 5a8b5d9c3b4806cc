//! Finding or making the destination of a copy, and refusing one that holds something else.

use std::path::{Path, PathBuf};
use std::str::FromStr;

pub(super) use self::path::Marks;
pub use self::place::InPool;
pub(super) use self::place::Place;
use super::FileSink;
use super::image;
use crate::disk_user::{self, User};
use crate::host::Host;
use crate::name::MachineName;
use crate::record::Destination;
use crate::tool::ToolError;
use crate::tool::lvm::{self, BadVolumeName};
use crate::tool::qemu_storage_daemon::Shown;

mod error;
mod file;
mod identity;
mod link;
mod path;
mod place;
mod volume;

pub use error::DestinationError;
pub(super) use error::io_error;
pub(super) use file::{image as image_destination, refuse_other};
pub use identity::{Unknown, device_number, identify, mark_of, measure, overlap};

/// What the operator named with `--to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A volume group; the volume is named after the machine.
    Group(String),
    /// A volume, there or to be made.
    Volume(String, String),
    /// A file or block device.
    Path(PathBuf),
}

impl FromStr for Wanted {
    type Err = BadVolumeName;

    /// `VG`, `VG/LV`, or a path that starts with `/` or `.`.
    fn from_str(text: &str) -> Result<Wanted, BadVolumeName> {
        if text.starts_with(['/', '.']) {
            return Ok(Wanted::Path(text.into()));
        }
        match text.split_once('/') {
            Some((vg, lv)) => Ok(Wanted::Volume(
                lvm::check_name(vg)?.to_owned(),
                lvm::check_name(lv)?.to_owned(),
            )),
            None => Ok(Wanted::Group(lvm::check_name(text)?.to_owned())),
        }
    }
}

impl Wanted {
    /// What the operator calls a file or device.
    pub fn path(&self) -> Option<String> {
        let Wanted::Path(path) = self else {
            return None;
        };
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Some(path.display().to_string())
    }

    /// Whether several disks can go there.
    ///
    /// # Errors
    /// LVM cannot be asked.
    pub fn takes_several(&self, host: &Host) -> Result<bool, ToolError> {
        Ok(match self {
            Wanted::Group(_) => true,
            Wanted::Volume(vg, lv) => {
                lvm::volume(&host.tools, vg, lv)?.is_some_and(|volume| volume.is_thin_pool)
            }
            Wanted::Path(_) => false,
        })
    }
}

/// Which disk is copied, and how freely.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The machine.
    pub name: &'a MachineName,
    /// The disk's AoE slot.
    pub slot: u8,
    /// The tag of volumes that are its copies.
    pub tag: &'a str,
    /// Its size in 512-byte sectors.
    pub sectors: u64,
    /// Where an earlier run copied it to.
    pub before: Option<&'a Destination>,
    /// Asks whether what is there may go.
    pub may_go: MayGo<'a>,
}

/// Asks the operator whether something that is not this disk's copy may be overwritten: its name, and what
/// is on it, if that is known.
pub type MayGo<'a> = &'a (dyn Fn(&str, Option<&str>) -> bool + Sync);

/// A destination that is open and ours to write.
#[derive(Debug)]
pub struct Prepared {
    /// For the record.
    pub destination: Destination,
    /// Open.
    pub sink: FileSink,
    /// The thin pool that it is in.
    pub in_pool: Option<InPool>,
    /// What shows the image that it writes to; after it, because it is closed first.
    pub image: Option<Shown>,
    /// Made by this run: nothing in it is worth keeping.
    pub fresh: bool,
    /// Reads as zeros where nothing was written yet.
    pub blank: bool,
    /// It is known to be this disk's copy, or was made for it; otherwise the operator gave it up.
    pub ours: bool,
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
    let place = Place::find(host, wanted, request)?;
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
    match Place::find(host, wanted, request)? {
        Place::NewVolume { vg, lv, pool } => volume::make(host, vg, lv, pool, request),
        Place::Volume { volume, ours } => volume::open(host, volume, ours, request),
        Place::NewFile(path) => path::make_file(path, request),
        Place::File {
            path,
            found,
            ours,
            marks,
        } => path::open_file(host, path, &found, (ours, marks), request),
        Place::NewImage(path) => image::make_new(host, path, request),
        Place::Image { path, over } => image::open_found(host, path, over, request),
        Place::Device {
            path,
            rdev,
            ours,
            marks,
        } => path::open_found_device(host, path, rdev, (ours, marks), request),
    }
}

/// Refuses a destination that a domain has as a disk. Copies and cutovers ask before they open one.
///
/// # Errors
/// [`DestinationError::Domain`], or `xl` failed and it is not known.
pub fn refuse_domains_disk(host: &Host, path: &Path) -> Result<(), DestinationError> {
    match disk_user::user_of(host, path)? {
        None => Ok(()),
        Some(User { id, domain, disk }) => Err(DestinationError::Domain {
            path: path.to_owned(),
            domain,
            id,
            disk,
        }),
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
    use crate::copy::Sink;
    use std::fs;

    fn host(dir: &Path) -> Host {
        let mut host = Host::open(crate::Settings::default(), "lo", &dir.join("state")).unwrap();
        host.tools = crate::tool::Tools::in_dir(dir);
        host.paths = crate::Paths::under(dir);
        host
    }

    #[test]
    fn what_the_operator_may_name() {
        assert_eq!("vg0".parse(), Ok(Wanted::Group("vg0".into())));
        assert_eq!(
            "vg0/web".parse(),
            Ok(Wanted::Volume("vg0".into(), "web".into()))
        );
        assert_eq!("/dev/sdb".parse(), Ok(Wanted::Path("/dev/sdb".into())));
        assert_eq!("./x".parse(), Ok(Wanted::Path("./x".into())));
        for bad in [
            "",
            "vg0/",
            "/".trim_start_matches('/'),
            "a/b/c",
            "-vg",
            "@tag",
        ] {
            assert!(bad.parse::<Wanted>().is_err(), "{bad}");
        }
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
