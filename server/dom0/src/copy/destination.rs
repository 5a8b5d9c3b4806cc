//! Finding or making the destination of a copy, and refusing one that holds something else.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use p2v_aoe::SECTOR;

use super::image::{self, Format};
use super::{FileSink, Sink};
use crate::disk_user::{self, User};
use crate::host::Host;
use crate::name::MachineName;
use crate::record::Destination;
use crate::tool::lvm::{self, BadVolumeName, Volume};
use crate::tool::qemu_storage_daemon::Shown;
use crate::tool::{ToolError, aoe_driver, blkid};

/// Bytes at the start of a device that must be zero for it to count as empty: partition tables,
/// file systems, RAID and LVM all leave a mark here.
const HEAD: usize = 1 << 20;
/// The same at its end (a GPT's second header, old RAID superblocks).
const TAIL: usize = 128 << 10;

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

/// What [`prepare`] would do, in words; nothing is done.
///
/// # Errors
/// What would stop it, as far as that can be told.
pub fn look(
    host: &Host,
    wanted: &Wanted,
    request: Request<'_>,
) -> Result<String, DestinationError> {
    let (vg, lv, pool) = match wanted {
        Wanted::Group(vg) => (vg, request.name.volume_name(request.slot.into()), None),
        Wanted::Volume(vg, lv) => match lvm::volume(&host.tools, vg, lv)? {
            Some(pool) if pool.is_thin_pool => {
                (vg, request.name.volume_name(request.slot.into()), Some(lv))
            }
            _ => (vg, lv.clone(), None),
        },
        Wanted::Path(path) => return look_at_path(host, path, request),
    };
    let need = request.sectors * SECTOR;
    if let Some(volume) = lvm::volume(&host.tools, vg, &lv)? {
        let ours = volume.has_tag(request.tag);
        may_overwrite(host, &volume, request.tag, request.may_go)?;
        refuse_domains_disk(host, &host.paths.dev.join(vg).join(&lv))?;
        if volume.size < need {
            return Err(DestinationError::Short {
                what: format!("volume {vg}/{lv}"),
                have: volume.size,
                need,
            });
        }
        return Ok(match ours {
            true => {
                format!("volume {vg}/{lv}, an earlier copy of this disk: what differs is moved")
            }
            false => format!("volume {vg}/{lv}: what is on it is overwritten"),
        });
    }
    let groups = lvm::groups(&host.tools)?;
    let Some(group) = groups.iter().find(|g| g.name == *vg) else {
        let names: Vec<&str> = groups.iter().map(|g| &*g.name).collect();
        return Err(DestinationError::NoGroup(vg.clone(), names.join(", ")));
    };
    match pool {
        Some(pool) => Ok(format!(
            "a new thin volume {vg}/{lv} in the pool {vg}/{pool}"
        )),
        None if group.free < need => Err(DestinationError::NoRoom {
            vg: vg.clone(),
            free: group.free,
            need,
        }),
        None => Ok(format!("a new volume {vg}/{lv}")),
    }
}

fn look_at_path(
    host: &Host,
    path: &Path,
    request: Request<'_>,
) -> Result<String, DestinationError> {
    let path = std::path::absolute(path).map_err(|e| io_error("find", path, e))?;
    let new = match Format::of(&path) {
        Format::Raw => "a new file",
        Format::Qcow2 => "a new qcow2 image",
        Format::Other(format) => return Err(DestinationError::Format { path, format }),
    };
    let earlier = request.before.is_some_and(|before| before.path() == path);
    match fs::metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(format!("{new} {}", path.display())),
        Err(e) => Err(io_error("look at", &path, e)),
        Ok(_) if earlier => {
            refuse_domains_disk(host, &path)?;
            Ok(format!(
                "{}, an earlier copy of this disk: what differs is moved",
                path.display()
            ))
        }
        Ok(m) if m.is_file() || m.file_type().is_block_device() => {
            refuse_domains_disk(host, &path)?;
            if m.is_file() && m.len() > 0 {
                ask_for(host, &path, request.may_go)?;
            }
            Ok(format!(
                "{}: what is on it is overwritten; if it holds anything, only with --overwrite={}",
                path.display(),
                path.display()
            ))
        }
        Ok(_) => Err(DestinationError::Kind(path)),
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
    /// What shows the image that it writes to; after it, because it is closed first.
    pub image: Option<Shown>,
    /// Made by this run: nothing in it is worth keeping.
    pub fresh: bool,
    /// Reads as zeros where nothing was written yet.
    pub blank: bool,
    /// It is known to be this disk's copy, or was made for it; otherwise the operator gave it up.
    pub ours: bool,
}

