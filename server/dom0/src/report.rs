//! Progress reporting for long-running work.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use p2v_copy::Progress;

use crate::name::MachineName;
use crate::wire::{Silence, SilenceListener};

/// What an old machine's silence is, for the operator; `what` is the disk's address.
pub fn silence(what: &str, silence: Silence, patience: Duration) -> String {
    match silence {
        Silence::Lasts(for_now) => format!(
            "{what} has said nothing for {} s and is waited for, up to {} s: is the old machine restarting, or its \
             cable out? Its screen tells",
            for_now.as_secs(),
            patience.as_secs()
        ),
        Silence::OfDisk(for_now) => format!(
            "{what} has not answered for {} s, though its machine does: its disk takes long, as one does that cannot \
             read, or the machine restarted and waits for `p2v resume` (see `p2v list`). It is waited for",
            for_now.as_secs()
        ),
        Silence::Ended(after) => format!("{what} answers again, after {} s", after.as_secs()),
    }
}

/// Two listeners for two sessions with one machine: what both hear is told once.
pub fn told_once(listener: SilenceListener) -> (SilenceListener, SilenceListener) {
    /// Both tell of one silence within this time.
    const TOGETHER: Duration = Duration::from_secs(4);
    let shared = Arc::new(Mutex::new((listener, None::<Duration>)));
    let half = || -> SilenceListener {
        let shared = shared.clone();
        Box::new(move |silence| {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let (listener, told) = &mut *shared;
            let news = match silence {
                Silence::Lasts(now) | Silence::OfDisk(now) => {
                    let news = told.is_none_or(|before| now > before + TOGETHER);
                    if news {
                        *told = Some(now);
                    }
                    news
                }
                Silence::Ended(_) => told.take().is_some(),
            };
            if news {
                listener(silence);
            }
        })
    };
    (half(), half())
}

/// Receives what a workflow has to say. All methods may be called from any thread.
pub trait Report: Sync {
    /// A step begins, in the present tense and with its object: `waiting for /dev/etherd/e7.0`.
    fn step(&self, text: &str);

    /// Something the operator should know and that did not stop the work.
    fn warn(&self, text: &str);

    /// A step of one machine's.
    fn step_of(&self, machine: &MachineName, text: &str) {
        self.step(&format!("{machine}: {text}"));
    }

    /// A warning about one machine.
    fn warn_of(&self, machine: &MachineName, text: &str) {
        self.warn(&format!("{machine}: {text}"));
    }

    /// A copy of the disk named `what` (an AoE address) got on.
    fn progress(&self, what: &str, progress: Progress);

    /// What tells the operator of the silence of the disk named `what`, for which `patience` is had.
    fn silence(&self, what: &str, patience: Duration) -> SilenceListener {
        let _ = (what, patience);
        Box::new(|_| {})
    }
}

/// Says nothing.
pub struct Silent;

impl Report for Silent {
    fn step(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn progress(&self, _: &str, _: Progress) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_that_both_hear_is_told_once() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let told = heard.clone();
        let (one, other) = told_once(Box::new(move |s| told.lock().unwrap().push(s)));
        let mut both = [one, other];
        let lasts = |seconds| Silence::Lasts(Duration::from_secs(seconds));
        let ended = Silence::Ended(Duration::from_secs(12));
        for (listener, silence) in [
            (0, lasts(5)),
            (1, lasts(5)),
            (1, Silence::OfDisk(Duration::from_secs(10))),
            (0, lasts(11)),
            (0, ended),
            (1, ended),
            (1, lasts(5)),
        ] {
            both[listener](silence);
        }
        assert_eq!(
            *heard.lock().unwrap(),
            [
                lasts(5),
                Silence::OfDisk(Duration::from_secs(10)),
                ended,
                lasts(5)
            ]
        );
    }
}
