//! What the machines of a static tree are told, by all of their network cards.

use std::collections::BTreeMap;

use crate::Machine;
use crate::approvals::Approvals;
use crate::boot_policy::{self, Facts, Grounds, Rules};
use crate::network_cards::{cards, not_by_this_card, other_that_decides, second_card_of};
use anyhow::Result;
use p2v_contract::MacAddr;
use p2v_contract::cmdline::Hosts;
use p2v_dom0::{Record, Store};
use p2v_netboot::BootDecision;

use super::{orders, orders_for};
use crate::settings::Settings;

/// What is decided of all machines.
#[derive(Default)]
pub struct Decided {
    /// At most one for each card.
    pub orders: Vec<orders::Order>,
    /// Machines that get no menu.
    pub left_out: Vec<MacAddr>,
    /// All cards that are known, of all machines.
    pub their_cards: Vec<MacAddr>,
}

/// Whether a machine that is named on the command line gets no menu all the same: the settings leave it to its disk.
///
/// # Errors
/// The records.
pub fn is_left_out(store: &Store, settings: &Settings, mac: MacAddr) -> Result<bool> {
    let rules = Rules {
        wish: settings.machines.get(&mac).and_then(|known| known.boot),
        approved: true,
        once: false,
    };
    let known = store.by_mac(mac)?;
    let verdict = boot_policy::decide(known.as_ref().map(Facts::of), rules);
    Ok(verdict.leaves_it_to_its_disk())
}

