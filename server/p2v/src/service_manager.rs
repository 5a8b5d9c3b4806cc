//! What systemd is told (`sd_notify(3)`); without it nobody is, and nothing is lost.
//!
//! Aside: a manager that is busy, or does not read at all, has its socket full after some ten messages, and whoever
//! sends one more waits. No machine does.

use std::sync::OnceLock;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::aside::Aside;
use crate::serve_log;

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
#[derive(Debug, Default)]
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
            serve_log::line(format_args!(
                "p2v serve: cannot tell the service manager: {error}"
            ));
        }
    }
}

static TELLER: OnceLock<Option<&'static Aside<News>>> = OnceLock::new();

fn tell(add: impl FnOnce(&mut News)) {
    let teller = TELLER.get_or_init(|| {
        std::env::var_os("NOTIFY_SOCKET")?;
        match Aside::start("manager", |news: News| news.tell()) {
            Ok(teller) => Some(teller),
            Err(error) => {
                serve_log::line(format_args!(
                    "p2v serve: no thread to tell the service manager, and machines wait while it does not listen: {error}"
                ));
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