/// Why a destination cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// Not a name.
    #[error(transparent)]
    Name(#[from] BadVolumeName),
    /// LVM's programs.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// No such volume group.
    #[error(
        "there is no volume group `{0}` on this host; `vgs` shows those there are ({1}). A file's name begins with / or \
         ./, as in --to ./{0}"
    )]
    NoGroup(String, String),
    /// Too little room.
    #[error(
        "volume group {vg} has {free} bytes free and the disk needs {need}: extend it (vgextend) or name another"
    )]
    NoRoom {
        /// The group.
        vg: String,
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        need: u64,
    },
    /// The volume is not this machine's.
    #[error(
        "volume {vg}/{lv} exists and is not marked as the copy of this disk (tag {tag}): {}. Name another volume, \
         remove it yourself, or say --overwrite={vg}/{lv} if what it holds may go",
        holds(holds_what)
    )]
    Foreign {
        /// The group.
        vg: String,
        /// The volume.
        lv: String,
        /// The tag it lacks.
        tag: String,
        /// What is on it.
        holds_what: Option<String>,
    },
    /// The volume is in use by the moved system.
    #[error(
        "volume {0}/{1} is the disk of the moved system (tag p2v.moved): what it holds is newer than the old disk. \
         Copy to another volume"
    )]
    Moved(String, String),
    /// Too small.
    #[error("{what} has {have} bytes and the disk needs {need}: make it larger or name another")]
    Short {
        /// The destination.
        what: String,
        /// Its size.
        have: u64,
        /// What is needed.
        need: u64,
    },
    /// In use.
    #[error(
        "{} is in use (mounted, part of a volume group or RAID, or a domain's disk): stop what uses it, or name \
         another destination",
        .0.display()
    )]
    Busy(PathBuf),
    /// A domain has it.
    #[error(
        "{} is a disk of the domain {domain} (number {id}, as {disk}): two writers would destroy what is on it. Shut \
         that domain down first, or name another destination",
        path.display()
    )]
    Domain {
        /// The destination.
        path: PathBuf,
        /// The domain.
        domain: String,
        /// Its number.
        id: u32,
        /// The disk as the domain has it.
        disk: String,
    },
    /// Not empty.
    #[error(
        "{} is not an earlier copy of this disk: {}. Name another destination, or say --overwrite={} if what it holds \
         may go",
        path.display(), holds(holds_what), path.display()
    )]
    Holds {
        /// The destination.
        path: PathBuf,
        /// What is on it.
        holds_what: Option<String>,
    },
    /// Sectors of another size.
    #[error(
        "{} has {size}-byte sectors: an old disk with 512-byte sectors cannot be put on it exactly. Name a \
         destination with 512-byte sectors",
        path.display()
    )]
    SectorSize {
        /// The device.
        path: PathBuf,
        /// Its logical sector size.
        size: u64,
    },
    /// An image that is not what it was, or not fit for it.
    #[error(
        "{} is not used: {why}. Name another destination, or copy to it again with --overwrite={} if what it holds may \
         go",
        path.display(), path.display()
    )]
    Image {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A format that is not written.
    #[error(
        "{} would be an image of a kind that p2v does not write: copy to a raw file (a name without that ending) or a \
         .qcow2, then `qemu-img convert -O {format}` makes this one of it",
        path.display()
    )]
    Format {
        /// The destination.
        path: PathBuf,
        /// qemu-img's name of the format.
        format: &'static str,
    },
    /// Neither file nor block device.
    #[error("{} is neither a file nor a block device", .0.display())]
    Kind(PathBuf),
    /// The system said no.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

