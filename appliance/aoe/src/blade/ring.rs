//! The kernel's own queue for disk requests (io_uring): many at once, without a thread for each, and
//! one system call for a batch of them. Old kernels and hardened systems do not have it; then the
//! [`Pool`](super::pool::Pool) does all the work.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode, squeue, types};
use nix::libc;
use p2v_contract::address::SECTOR;

use super::disk::ADVICE;
use super::operation::{Action, Ended, Operation, Outcome};
use super::schedule::AT_WORK_MAX;

/// Operations at work at the most: with the requests of several hosts, each with a window of 64.
const ENTRIES: u32 = 4 * AT_WORK_MAX as u32;
/// Kernel threads at the most for what cannot be done without waiting (a read of a FUSE file, fetching
/// ahead, a flush): enough that three disks that do not answer leave some for the others.
const WORKERS: u32 = 4 * AT_WORK_MAX as u32;
/// Completions with names from here on are of sockets that have become readable.
const POLL: u64 = 1 << 32;
/// A completion that means nothing: of a poll that was taken back.
const NOTHING: u64 = u64::MAX;
/// An operation that the kernel has.
struct InFlight {
    operation: Operation,
    /// Kept open until it ends.
    _file: Arc<File>,
    /// What the kernel reads the addresses from.
    _parts: Vec<libc::iovec>,
    /// Bytes that it moves when all goes well.
    bytes: i64,
    /// Completions to come.
    left: usize,
    failed: Option<io::Error>,
}

// SAFETY: the addresses in `_parts` are of memory that `operation` owns, so they go where it goes.
unsafe impl Send for InFlight {}

/// The queue.
pub(super) struct Ring {
    ring: IoUring,
    slots: Vec<Option<InFlight>>,
    free: Vec<usize>,
    /// Which of the sockets are being watched.
    watched: Vec<bool>,
    /// Goes up when the sockets change, so that old completions are known.
    generation: u64,
}

