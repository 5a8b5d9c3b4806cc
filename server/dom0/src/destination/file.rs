//! What a regular file is known by, whatever is done to what it holds.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::DestinationError;
use crate::record::Destination;

/// What tells a file from another one of its name. The inode number alone does not: a file system gives that of a
/// deleted file to the next one it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    inode: u64,
    /// When it was made (statx(2), `stx_btime`), on file systems that keep it.
    born: Option<SystemTime>,
    /// Bytes of a file whose size does not change while it is used.
    size: Option<u64>,
}

impl Facts {
    fn of(metadata: &Metadata, fixed_size: bool) -> Facts {
        Facts {
            inode: metadata.ino(),
            born: metadata.created().ok(),
            size: fixed_size.then_some(metadata.len()),
        }
    }

    /// For the record.
    fn identity(self) -> String {
        let mut text = format!("inode {}", self.inode);
        if let Some(born) = self.born {
            let (sign, since) = match born.duration_since(UNIX_EPOCH) {
                Ok(since) => ("", since),
                Err(before) => ("-", before.duration()),
            };
            let (seconds, nanos) = (since.as_secs(), since.subsec_nanos());
            text += &format!(", made at {sign}{seconds}.{nanos:09}");
        }
        if let Some(size) = self.size {
            text += &format!(", {size} bytes");
        }
        text
    }
}

/// A raw file as destination: its size is its disk's.
pub(super) fn raw(path: &Path, metadata: &Metadata) -> Destination {
    Destination::File {
        path: path.to_owned(),
        identity: Facts::of(metadata, true).identity(),
    }
}

/// A file with an image, which grows with what is written to it.
pub(super) fn image(path: &Path, metadata: &Metadata) -> Destination {
    Destination::Qcow2 {
        path: path.to_owned(),
        identity: Facts::of(metadata, false).identity(),
    }
}

/// Refuses a file that is not the one that was copied to.
///
/// # Errors
/// [`DestinationError::OtherFile`].
pub(super) fn refuse_other(
    before: &Destination,
    metadata: &Metadata,
) -> Result<(), DestinationError> {
    let (path, was, fixed_size) = match before {
        Destination::File { path, identity } => (path, identity, true),
        Destination::Qcow2 { path, identity } => (path, identity, false),
        Destination::Volume { .. } | Destination::Device { .. } => return Ok(()),
    };
    let now = Facts::of(metadata, fixed_size).identity();
    match *was == now {
        true => Ok(()),
        false => Err(DestinationError::OtherFile {
            path: path.clone(),
            was: was.clone(),
            now,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_file_is_known_by_its_inode_its_birth_and_its_size() {
        let facts = Facts {
            inode: 7,
            born: Some(UNIX_EPOCH + Duration::new(1_700_000_000, 5)),
            size: Some(512),
        };
        assert_eq!(
            facts.identity(),
            "inode 7, made at 1700000000.000000005, 512 bytes"
        );
        let born = |born| Facts { born, ..facts };
        for other in [
            Facts { inode: 8, ..facts },
            born(Some(UNIX_EPOCH + Duration::new(1_700_000_000, 6))),
            born(Some(UNIX_EPOCH - Duration::new(1_700_000_000, 5))),
            born(None),
            Facts {
                size: Some(513),
                ..facts
            },
            Facts {
                size: None,
                ..facts
            },
        ] {
            assert_ne!(facts.identity(), other.identity());
        }
        let least = Facts {
            born: None,
            size: None,
            ..facts
        };
        assert_eq!(least.identity(), "inode 7");
    }
}