fn holds(what: &Option<String>) -> String {
    match what {
        Some(what) => format!("it holds {what}"),
        None => "it may hold data".into(),
    }
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
    match wanted {
        Wanted::Group(vg) => volume(
            host,
            vg,
            &request.name.volume_name(request.slot.into()),
            request,
        ),
        Wanted::Volume(vg, lv) => match lvm::volume(&host.tools, vg, lv)? {
            Some(pool) if pool.is_thin_pool => {
                let name = request.name.volume_name(request.slot.into());
                volume_in(host, vg, &name, Some(&pool), request)
            }
            _ => volume(host, vg, lv, request),
        },
        Wanted::Path(path) => at_path(host, path, request),
    }
}

fn volume(
    host: &Host,
    vg: &str,
    lv: &str,
    request: Request<'_>,
) -> Result<Prepared, DestinationError> {
    volume_in(host, vg, lv, None, request)
}

/// The volume `vg/lv`, made if it is not there: in the thin pool, if one is named.
fn volume_in(
    host: &Host,
    vg: &str,
    lv: &str,
    pool: Option<&Volume>,
    request: Request<'_>,
) -> Result<Prepared, DestinationError> {
    lvm::check_name(lv)?;
    let need = request.sectors * SECTOR;
    let tag = request.tag;
    let (vg, lv) = (vg.to_owned(), lv.to_owned());
    let existing = lvm::volume(&host.tools, &vg, &lv)?;
    let fresh = existing.is_none();
    let ours = existing.as_ref().is_none_or(|volume| volume.has_tag(tag));
    match &existing {
        Some(volume) => {
            may_overwrite(host, volume, tag, request.may_go)?;
            if volume.size < need {
                return Err(DestinationError::Short {
                    what: format!("volume {vg}/{lv}"),
                    have: volume.size,
                    need,
                });
            }
            if !volume.active {
                lvm::activate(&host.tools, &vg, &lv)?;
            }
        }
        None => {
            let groups = lvm::groups(&host.tools)?;
            let Some(group) = groups.iter().find(|g| g.name == vg) else {
                let names: Vec<&str> = groups.iter().map(|g| &*g.name).collect();
                let names = if names.is_empty() {
                    "none".into()
                } else {
                    names.join(", ")
                };
                return Err(DestinationError::NoGroup(vg, names));
            };
            let tags = [tag, lvm::TAG_COPYING];
            match pool {
                // How much room a thin volume will need is not known before.
                Some(pool) => lvm::create_thin(&host.tools, &vg, &pool.lv, &lv, need, &tags)?,
                None if group.free < need => {
                    return Err(DestinationError::NoRoom {
                        vg,
                        free: group.free,
                        need,
                    });
                }
                None => lvm::create(&host.tools, &vg, &lv, need, &tags)?,
            }
        }
    }
    let path = host.paths.dev.join(&vg).join(&lv);
    let sink = open_device(host, &path, need)?;
    refuse_large_sectors(&path, &sink)?;
    let uuid = match existing {
        Some(volume) => {
            // Only now, that nobody else has it. Whose copy it was, it is no more.
            let others: Vec<&str> = volume
                .tags
                .iter()
                .map(String::as_str)
                .filter(|t| t.starts_with(lvm::TAG_PREFIX) && ![tag, lvm::TAG_COPYING].contains(t))
                .collect();
            lvm::retag(&host.tools, &vg, &lv, &[tag, lvm::TAG_COPYING], &others)?;
            volume.uuid
        }
        None => lvm::volume(&host.tools, &vg, &lv)?
            .map(|made| made.uuid)
            .ok_or_else(|| {
                ToolError::NotDone(format!("{vg}/{lv} was made, and lvs does not list it"))
            })?,
    };
    Ok(Prepared {
        destination: Destination::Volume { vg, lv, uuid },
        sink,
        image: None,
        fresh,
        blank: fresh && pool.is_some_and(|pool| pool.zeroes),
        ours,
    })
}

