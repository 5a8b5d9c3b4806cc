//! Why a destination cannot be used, for the operator.

use std::io;
use std::path::{Path, PathBuf};

use crate::destination::thin_pool::Full;
use crate::tool::ToolError;
use crate::tool::lvm::BadVolumeName;

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
    /// A thin pool that is in danger as it is.
    #[error("nothing is copied: {0}. Then run the same command again")]
    PoolFull(Box<Full>),
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
    /// Not to be written.
    #[error("{} {READ_ONLY}", .0.display())]
    ReadOnly(PathBuf),
    /// DRBD lets nobody use it here.
    #[error("{} {SECONDARY}", .0.display())]
    Secondary(PathBuf),
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
    /// A file that is not the one that was copied to.
    #[error(
        "{} is not the file that was copied to (that was {was}; this is {now}): it was deleted and made again, replaced, \
         or given another size. Put the right one back; or copy again, with --overwrite={} if what this one holds may \
         go: what is equal is not moved",
        path.display(), path.display()
    )]
    OtherFile {
        /// Its path.
        path: PathBuf,
        /// What the one that was copied to is known by.
        was: String,
        /// What this one is known by.
        now: String,
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
    /// It is not what it was a moment ago.
    #[error(
        "{} changed while it was looked at: something else uses it. Find out what, and run the command again",
        .0.display()
    )]
    Changed(PathBuf),
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

/// Why a device is of no use.
pub(super) const READ_ONLY: &str =
    "is read-only on this host: it is a snapshot, or was mapped or set so (`blockdev --getro`)";

/// What DRBD's refusal means, and what to do.
pub(super) const SECONDARY: &str = "is a DRBD device that is Secondary on this host, so DRBD lets nobody here \
    open it: see with `drbdadm status` that no other host uses it, and make it Primary (`drbdadm primary RESOURCE`)";

fn holds(what: &Option<String>) -> String {
    match what {
        Some(what) => format!("it holds {what}"),
        None => "it may hold data".into(),
    }
}

pub(super) fn io_error(doing: &'static str, path: &Path, source: io::Error) -> DestinationError {
    DestinationError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}
