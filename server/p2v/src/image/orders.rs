//! What a machine is told, as far as its record goes: pure.

use p2v_aoe::MacAddr;
use p2v_aoe::cmdline::BootArgs;
use p2v_aoe::token::Token;
use p2v_dom0::{Record, State};
use p2v_netboot::BootDecision;

use crate::network_cards::not_by_this_card;

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

/// The orders for a machine's network cards; `append`: its agent's kernel arguments.
pub fn of(record: &Record, append: &str) -> Vec<Order> {
    let name = &record.name;
    let decision = match record.state {
        State::Moved | State::Released => BootDecision::Hold {
            message: format!(
                "The server of this machine ({name}) runs on the Xen host now, from its own volume. Switch this machine \
                 off: its old disk must not start a second one."
            ),
        },
        // A domain that runs on the old disks needs the agent back, as soon as it can be.
        State::Seen | State::Exported | State::Running | State::Copying | State::Copied => {
            BootDecision::Agent {
                append: append.to_owned(),
            }
        }
    };
    let mut orders = vec![Order {
        mac: record.boot_mac,
        decision,
    }];
    // By another of its cards it would be a machine that nobody named, and start its own disk.
    if record.state >= State::Running {
        let cards = record.inventory.iter().flat_map(|known| &known.nics);
        for card in cards.filter(|card| card.mac != record.boot_mac) {
            orders.push(Order {
                mac: card.mac,
                decision: BootDecision::Hold {
                    message: not_by_this_card(record, card.mac),
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
            of(record, "p2v.shelf=7")
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
    }
}