impl Ring {
    /// The queue, where the kernel has one that does all we need.
    pub(super) fn new() -> Option<Ring> {
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .build(ENTRIES)
            .or_else(|_| IoUring::new(ENTRIES))
            .ok()?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).ok()?;
        let needed = [
            opcode::Read::CODE,
            opcode::Writev::CODE,
            opcode::Fsync::CODE,
            opcode::Fadvise::CODE,
            opcode::PollAdd::CODE,
            opcode::PollRemove::CODE,
        ];
        let all = needed.iter().all(|code| probe.is_supported(*code));
        if !all || !ring.params().is_feature_ext_arg() {
            return None;
        }
        // Linux 5.15; before that the kernel has its own idea.
        let _ = ring
            .submitter()
            .register_iowq_max_workers(&mut [WORKERS, WORKERS]);
        Some(Ring {
            ring,
            slots: Vec::new(),
            free: Vec::new(),
            watched: Vec::new(),
            generation: 0,
        })
    }

    /// Hands an operation to the kernel with the next [`Ring::enter`]; gives it back if that must be
    /// done by a thread.
    pub(super) fn submit(&mut self, mut operation: Operation) -> Result<(), Box<Operation>> {
        let room = self.slots.len() - self.free.len() < ENTRIES as usize;
        let Some(files) = operation.disk.files().filter(|_| room) else {
            return Err(Box::new(operation));
        };
        let at = operation.lba * SECTOR;
        let mut parts = Vec::new();
        let mut entries = Vec::new();
        let (file, bytes) = match &mut operation.action {
            Action::Read {
                buffer,
                bytes,
                cached,
            } => {
                let file = if *cached {
                    &files.cached
                } else {
                    files.direct()
                };
                let fd = types::Fd(file.as_raw_fd());
                let read = opcode::Read::new(fd, buffer.as_mut_ptr(), *bytes as u32);
                entries.push(read.offset(at).build());
                (file, *bytes as i64)
            }
            Action::Write { pieces, stable } => {
                let file = files.direct();
                parts.extend(pieces.iter().map(|piece| libc::iovec {
                    iov_base: piece.data().as_ptr().cast_mut().cast(),
                    iov_len: piece.bytes,
                }));
                let fd = types::Fd(file.as_raw_fd());
                let write = opcode::Writev::new(fd, parts.as_ptr(), parts.len() as u32)
                    .rw_flags(if *stable { libc::RWF_DSYNC } else { 0 });
                entries.push(write.offset(at).build());
                (file, pieces.iter().map(|piece| piece.bytes as i64).sum())
            }
            Action::Sync => {
                let fd = types::Fd(files.cached.as_raw_fd());
                let sync = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC);
                entries.push(sync.build());
                (&files.cached, 0)
            }
            Action::Ahead { sectors } => {
                let fd = types::Fd(files.cached.as_raw_fd());
                let end = at + *sectors * SECTOR;
                for from in (at..end).step_by(ADVICE as usize) {
                    let bytes = (end - from).min(ADVICE);
                    let advice =
                        opcode::Fadvise::new(fd, bytes as libc::off_t, libc::POSIX_FADV_WILLNEED);
                    entries.push(advice.offset(from).build());
                }
                (&files.cached, 0)
            }
            _ => return Err(Box::new(operation)),
        };
        let file = file.clone();
        let left = entries.len();
        let room = {
            let queue = self.ring.submission();
            queue.capacity() - queue.len()
        };
        if room < left && (self.enter(None).is_err() || left > ENTRIES as usize / 2) {
            return Err(Box::new(operation));
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(InFlight {
            operation,
            _file: file,
            _parts: parts,
            bytes,
            left,
            failed: None,
        });
        let entries: Vec<squeue::Entry> = entries
            .into_iter()
            .map(|entry| entry.user_data(slot as u64))
            .collect();
        // SAFETY: the buffers, the list of parts and the file that the entries name are owned by the
        // slot (on the heap, so that moving the slot does not move them), which is emptied only when
        // every completion has come; a ring that is dropped earlier leaks them.
        let pushed = unsafe { self.ring.submission().push_multiple(&entries) };
        if pushed.is_ok() {
            return Ok(());
        }
        match self.slots[slot].take() {
            Some(back) => {
                self.free.push(slot);
                Err(Box::new(back.operation))
            }
            None => Ok(()),
        }
    }

    /// Gives the kernel what was submitted, and with a `timeout` waits no longer than that for
    /// something to end.
    pub(super) fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let entered = match timeout {
            None if self.ring.submission().is_empty() => return Ok(()),
            None => self.ring.submit(),
            Some(timeout) => {
                let timeout = types::Timespec::from(timeout);
                let arguments = types::SubmitArgs::new().timespec(&timeout);
                self.ring.submitter().submit_with_args(1, &arguments)
            }
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Nothing ended in time; a signal; completions to be taken first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Has the kernel watch the sockets along with the operations: [`Ring::enter`] ends when one
    /// becomes readable.
    pub(super) fn watch(&mut self, sockets: &[BorrowedFd<'_>]) {
        self.watched.resize(sockets.len(), false);
        for (index, socket) in sockets.iter().enumerate() {
            if self.watched[index] {
                continue;
            }
            let fd = types::Fd(socket.as_raw_fd());
            let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32)
                .build()
                .user_data(self.poll_name(index));
            // SAFETY: the entry names no memory.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                self.watched[index] = true;
            }
        }
    }

    fn poll_name(&self, index: usize) -> u64 {
        POLL + (self.generation << 16) + index as u64
    }

    /// Lets go of the sockets, which the caller may close then.
    pub(super) fn unwatch(&mut self) {
        for index in 0..self.watched.len() {
            if self.watched[index] {
                let entry = opcode::PollRemove::new(self.poll_name(index))
                    .build()
                    .user_data(NOTHING);
                // SAFETY: the entry names no memory.
                let _ = unsafe { self.ring.submission().push(&entry) };
            }
        }
        let _ = self.enter(None);
        self.watched.clear();
        self.generation = (self.generation + 1) & 0xffff;
    }

    /// Whether this socket may have become readable since it was watched.
    pub(super) fn may_be_readable(&self, index: usize) -> bool {
        !self.watched.get(index).is_some_and(|watched| *watched)
    }

    /// Moves what has ended to `ended`.
    pub(super) fn reap(&mut self, ended: &mut Vec<Ended>) {
        let (polls, generation) = (POLL, self.generation);
        for completion in self.ring.completion() {
            let name = completion.user_data();
            if name == NOTHING {
                continue;
            }
            if name >= polls {
                if (name - polls) >> 16 == generation {
                    if let Some(watched) = self.watched.get_mut((name & 0xffff) as usize) {
                        *watched = false;
                    }
                }
                continue;
            }
            let slot = name as usize;
            let Some(in_flight) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
                continue;
            };
            in_flight.left -= 1;
            let result = i64::from(completion.result());
            if result < 0 {
                let error = io::Error::from_raw_os_error(-completion.result());
                in_flight.failed.get_or_insert(error);
            } else if result < in_flight.bytes {
                in_flight
                    .failed
                    .get_or_insert(io::ErrorKind::UnexpectedEof.into());
            }
            if in_flight.left != 0 {
                continue;
            }
            if let Some(in_flight) = self.slots[slot].take() {
                self.free.push(slot);
                ended.push(Ended {
                    operation: in_flight.operation,
                    outcome: Outcome::Whole(in_flight.failed.map_or(Ok(()), Err)),
                });
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel may still write to this memory: it must never be used for anything else.
        for slot in self.slots.drain(..).flatten() {
            let _ = ManuallyDrop::new(slot);
        }
    }
}
