//! Where a disk is copied to, as the record has it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where a disk is copied to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", deny_unknown_fields)]
pub enum Destination {
    /// A logical volume.
    Volume {
        /// Volume group.
        vg: String,
        /// Logical volume.
        lv: String,
        /// Its LVM UUID: another volume of that name is not the copy.
        uuid: String,
    },
    /// A regular file.
    File {
        /// Its absolute path.
        path: PathBuf,
        /// What tells it from another file of that name: inode number, time of birth where the file system keeps it, size.
        identity: String,
    },
    /// A qcow2 image in a regular file.
    Qcow2 {
        /// Its absolute path.
        path: PathBuf,
        /// As for a raw file, without the size: an image grows.
        identity: String,
    },
    /// A block device that is not one of LVM's.
    Device {
        /// Its path; where there is one, a link that leads to it also after a restart.
        path: PathBuf,
        /// What tells it from another device of that name; empty if the device has nothing.
        identity: String,
    },
}

impl Destination {
    /// The path to open.
    pub fn path(&self) -> PathBuf {
        match self {
            Destination::Volume { vg, lv, .. } => Path::new("/dev").join(vg).join(lv),
            Destination::File { path, .. }
            | Destination::Qcow2 { path, .. }
            | Destination::Device { path, .. } => path.clone(),
        }
    }

    /// Whether it is a block device, which the domain sees through device-mapper; else the config names the file.
    pub fn is_device(&self) -> bool {
        matches!(
            self,
            Destination::Volume { .. } | Destination::Device { .. }
        )
    }

    /// Whether both are one thing. A device is what it is known by, whatever link leads to it.
    pub fn is_same(&self, other: &Destination) -> bool {
        match (self, other) {
            (
                Destination::Device { identity, .. },
                Destination::Device {
                    identity: theirs, ..
                },
            ) if !identity.is_empty() || !theirs.is_empty() => identity == theirs,
            _ => self == other,
        }
    }

    /// What an operator calls it: `vg/lv`, or the path.
    pub fn name(&self) -> String {
        match self {
            Destination::Volume { vg, lv, .. } => format!("{vg}/{lv}"),
            other => other.path().display().to_string(),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Volume { vg, lv, .. } => write!(f, "volume {vg}/{lv}"),
            Destination::File { path, .. } => write!(f, "file {}", path.display()),
            Destination::Qcow2 { path, .. } => write!(f, "qcow2 image {}", path.display()),
            Destination::Device { path, .. } => write!(f, "device {}", path.display()),
        }
    }
}
