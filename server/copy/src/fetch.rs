//! The first two steps: a piece's digest is asked for, and then the piece is compared with the
//! destination, or read.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};

use p2v_contract::SECTOR;

use super::ahead::Ahead;
use super::pool::{Buffer, Pool};
use super::write::{Content, Fetched};
use super::{CopyError, Digest, Pass, Piece, Source, SourceError, lock};

/// Sectors of the stretches that are left out where they are zeros: 64 KiB.
const STRETCH: u32 = 128;

/// Pieces after one without zeros of which it is not asked where theirs are: asking makes the old
/// machine look at all of the piece once more.
const ASK_EVERY: u32 = 8;

/// A piece and what its digest is.
pub(super) struct Found {
    index: usize,
    digest: Asked,
    /// Where it reads as zeros, if that was asked.
    zeros: Option<Vec<bool>>,
}

impl Found {
    /// Whether its data may have to cross the wire, from where the digest has put it in memory.
    fn is_to_be_read(&self) -> bool {
        match &self.digest {
            Asked::Digest(digest) => !digest.zero,
            Asked::Changing => !is_all_zeros(self.zeros.as_deref()),
            Asked::Done(_) | Asked::Unreadable => false,
        }
    }
}

fn is_all_zeros(zeros: Option<&[bool]>) -> bool {
    zeros.is_some_and(|zeros| zeros.iter().all(|zero| *zero))
}

enum Asked {
    /// An earlier run copied and checked it, and noted its hash.
    Done([u8; 32]),
    Digest(Digest),
    /// No digest was asked for.
    Changing,
    Unreadable,
}

fn failed(piece: Piece, why: String) -> CopyError {
    CopyError::Source {
        lba: piece.lba,
        why,
    }
}

/// Asks where pieces read as zeros, of those where it may be worth the old machine's time.
#[derive(Default)]
struct Zeros {
    /// Pieces until it is asked again.
    ask_in: u32,
}

impl Zeros {
    /// For each stretch of a piece whether it reads as zeros and need not cross the wire.
    fn of(&mut self, source: &mut dyn Source, piece: Piece) -> Result<Vec<bool>, SourceError> {
        let bits = piece.count.div_ceil(STRETCH) as u16;
        if bits <= 1 || self.ask_in > 0 {
            self.ask_in = self.ask_in.saturating_sub(1);
            return Ok(vec![false; bits.into()]);
        }
        let zeros = source.zeros(piece.lba, STRETCH, bits)?;
        self.ask_in = if zeros.contains(&true) { 0 } else { ASK_EVERY };
        Ok(zeros)
    }
}

/// Asks for the digests of all pieces that are not done.
pub(super) fn ask_all(
    source: &mut dyn Source,
    pass: &Pass<'_>,
    ahead: &Ahead,
    found: &SyncSender<Found>,
) -> Result<(), CopyError> {
    let options = pass.job.options;
    let mut zeros_of = Zeros::default();
    for index in pass.pieces.iter().copied() {
        let piece = pass.job.pieces[index];
        if pass.stop.load(Ordering::Relaxed) {
            return Err(CopyError::Interrupted);
        }
        let mut zeros = None;
        let digest = if let Some(done) = pass.job.done(index) {
            Asked::Done(done.hash)
        } else if lock(pass.job.bad).is_known(piece) {
            Asked::Unreadable
        } else if options.fresh && options.changing {
            // Nothing to compare with, and what changes has no digest that lasts: only another look of
            // the old machine at a disk that its system works with.
            match zeros_of.of(source, piece) {
                Ok(map) => {
                    zeros = Some(map);
                    Asked::Changing
                }
                Err(SourceError::Unreadable { .. }) => Asked::Unreadable,
                Err(SourceError::Failed(why)) => return Err(failed(piece, why)),
            }
        } else {
            match source.digest(piece.lba, piece.count) {
                // What is certain to be read next: the wire need not wait for the answer.
                Ok(digest) if options.fresh && !digest.zero => match zeros_of.of(source, piece) {
                    Ok(map) => {
                        zeros = Some(map);
                        Asked::Digest(digest)
                    }
                    Err(SourceError::Unreadable { .. }) => Asked::Unreadable,
                    Err(SourceError::Failed(why)) => return Err(failed(piece, why)),
                },
                Ok(digest) => Asked::Digest(digest),
                Err(SourceError::Unreadable { .. }) => Asked::Unreadable,
                Err(SourceError::Failed(why)) => return Err(failed(piece, why)),
            }
        };
        let next = Found {
            index,
            digest,
            zeros,
        };
        if next.is_to_be_read() {
            ahead.one_more();
        }
        if found.send(next).is_err() {
            // A later step has failed, and says why.
            break;
        }
    }
    Ok(())
}

