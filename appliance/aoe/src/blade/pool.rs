//! Threads that wait for disks: for what the kernel cannot do by itself on a ring, and for all of it
//! where there is no ring.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::operation::{Ended, Operation};
use super::schedule::AT_WORK_MAX;

/// Threads at the most: as many requests are with all disks at once. They are made when they are
/// needed, so one disk has no more than [`AT_WORK_MAX`] of them.
const THREADS_MAX: usize = 4 * AT_WORK_MAX;

#[derive(Default)]
struct State {
    waiting: VecDeque<Operation>,
    ended: Vec<Ended>,
    threads: usize,
    idle: usize,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    /// Readable when something has ended.
    ended: EventFd,
    /// Set when something has ended, so that looking costs nothing when nothing has.
    any: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Tells that something has ended, which is in `state` already.
    fn tell(&self) {
        // It cannot be full: that would take 2^64 writes without a read. Before the flag, so that who
        // sees the flag finds the descriptor readable and clears it: it never stays so for nothing.
        let _ = self.ended.write(1);
        self.any.store(true, Ordering::Release);
    }
}

/// The threads. They are started when they are needed, and end with the pool after the work they
/// have.
pub(super) struct Pool(Arc<Shared>);

impl Pool {
    pub(super) fn new() -> io::Result<Pool> {
        Ok(Pool(Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            ended: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            any: AtomicBool::new(false),
        })))
    }

    /// Hands it to a thread.
    pub(super) fn submit(&self, operation: Operation) {
        let mut state = self.0.lock();
        state.waiting.push_back(operation);
        if state.idle < state.waiting.len() && state.threads < THREADS_MAX {
            let shared = self.0.clone();
            let started = std::thread::Builder::new()
                .name("disk".into())
                .stack_size(128 << 10)
                .spawn(move || work(&shared));
            match started {
                Ok(_) => state.threads += 1,
                // Others will come to it; without any it is done here, which is late but not lost.
                Err(_) if state.threads > 0 => {}
                Err(_) => {
                    if let Some(operation) = state.waiting.pop_back() {
                        drop(state);
                        let ended = operation.run();
                        self.0.lock().ended.push(ended);
                        self.0.tell();
                    }
                    return;
                }
            }
        }
        self.0.work.notify_one();
    }

    /// Moves what has ended to `ended`.
    pub(super) fn reap(&self, ended: &mut Vec<Ended>) {
        // Both before looking: what ends after it sets them again.
        if !self.0.any.swap(false, Ordering::AcqRel) {
            return;
        }
        let _ = self.0.ended.read();
        ended.append(&mut self.0.lock().ended);
    }

    /// Readable when something has ended.
    pub(super) fn readiness(&self) -> BorrowedFd<'_> {
        self.0.ended.as_fd()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.work.notify_all();
    }
}

fn work(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        if let Some(operation) = state.waiting.pop_front() {
            drop(state);
            let ended = operation.run();
            state = shared.lock();
            state.ended.push(ended);
            shared.tell();
        } else if state.closed {
            return;
        } else {
            state.idle += 1;
            state = shared
                .work
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            state.idle -= 1;
        }
    }
}
