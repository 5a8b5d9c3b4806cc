//! What a machine that boots from the network shall do: a pure function of its record and the
//! settings.
//!
//! Two copies of one server on a network is the worst that can happen. So the machine's state comes
//! first, and no list, wish or count after it ever sends a machine to its own disk while its server
//! runs, or has moved, elsewhere.

use p2v_contract::MacAddr;
use p2v_dom0::State;
use p2v_dom0::record::Record;
use serde::Deserialize;

use crate::approvals::{Approval, Word};

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
        let not_approved = Rules {
            wish: None,
            approved: false,
            once: false,
        };
        decide(Some(self), not_approved) != Verdict::NotOurs
    }
}

/// What the settings say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// For this machine.
    pub wish: Option<Wish>,
    /// It may be booted.
    pub approved: bool,
    /// `--once`.
    pub once: bool,
}

/// All that may let a machine be booted.
#[derive(Clone, Copy, Debug)]
pub struct Grounds<'a> {
    /// `deny` names it.
    pub denied: bool,
    /// `allow` names it.
    pub allowed: bool,
    /// `allow` names machines, this one or others.
    pub has_allow: bool,
    /// What the settings say that it shall do.
    pub wish: Option<Wish>,
    /// The operator's last word.
    pub approval: Option<Approval>,
    /// What is remembered of it.
    pub record: Option<&'a Record>,
}

impl<'a> Grounds<'a> {
    /// Those of the machine with the card `mac`, by the lists as they are.
    pub fn new(
        lists: &p2v_netboot::Settings,
        mac: MacAddr,
        wish: Option<Wish>,
        approval: Option<Approval>,
        record: Option<&'a Record>,
    ) -> Grounds<'a> {
        Grounds {
            denied: lists.denies(mac),
            allowed: lists.allows(mac),
            has_allow: !lists.allow.is_empty(),
            wish,
            approval,
            record,
        }
    }

    /// Whether it may be booted. `deny` wins over all, then whatever lets it in counts.
    ///
    /// One whose agent was heard before is approved without a word, so that it comes back after a restart; not where `allow`
    /// names machines, because one that was taken out of that list is to be left alone.
    pub fn approve(self) -> bool {
        let state = self.record.map(|record| record.state);
        let is_begun = matches!(state, Some(State::Copying | State::Copied));
        let has_booted_since = |at| {
            let booted = self.record.and_then(|record| record.booted_once);
            booted.is_some_and(|booted| booted >= at)
        };
        let by_hand = match self.approval {
            Some(Approval { word, at }) => match word {
                Word::Always => true,
                // Once something was begun with its disks, the machine is wanted here.
                Word::Once => !has_booted_since(at) || is_begun,
                Word::Revoked => false,
            },
            None => !self.has_allow && state.is_some_and(|state| state != State::Seen),
        };
        !self.denied && (self.allowed || self.wish == Some(Wish::Agent) || by_hand)
    }
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
    if !rules.approved {
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
    use p2v_dom0::Timestamp;

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
                        approved: bit(2),
                        once: bit(3),
                    };
                    check(facts, rules, decide(Some(facts), rules));
                }
            }
        }
    }

    /// The table of who may be booted: `deny`, `allow`, the `boot` setting, the operator's word, and the state.
    #[test]
    fn who_is_approved() {
        let mut record = Record::new("e1".parse().unwrap(), MacAddr::zero(), 1);
        let (before, at, after) = (999, 1000, 1001);
        let said = |word| Approval {
            word,
            at: Timestamp::from_unix(at),
        };
        let nothing = Grounds {
            denied: false,
            allowed: false,
            has_allow: false,
            wish: None,
            approval: None,
            record: None,
        };
        let allowed = Grounds {
            allowed: true,
            has_allow: true,
            ..nothing
        };
        let others = Grounds {
            has_allow: true,
            ..nothing
        };
        let wish = |wish| Grounds {
            wish: Some(wish),
            ..nothing
        };
        let word = |word| Grounds {
            approval: Some(said(word)),
            ..nothing
        };
        // In the order: not met, seen, exported, copied.
        for (case, grounds, expected) in [
            ("nothing", nothing, [false, false, true, true]),
            ("allow", allowed, [true; 4]),
            ("allow names others", others, [false; 4]),
            ("boot = agent", wish(Wish::Agent), [true; 4]),
            (
                "boot = local",
                wish(Wish::Local),
                [false, false, true, true],
            ),
            ("approved", word(Word::Always), [true; 4]),
            ("once, to come", word(Word::Once), [true; 4]),
            ("revoked", word(Word::Revoked), [false; 4]),
        ] {
            let mut told = vec![grounds.approve()];
            for state in [State::Seen, State::Exported, State::Copied] {
                record.state = state;
                let record = Some(&record);
                told.push(Grounds { record, ..grounds }.approve());
                let denied = Grounds {
                    denied: true,
                    record,
                    ..grounds
                };
                assert!(!denied.approve(), "{case}");
            }
            assert_eq!(told, expected, "{case}");
        }
        for (booted, state, expected) in [
            (before, State::Exported, true),
            (after, State::Seen, false),
            (after, State::Exported, false),
            (after, State::Copying, true),
        ] {
            record.state = state;
            record.booted_once = Some(Timestamp::from_unix(booted));
            let once = Grounds {
                record: Some(&record),
                ..word(Word::Once)
            };
            assert_eq!(once.approve(), expected, "{booted} {state}");
        }
        // The settings' own word is not taken back by hand.
        let approval = Some(said(Word::Revoked));
        assert!(
            Grounds {
                approval,
                ..allowed
            }
            .approve()
        );
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
            approved: true,
            once: false,
        };
        let wish = |wish| Rules {
            wish: Some(wish),
            ..all
        };
        let once = Rules { once: true, ..all };
        let unlisted = Rules {
            approved: false,
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
