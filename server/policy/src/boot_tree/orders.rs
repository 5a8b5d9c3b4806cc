//! What a machine is told, as far as its record goes: pure.

use crate::boot_policy::Verdict;
use p2v_contract::MacAddr;
use p2v_contract::cmdline::{BootArgs, Hosts};
use p2v_dom0::Record;
use p2v_netboot::BootDecision;

/// What one network card's machine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The card.
    pub mac: MacAddr,
    /// Never `LocalDisk`: the machine's server may run elsewhere by the time it asks.
    pub decision: BootDecision,
}

/// Kernel arguments of the machine's agent.
pub fn kernel_arguments(record: &Record, hosts: &Hosts, menu_id: &str) -> String {
    let waits = record.has_domain_on_old_disks();
    BootArgs::render(record.shelf, hosts, menu_id, waits)
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

/// What a machine is told as its own record has it; `None`: the tree has nothing for it. `agent`: how its agent
/// is started.
pub fn of(record: &Record, verdict: Verdict, agent: Option<&BootDecision>) -> Option<BootDecision> {
    match verdict {
        Verdict::Agent => agent.cloned(),
        Verdict::HoldMoved | Verdict::HoldReleased => Some(BootDecision::Hold {
            message: format!(
                "The server of this machine ({}) runs on the Xen host now, from its own volume. Switch this machine \
                 off: its old disk must not start a second one.",
                record.name
            ),
        }),
        Verdict::Local | Verdict::LocalAfterOnce | Verdict::Ignore | Verdict::NotOurs => None,
    }
}
