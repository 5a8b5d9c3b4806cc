//! Many transfers by a few threads: one system call finds all whose clients
//! have answered, and none of them has to be woken. Those whose clients' packets
//! come in by one processor are served by one thread, which is mostly there: to
//! wake somebody at another processor costs more than all else, and in a virtual
//! machine many times more.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::AsyncRead;
use log::trace;
use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{
    Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout,
};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::conversation::{Turn, HEARD_MAX};
use super::rest::{Running, STACK};
use crate::error::Result;

/// Threads at most; one for each processor, up to that.
const WORKERS_MAX: usize = 8;
/// Clients' answers that are looked for at a time.
const EVENTS: usize = 64;
/// How much later than its time a block may be sent again.
const TICK: Duration = Duration::from_millis(100);
/// Turns of a client until it is looked where they come in now.
const TURNS: u32 = 256;
/// Instead of a member's number: there is a new one, or there will be no more.
const NEWS: u64 = u64::MAX;

/// The processor that took in what came last (`socket(7)`).
fn incoming_cpu(socket: &UdpSocket) -> Option<usize> {
    let mut cpu: libc::c_int = -1;
    let mut size = std::mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both point to what is as large as is said, and lives on.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_INCOMING_CPU,
            (&raw mut cpu).cast(),
            &mut size,
        )
    };
    usize::try_from(cpu).ok().filter(|_| failed == 0)
}

/// The threads, started with the first member. Each ends with its last member,
/// once this is dropped.
pub(crate) struct Crowd<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    workers: Mutex<Vec<Worker<R>>>,
    next: AtomicUsize,
}

impl<R> Default for Crowd<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    fn default() -> Crowd<R> {
        Crowd {
            workers: Mutex::default(),
            next: AtomicUsize::new(0),
        }
    }
}

struct Worker<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    /// `None` only while it is dropped: the thread is woken after it.
    give: Option<Sender<Box<Running<R>>>>,
    news: Arc<EventFd>,
}

impl<R> Crowd<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    /// One more, its client having been sent something. It is ended if nobody
    /// can take it.
    pub(crate) fn add(&self, running: Running<R>) {
        if let Err(e) = running.conversation.socket.set_nonblocking(true) {
            return running.end(Err(e.into()));
        }
        if let Err((running, e)) = self.give(Box::new(running)) {
            running.end(Err(e.into()));
        }
    }

    fn give(
        &self,
        running: Box<Running<R>>,
    ) -> std::result::Result<(), (Box<Running<R>>, io::Error)> {
        let mut workers = self.lock();
        if workers.is_empty() {
            match start_all() {
                Ok(all) => *workers = all,
                Err(e) => return Err((running, e)),
            }
        }
        let home = home(&running.conversation.socket, workers.len());
        let home = home.unwrap_or_else(|| {
            self.next.fetch_add(1, Ordering::Relaxed) % workers.len()
        });
        let Err(running) = workers[home].add(running) else {
            return Ok(());
        };
        // It has ended, though it should not: another takes its place.
        match Worker::start(home) {
            Ok(worker) => workers[home] = worker,
            Err(e) => return Err((running, e)),
        }
        let gone = |running| (running, io::ErrorKind::BrokenPipe.into());
        workers[home].add(running).map_err(gone)
    }

    /// Who is best to serve it, as far as that is known.
    fn home(&self, socket: &UdpSocket) -> Option<usize> {
        home(socket, self.lock().len())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Worker<R>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn home(socket: &UdpSocket, workers: usize) -> Option<usize> {
    incoming_cpu(socket)?.checked_rem(workers)
}

/// One for each processor. Fewer do as well.
fn start_all<R>() -> io::Result<Vec<Worker<R>>>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let mut all = vec![Worker::start(0)?];
    for number in 1..cpus.min(WORKERS_MAX) {
        match Worker::start(number) {
            Ok(worker) => all.push(worker),
            Err(e) => {
                trace!("A thread for transfers: {e}");
                break;
            }
        }
    }
    Ok(all)
}

impl<R> Worker<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    fn start(number: usize) -> io::Result<Worker<R>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let news = Arc::new(EventFd::from_flags(flags)?);
        epoll.add(&*news, EpollEvent::new(EpollFlags::EPOLLIN, NEWS))?;
        let (give, take) = mpsc::channel();
        let members = Members {
            number,
            epoll,
            list: Vec::new(),
            count: 0,
            buffer: [0; HEARD_MAX],
        };
        let its_news = Arc::clone(&news);
        thread::Builder::new()
            .name("tftp transfers".to_string())
            .stack_size(STACK)
            .spawn(move || members.serve(&take, &its_news))?;
        Ok(Worker {
            give: Some(give),
            news,
        })
    }

    /// It comes back if the thread has ended.
    fn add(
        &self,
        running: Box<Running<R>>,
    ) -> std::result::Result<(), Box<Running<R>>> {
        let Some(give) = &self.give else {
            return Err(running);
        };
        give.send(running).map_err(|mpsc::SendError(running)| running)?;
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        // It fails only where it was woken often and has not looked yet.
        let _ = self.news.write(1);
    }
}

