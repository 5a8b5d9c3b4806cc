//! Where a copy goes, as it is now: what a dry run tells and a copy acts on is one decision.

use std::fmt;
use std::path::PathBuf;

use super::marks::{Marks, Seen};
use super::request::InPool;
use crate::record::Destination;
use crate::tool::lvm::Volume;

/// A destination that may be used. Finding it has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A volume to be made: thin, if there is a pool.
    NewVolume {
        vg: String,
        lv: String,
        pool: Option<Volume>,
    },
    /// A volume that is this disk's copy (`ours`), or whose contents may go.
    Volume { volume: Volume, ours: bool },
    /// A file to be made.
    NewFile(PathBuf),
    /// A file that is this disk's copy, or whose contents may go.
    File {
        path: PathBuf,
        /// As it was found.
        found: Destination,
        ours: bool,
        marks: Marks,
    },
    /// An image to be made.
    NewImage(PathBuf),
    /// An image that is this disk's copy, or a file (`over`) that may be replaced by one.
    Image { path: PathBuf, over: Option<Seen> },
    /// A block device that is this disk's copy, or empty, or whose contents may go.
    Device {
        path: PathBuf,
        rdev: u64,
        ours: bool,
        marks: Marks,
    },
}

impl Place {
    /// The thin pool that it is in.
    pub fn in_pool(&self) -> Option<InPool> {
        let (vg, pool, volume) = match self {
            Place::NewVolume { vg, pool, .. } => (vg, &pool.as_ref()?.lv, None),
            Place::Volume { volume, .. } => {
                (&volume.vg, volume.pool.as_ref()?, Some(volume.lv.clone()))
            }
            _ => return None,
        };
        Some(InPool {
            vg: vg.clone(),
            pool: pool.clone(),
            volume,
        })
    }
}

/// What becomes of it, in words.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, ours) = match self {
            Place::NewVolume {
                vg,
                lv,
                pool: Some(pool),
            } => {
                return write!(
                    f,
                    "a new thin volume {vg}/{lv} in the pool {vg}/{}",
                    pool.lv
                );
            }
            Place::NewVolume { vg, lv, pool: None } => {
                return write!(f, "a new volume {vg}/{lv}");
            }
            Place::NewFile(path) => return write!(f, "a new file {}", path.display()),
            Place::NewImage(path) => return write!(f, "a new qcow2 image {}", path.display()),
            Place::Device {
                path,
                ours: false,
                marks,
                ..
            } if marks.blank => return write!(f, "{}, which is empty", path.display()),
            Place::Volume { volume, ours } => (format!("volume {}/{}", volume.vg, volume.lv), ours),
            Place::Image { path, over } => (path.display().to_string(), &over.is_none()),
            Place::File { path, ours, .. } | Place::Device { path, ours, .. } => {
                (path.display().to_string(), ours)
            }
        };
        match ours {
            true => write!(
                f,
                "{what}, an earlier copy of this disk: what differs is moved"
            ),
            false => write!(f, "{what}: what is on it is overwritten"),
        }
    }
}