/// Decides. `macs`: all that machines are known to boot from. `named`: on the command line, which counts more
/// than `allow` and `deny`.
///
/// # Errors
/// The records, or kernel arguments that cannot be written into a menu.
pub fn decide(
    store: &Store,
    settings: &Settings,
    macs: &[MacAddr],
    named: &[MacAddr],
    hosts: &Hosts,
) -> Result<Decided> {
    let approvals = Approvals::of(&settings.state).all()?;
    let lists = &settings.serve;
    let rules = |record: Option<&Record>, mac: MacAddr| {
        let wish = settings.machines.get(&mac).and_then(|known| known.boot);
        let approval = approvals.get(&mac).copied();
        let grounds = Grounds::new(lists, mac, wish, approval, record);
        // Who makes files for a machine wants it booted: without `allow` all count that there can be files for.
        let may_have_files = lists.allow.is_empty() && approval.is_none() && !grounds.denied;
        Rules {
            wish,
            approved: named.contains(&mac) || may_have_files || grounds.approve(),
            // Files do not count.
            once: false,
        }
    };
    let verdict = |record: Option<&Record>, mac| {
        boot_policy::decide(record.map(Facts::of), rules(record, mac))
    };
    let mut decided = Decided::default();
    // Every machine that is known afterwards, and how those are started that get the agent.
    let (mut records, mut agents) = (Vec::new(), BTreeMap::new());
    for &mac in macs {
        let known = store.by_mac(mac)?;
        if verdict(known.as_ref(), mac).leaves_it_to_its_disk() {
            records.extend(known);
        } else {
            let (record, append) = orders_for(store, settings, mac, hosts)?;
            records.push(record);
            let image = Machine::image(settings.machines.get(&mac));
            agents.insert(mac, BootDecision::Agent { append, image });
        }
    }
    decided.their_cards = macs.to_vec();
    for card in records.iter().flat_map(cards) {
        if !decided.their_cards.contains(&card) {
            decided.their_cards.push(card);
        }
    }
    for &mac in &decided.their_cards {
        // Of the record as it is now: a domain may have been started since.
        let record = records.iter().find(|record| record.boot_mac == mac);
        let own = record.map(|record| verdict(Some(record), mac));
        let decision = match (
            other_that_decides(
                own,
                second_card_of(&records, mac, &[], |other| {
                    rules(Some(other), other.boot_mac)
                }),
            ),
            record,
        ) {
            (Some(other), _) => BootDecision::Hold {
                message: not_by_this_card(other, mac),
            },
            (None, Some(record)) => {
                let agent = agents.get(&mac);
                match own.and_then(|own| orders::of(record, own, agent)) {
                    Some(decision) => decision,
                    None => {
                        decided.left_out.push(mac);
                        continue;
                    }
                }
            }
            (None, None) => {
                if macs.contains(&mac) {
                    decided.left_out.push(mac);
                }
                continue;
            }
        };
        decided.orders.push(orders::Order { mac, decision });
    }
    Ok(decided)
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_dom0::store::StoreError;
    use p2v_dom0::{State, Timestamp};

    /// What each card of a machine with two is told, `own` being the state of its record by the first card, and
    /// `second` that of the one by the second, if it has one.
    fn told(own: State, second: Option<State>, change: impl FnOnce(&mut Settings)) -> [String; 2] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mac = |n| MacAddr::new(0x52, 0x54, 0, 0, 0, n);
        let mut macs = Vec::new();
        for (n, state) in [(1, Some(own)), (2, second)] {
            let Some(state) = state else { continue };
            macs.push(mac(n));
            let name = store
                .menu_in_files(mac(n), None, Timestamp::now())
                .unwrap()
                .0
                .name;
            let inventory = serde_json::json!({
                "nics": [{"name": "eth0", "mac": mac(1)}, {"name": "eth1", "mac": mac(2)}],
            });
            let changed = store.update(&name, |record| {
                record.state = state;
                record.inventory = Some(serde_json::from_value(inventory).unwrap());
                Ok::<_, StoreError>(())
            });
            changed.unwrap();
        }
        let mut settings = Settings {
            state: dir.path().to_owned(),
            ..Settings::default()
        };
        change(&mut settings);
        let decided = decide(
            &store,
            &settings,
            &macs,
            &[],
            &Hosts::new(vec![mac(0xaa)], "", vec![]),
        )
        .unwrap();
        let mut orders = decided.orders;
        [1, 2].map(|n| {
            let all = orders.iter().filter(|order| order.mac == mac(n)).count();
            assert!(all < 2, "two orders for one card");
            match orders.iter_mut().find(|order| order.mac == mac(n)) {
                None => "nothing".to_owned(),
                Some(order) => match &order.decision {
                    BootDecision::Agent { append, .. } => {
                        append.split(' ').next().unwrap_or_default().to_owned()
                    }
                    BootDecision::Hold { message } if message.contains("from its own volume") => {
                        "off".to_owned()
                    }
                    BootDecision::Hold { .. } => "other card".to_owned(),
                    other => panic!("{other:?}"),
                },
            }
        })
    }

    #[test]
    fn a_machine_whose_server_is_here_never_comes_to_its_disk_by_any_card() {
        for state in State::ALL {
            let cards = match state {
                State::Seen | State::Exported => ["p2v.shelf=1", "nothing"],
                State::Running | State::Copying | State::Copied => ["p2v.shelf=1", "other card"],
                State::Moved | State::Released => ["off", "other card"],
            };
            assert_eq!(told(state, None, |_| {}), cards, "{state}");
            let unlisted = told(state, None, |settings| {
                settings.serve.deny = vec!["*".parse().unwrap()];
            });
            let expected = match state {
                State::Running | State::Moved | State::Released => cards,
                _ => ["nothing"; 2],
            };
            assert_eq!(unlisted, expected, "{state}");
        }
    }

    #[test]
    fn what_is_approved_by_hand_counts_beside_the_lists() {
        use crate::approvals::{Approval, Word};
        let told = |state, word, allow: &[&str]| {
            let allow = allow.iter().map(|entry| entry.parse().unwrap()).collect();
            let told = told(state, None, |settings| {
                settings.serve.allow = allow;
                let mac = MacAddr::new(0x52, 0x54, 0, 0, 0, 1);
                let at = Timestamp::now();
                Approvals::of(&settings.state)
                    .set(mac, Approval { word, at })
                    .unwrap();
            });
            told[0].clone()
        };
        for state in [State::Seen, State::Exported] {
            assert_eq!(told(state, Word::Always, &["00:*"]), "p2v.shelf=1");
            assert_eq!(told(state, Word::Revoked, &[]), "nothing");
            assert_eq!(told(state, Word::Revoked, &["52:*"]), "p2v.shelf=1");
        }
        assert_eq!(told(State::Running, Word::Revoked, &[]), "p2v.shelf=1");
        assert_eq!(told(State::Moved, Word::Revoked, &[]), "off");
    }

    /// As from `p2v serve`.
    #[test]
    fn a_machine_with_two_records_gets_the_agent_by_each_card_that_is_not_held() {
        let card = |n: u8, own, other| match (own, other) {
            (State::Moved | State::Released, State::Running) => "other card".to_owned(),
            (State::Moved | State::Released, _) => "off".to_owned(),
            _ => format!("p2v.shelf={n}"),
        };
        for one in State::ALL {
            for two in State::ALL {
                let cards = [card(1, one, two), card(2, two, one)];
                assert_eq!(told(one, Some(two), |_| {}), cards, "{one} {two}");
            }
        }
        let local = |settings: &mut Settings| {
            let machine = toml::from_str("boot = 'local'").unwrap();
            let mac = MacAddr::new(0x52, 0x54, 0, 0, 0, 2);
            settings.machines.insert(mac, machine);
        };
        let cards = |state| told(state, Some(State::Exported), local);
        assert_eq!(cards(State::Running), ["p2v.shelf=1", "other card"]);
        assert_eq!(cards(State::Copied), ["p2v.shelf=1", "nothing"]);
    }
}
