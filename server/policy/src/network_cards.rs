//! Whose network card it is that asks: of all cards of a machine, not only the one it boots from.
//!
//! A machine whose server is on this host must not start its own disk because it asked by another
//! card.

use p2v_contract::MacAddr;
use p2v_dom0::{Record, State};
use p2v_netboot::MachineId;

use crate::boot_policy::{self, Facts, Rules, Verdict};

/// A machine's cards, the one it boots from first: also those that its last inventory does not name.
pub fn cards(record: &Record) -> impl Iterator<Item = MacAddr> {
    let inventory = record.inventory.iter().flat_map(|known| &known.nics);
    std::iter::once(record.boot_mac)
        .chain(record.cards.iter().copied())
        .chain(inventory.map(|card| card.mac))
}

/// A machine's SMBIOS UUIDs (a board may have been replaced), if it has one of its own.
pub fn ids_of(record: &Record) -> impl Iterator<Item = MachineId> {
    let inventory = record.inventory.iter().map(|known| &known.dmi.uuid);
    let all = record.uuids.iter().chain(inventory);
    all.filter_map(|uuid| uuid.parse().ok())
}

/// Whether a machine's server is on this host, or its disks were copied there, in part at least.
fn begun(record: &Record) -> bool {
    let facts = Facts::of(record);
    facts.server_is_here() || matches!(record.state, State::Copying | State::Copied)
}

/// The machine that has `mac` as another card than the one it boots from, and shall not come to its
/// disk by it: its server is on this host, or its disks were copied, and by the card that it boots
/// from it would start the agent. A server that was copied on trial may run on its own disk as long as
/// the settings say so. `rules`: for a machine. `ids`: SMBIOS UUIDs that the machine told with this card, by
/// which a card is known that the agent had no driver for.
pub fn second_card_of<'r>(
    records: &'r [Record],
    mac: MacAddr,
    ids: &[MachineId],
    rules: impl Fn(&Record) -> Rules,
) -> Option<&'r Record> {
    let mut machines: Vec<&Record> = records
        .iter()
        .filter(|record| {
            let has_it = cards(record).any(|card| card == mac);
            record.boot_mac != mac && (has_it || ids_of(record).any(|id| ids.contains(&id)))
        })
        .filter(|record| begun(record))
        .collect();
    // One whose server is here comes first, should two records have the card.
    machines.sort_by_key(|record| !Facts::of(record).server_is_here());
    machines.into_iter().find(|record| {
        let verdict = boot_policy::decide(Some(Facts::of(record)), rules(record));
        !verdict.leaves_it_to_its_disk()
    })
}

/// Which record speaks for a card, where a machine was booted by two of its cards and so has two: its own
/// (`None`), or the one by another card, `other`, whose machine is held by this one. `own`: what its own
/// record says; `None` if it has none.
///
/// - Its own never sends it to its disk while the server of the other is on this host.
/// - A machine whose domain is on its old disk must come up with the agent. By a card that would be held,
///   because what it has a record of was moved, the screen says which card that is, rather than that
///   the machine can be switched off.
/// - Else its own: by each card the agent has a shelf and a menu of that card's. It exports read-only, and
///   `p2v start` refuses the one record while the other's server is here. The other's shelf is not given to
///   it: a card that was put into another machine would bring a second one to that shelf, under a
///   domain's disk.
pub fn other_that_decides(own: Option<Verdict>, other: Option<&Record>) -> Option<&Record> {
    let other = other?;
    let facts = Facts::of(other);
    let needs_its_disk = facts.in_use || facts.state == State::Running;
    let other_speaks = match own {
        None => true,
        Some(own) if own.leaves_it_to_its_disk() => facts.server_is_here(),
        Some(Verdict::HoldMoved | Verdict::HoldReleased) => needs_its_disk,
        Some(_) => false,
    };
    other_speaks.then_some(other)
}

/// What such a machine shows.
pub fn not_by_this_card(record: &Record, mac: MacAddr) -> String {
    let by_its_card = cards(record).any(|card| card == mac);
    let why = match record.state {
        _ if Facts::of(record).server_is_here() => "server is on the Xen host now",
        State::Copying => "disks are being copied to the Xen host",
        _ => "disks were copied to the Xen host",
    };
    let (name, card) = (&record.name, record.boot_mac);
    match ids_of(record).next().filter(|_| !by_its_card) {
        None => format!(
            "This is {name}, whose {why}. It boots from its network card {card}, and not from this one ({mac}). If it is another \
             machine, which this card was put into: boot it from a medium that `p2v image iso FILE --machine {mac}` makes on \
             the Xen host."
        ),
        Some(id) => format!(
            "This machine has the SMBIOS UUID of {name}, whose {why}. If it is {name}: it boots from its network card {card}, \
             and not from this one ({mac}). If it is another machine with the same UUID: say shared_uuids = [\"{id}\"] in \
             p2v.toml on the Xen host, and restart p2v serve."
        ),
    }
}
