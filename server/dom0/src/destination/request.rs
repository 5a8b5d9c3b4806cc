//! What a destination is asked for, and what is had then.

use std::path::Path;

use p2v_copy::FileSink;

use super::error::DestinationError;
use crate::disk_user::{self, User};
use crate::host::Host;
use crate::name::MachineName;
use crate::record::Destination;
use crate::tool::blkid;
use crate::tool::qemu_storage_daemon::Shown;

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

impl Request<'_> {
    /// Refuses what is not empty, unless the operator says that it may go.
    pub(super) fn ask_for(self, host: &Host, path: &Path) -> Result<(), DestinationError> {
        let holds_what = blkid::content(&host.tools, path);
        if (self.may_go)(&path.display().to_string(), holds_what.as_deref()) {
            return Ok(());
        }
        Err(DestinationError::Holds {
            path: path.to_owned(),
            holds_what,
        })
    }
}

/// Asks the operator whether something that is not this disk's copy may be overwritten: its name, and what
/// is on it, if that is known.
pub type MayGo<'a> = &'a (dyn Fn(&str, Option<&str>) -> bool + Sync);

/// A destination in a thin pool, which grows with what is written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InPool {
    /// Volume group.
    pub vg: String,
    /// The pool.
    pub pool: String,
    /// The volume, where there is one.
    pub volume: Option<String>,
}

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
