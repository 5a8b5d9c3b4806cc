//! What systemd is told (`sd_notify(3)`); without it nobody is, and nothing is lost.

use sd_notify::NotifyState;

/// The service answers machines from now on.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What it did last, for `systemctl status`.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// It ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
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
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        eprintln!("p2v serve: cannot tell the service manager: {error}");
    }
}
