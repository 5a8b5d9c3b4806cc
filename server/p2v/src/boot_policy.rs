//! What a machine that boots from the network shall do: a pure function of its record and the
//! settings.
//!
//! Two copies of one server on a network is the worst that can happen. So the machine's state comes
//! first, and no list, wish or count after it ever sends a machine to its own disk while its server
//! runs, or has moved, elsewhere.

use p2v_dom0::State;
use p2v_dom0::record::Record;
use serde::Deserialize;

/// What the settings say a machine shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// Boot the agent, also when `--once` has had it, or it is moved.
    Agent,
    /// Go on with its own disk.
    Local,
    /// Get no answer.
    Ignore,
}

/// What is remembered of a machine, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Where it is on its way.
    pub state: State,
    /// A domain was started on its own disks, and not stopped by `p2v stop` since.
    pub in_use: bool,
    /// It has been given the netboot image under `--once`.
    pub had_its_boot: bool,
}

impl Facts {
    /// Those of a record.
    pub fn of(record: &Record) -> Facts {
        Facts {
            state: record.state,
            in_use: record.has_domain_on_old_disks(),
            had_its_boot: record.booted_once.is_some(),
        }
    }
}

impl Facts {
    /// Whether the machine's server is on this host: then no list and no wish leaves it to its disk.
    pub fn server_is_here(self) -> bool {
        let unlisted = Rules {
            wish: None,
            listed: false,
            once: false,
        };
        decide(Some(self), unlisted) != Verdict::NotOurs
    }
}

/// What the settings say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// For this machine.
    pub wish: Option<Wish>,
    /// `allow` and `deny` let it be booted.
    pub listed: bool,
    /// `--once`.
    pub once: bool,
}

/// What it shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Boot the agent.
    Agent,
    /// Wait: its server runs on the Xen host, and this machine is not needed.
    HoldReleased,
    /// Wait: its server was moved to the Xen host.
    HoldMoved,
    /// Go on with its own disk, as the settings say.
    Local,
    /// Go on with its own disk: it had its one boot.
    LocalAfterOnce,
    /// Get no answer, as the settings say.
    Ignore,
    /// Not one of ours.
    NotOurs,
}

impl Verdict {
    /// Whether the machine goes on with its own disk then.
    pub fn leaves_it_to_its_disk(self) -> bool {
        match self {
            Verdict::Agent | Verdict::HoldReleased | Verdict::HoldMoved => false,
            Verdict::Local | Verdict::LocalAfterOnce | Verdict::Ignore | Verdict::NotOurs => true,
        }
    }
}