impl<R> Drop for Worker<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    fn drop(&mut self) {
        self.give = None;
        self.wake();
    }
}

/// What one thread serves.
struct Members<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    /// This thread's, from 0.
    number: usize,
    epoll: Epoll,
    /// By their numbers.
    list: Vec<Option<Member<R>>>,
    /// So many of those are some.
    count: usize,
    buffer: [u8; HEARD_MAX],
}

struct Member<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    running: Box<Running<R>>,
    /// Of the client's answer.
    due: Instant,
    /// Of the client's, since it was last looked where they come in.
    turns: u32,
}

impl<R> Members<R>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    fn serve(mut self, take: &Receiver<Box<Running<R>>>, news: &EventFd) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut looked = Instant::now();
        let mut is_open = true;
        loop {
            let is_empty = self.count == 0;
            if is_empty && !is_open {
                return;
            }
            let wait = match is_empty {
                true => EpollTimeout::NONE,
                false => EpollTimeout::from(TICK.as_millis() as u8),
            };
            let ready = match self.epoll.wait(&mut events, wait) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => 0,
                // Of no kind that there is: its members are told as they go.
                Err(e) => return trace!("epoll_wait: {e}"),
            };
            for event in &events[..ready] {
                if event.data() == NEWS {
                    let _ = news.read();
                    is_open = self.take_in(take);
                } else {
                    self.hear(event.data() as usize);
                }
            }
            let now = Instant::now();
            if now.duration_since(looked) >= TICK {
                looked = now;
                self.late(now);
            }
        }
    }

    /// Whether there may be more.
    fn take_in(&mut self, take: &Receiver<Box<Running<R>>>) -> bool {
        loop {
            match take.try_recv() {
                Ok(running) => self.take_one(running),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn take_one(&mut self, running: Box<Running<R>>) {
        let free = self.list.iter().position(Option::is_none);
        let number = free.unwrap_or(self.list.len());
        let event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
        if let Err(e) = self.epoll.add(&*running.conversation.socket, event) {
            return running.end(Err(io::Error::from(e).into()));
        }
        let due = Instant::now() + running.conversation.timeout;
        let member = Some(Member {
            running,
            due,
            turns: 0,
        });
        self.count += 1;
        match free {
            Some(free) => self.list[free] = member,
            None => self.list.push(member),
        }
    }

    fn hear(&mut self, number: usize) {
        let Some(Some(member)) = self.list.get_mut(number) else {
            return;
        };
        let conversation = &mut member.running.conversation;
        let received = conversation.socket.recv(&mut self.buffer);
        let datagram = received.map(|len| &self.buffer[..len]);
        match conversation.hear(datagram) {
            Ok(Turn::Clients) => {
                member.due = Instant::now() + conversation.timeout;
                member.turns += 1;
                if member.turns == TURNS {
                    member.turns = 0;
                    self.go_home(number);
                }
            }
            Ok(Turn::Still) => {}
            Ok(Turn::Done) => self.end(number, Ok(())),
            Err(e) => self.end(number, Err(e)),
        }
    }

    /// Gives it to who is best to serve it.
    fn go_home(&mut self, number: usize) {
        let Some(Some(Member {
            running,
            ..
        })) = self.list.get(number)
        else {
            return;
        };
        let home = running.crowd().home(&running.conversation.socket);
        if home.is_some_and(|home| home != self.number) {
            if let Some(member) = self.take(number) {
                member.running.join();
            }
        }
    }

    /// Sends again what is not answered in time.
    fn late(&mut self, now: Instant) {
        for number in 0..self.list.len() {
            let Some(member) = &mut self.list[number] else {
                continue;
            };
            if member.due > now {
                continue;
            }
            let conversation = &mut member.running.conversation;
            member.due = now + conversation.timeout;
            if let Err(e) = conversation.late() {
                self.end(number, Err(e));
            }
        }
    }

    fn end(&mut self, number: usize, outcome: Result<()>) {
        if let Some(member) = self.take(number) {
            member.running.end(outcome);
        }
    }

    fn take(&mut self, number: usize) -> Option<Member<R>> {
        let member = self.list[number].take()?;
        self.count -= 1;
        // Others have the socket too: it is not closed by that.
        let _ = self.epoll.delete(&*member.running.conversation.socket);
        Some(member)
    }
}
