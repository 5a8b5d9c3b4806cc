//! What one look at an old machine leads to.

use std::time::Duration;

use crate::timestamp::Timestamp;
use crate::workflow::old_disks::Seen;
use crate::workflow::outage::{Outage, Pause};

/// Silence after which a warning is logged: less than this is a lost frame.
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// Silence after which the domain is paused: Linux gives a disk 30 s, Windows 60. It may have begun a whole look before
/// it was found, which takes some seconds for each machine that is silent.
const PAUSED_AFTER: Duration = Duration::from_secs(12);
/// After that it is tried again whether a machine that restarted may give its disks back.
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(15);

impl Outage {
    /// Whether the driver may have refused what the domain had asked for.
    pub(in crate::workflow) fn may_have_failed(&self, most: Duration, now: Timestamp) -> bool {
        let failed = self.told == Some(Seen::Failed);
        failed || self.since.age_at(now).is_some_and(|age| age > most)
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Tell,
    Pause,
    /// Give the disks back, if that is safe.
    Resume,
    /// End the domain.
    GiveUp,
    Unpause,
    /// The outage is over.
    End,
}

/// What one look at a machine leads to: the outage as it is remembered now, and what is to be done, in this order.
/// `most`: after so long the driver refuses what it has kept.
pub(super) fn decide(
    outage: Option<&Outage>,
    seen: Seen,
    is_paused: bool,
    most: Duration,
    now: Timestamp,
) -> (Option<Outage>, Vec<Act>) {
    let mut acts = Vec::new();
    // A device that has failed comes up again when the machine answers: what was refused is lost all the same.
    let seen = match outage.is_some_and(|outage| outage.may_have_failed(most, now)) {
        true => Seen::Failed,
        false => seen,
    };
    if seen == Seen::Serves {
        if let Some(outage) = outage {
            // A domain that the operator paused stays so.
            if matches!(outage.pause, Pause::Ours | Pause::Pausing) && is_paused {
                acts.push(Act::Unpause);
            }
            acts.push(Act::End);
        }
        return (None, acts);
    }
    let mut outage = outage.cloned().unwrap_or(Outage {
        since: now,
        told: None,
        pause: Pause::None,
        tried: None,
        why_not: None,
    });
    // A clock that was set back is no reason to wait longer.
    let silent_for = outage.since.age_at(now).unwrap_or(PAUSED_AFTER);
    if outage.told != Some(seen) && (silent_for >= TOLD_AFTER || seen != Seen::Silent) {
        outage.told = Some(seen);
        acts.push(Act::Tell);
    }
    let tried = outage.tried.and_then(|tried| tried.age_at(now));
    match seen {
        Seen::Failed | Seen::Waits if tried.is_none_or(|age| age >= TRIED_AGAIN_AFTER) => {
            outage.tried = Some(now);
            acts.push(match seen {
                Seen::Failed => Act::GiveUp,
                _ => Act::Resume,
            });
        }
        Seen::Failed | Seen::Waits | Seen::Serves | Seen::RefusesWrites | Seen::Silent => {}
    }
    match (outage.pause, is_paused) {
        (Pause::Pausing, true) => outage.pause = Pause::Ours,
        (Pause::Ours, false) => outage.pause = Pause::LeftAlone,
        (Pause::Pausing, false) => acts.push(Act::Pause),
        (Pause::None, false) if silent_for >= PAUSED_AFTER => {
            outage.pause = Pause::Pausing;
            acts.push(Act::Pause);
        }
        (Pause::None | Pause::Ours | Pause::LeftAlone, _) => {}
    }
    (Some(outage), acts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix(1_000_000 + seconds)
    }

    fn away(told: Option<Seen>, pause: Pause) -> Option<Outage> {
        Some(Outage {
            since: at(0),
            told,
            pause,
            tried: None,
            why_not: None,
        })
    }

    #[test]
    fn what_each_look_leads_to() {
        use Act::{End, GiveUp, Pause as PauseIt, Resume, Tell, Unpause};
        use Pause::{LeftAlone, None as Not, Ours, Pausing};
        use Seen::{Failed, RefusesWrites, Serves, Silent, Waits};
        let (untold, silent, waits) = (None, Some(Silent), Some(Waits));
        for (before, seen, is_paused, now, after, acts) in [
            // All is well, or well again before anybody was told.
            (None, Serves, false, 0, None, vec![]),
            (None, Serves, true, 0, None, vec![]),
            (away(untold, Not), Serves, false, 3, None, vec![End]),
            // It falls silent.
            (None, Silent, false, 0, away(untold, Not), vec![]),
            (
                away(untold, Not),
                Silent,
                false,
                4,
                away(untold, Not),
                vec![],
            ),
            (
                away(untold, Not),
                Silent,
                false,
                5,
                away(silent, Not),
                vec![Tell],
            ),
            (
                away(silent, Not),
                Silent,
                false,
                11,
                away(silent, Not),
                vec![],
            ),
            (
                away(silent, Not),
                Silent,
                false,
                12,
                away(silent, Pausing),
                vec![PauseIt],
            ),
            (
                away(silent, Ours),
                Silent,
                true,
                600,
                away(silent, Ours),
                vec![],
            ),
            // A pause that failed, or a watch that ended before or after it.
            (
                away(silent, Pausing),
                Silent,
                false,
                15,
                away(silent, Pausing),
                vec![PauseIt],
            ),
            (
                away(silent, Pausing),
                Silent,
                true,
                15,
                away(silent, Ours),
                vec![],
            ),
            (
                away(silent, Pausing),
                Serves,
                true,
                15,
                None,
                vec![Unpause, End],
            ),
            // A watch that was away itself.
            (
                away(untold, Not),
                Silent,
                false,
                60,
                away(silent, Pausing),
                vec![Tell, PauseIt],
            ),
            // It restarted.
            (
                None,
                RefusesWrites,
                false,
                0,
                away(Some(RefusesWrites), Not),
                vec![Tell],
            ),
            // It is back.
            (
                away(waits, Ours),
                Serves,
                true,
                90,
                None,
                vec![Unpause, End],
            ),
            (away(silent, Not), Serves, false, 9, None, vec![End]),
            // The operator's hand counts more.
            (
                away(silent, Not),
                Silent,
                true,
                60,
                away(silent, Not),
                vec![],
            ),
            (away(silent, Not), Serves, true, 60, None, vec![End]),
            (
                away(silent, Ours),
                Silent,
                false,
                60,
                away(silent, LeftAlone),
                vec![],
            ),
            (
                away(silent, LeftAlone),
                Silent,
                false,
                99,
                away(silent, LeftAlone),
                vec![],
            ),
            (
                away(silent, LeftAlone),
                Silent,
                true,
                99,
                away(silent, LeftAlone),
                vec![],
            ),
            (away(silent, LeftAlone), Serves, true, 99, None, vec![End]),
        ] {
            let case = format!("{before:?} {seen:?} {is_paused} {now}");
            assert_eq!(
                decide(before.as_ref(), seen, is_paused, MOST, at(now)),
                (after, acts),
                "{case}"
            );
        }
        // Whether it may give its disks back is tried now and then; a disk that failed ends the domain.
        let tried = |seconds| Outage {
            tried: Some(at(seconds)),
            ..away(waits, Ours).unwrap()
        };
        for (before, now, acts) in [
            (away(silent, Ours).unwrap(), 90, vec![Tell, Resume]),
            (tried(90), 104, vec![]),
            (tried(90), 105, vec![Resume]),
        ] {
            assert_eq!(decide(Some(&before), Waits, true, MOST, at(now)).1, acts);
        }
        // Once failed, always failed, whatever it says later; and it may have failed unseen.
        for (before, seen, now, acts) in [
            (away(silent, Ours), Failed, 3600, vec![Tell, GiveUp]),
            (away(Some(Failed), Ours), Serves, 3600, vec![GiveUp]),
            (away(silent, Ours), Serves, 3600, vec![Unpause, End]),
            (away(silent, Ours), Serves, 3601, vec![Tell, GiveUp]),
            (away(waits, Ours), Waits, 3601, vec![Tell, GiveUp]),
        ] {
            assert_eq!(decide(before.as_ref(), seen, true, MOST, at(now)).1, acts);
        }
        // The clock was set back.
        let early = Timestamp::from_unix(5);
        let (after, acts) = decide(away(silent, Not).as_ref(), Silent, false, MOST, early);
        assert_eq!((after, acts), (away(silent, Pausing), vec![PauseIt]));
    }
}
