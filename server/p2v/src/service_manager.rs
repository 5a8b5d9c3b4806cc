//! What systemd is told (`sd_notify(3)`); without it nobody is, and nothing is lost.
//!
//! By a thread of its own: a manager that is busy, or does not read at all, has its socket full after some ten
//! messages, and whoever sends one more waits. No machine does.

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

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
        teller.wait_until_told(END_WAIT);
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
#[derive(Debug, Default)]
struct News {
    ready: bool,
    status: Option<String>,
    alive: bool,
    stopping: bool,
    /// Something is being told at this moment.
    telling: bool,
}

impl News {
    fn states(&self) -> Vec<NotifyState<'_>> {
        let mut states = Vec::new();
        states.extend(self.ready.then_some(NotifyState::Ready));
        states.extend(self.status.as_deref().map(NotifyState::Status));
        states.extend(self.alive.then_some(NotifyState::Watchdog));
        states.extend(self.stopping.then_some(NotifyState::Stopping));
        states
    }
}

#[derive(Debug, Default)]
struct Teller {
    news: Mutex<News>,
    changed: Condvar,
}

/// Started with the first thing there is to tell: threads of before the service gave root up would keep it.
static TELLER: OnceLock<Option<&'static Teller>> = OnceLock::new();

impl Teller {
    /// `None`: there is no manager, or no thread to be had.
    fn start() -> Option<&'static Teller> {
        std::env::var_os("NOTIFY_SOCKET")?;
        let teller: &'static Teller = Box::leak(Box::default());
        let thread = thread::Builder::new().name("manager".into());
        match thread.spawn(|| teller.tell_on()) {
            Ok(_) => Some(teller),
            Err(error) => {
                eprintln!("p2v serve: cannot tell the service manager: {error}");
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        // Nothing panics while holding it.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, add: impl FnOnce(&mut News)) {
        add(&mut self.lock());
        self.changed.notify_all();
    }

    fn tell_on(&self) -> ! {
        let mut news = self.lock();
        loop {
            if news.states().is_empty() {
                news = self
                    .changed
                    .wait(news)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let now = mem::take(&mut *news);
            news.telling = true;
            drop(news);
            if let Err(error) = sd_notify::notify(&now.states()) {
                eprintln!("p2v serve: cannot tell the service manager: {error}");
            }
            news = self.lock();
            news.telling = false;
            self.changed.notify_all();
        }
    }

    fn wait_until_told(&self, limit: Duration) {
        let is_waiting = |news: &mut News| news.telling || !news.states().is_empty();
        // Out of time or not, the service ends.
        drop(
            self.changed
                .wait_timeout_while(self.lock(), limit, is_waiting)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

fn tell(add: impl FnOnce(&mut News)) {
    if let Some(teller) = TELLER.get_or_init(Teller::start) {
        teller.add(add);
    }
}