/// Compares and reads.
pub(super) struct Fetcher<'a> {
    source: &'a mut (dyn Source + Send),
    pass: &'a Pass<'a>,
    pool: Pool,
    spare: Option<Buffer>,
    /// Hash of so many zeros.
    zeros: (usize, [u8; 32]),
    zeros_of: Zeros,
}

/// How fetching a piece ended without a failure of its own.
enum End {
    Fetched(Fetched),
    Unreadable,
    /// The pool gives nothing more: a later step has failed, and says why.
    HungUp,
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(
        source: &'a mut (dyn Source + Send),
        pass: &'a Pass<'a>,
        pool: Pool,
    ) -> Fetcher<'a> {
        Fetcher {
            source,
            pass,
            pool,
            spare: None,
            zeros: (0, *blake3::hash(&[]).as_bytes()),
            zeros_of: Zeros::default(),
        }
    }

    fn buffer(&mut self) -> Option<Buffer> {
        self.spare.take().or_else(|| self.pool.take())
    }

    fn hash_of_zeros(&mut self, bytes: usize) -> [u8; 32] {
        if self.zeros.0 != bytes {
            self.zeros = (bytes, hash_of_zeros(bytes));
        }
        self.zeros.1
    }

    /// Fetches what was found until there is no more; the pieces that cannot be read.
    pub(super) fn run(
        mut self,
        found: &Receiver<Found>,
        ahead: &Ahead,
        fetched: &SyncSender<Fetched>,
    ) -> Result<Vec<Piece>, CopyError> {
        let _reader = ahead.reader();
        let mut unreadable = Vec::new();
        for next in found {
            let index = next.index;
            let to_be_read = next.is_to_be_read();
            let piece = self.pass.job.pieces[index];
            let end = self.fetch(next)?;
            if to_be_read {
                ahead.one_less();
            }
            match end {
                End::Fetched(fetch) => {
                    if fetched.send(fetch).is_err() {
                        break;
                    }
                }
                End::Unreadable => {
                    unreadable.push(piece);
                    lock(self.pass.job.bad).note(piece)?;
                    let news = Fetched {
                        index,
                        piece,
                        expected: None,
                        content: Content::Unreadable,
                    };
                    if fetched.send(news).is_err() {
                        break;
                    }
                }
                End::HungUp => break,
            }
        }
        Ok(unreadable)
    }

    /// Fetches what is there at this moment.
    fn fetch_changing(
        &mut self,
        index: usize,
        piece: Piece,
        zeros: Option<Vec<bool>>,
    ) -> Result<End, CopyError> {
        let (expected, content) = match is_all_zeros(zeros.as_deref()) {
            true => (self.hash_of_zeros(piece.bytes()), Content::Zero),
            false => {
                let Some(mut space) = self.buffer() else {
                    return Ok(End::HungUp);
                };
                match self.read(piece, zeros, &mut space) {
                    Ok(()) => {}
                    Err(SourceError::Unreadable { .. }) => {
                        self.spare = Some(space);
                        return Ok(End::Unreadable);
                    }
                    Err(SourceError::Failed(why)) => return Err(failed(piece, why)),
                }
                let hash = *blake3::hash(&space[..piece.bytes()]).as_bytes();
                (hash, Content::Data(space))
            }
        };
        Ok(End::Fetched(Fetched {
            index,
            piece,
            expected: Some(expected),
            content,
        }))
    }

    fn fetch(&mut self, found: Found) -> Result<End, CopyError> {
        let Found {
            index,
            digest: asked,
            mut zeros,
        } = found;
        let piece = self.pass.job.pieces[index];
        let fetched = |expected, content| {
            End::Fetched(Fetched {
                index,
                piece,
                expected,
                content,
            })
        };
        let mut digest = match asked {
            Asked::Done(noted) => match self.still_there(piece, noted) {
                None => return Ok(End::HungUp),
                Some(true) => return Ok(fetched(None, Content::Before)),
                // Somebody wrote to the destination since.
                Some(false) => {
                    if let Some(journal) = self.pass.job.journal {
                        lock(journal).forget(index);
                    }
                    match self.source.digest(piece.lba, piece.count) {
                        Ok(digest) => digest,
                        Err(SourceError::Unreadable { .. }) => return Ok(End::Unreadable),
                        Err(SourceError::Failed(why)) => return Err(failed(piece, why)),
                    }
                }
            },
            Asked::Unreadable => return Ok(End::Unreadable),
            Asked::Changing => return self.fetch_changing(index, piece, zeros),
            Asked::Digest(digest) => digest,
        };
        if !self.pass.job.options.fresh {
            let Some(mut have) = self.buffer() else {
                return Ok(End::HungUp);
            };
            // A destination that cannot be read here is written, and then read back, where failing
            // again is an error.
            let part = &mut have[..piece.bytes()];
            if self.pass.sink.read_back(piece.offset(), part).is_ok()
                && *blake3::hash(part).as_bytes() == digest.blake3
            {
                return Ok(fetched(Some(digest.blake3), Content::Equal(have)));
            }
            self.spare = Some(have);
        }
        for again in [false, true] {
            if again {
                match self.source.digest(piece.lba, piece.count) {
                    Ok(now) => digest = now,
                    Err(SourceError::Unreadable { .. }) => return Ok(End::Unreadable),
                    Err(SourceError::Failed(why)) => return Err(failed(piece, why)),
                }
            }
            if digest.zero {
                if self.hash_of_zeros(piece.bytes()) == digest.blake3 {
                    return Ok(fetched(Some(digest.blake3), Content::Zero));
                }
                continue;
            }
            let Some(mut space) = self.buffer() else {
                return Ok(End::HungUp);
            };
            match self.read(piece, zeros.take(), &mut space) {
                Ok(()) => {}
                Err(SourceError::Unreadable { .. }) => {
                    self.spare = Some(space);
                    return Ok(End::Unreadable);
                }
                Err(SourceError::Failed(why)) => return Err(failed(piece, why)),
            }
            let options = self.pass.job.options;
            let now = || *blake3::hash(&space[..piece.bytes()]).as_bytes();
            let expected = if !options.verify.source() || options.changing {
                now()
            } else if options.verify.written() && !self.pass.careful {
                // What is read back is compared with the old machine's digest: no need to do it twice.
                digest.blake3
            } else if digest.blake3 == now() {
                digest.blake3
            } else {
                self.spare = Some(space);
                continue;
            };
            return Ok(fetched(Some(expected), Content::Data(space)));
        }
        Err(CopyError::SourceDisagrees {
            lba: piece.lba,
            last: piece.last(),
        })
    }

    /// Whether the destination holds what was noted of a piece. `None`: the pool gives nothing more.
    fn still_there(&mut self, piece: Piece, noted: [u8; 32]) -> Option<bool> {
        let mut have = self.buffer()?;
        let part = &mut have[..piece.bytes()];
        let there = self.pass.sink.read_back(piece.offset(), part).is_ok()
            && *blake3::hash(part).as_bytes() == noted;
        self.spare = Some(have);
        Some(there)
    }

    /// Reads a piece; what reads as zeros does not cross the wire. `zeros` says where that is, if it is
    /// known.
    fn read(
        &mut self,
        piece: Piece,
        zeros: Option<Vec<bool>>,
        space: &mut Buffer,
    ) -> Result<(), SourceError> {
        let data = &mut space[..piece.bytes()];
        let zeros = match zeros {
            Some(zeros) => zeros,
            None => self.zeros_of.of(self.source, piece)?,
        };
        let stretch = match zeros.len() {
            1 => data.len(),
            _ => STRETCH as usize * SECTOR as usize,
        };
        let mut from = 0;
        while from < zeros.len() {
            let zero = zeros[from];
            let run = zeros[from..].iter().take_while(|z| **z == zero).count();
            let end = ((from + run) * stretch).min(data.len());
            let part = &mut data[from * stretch..end];
            if zero {
                part.fill(0);
            } else {
                if let Some(limit) = self.pass.job.options.limit {
                    limit.wait_for(part.len() as u64, self.pass.stop);
                }
                let lba = piece.lba + (from * stretch) as u64 / SECTOR;
                self.source.read(lba, part)?;
            }
            from += run;
        }
        Ok(())
    }
}

/// BLAKE3 of so many zeros.
fn hash_of_zeros(bytes: usize) -> [u8; 32] {
    static CHUNK: [u8; 64 << 10] = [0; 64 << 10];
    let mut hasher = blake3::Hasher::new();
    let mut left = bytes;
    while left > 0 {
        let part = left.min(CHUNK.len());
        hasher.update(&CHUNK[..part]);
        left -= part;
    }
    *hasher.finalize().as_bytes()
}