/// The rule for a volume that exists.
fn may_overwrite(
    host: &Host,
    volume: &Volume,
    tag: &str,
    may_go: MayGo<'_>,
) -> Result<(), DestinationError> {
    if volume.has_tag(lvm::TAG_MOVED) {
        return Err(DestinationError::Moved(
            volume.vg.clone(),
            volume.lv.clone(),
        ));
    }
    if volume.has_tag(tag) {
        return Ok(());
    }
    let name = format!("{}/{}", volume.vg, volume.lv);
    let holds_what = blkid::content(&host.tools, &host.paths.dev.join(&name));
    if may_go(&name, holds_what.as_deref()) {
        return Ok(());
    }
    Err(DestinationError::Foreign {
        vg: volume.vg.clone(),
        lv: volume.lv.clone(),
        tag: tag.to_owned(),
        holds_what,
    })
}

fn at_path(host: &Host, path: &Path, request: Request<'_>) -> Result<Prepared, DestinationError> {
    let path = std::path::absolute(path).map_err(|e| io_error("find", path, e))?;
    let kind = match fs::metadata(&path) {
        Ok(metadata) => Some(metadata),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(io_error("look at", &path, e)),
    };
    match kind {
        Some(m) if m.file_type().is_block_device() => {
            if let Some((vg, lv)) = volume_at(host, m.rdev())? {
                return volume(host, &vg, &lv, request);
            }
            device(host, path, m.rdev(), request)
        }
        Some(m) if !m.is_file() => Err(DestinationError::Kind(path)),
        there => match Format::of(&path) {
            Format::Qcow2 => image::prepare(host, path, there.as_ref(), request),
            Format::Other(format) => Err(DestinationError::Format { path, format }),
            Format::Raw if there.is_some() => old_file(host, path, request),
            Format::Raw => new_file(path, request),
        },
    }
}

/// The volume that has this device number: its tags say whose it is, by whatever path it was named.
fn volume_at(host: &Host, rdev: u64) -> Result<Option<(String, String)>, DestinationError> {
    let volumes = match lvm::volumes(&host.tools) {
        Err(ToolError::Missing { .. }) => return Ok(None),
        other => other?,
    };
    Ok(volumes
        .into_iter()
        .find(|v| {
            fs::metadata(host.paths.dev.join(&v.vg).join(&v.lv)).is_ok_and(|m| m.rdev() == rdev)
        })
        .map(|v| (v.vg, v.lv)))
}

fn new_file(path: PathBuf, request: Request<'_>) -> Result<Prepared, DestinationError> {
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
        ..open_file(path)?
    })
}

fn old_file(
    host: &Host,
    path: PathBuf,
    request: Request<'_>,
) -> Result<Prepared, DestinationError> {
    refuse_domains_disk(host, &path)?;
    let prepared = open_file(path.clone())?;
    let have = prepared.sink.bytes();
    let ours = request.before == Some(&prepared.destination);
    if !(ours || have == 0) {
        ask_for(host, &path, request.may_go)?;
    }
    let need = request.sectors * SECTOR;
    if have == need {
        return Ok(Prepared { ours, ..prepared });
    }
    // The domain is given the whole file: what looks for a disk's end must find it.
    prepared
        .sink
        .file()
        .set_len(need)
        .map_err(|e| io_error("size", &path, e))?;
    drop(prepared);
    open_file(path)
}

