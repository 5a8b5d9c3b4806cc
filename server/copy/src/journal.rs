//! What of a copy is done, on disk: a copy that was killed goes on where it was.
//!
//! A file with a head and one entry of fixed size for each piece, so that nothing is ever rewritten but
//! the entry at hand. The head names what is copied where, and is replaced as a whole. Each entry
//! carries a check that depends on the head, its number and its content: one that was half written, or
//! belongs to another copy, counts as not there, and its piece is copied again. Entries are written
//! after the destination was synced and read back, and synced themselves.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::atomic_file;

/// Bytes of the head.
const HEAD: usize = 4096;
/// Bytes of an entry: hash, kind, check, and room.
const ENTRY: usize = 64;
/// Bytes of an entry's check.
const CHECK: usize = 16;
/// Entries read at once.
const BATCH: usize = 4096;

/// What a journal belongs to. Another value of any of them is another copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The copy's own name, new whenever the old disk may have changed.
    pub copy: String,
    /// Model of the disk.
    pub model: String,
    /// Serial number of the disk.
    pub serial: String,
    /// Size of the disk in sectors.
    pub sectors: u64,
    /// The start of the agent that gave the disk: between two starts the old system may have run.
    pub boot_id: String,
    /// Where to.
    pub destination: String,
    /// Fingerprint of the pieces, hex.
    pub pieces: String,
}

/// How a piece came to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// It came over the wire.
    Moved = 1,
    /// The destination had it.
    Equal = 2,
    /// It is zeros, which did not cross the wire.
    Zeroed = 3,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Moved, Kind::Equal, Kind::Zeroed]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// BLAKE3 of the piece.
    pub hash: [u8; 32],
    /// How it came to be right.
    pub kind: Kind,
}

/// The journal of one copy.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    key: [u8; 32],
    done: Vec<Option<Done>>,
}

impl Journal {
    /// Opens the journal at `path` if it is that of `identity`; otherwise begins a new one there.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(path: &Path, identity: &Identity, pieces: usize) -> io::Result<Journal> {
        let head = head(identity)?;
        let key = *blake3::hash(&head).as_bytes();
        let mut old = vec![0; HEAD];
        let there = File::open(path).is_ok_and(|file| {
            read_up_to(&file, &mut old, 0).is_ok_and(|count| old[..count] == head)
        });
        if !there {
            atomic_file::replace(path, &head, 0o600)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut journal = Journal {
            file,
            path: path.to_owned(),
            key,
            done: vec![None; pieces],
        };
        if there {
            journal.read()?;
        }
        Ok(journal)
    }

    /// Opens the journal at `path`, of whatever copy it is, to read what it noted of so many pieces.
    ///
    /// # Errors
    /// What the system said.
    pub fn existing(path: &Path, pieces: usize) -> io::Result<Journal> {
        let file = File::open(path)?;
        let mut head = vec![0; HEAD];
        file.read_exact_at(&mut head, 0)?;
        let mut journal = Journal {
            file,
            path: path.to_owned(),
            key: *blake3::hash(&head).as_bytes(),
            done: vec![None; pieces],
        };
        journal.read()?;
        Ok(journal)
    }

    fn read(&mut self) -> io::Result<()> {
        let mut bytes = vec![0; BATCH * ENTRY];
        for from in (0..self.done.len()).step_by(BATCH) {
            let count = read_up_to(&self.file, &mut bytes, (HEAD + from * ENTRY) as u64)?;
            for (index, entry) in (from..self.done.len()).zip(bytes[..count].chunks_exact(ENTRY)) {
                self.done[index] = self.parse(index, entry);
            }
        }
        Ok(())
    }

