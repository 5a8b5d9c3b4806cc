//! A copy compared with what it was made from, without changing either.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use super::pool::Buffer;
use super::{CopyError, Piece, Sink, Source, SourceError};
use crate::Progress;

/// Digests known ahead of the piece that is compared.
const AHEAD: usize = 4;

/// What a copy is compared with.
pub enum Original<'a> {
    /// The old disk.
    Disk(&'a mut (dyn Source + Send)),
    /// BLAKE3 of each piece as it was noted when the copy was made.
    Noted(&'a [[u8; 32]]),
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Bytes that are equal.
    pub equal: u64,
    /// Pieces that differ: first sector and number of them.
    pub differ: Vec<(u64, u64)>,
    /// Pieces that the original cannot be read in.
    pub unreadable: Vec<(u64, u64)>,
}

/// Compares the pieces of `copy` with the original.
///
/// # Errors
/// [`CopyError`]: one of the two could not be read, or the operator stopped it.
pub fn compare(
    mut original: Original<'_>,
    copy: &dyn Sink,
    pieces: &[Piece],
    stop: &AtomicBool,
    progress: &dyn Fn(Progress),
) -> Result<Compared, CopyError> {
    let (sender, digests) = sync_channel(AHEAD);
    let mut compared = Compared::default();
    let mut done = Progress {
        total: pieces.iter().map(|p| p.bytes() as u64).sum(),
        ..Progress::default()
    };
    let largest = pieces.iter().map(|p| p.bytes()).max().unwrap_or(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for (index, piece) in pieces.iter().enumerate() {
                let digest = match &mut original {
                    Original::Noted(noted) => Ok(noted.get(index).copied()),
                    Original::Disk(disk) => match disk.digest(piece.lba, piece.count) {
                        Ok(digest) => Ok(Some(digest.blake3)),
                        Err(SourceError::Unreadable { .. }) => Ok(None),
                        Err(SourceError::Failed(why)) => Err(CopyError::Source {
                            lba: piece.lba,
                            why,
                        }),
                    },
                };
                if stop.load(Ordering::Relaxed) || sender.send((*piece, digest)).is_err() {
                    return;
                }
            }
        });
        let mut space = Buffer::new(largest);
        for (piece, digest) in digests {
            let part = &mut space[..piece.bytes()];
            let read = copy.read_back(piece.offset(), part);
            read.map_err(|source| CopyError::Sink {
                doing: "read",
                lba: piece.lba,
                source,
            })?;
            let bytes = piece.bytes() as u64;
            let stretch = (piece.lba, u64::from(piece.count));
            match digest? {
                None => compared.unreadable.push(stretch),
                Some(digest) if digest == *blake3::hash(part).as_bytes() => compared.equal += bytes,
                Some(_) => compared.differ.push(stretch),
            }
            done.checked += bytes;
            done.equal = compared.equal;
            progress(done);
        }
        Ok::<_, CopyError>(())
    })?;
    if stop.load(Ordering::Relaxed) {
        return Err(CopyError::Interrupted);
    }
    Ok(compared)
}