fn open_file(path: PathBuf) -> Result<Prepared, DestinationError> {
    let sink = FileSink::open(&path, false).map_err(|e| io_error("open", &path, e))?;
    if sink.file().try_lock().is_err() {
        return Err(DestinationError::Busy(path));
    }
    let metadata = sink
        .file()
        .metadata()
        .map_err(|e| io_error("look at", &path, e))?;
    Ok(Prepared {
        destination: Destination::File {
            identity: format!("inode {}", metadata.ino()),
            path,
        },
        sink,
        image: None,
        fresh: false,
        blank: false,
        ours: false,
    })
}

fn device(
    host: &Host,
    path: PathBuf,
    rdev: u64,
    request: Request<'_>,
) -> Result<Prepared, DestinationError> {
    let sink = open_device(host, &path, request.sectors * SECTOR)?;
    refuse_large_sectors(&path, &sink)?;
    let destination = Destination::Device {
        path: stable_path(&path, rdev),
        identity: device_identity(rdev),
    };
    // A device that has nothing to know it by may be another one after a restart: it is ours only
    // if the operator says so.
    let known =
        matches!(&destination, Destination::Device { identity, .. } if !identity.is_empty());
    let ours = known && request.before == Some(&destination);
    if !(ours || is_blank(&sink).map_err(|e| io_error("read", &path, e))?) {
        ask_for(host, &path, request.may_go)?;
    }
    Ok(Prepared {
        destination,
        sink,
        image: None,
        fresh: false,
        blank: false,
        ours,
    })
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

fn open_device(host: &Host, path: &Path, need: u64) -> Result<FileSink, DestinationError> {
    refuse_domains_disk(host, path)?;
    let sink = FileSink::open(path, true).map_err(|e| match e.kind() {
        io::ErrorKind::ResourceBusy => DestinationError::Busy(path.to_owned()),
        _ => io_error("open", path, e),
    })?;
    if sink.bytes() < need {
        return Err(DestinationError::Short {
            what: path.display().to_string(),
            have: sink.bytes(),
            need,
        });
    }
    Ok(sink)
}

/// An old disk has sectors of 512 bytes, and so must what its domain is to run from.
fn refuse_large_sectors(path: &Path, sink: &FileSink) -> Result<(), DestinationError> {
    let metadata = sink.file().metadata();
    let metadata = metadata.map_err(|e| io_error("look at", path, e))?;
    match logical_sector(metadata.rdev()).filter(|size| *size != SECTOR) {
        None => Ok(()),
        Some(size) => Err(DestinationError::SectorSize {
            path: path.to_owned(),
            size,
        }),
    }
}

/// Whether the places where anything leaves its mark are zero.
fn is_blank(sink: &FileSink) -> io::Result<bool> {
    let size = sink.bytes();
    let mut head = vec![0; usize::try_from(size).unwrap_or(HEAD).min(HEAD)];
    sink.read_back(0, &mut head)?;
    let mut tail = vec![0; usize::try_from(size).unwrap_or(TAIL).min(TAIL)];
    sink.read_back(size - tail.len() as u64, &mut tail)?;
    Ok(head.iter().chain(&tail).all(|b| *b == 0))
}

fn sys_block(rdev: u64) -> PathBuf {
    let (major, minor) = device_number(rdev);
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

/// Major and minor of a device number.
pub fn device_number(rdev: u64) -> (u64, u64) {
    (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev))
}

fn logical_sector(rdev: u64) -> Option<u64> {
    let sys = sys_block(rdev);
    // A partition has its disk's queue.
    ["queue", "../queue"]
        .iter()
        .find_map(|q| fs::read_to_string(sys.join(q).join("logical_block_size")).ok())
        .and_then(|t| t.trim().parse().ok())
}

/// What the kernel knows the device by: stays with the device, not with the name.
pub fn device_identity(rdev: u64) -> String {
    let sys = sys_block(rdev);
    let read = |name: &str| {
        let text = fs::read_to_string(sys.join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|t| !t.is_empty())
    };
    let partition = read("partition").map_or(String::new(), |n| format!(" partition {n}"));
    [
        "dm/uuid",
        "md/uuid",
        "wwid",
        "device/wwid",
        "serial",
        "../wwid",
        "../device/wwid",
        "../serial",
    ]
    .iter()
    .find_map(|n| read(n))
    .map_or(String::new(), |id| id + &partition)
}

/// The link in `/dev/disk/by-id` that leads to the device, else the path as it was given: `/dev/sdb`
/// may be another disk after the next start.
fn stable_path(path: &Path, rdev: u64) -> PathBuf {
    let links = fs::read_dir("/dev/disk/by-id")
        .into_iter()
        .flatten()
        .flatten();
    links
        .map(|l| l.path())
        .filter(|l| {
            fs::metadata(l).is_ok_and(|m| m.file_type().is_block_device() && m.rdev() == rdev)
        })
        .min()
        .unwrap_or_else(|| path.to_owned())
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
/// It cannot be opened, or is in use.
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
            let (sink, image) = image::show_again(host, name, slot, path, sectors)?;
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
    Ok(Reopened { sink, image: None })
}

/// Size in sectors and device number of what a destination is now.
///
/// # Errors
/// It is not there.
pub fn measure(path: &Path) -> io::Result<(u64, u64)> {
    Ok((aoe_driver::sectors(path)?, fs::metadata(path)?.rdev()))
}

pub(super) fn io_error(doing: &'static str, path: &Path, source: io::Error) -> DestinationError {
    DestinationError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_volume_is_ours_by_its_tag_only() {
        let volume = |tags: &[&str]| Volume {
            vg: "vg".into(),
            lv: "lv".into(),
            uuid: "u".into(),
            size: 1,
            tags: tags.iter().map(|t| (*t).to_owned()).collect(),
            active: true,
            is_thin_pool: false,
            zeroes: false,
        };
        let ours = "p2v.web.0.aa";
        let dir = tempfile::tempdir().unwrap();
        let host = host(dir.path());
        let may_overwrite = |volume: &Volume, tag: &str, said: bool| {
            super::may_overwrite(&host, volume, tag, &|_, _| said)
        };
        assert!(may_overwrite(&volume(&[ours, "p2v.copying"]), ours, false).is_ok());
        for tags in [
            &[][..],
            &["p2v.web.1.aa"],
            &["p2v.copying"],
            // A machine that was called web before.
            &["p2v.web.0.bb"],
            &["p2v.web.0"],
        ] {
            assert!(matches!(
                may_overwrite(&volume(tags), ours, false),
                Err(DestinationError::Foreign { .. })
            ));
            assert!(may_overwrite(&volume(tags), ours, true).is_ok());
        }
        // Newer data than the old disk's: not even by force.
        assert!(may_overwrite(&volume(&[ours, lvm::TAG_MOVED]), ours, true).is_err());
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
        let first = prepare(&host, &wanted, request(None)).unwrap();
        assert_eq!(first.sink.bytes(), 5120);
        let destination = first.destination.clone();
        // Two copies to one file do not run at once.
        assert!(matches!(
            prepare(&host, &wanted, request(Some(&destination))),
            Err(DestinationError::Busy(_))
        ));

        drop(first);
        assert!(prepare(&host, &wanted, request(Some(&destination))).is_ok());
        assert!(matches!(
            prepare(&host, &wanted, request(None)),
            Err(DestinationError::Holds { .. })
        ));
        // Another file of that name (the old one still has its inode).
        fs::rename(&path, dir.path().join("old")).unwrap();
        fs::write(&path, "something else").unwrap();
        assert!(matches!(
            prepare(&host, &wanted, request(Some(&destination))),
            Err(DestinationError::Holds { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"something else");
        let forced = Request {
            may_go: &|name, _| name.ends_with("disk.img"),
            ..request(None)
        };
        assert_eq!(prepare(&host, &wanted, forced).unwrap().sink.bytes(), 5120);
        let wanted = Wanted::Path(dir.path().to_owned());
        assert!(matches!(
            prepare(&host, &wanted, request(None)),
            Err(DestinationError::Kind(_))
        ));
    }
}
