//! The last two steps: what was fetched is written; what was written is synced, read back and compared.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use p2v_contract::SECTOR;

use super::journal::{Done, Kind};
use super::pool::{Buffer, Giver};
use super::{Allowance, CopyError, Pass, Piece, lock};
use crate::Progress;

/// Bytes that are synced and read back together, at the most.
pub(super) const BATCH: usize = 32 << 20;
/// Pieces without data of their own that are synced together.
const LIGHT_MAX: usize = 64;
/// How long the checker waits for a batch to fill.
const BATCH_WAIT: Duration = Duration::from_millis(250);
/// Time between two writings of the journal: so much work is done again at the most.
const JOURNAL_EVERY: Duration = Duration::from_secs(1);

/// What is to become of a piece.
pub(super) enum Content {
    /// It was copied and checked by an earlier run.
    Before,
    /// It cannot be read, and nothing is written.
    Unreadable,
    /// The destination has it; the buffer has done its work.
    Equal(Buffer),
    /// It is zeros.
    Zero,
    Data(Buffer),
}

/// A piece on its way to the destination.
pub(super) struct Fetched {
    pub(super) index: usize,
    pub(super) piece: Piece,
    /// BLAKE3 that it must have; `None` for one that an earlier run copied.
    pub(super) expected: Option<[u8; 32]>,
    pub(super) content: Content,
}

/// Writes pieces in the order in which they come.
pub(super) fn write_all(
    pass: &Pass<'_>,
    to_write: &Receiver<Fetched>,
    written: &SyncSender<Fetched>,
) -> Result<(), CopyError> {
    let (sink, options) = (pass.sink, pass.job.options);
    for fetched in to_write {
        let piece = fetched.piece;
        let result = match &fetched.content {
            Content::Before | Content::Equal(_) => Ok(()),
            // What a new volume holds there is of a volume that is gone.
            Content::Unreadable if options.fresh && !options.blank => {
                sink.zero(piece.offset(), piece.bytes())
            }
            Content::Unreadable => Ok(()),
            // Reading it back tells whether it is so.
            Content::Zero if options.fresh && options.blank && options.verify.written() => Ok(()),
            Content::Zero => sink.zero(piece.offset(), piece.bytes()),
            Content::Data(data) => {
                let bytes = piece.bytes() as u64;
                let may = |allowance: &Allowance| allowance.take(bytes, pass.stop);
                if !options.allowance.is_none_or(may) {
                    return Err(CopyError::Interrupted);
                }
                let result = sink.write_at(piece.offset(), &data[..piece.bytes()]);
                options
                    .allowance
                    .inspect(|allowance| allowance.wrote(bytes));
                result
            }
        };
        result.map_err(|source| CopyError::Sink {
            doing: "write",
            lba: piece.lba,
            source,
        })?;
        if written.send(fetched).is_err() {
            // The checker has failed, and says why.
            break;
        }
    }
    Ok(())
}

/// Checks what was written, and notes it.
pub(super) struct Checker<'a> {
    pass: &'a Pass<'a>,
    /// Pieces with data that are synced and read back together.
    batch: usize,
    giver: Giver,
    done: Progress,
    space: Buffer,
    /// Stable and checked, and not in the journal yet.
    to_note: Vec<(usize, Done)>,
    /// What did not arrive as its digest says.
    doubtful: Vec<usize>,
    noted: Instant,
}

