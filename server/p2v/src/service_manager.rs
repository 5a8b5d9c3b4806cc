//! What systemd is told (`sd_notify(3)`); without it nobody is, and nothing is lost.
//!
//! By a thread of its own: a manager that is busy, or does not read at all, has its socket full after some ten messages,
//! and whoever sends one more waits. No machine does.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

/// How long the end of the service waits for a manager that does not read.
const END_WAIT: Duration = Duration::from_secs(1);

/// The service answers machines from now on.
pub fn ready(status: &str) {
    tell(|news| {
        news.ready = true;
        news.status = Some(status.to_owned());
    });
}

/// What it did last, for `systemctl status`.
pub fn status(status: &str) {
    tell(|news| news.status = Some(status.to_owned()));
}

/// It ends. Returns when the manager has been told all, or does not read.
pub fn stopping() {
    tell(|news| news.stopping = true);
    if let Some(Some(teller)) = TELLER.get() {
        teller.wait(END_WAIT);
    }
}

/// Shows that the service is alive as often as the unit's `WatchdogSec` asks for. Never returns.
pub async fn keep_alive() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    // sd_watchdog_enabled(3): half the time is recommended.
    let mut beat = tokio::time::interval(limit / 2);
    loop {
        beat.tick().await;
        tell(|news| news.alive = true);
    }
}

/// What was not told yet: of what happens again only the latest is worth telling.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    ready: bool,
    status: Option<String>,
    alive: bool,
    stopping: bool,
}

impl News {
    fn tell(&self) {
        let mut states = Vec::new();
        states.extend(self.ready.then_some(NotifyState::Ready));
        states.extend(self.status.as_deref().map(NotifyState::Status));
        states.extend(self.alive.then_some(NotifyState::Watchdog));
        states.extend(self.stopping.then_some(NotifyState::Stopping));
        if let Err(error) = sd_notify::notify(&states) {
            warn!("cannot tell the service manager: {error}");
        }
    }
}

/// The thread that tells it, and what waits for that.
#[derive(Debug, Default)]
struct Teller {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    news: News,
    /// Some are being told at this moment.
    is_telling: bool,
}

impl Teller {
    /// Starts the thread.
    fn start(tell: impl Fn(News) + Send + 'static) -> io::Result<&'static Teller> {
        let teller: &'static Teller = Box::leak(Box::default());
        thread::Builder::new()
            .name("manager".to_owned())
            .spawn(move || teller.run(tell))?;
        Ok(teller)
    }

    fn add(&self, add: impl FnOnce(&mut News)) {
        add(&mut self.lock().news);
        self.changed.notify_all();
    }

    /// Waits until all is told, or for so long.
    fn wait(&self, limit: Duration) {
        let is_left = |waiting: &mut Waiting| waiting.is_telling || waiting.news != News::default();
        let waited = self.changed.wait_timeout_while(self.lock(), limit, is_left);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // What is added is whole at every moment.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, tell: impl Fn(News)) -> ! {
        let mut waiting = self.lock();
        loop {
            let news = std::mem::take(&mut waiting.news);
            waiting.is_telling = news != News::default();
            if waiting.is_telling {
                drop(waiting);
                tell(news);
                waiting = self.lock();
                waiting.is_telling = false;
                self.changed.notify_all();
            } else {
                let woken = self.changed.wait(waiting);
                waiting = woken.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

static TELLER: OnceLock<Option<&'static Teller>> = OnceLock::new();

fn tell(add: impl FnOnce(&mut News)) {
    let teller = TELLER.get_or_init(|| {
        std::env::var_os("NOTIFY_SOCKET")?;
        match Teller::start(|news| news.tell()) {
            Ok(teller) => Some(teller),
            Err(error) => {
                warn!(
                    "no thread to tell the service manager, and machines wait while it does not listen: {error}"
                );
                None
            }
        }
    });
    match teller {
        Some(teller) => teller.add(add),
        None => {
            let mut news = News::default();
            add(&mut news);
            news.tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn who_tells_never_waits_and_of_what_came_meanwhile_only_the_latest_is_told() {
        let ((began, begins), (go, goes)) = (mpsc::channel(), mpsc::channel::<()>());
        let teller = Teller::start(move |news| {
            began.send(news).unwrap();
            goes.recv().unwrap();
        });
        let teller = teller.unwrap();
        let status = |n: u32| move |news: &mut News| news.status = Some(n.to_string());
        teller.add(status(1));
        assert_eq!(begins.recv().unwrap().status.as_deref(), Some("1"));
        (2..5).for_each(|n| teller.add(status(n)));
        teller.add(|news| news.alive = true);
        teller.wait(Duration::from_millis(1));
        assert!(begins.try_recv().is_err());
        go.send(()).unwrap();
        let news = begins.recv().unwrap();
        assert_eq!((news.status.as_deref(), news.alive), (Some("4"), true));
        go.send(()).unwrap();
        teller.wait(Duration::from_secs(60));
        assert!(!teller.lock().is_telling);
    }
}
