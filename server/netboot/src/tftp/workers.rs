//! The threads that transfers run on.
//!
//! One thread for each processor serves many transfers: a system call finds all whose clients have answered, and
//! none of them has to be woken. Those whose packets come in by one processor are served by the thread which is
//! mostly there: to wake a thread at another processor costs more than all else, and in a virtual machine many times
//! more. While few transfers flow, each has a thread of its own instead: a block is two system calls there.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::GetStruct;

use super::conversation::{Conversation, TIMEOUT, Turn};
use super::worker::Worker;

/// Threads for many transfers: one for each processor, up to this.
const THREADS_MAX: usize = 8;
/// Transfers that have a thread each, while no more flow: with more, waking one of them for each block costs more
/// than it spares.
const ALONE_MAX: usize = 4;
/// Bytes of a thread's stack; little of it is used.
pub(super) const STACK: usize = 128 * 1024;

/// The processor that took in what came last (`socket(7)`).
#[derive(Clone, Copy)]
struct IncomingCpu;

nix::getsockopt_impl!(
    IncomingCpu,
    libc::SOL_SOCKET,
    libc::SO_INCOMING_CPU,
    libc::c_int,
    GetStruct<libc::c_int>
);

/// All of them. The threads end when this is dropped, and so when the last transfer has ended.
#[derive(Default)]
pub(super) struct Workers {
    threads: Mutex<Vec<Worker>>,
    next: AtomicUsize,
    /// Transfers whose clients have answered.
    flowing: AtomicUsize,
}

impl Workers {
    /// Whether so few flow that each should have its own thread.
    pub(super) fn one_more_flows(&self) -> bool {
        self.flowing.fetch_add(1, Ordering::Relaxed) < ALONE_MAX
    }

    pub(super) fn one_less_flows(&self) {
        self.flowing.fetch_sub(1, Ordering::Relaxed);
    }

    fn are_many(&self) -> bool {
        self.flowing.load(Ordering::Relaxed) > ALONE_MAX
    }

    /// Takes a conversation whose client has something to answer. It ends if there is no thread for it.
    pub(super) fn add(&self, conversation: Box<Conversation>) {
        let mut threads = self.lock();
        if threads.is_empty() {
            threads.extend((0..threads_wanted()).map_while(|number| Worker::start(number).ok()));
        }
        let home = home(conversation.socket(), threads.len());
        let home = home.or_else(|| {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            next.checked_rem(threads.len())
        });
        if let Some(home) = home
            && let Err(conversation) = threads[home].give(conversation)
            // That thread has ended, though it should not have: another takes its place.
            && let Ok(another) = Worker::start(home)
        {
            threads[home] = another;
            drop(threads[home].give(conversation));
        }
    }

    /// Has a thread of its own serve it, or, if there is none, the others.
    pub(super) fn serve_alone(&self, conversation: Box<Conversation>) {
        let slot = Arc::new(Mutex::new(Some(conversation)));
        let take = |slot: &Mutex<Option<Box<Conversation>>>| {
            slot.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        let taken = Arc::clone(&slot);
        let thread = thread::Builder::new()
            .name("tftp transfer".to_owned())
            .stack_size(STACK)
            .spawn(move || take(&taken).map(until_it_is_over_or_there_are_many));
        if thread.is_err()
            && let Some(conversation) = take(&slot)
        {
            self.add(conversation);
        }
    }

    /// The number of the thread that is at the processor where this socket's packets come in, as far as that is
    /// known.
    pub(super) fn home(&self, socket: &UdpSocket) -> Option<usize> {
        home(socket, self.lock().len())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Worker>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Workers {
    pub(super) fn of(threads: Vec<Worker>) -> Workers {
        Workers {
            threads: Mutex::new(threads),
            ..Workers::default()
        }
    }
}

fn until_it_is_over_or_there_are_many(mut conversation: Box<Conversation>) {
    let mut since = Instant::now();
    loop {
        let turn = match conversation.receive(true) {
            // What comes meanwhile does not put off the end of the client's time for long.
            Turn::Still if since.elapsed() >= TIMEOUT => conversation.late(),
            turn => turn,
        };
        match turn {
            Turn::Over => return,
            Turn::Still => {}
            Turn::Clients => {
                let workers = Arc::clone(&conversation.workers);
                if workers.are_many() {
                    return workers.add(conversation);
                }
                since = Instant::now();
            }
        }
    }
}

fn threads_wanted() -> usize {
    thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS_MAX)
}

fn home(socket: &UdpSocket, threads: usize) -> Option<usize> {
    let cpu = getsockopt(socket, IncomingCpu).ok()?;
    usize::try_from(cpu).ok()?.checked_rem(threads)
}
