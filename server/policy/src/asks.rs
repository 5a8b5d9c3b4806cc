//! Machines that ask to be booted, and that nobody has approved: seen by `p2v serve`, shown by `p2v list`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use p2v_contract::MacAddr;
use p2v_dom0::{MachineName, Record, Timestamp};
use p2v_netboot::MachineId;
use serde::Serialize;

use crate::Lists;
use crate::approvals::Approval;
use crate::boot_policy::{self, Facts, Grounds, Rules, Verdict, Wish};
use crate::boots::Boot;
use crate::network_cards::{other_that_decides, second_card_of};

/// For how long one that has fallen silent is shown.
const SHOWN_FOR: Duration = Duration::from_secs(3600);

/// Where such a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It is left to its own disk.
    Asks,
    /// It was approved, and has not asked since.
    Approved,
}

impl Standing {
    /// As it stands in lists.
    pub fn name(self) -> &'static str {
        match self {
            Standing::Asks => "asks",
            Standing::Approved => "approved",
        }
    }
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Asker {
    /// The network card that it boots from.
    pub boot_mac: MacAddr,
    /// Its name, if its record or the settings give it one.
    pub name: Option<MachineName>,
    /// Where it is.
    pub state: Standing,
    /// What kind of firmware; empty where the site's own DHCP server sent it here.
    pub client: String,
    /// The SMBIOS UUID that it told.
    pub uuid: Option<MachineId>,
    /// When it asked first.
    pub first: Timestamp,
    /// When it asked last.
    pub last: Timestamp,
    /// How often, told once a minute at most.
    pub asked: u32,
}

/// Those among the machines whose boots were seen, the latest first. What is held because its server is here is not
/// one, and neither is what the settings leave alone.
pub fn askers(
    boots: &BTreeMap<MacAddr, Boot>,
    lists: Lists<'_>,
    approvals: &BTreeMap<MacAddr, Approval>,
    records: &[Record],
    now: Timestamp,
) -> Vec<Asker> {
    let rules = |record: Option<&Record>, mac: MacAddr| {
        let wish = lists.machines.get(&mac).and_then(|known| known.boot);
        let approval = approvals.get(&mac).copied();
        Rules {
            wish,
            approved: Grounds::new(lists.serve, mac, wish, approval, record).approve(),
            once: false,
        }
    };
    let asker = |(&mac, boot): (&MacAddr, &Boot)| {
        let is_late = boot.last.age_at(now).is_none_or(|age| age < SHOWN_FOR);
        let record = records.iter().find(|record| record.boot_mac == mac);
        let rules_here = rules(record, mac);
        let left_alone =
            lists.serve.denies(mac) || matches!(rules_here.wish, Some(Wish::Local | Wish::Ignore));
        let id = boot.uuid.filter(|id| !lists.shared_uuids.contains(id));
        let ids: Vec<MachineId> = id.into_iter().collect();
        let other = second_card_of(records, mac, &ids, |other| {
            rules(Some(other), other.boot_mac)
        });
        let verdict = boot_policy::decide(record.map(Facts::of), rules_here);
        let is_held = other_that_decides(record.map(|_| verdict), other).is_some();
        if !is_late || boot.complete || left_alone || is_held {
            return None;
        }
        let state = match verdict {
            Verdict::NotOurs => Standing::Asks,
            Verdict::Agent if boot.was_refused() && was_said_since(boot, approvals.get(&mac)) => {
                Standing::Approved
            }
            _ => return None,
        };
        let known = lists.machines.get(&mac);
        let name = record.map(|record| &record.name);
        Some(Asker {
            boot_mac: mac,
            name: name
                .or_else(|| known.and_then(|known| known.name.as_ref()))
                .cloned(),
            state,
            client: boot.client.clone(),
            uuid: boot.uuid,
            first: boot.began,
            last: boot.last,
            asked: boot.refusals,
        })
    };
    let mut askers: Vec<Asker> = boots.iter().filter_map(asker).collect();
    askers.sort_by_key(|asker| (Reverse(asker.last), asker.boot_mac));
    askers
}

/// Whether the operator spoke after it had asked last.
fn was_said_since(boot: &Boot, approval: Option<&Approval>) -> bool {
    approval.is_some_and(|approval| approval.at >= boot.last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::approvals::Word;
    use p2v_dom0::State;
    use p2v_netboot::{BootEvent, ClientKind};

    fn mac(n: u8) -> MacAddr {
        MacAddr::new(0x52, 0x54, 0, 0, 0, n)
    }

    fn refused(at: u64) -> Boot {
        let at = Timestamp::from_unix(at);
        let mut boot = Boot::new(at);
        let client = ClientKind::Bios { ipxe: false };
        let why = "nobody has approved it".to_owned();
        boot.take(&BootEvent::Ignored { client, why }, at);
        boot
    }

    #[test]
    fn who_asks_is_shown_for_an_hour_and_the_latest_first() {
        let now = 10_000;
        let serve = p2v_netboot::Settings {
            deny: vec![mac(4).into()],
            ..Default::default()
        };
        let local = toml::from_str("boot = 'local'").unwrap();
        let machines = BTreeMap::from([(mac(5), local)]);
        let lists = Lists {
            serve: &serve,
            machines: &machines,
            shared_uuids: &[],
        };
        let record = |n: u8, state| {
            let mut record = Record::new(format!("e{n}").parse().unwrap(), mac(n), n.into());
            record.state = state;
            record
        };
        let mut copied = record(7, State::Copied);
        copied.cards.insert(mac(8));
        let records = [record(6, State::Seen), copied, record(9, State::Exported)];
        let long_ago = now - SHOWN_FOR.as_secs();
        let boots = BTreeMap::from([
            (mac(1), refused(now - 20)),
            (mac(2), refused(now - 10)),
            (mac(3), refused(long_ago)),
            (mac(4), refused(now)),
            (mac(5), refused(now)),
            (mac(6), refused(now - 30)),
            // By its second card it is held; the other was exported before.
            (mac(8), refused(now)),
            (mac(9), Boot::new(Timestamp::from_unix(now))),
        ]);
        let approved = Approval {
            word: Word::Always,
            at: Timestamp::from_unix(now),
        };
        let told = |approvals| {
            let now = Timestamp::from_unix(now);
            let askers = askers(&boots, lists, &approvals, &records, now);
            let told = askers.iter().map(|asker| (asker.boot_mac, asker.state));
            (told.collect::<Vec<_>>(), askers)
        };
        let (all, askers) = told(BTreeMap::new());
        let asks = |n| (mac(n), Standing::Asks);
        assert_eq!(all, [asks(2), asks(1), asks(6)]);
        assert_eq!((askers[0].client.as_str(), askers[0].asked), ("BIOS", 1));
        assert_eq!(askers[2].name, Some("e6".parse().unwrap()));
        let (all, _) = told(BTreeMap::from([(mac(2), approved)]));
        assert_eq!(all, [(mac(2), Standing::Approved), asks(1), asks(6)]);
        // It asked since, and was not answered for another reason.
        let at = Timestamp::from_unix(now - 11);
        let (all, _) = told(BTreeMap::from([(mac(2), Approval { at, ..approved })]));
        assert_eq!(all, [asks(1), asks(6)]);
    }
}