impl<'a> Checker<'a> {
    pub(super) fn new(
        pass: &'a Pass<'a>,
        largest: usize,
        batch: usize,
        giver: Giver,
        done: Progress,
    ) -> Checker<'a> {
        Checker {
            pass,
            batch,
            giver,
            done,
            space: Buffer::new(largest),
            to_note: Vec::new(),
            doubtful: Vec::new(),
            noted: Instant::now(),
        }
    }

    /// Checks what comes until there is no more.
    pub(super) fn run(
        mut self,
        written: &Receiver<Fetched>,
    ) -> Result<(Progress, Vec<usize>), CopyError> {
        let mut batch: Vec<Fetched> = Vec::new();
        let mut full = 0;
        loop {
            match written.recv_timeout(BATCH_WAIT) {
                Ok(fetched) => {
                    if self.is_news(&fetched) {
                        (self.pass.progress)(self.done);
                        continue;
                    }
                    full += usize::from(matches!(fetched.content, Content::Data(_)));
                    batch.push(self.lighten(fetched));
                    if full < self.batch && batch.len() < LIGHT_MAX {
                        continue;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.check(&mut batch)?;
                    self.note()?;
                    (self.pass.progress)(self.done);
                    return Ok((self.done, self.doubtful));
                }
            }
            self.check(&mut batch)?;
            full = 0;
            if self.noted.elapsed() >= JOURNAL_EVERY {
                self.note()?;
            }
            (self.pass.progress)(self.done);
        }
    }

    /// Counts a piece with which there is nothing to be done.
    fn is_news(&mut self, fetched: &Fetched) -> bool {
        let bytes = fetched.piece.bytes() as u64;
        match fetched.content {
            Content::Before => {
                self.done.before += bytes;
                self.done.checked += bytes;
            }
            Content::Unreadable => self.done.unreadable += bytes,
            _ => return false,
        }
        true
    }

    /// Gives the buffer back where its content is not needed any more.
    fn lighten(&self, fetched: Fetched) -> Fetched {
        let Fetched {
            index,
            piece,
            expected,
            content,
        } = fetched;
        let content = match content {
            Content::Equal(buffer) => {
                self.giver.give(buffer);
                // An empty one: nothing is read from it.
                Content::Equal(Buffer::new(0))
            }
            other => other,
        };
        Fetched {
            index,
            piece,
            expected,
            content,
        }
    }

    /// Syncs the destination and compares what it holds with the digests.
    fn check(&mut self, batch: &mut Vec<Fetched>) -> Result<(), CopyError> {
        let Some(first) = batch.first() else {
            return Ok(());
        };
        let failed = |doing, lba| move |source| CopyError::Sink { doing, lba, source };
        // Also when nothing was written: what was found equal may still be in a volatile cache.
        self.pass
            .sink
            .sync()
            .map_err(failed("sync", first.piece.lba))?;
        for fetched in batch.drain(..) {
            let piece = fetched.piece;
            let bytes = piece.bytes() as u64;
            let expected = fetched.expected.unwrap_or_default();
            let kind = match fetched.content {
                Content::Equal(_) => Kind::Equal,
                Content::Zero => {
                    self.check_zeros(piece)?;
                    Kind::Zeroed
                }
                Content::Data(data) => {
                    let arrived = self.check_data(piece, expected, &data);
                    self.giver.give(data);
                    if !arrived? {
                        self.doubtful.push(fetched.index);
                        continue;
                    }
                    Kind::Moved
                }
                Content::Before | Content::Unreadable => continue,
            };
            match kind {
                Kind::Equal => self.done.equal += bytes,
                Kind::Zeroed => self.done.zeroed += bytes,
                Kind::Moved => self.done.moved += bytes,
            }
            self.done.checked += bytes;
            let done = Done {
                hash: expected,
                kind,
            };
            self.to_note.push((fetched.index, done));
        }
        Ok(())
    }

    fn read_back(&mut self, piece: Piece) -> Result<(), CopyError> {
        let part = &mut self.space[..piece.bytes()];
        let read = self.pass.sink.read_back(piece.offset(), part);
        read.map_err(|source| CopyError::Sink {
            doing: "read back",
            lba: piece.lba,
            source,
        })
    }

    /// Whether what arrived was right; it is an error if the destination does not hold it.
    fn check_data(
        &mut self,
        piece: Piece,
        expected: [u8; 32],
        data: &[u8],
    ) -> Result<bool, CopyError> {
        if !self.pass.job.options.verify.written() {
            return Ok(true);
        }
        self.read_back(piece)?;
        let bytes = piece.bytes();
        if *blake3::hash(&self.space[..bytes]).as_bytes() == expected {
            return Ok(true);
        }
        // Who is to blame: what arrived, or what was kept?
        if self.space[..bytes] == data[..bytes] && !self.pass.careful {
            return Ok(false);
        }
        Err(self.sink_disagrees(piece))
    }

    fn check_zeros(&mut self, piece: Piece) -> Result<(), CopyError> {
        if !self.pass.job.options.verify.written() {
            return Ok(());
        }
        self.read_back(piece)?;
        if is_zero(&self.space[..piece.bytes()]) {
            return Ok(());
        }
        Err(self.sink_disagrees(piece))
    }

    fn sink_disagrees(&self, piece: Piece) -> CopyError {
        CopyError::SinkDisagrees {
            lba: piece.lba,
            last: piece.last(),
        }
    }

    /// Writes the journal.
    fn note(&mut self) -> Result<(), CopyError> {
        self.noted = Instant::now();
        let Some(journal) = self.pass.job.journal else {
            self.to_note.clear();
            return Ok(());
        };
        let mut journal = lock(journal);
        let noted = journal.note(&self.to_note);
        noted.map_err(|source| CopyError::Journal {
            path: journal.path().to_owned(),
            source,
        })?;
        self.to_note.clear();
        Ok(())
    }
}

/// Whether all bytes are zero.
fn is_zero(bytes: &[u8]) -> bool {
    let chunks = bytes.chunks_exact(SECTOR as usize);
    let tail = chunks.remainder();
    chunks
        .into_iter()
        .all(|chunk| chunk == [0; SECTOR as usize])
        && tail.iter().all(|byte| *byte == 0)
}