/// Decides. `facts`: none of a machine that is not known.
pub fn decide(facts: Option<Facts>, rules: Rules) -> Verdict {
    if let Some(facts) = facts {
        match facts.state {
            State::Released => return Verdict::HoldReleased,
            // The agent does no harm: it exports read-only, and `p2v start` refuses.
            State::Moved if rules.wish == Some(Wish::Agent) => return Verdict::Agent,
            State::Moved => return Verdict::HoldMoved,
            // The domain needs the disk back.
            State::Running => return Verdict::Agent,
            _ if facts.in_use => return Verdict::Agent,
            State::Seen | State::Exported | State::Copying | State::Copied => {}
        }
    }
    if !rules.listed {
        return Verdict::NotOurs;
    }
    match rules.wish {
        Some(Wish::Agent) => return Verdict::Agent,
        Some(Wish::Local) => return Verdict::Local,
        Some(Wish::Ignore) => return Verdict::Ignore,
        None => {}
    }
    match facts {
        // Once something was begun with its disks, the machine is wanted here.
        Some(Facts {
            state: State::Seen | State::Exported,
            had_its_boot: true,
            ..
        }) if rules.once => Verdict::LocalAfterOnce,
        _ => Verdict::Agent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISHES: [Option<Wish>; 4] = [
        None,
        Some(Wish::Agent),
        Some(Wish::Local),
        Some(Wish::Ignore),
    ];

    fn every_case(mut check: impl FnMut(Facts, Rules, Verdict)) {
        for state in State::ALL {
            for wish in WISHES {
                for bits in 0..16 {
                    let bit = |n: u8| bits >> n & 1 == 1;
                    let facts = Facts {
                        state,
                        in_use: bit(0),
                        had_its_boot: bit(1),
                    };
                    let rules = Rules {
                        wish,
                        listed: bit(2),
                        once: bit(3),
                    };
                    check(facts, rules, decide(Some(facts), rules));
                }
            }
        }
    }

    /// Whatever lists, wishes and counts say.
    #[test]
    fn a_machine_whose_server_is_elsewhere_is_never_left_to_its_disk() {
        every_case(|facts, rules, verdict| {
            let elsewhere = facts.in_use
                || matches!(facts.state, State::Running | State::Moved | State::Released);
            assert_eq!(facts.server_is_here(), elsewhere, "{facts:?}");
            let safe = !verdict.leaves_it_to_its_disk();
            assert!(safe || !elsewhere, "{facts:?} {rules:?} {verdict:?}");
            let held = matches!(facts.state, State::Moved | State::Released);
            if verdict == Verdict::Agent && held {
                assert_eq!((facts.state, rules.wish), (State::Moved, Some(Wish::Agent)));
            }
        });
    }

    #[test]
    fn what_each_machine_shall_do() {
        let all = Rules {
            wish: None,
            listed: true,
            once: false,
        };
        let wish = |wish| Rules {
            wish: Some(wish),
            ..all
        };
        let once = Rules { once: true, ..all };
        let unlisted = Rules {
            listed: false,
            ..all
        };
        let fact = |state, in_use, had_its_boot| {
            Some(Facts {
                state,
                in_use,
                had_its_boot,
            })
        };
        for (facts, rules, expected) in [
            (None, all, Verdict::Agent),
            (None, once, Verdict::Agent),
            (None, unlisted, Verdict::NotOurs),
            (None, wish(Wish::Local), Verdict::Local),
            (None, wish(Wish::Ignore), Verdict::Ignore),
            (fact(State::Seen, false, false), once, Verdict::Agent),
            (
                fact(State::Seen, false, true),
                once,
                Verdict::LocalAfterOnce,
            ),
            (fact(State::Seen, false, true), all, Verdict::Agent),
            (
                fact(State::Exported, false, true),
                once,
                Verdict::LocalAfterOnce,
            ),
            (
                fact(State::Exported, false, true),
                Rules {
                    wish: Some(Wish::Agent),
                    ..once
                },
                Verdict::Agent,
            ),
            (fact(State::Copying, false, true), once, Verdict::Agent),
            (fact(State::Copied, false, true), once, Verdict::Agent),
            (
                fact(State::Copied, false, true),
                wish(Wish::Local),
                Verdict::Local,
            ),
            (
                fact(State::Copied, true, true),
                wish(Wish::Local),
                Verdict::Agent,
            ),
            (fact(State::Copying, true, false), unlisted, Verdict::Agent),
            (
                fact(State::Exported, false, false),
                unlisted,
                Verdict::NotOurs,
            ),
            (fact(State::Running, true, true), once, Verdict::Agent),
            (fact(State::Running, false, false), unlisted, Verdict::Agent),
            (
                fact(State::Running, true, false),
                wish(Wish::Ignore),
                Verdict::Agent,
            ),
            (fact(State::Moved, false, false), all, Verdict::HoldMoved),
            (fact(State::Moved, false, true), once, Verdict::HoldMoved),
            (
                fact(State::Moved, false, false),
                unlisted,
                Verdict::HoldMoved,
            ),
            (
                fact(State::Moved, false, false),
                wish(Wish::Agent),
                Verdict::Agent,
            ),
            (
                fact(State::Released, false, false),
                wish(Wish::Agent),
                Verdict::HoldReleased,
            ),
            (
                fact(State::Released, false, false),
                unlisted,
                Verdict::HoldReleased,
            ),
        ] {
            assert_eq!(decide(facts, rules), expected, "{facts:?} {rules:?}");
        }
    }
}
