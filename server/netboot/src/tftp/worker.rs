//! One thread that serves many transfers.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::conversation::{Conversation, TIMEOUT, Turn};
use super::workers::STACK;

/// Clients' answers that are found at a time.
const EVENTS: usize = 64;
/// How much later than its time a block may be sent again.
const TICK: Duration = Duration::from_millis(100);
/// Turns of a client after which it is asked anew where its packets come in.
const TURNS: u32 = 256;
/// In the place of a member's number: there is a new one, or there will be no more.
const NEWS: u64 = u64::MAX;

/// The thread's other end. It ends with its last member once this is dropped.
pub(super) struct Worker {
    /// `None` only while it is dropped: the thread is woken after it.
    give: Option<Sender<Box<Conversation>>>,
    news: Arc<EventFd>,
}

impl Worker {
    /// The thread of this number.
    pub(super) fn start(number: usize) -> io::Result<Worker> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let news = Arc::new(EventFd::from_flags(flags)?);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&*news, EpollEvent::new(EpollFlags::EPOLLIN, NEWS))?;
        let (give, take) = mpsc::channel();
        let members = Members {
            number,
            epoll,
            take: Some(take),
            news: Arc::clone(&news),
            list: HashMap::new(),
            given: 0,
        };
        thread::Builder::new()
            .name("tftp transfers".to_owned())
            .stack_size(STACK)
            .spawn(move || members.serve())?;
        Ok(Worker {
            give: Some(give),
            news,
        })
    }

    /// It comes back if the thread has ended.
    pub(super) fn give(&self, conversation: Box<Conversation>) -> Result<(), Box<Conversation>> {
        let Some(give) = &self.give else {
            return Err(conversation);
        };
        give.send(conversation)
            .map_err(|mpsc::SendError(back)| back)?;
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        // It fails only where the thread was woken often and has not come to it.
        let _ = self.news.write(1);
    }
}

#[cfg(test)]
impl Worker {
    pub(super) fn news(&self) -> Arc<EventFd> {
        Arc::clone(&self.news)
    }

    pub(super) fn that_has_ended() -> Worker {
        Worker {
            give: Some(mpsc::channel().0),
            news: Arc::new(EventFd::new().unwrap()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.give = None;
        self.wake();
    }
}

/// What the thread serves.
struct Members {
    number: usize,
    epoll: Epoll,
    /// `None`: there will be no more.
    take: Option<Receiver<Box<Conversation>>>,
    news: Arc<EventFd>,
    /// By their numbers, which are not used again.
    list: HashMap<u64, Member>,
    given: u64,
}

struct Member {
    conversation: Box<Conversation>,
    /// When the client's time is over.
    due: Instant,
    turns: u32,
}

impl Members {
    fn serve(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut looked = Instant::now();
        while self.take.is_some() || !self.list.is_empty() {
            let wait = match self.list.is_empty() {
                true => EpollTimeout::NONE,
                false => EpollTimeout::from(TICK.as_millis() as u8),
            };
            let ready = match self.epoll.wait(&mut events, wait) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => 0,
                // Of no kind that there is: the members tell that they end.
                Err(_) => return,
            };
            for event in &events[..ready] {
                match event.data() {
                    NEWS => self.take_in(),
                    number => self.hear(number),
                }
            }
            let now = Instant::now();
            if now.duration_since(looked) >= TICK {
                looked = now;
                self.late(now);
            }
        }
    }

    fn take_in(&mut self) {
        let _ = self.news.read();
        while let Some(take) = &self.take {
            match take.try_recv() {
                Ok(conversation) => self.add(conversation),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => self.take = None,
            }
        }
    }

    fn add(&mut self, conversation: Box<Conversation>) {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.given);
        if self.epoll.add(conversation.socket().as_fd(), event).is_ok() {
            let member = Member {
                due: Instant::now() + TIMEOUT,
                // One that was moved here is where it should be.
                turns: conversation.flows().into(),
                conversation,
            };
            self.list.insert(self.given, member);
            self.given += 1;
        }
    }

    fn hear(&mut self, number: u64) {
        let Some(member) = self.list.get_mut(&number) else {
            return;
        };
        match member.conversation.receive(false) {
            Turn::Over => drop(self.list.remove(&number)),
            Turn::Still => {}
            Turn::Clients => {
                member.due = Instant::now() + TIMEOUT;
                let turns = member.turns;
                member.turns = turns.wrapping_add(1);
                if turns % TURNS == 0 {
                    self.find_its_place(number);
                }
            }
        }
    }

    /// Gives a member to the thread that serves it best: its own, or the one where its packets come in.
    fn find_its_place(&mut self, number: u64) {
        let Some(member) = self.list.get_mut(&number) else {
            return;
        };
        let conversation = &mut member.conversation;
        let workers = Arc::clone(&conversation.workers);
        let is_alone = conversation.is_for_a_thread_of_its_own();
        if !is_alone
            && workers
                .home(conversation.socket())
                .is_none_or(|home| home == self.number)
        {
            return;
        }
        // The registry has the socket too: dropping this one does not close it.
        let _ = self.epoll.delete(conversation.socket().as_fd());
        if let Some(Member { conversation, .. }) = self.list.remove(&number) {
            match is_alone {
                true => workers.serve_alone(conversation),
                false => workers.add(conversation),
            }
        }
    }

    /// Sends again what was not answered in time.
    fn late(&mut self, now: Instant) {
        self.list.retain(|_, member| {
            if member.due > now {
                return true;
            }
            member.due = now + TIMEOUT;
            member.conversation.late() != Turn::Over
        });
    }
}