    fn check(&self, index: usize, content: &[u8]) -> [u8; CHECK] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&(index as u64).to_le_bytes());
        hasher.update(content);
        let mut check = [0; CHECK];
        check.copy_from_slice(&hasher.finalize().as_bytes()[..CHECK]);
        check
    }

    fn parse(&self, index: usize, entry: &[u8]) -> Option<Done> {
        let (content, rest) = entry.split_at(33);
        if rest[..CHECK] != self.check(index, content) {
            return None;
        }
        Some(Done {
            hash: content[..32].try_into().ok()?,
            kind: Kind::from_byte(content[32])?,
        })
    }

    /// The entry of a piece.
    pub fn done(&self, index: usize) -> Option<Done> {
        self.done.get(index).copied().flatten()
    }

    /// What was noted of a piece is not so any more.
    pub fn forget(&mut self, index: usize) {
        if let Some(place) = self.done.get_mut(index) {
            *place = None;
        }
    }

    /// Whether anything is noted.
    pub fn has_begun(&self) -> bool {
        self.done.iter().any(Option::is_some)
    }

    /// Notes pieces that are stable and were checked. When it returns, so are the entries.
    ///
    /// # Errors
    /// What the system said.
    pub fn note(&mut self, pieces: &[(usize, Done)]) -> io::Result<()> {
        for (index, done) in pieces {
            let mut entry = [0; ENTRY];
            entry[..32].copy_from_slice(&done.hash);
            entry[32] = done.kind as u8;
            let check = self.check(*index, &entry[..33]);
            entry[33..33 + CHECK].copy_from_slice(&check);
            self.file
                .write_all_at(&entry, (HEAD + index * ENTRY) as u64)?;
            if let Some(place) = self.done.get_mut(*index) {
                *place = Some(*done);
            }
        }
        self.file.sync_data()?;
        #[cfg(feature = "boundary")]
        crate::boundary::reached("after journal");
        Ok(())
    }

    /// The root of all pieces' hashes: BLAKE3 of them one after the other, in the order of the disk.
    /// `None` while one is missing.
    pub fn root(&self) -> Option<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        for done in &self.done {
            hasher.update(&(*done)?.hash);
        }
        Some(hasher.finalize())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn head(identity: &Identity) -> io::Result<Vec<u8>> {
    let mut head = b"p2v copy journal 1\n".to_vec();
    head.extend(serde_json::to_vec(identity)?);
    head.push(b'\n');
    if head.len() > HEAD {
        // Names that are too long to be kept: what tells them apart is.
        let hash = blake3::hash(&head);
        head.truncate(HEAD - 66);
        head.extend(format!("\n{}\n", hash.to_hex()).bytes());
    }
    head.resize(HEAD, 0);
    Ok(head)
}

/// Fills as much of `bytes` as the file has from `offset` on.
fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < bytes.len() {
        match file.read_at(&mut bytes[count..], offset + count as u64) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity() -> Identity {
        Identity {
            copy: "1".into(),
            model: "QUANTUM".into(),
            serial: "S".into(),
            sectors: 1000,
            boot_id: "b".into(),
            destination: "volume vg/lv".into(),
            pieces: "00".into(),
        }
    }

    fn done(byte: u8) -> Done {
        Done {
            hash: [byte; 32],
            kind: Kind::Moved,
        }
    }

    #[test]
    fn what_was_noted_is_there_after_a_crash_and_for_this_copy_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let mut journal = Journal::open(&path, &identity(), 5000).unwrap();
        let noted = [(0, done(1)), (4999, done(2))];
        journal.note(&noted).unwrap();
        drop(journal);
        let journal = Journal::open(&path, &identity(), 5000).unwrap();
        assert_eq!(journal.done(0), Some(done(1)));
        assert_eq!(journal.done(4999), Some(done(2)));
        assert_eq!((1..4999).find(|i| journal.done(*i).is_some()), None);
        assert_eq!(journal.root(), None);
        for other in [
            Identity {
                boot_id: "c".into(),
                ..identity()
            },
            Identity {
                sectors: 999,
                ..identity()
            },
            Identity {
                destination: "x".repeat(5000),
                ..identity()
            },
            Identity {
                destination: "x".repeat(5001),
                ..identity()
            },
        ] {
            let mut journal = Journal::open(&path, &other, 5000).unwrap();
            assert_eq!(journal.done(0), None);
            journal.note(&[(0, done(3))]).unwrap();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_damaged_entry_counts_as_not_there(at in 0usize..64 * 8, bit in 0u8..8) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("j");
            let mut journal = Journal::open(&path, &identity(), 8).unwrap();
            let all: Vec<_> = (0..8).map(|i| (i, done(i as u8))).collect();
            journal.note(&all).unwrap();
            let whole = journal.root().unwrap();
            drop(journal);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[HEAD + at] ^= 1 << bit;
            std::fs::write(&path, &bytes).unwrap();
            let journal = Journal::open(&path, &identity(), 8).unwrap();
            let hit = at % ENTRY < 33 + CHECK;
            for i in 0..8 {
                prop_assert_eq!(journal.done(i).is_none(), hit && i == at / ENTRY);
            }
            prop_assert_eq!(journal.root() == Some(whole), !hit);
            // Cut off anywhere.
            std::fs::write(&path, &bytes[..HEAD + at]).unwrap();
            let journal = Journal::open(&path, &identity(), 8).unwrap();
            prop_assert!((0..8).all(|i| journal.done(i).is_none() || i < at / ENTRY));
        }
    }
}
