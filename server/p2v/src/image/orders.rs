//! What a machine is told, as far as its record goes: pure.

use p2v_aoe::MacAddr;
use p2v_aoe::cmdline::BootArgs;
use p2v_aoe::token::Token;
use p2v_dom0::Record;
use p2v_netboot::BootDecision;

use crate::boot_policy::{self, Facts, Rules, Verdict, Wish};
use crate::network_cards::{begun, not_by_this_card};

/// What one network card's machine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The card.
    pub mac: MacAddr,
    /// Never `LocalDisk`: the machine's server may run elsewhere by the time it asks.
    pub decision: BootDecision,
}

/// Kernel arguments of an agent that takes no orders: it exports, and stays read-only.
pub fn read_only(record: &Record, hosts: &[MacAddr]) -> String {
    BootArgs::render_read_only(record.shelf, hosts)
}

/// Kernel arguments of an agent that obeys whoever has the token.
pub fn writable(shelf: u16, hosts: &[MacAddr], token: &Token) -> String {
    BootArgs::render(shelf, hosts, token)
}

/// For a card whose menu is left of an earlier time: its shelf may be another machine's by now.
pub fn forgotten(mac: MacAddr) -> Order {
    Order {
        mac,
        decision: BootDecision::Hold {
            message: format!(
                "p2v made a menu for this network card ({mac}) once, and knows no machine any more that boots from it. To \
                 have one again, name it to p2v image install (--machine)."
            ),
        },
    }
}

/// One order for each card, in the order of the first ones. A machine that has booted by two of its
/// cards has two records, and each may have an order for the other's card: waiting is the safe one.
pub fn one_for_each_card(orders: Vec<Order>) -> Vec<Order> {
    let mut one: Vec<Order> = Vec::new();
    for order in orders {
        let holds = matches!(order.decision, BootDecision::Hold { .. });
        match one.iter_mut().find(|known| known.mac == order.mac) {
            None => one.push(order),
            Some(known) if holds && !matches!(known.decision, BootDecision::Hold { .. }) => {
                *known = order;
            }
            Some(_) => {}
        }
    }
    one
}

/// What a machine shall do, as [`boot_policy`] has it; `None`: the tree has nothing for it. `record`: none of a
/// machine that is not known.
pub fn verdict(record: Option<&Record>, wish: Option<Wish>, listed: bool) -> Option<Verdict> {
    let rules = Rules {
        wish,
        listed,
        // Files do not count.
        once: false,
    };
    let verdict = boot_policy::decide(record.map(Facts::of), rules);
    (!verdict.leaves_it_to_its_disk()).then_some(verdict)
}

/// All network cards of a machine that are known, the one it boots from first.
pub fn cards(record: &Record) -> Vec<MacAddr> {
    let mut cards = vec![record.boot_mac];
    for card in record.inventory.iter().flat_map(|known| &known.nics) {
        if !cards.contains(&card.mac) {
            cards.push(card.mac);
        }
    }
    cards
}

/// The orders for a machine's network cards; `append`: its agent's kernel arguments.
pub fn of(record: &Record, verdict: Verdict, append: &str) -> Vec<Order> {
    let name = &record.name;
    let decision = match verdict {
        Verdict::Agent => BootDecision::Agent {
            append: append.to_owned(),
        },
        // Whatever else it is, it is not sent to its disk.
        _ => BootDecision::Hold {
            message: format!(
                "The server of this machine ({name}) runs on the Xen host now, from its own volume. Switch this machine \
                 off: its old disk must not start a second one."
            ),
        },
    };
    let mut orders = vec![Order {
        mac: record.boot_mac,
        decision,
    }];
    // By another of its cards it would be a machine that nobody named, and start its own disk.
    if begun(record) {
        for mac in cards(record).into_iter().skip(1) {
            orders.push(Order {
                mac,
                decision: BootDecision::Hold {
                    message: not_by_this_card(record, mac),
                },
            });
        }
    }
    orders
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_aoe::inventory::Inventory;
    use p2v_dom0::State;

    #[test]
    fn two_records_of_one_machine_make_one_order_for_each_card_and_waiting_wins() {
        let mac = |n| MacAddr::new(0x52, 0x54, 0, 0, 0, n);
        let agent = |n| Order {
            mac: mac(n),
            decision: BootDecision::Agent {
                append: "p2v.shelf=7".to_owned(),
            },
        };
        let hold = |n| forgotten(mac(n));
        for given in [
            vec![agent(1), hold(2), agent(2), agent(3)],
            vec![agent(1), agent(2), hold(2), agent(3), agent(3)],
        ] {
            assert_eq!(one_for_each_card(given), [agent(1), hold(2), agent(3)]);
        }
        assert_eq!(one_for_each_card(vec![hold(2), hold(2)]), [hold(2)]);
    }

    #[test]
    fn a_machine_that_runs_elsewhere_never_comes_to_its_disk_by_any_card() {
        let mac = |n| MacAddr::new(0x52, 0x54, 0, 0, 0, n);
        let mut record = Record::new("old".parse().unwrap(), mac(1), 7);
        let inventory: Inventory = serde_json::from_value(serde_json::json!({
            "nics": [{"name": "eth0", "mac": mac(1)}, {"name": "eth1", "mac": mac(2)}],
        }))
        .unwrap();
        record.inventory = Some(inventory);
        let kinds = |record: &Record| -> Vec<_> {
            let verdict = verdict(Some(record), None, true).unwrap();
            of(record, verdict, "p2v.shelf=7")
                .into_iter()
                .map(|order| match order.decision {
                    BootDecision::Agent { append } => (order.mac, append),
                    BootDecision::Hold { .. } => (order.mac, "held".to_owned()),
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        let agent = || (mac(1), "p2v.shelf=7".to_owned());
        for state in [State::Seen, State::Exported] {
            record.state = state;
            assert_eq!(kinds(&record), [agent()]);
        }
        for state in [State::Running, State::Copying, State::Copied] {
            record.state = state;
            assert_eq!(kinds(&record), [agent(), (mac(2), "held".to_owned())]);
        }
        for state in [State::Moved, State::Released] {
            record.state = state;
            let held = |n| (mac(n), "held".to_owned());
            assert_eq!(kinds(&record), [held(1), held(2)]);
        }
        for state in [State::Running, State::Moved, State::Released] {
            record.state = state;
            for (wish, listed) in [(Some(Wish::Local), true), (Some(Wish::Ignore), false)] {
                assert!(verdict(Some(&record), wish, listed).is_some(), "{state:?}");
            }
        }
        record.state = State::Exported;
        assert_eq!(verdict(Some(&record), Some(Wish::Local), true), None);
        assert_eq!(verdict(Some(&record), None, false), None);
        assert_eq!(verdict(None, Some(Wish::Ignore), true), None);
        assert_eq!(verdict(None, None, true), Some(Verdict::Agent));
    }
}
