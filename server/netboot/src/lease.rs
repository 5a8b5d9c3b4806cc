//! Who has which address: decisions only, no clock and no file.
//!
//! Times are seconds since 1970, as the caller's clock says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use pnet::util::MacAddr;
use serde::{Deserialize, Serialize};

/// Seconds an offer is held for a client that has not asked for it yet: ROMs wait up to 60 s for
/// other offers and their retransmissions.
const OFFER_SECONDS: u64 = 120;
/// Seconds an address is left alone after a client found somebody else using it.
const DECLINED_SECONDS: u64 = 3600;

/// What may be given away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First and last address for machines without an address of their own.
    pub pool: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Addresses that are never given: this host's, the router's.
    pub reserved: BTreeSet<Ipv4Addr>,
    /// Addresses that belong to one machine.
    pub fixed: BTreeMap<MacAddr, Ipv4Addr>,
    /// Seconds a lease lasts.
    pub lease_seconds: u64,
}

impl Range {
    /// Whether this pool address is for whoever comes.
    fn is_free_for_all(&self, address: Ipv4Addr) -> bool {
        self.pool
            .is_some_and(|(start, end)| (start..=end).contains(&address))
            && !self.reserved.contains(&address)
            && !self.fixed.values().any(|&fixed| fixed == address)
    }
}

/// One machine's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Until when it is held.
    pub until: u64,
    /// Acknowledged, not only offered.
    pub bound: bool,
}

/// Why there is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// No pool, and not in `fixed`.
    #[error("no address: it is not in `fixed`, and there is no `pool`")]
    NoPool,
    /// Everything is given away.
    #[error("no address: every address of `pool` is in use")]
    PoolUsedUp,
    /// The machine's own address was found in use.
    #[error("no address: {0}, its address in `fixed`, is in use by another machine")]
    FixedInUse(Ipv4Addr),
}

/// What to do about a DHCPREQUEST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requested {
    /// It may have it.
    Granted(Ipv4Addr),
    /// It chose this server, but cannot have that address: say so.
    Refused,
    /// Not ours to say anything about: another server may know the client.
    NotOurs,
}

/// All leases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leases {
    machines: BTreeMap<MacAddr, Lease>,
    /// Addresses found in use by somebody unknown, and until when they are left alone.
    #[serde(default)]
    declined: BTreeMap<Ipv4Addr, u64>,
}

impl Leases {
    /// The address to offer, which is then held for a while. The same machine is offered the same
    /// address again, for as long as no other machine had to be given it.
    ///
    /// # Errors
    /// There is none.
    pub fn offer(
        &mut self,
        range: &Range,
        mac: MacAddr,
        asked: Option<Ipv4Addr>,
        now: u64,
    ) -> Result<Ipv4Addr, NoAddress> {
        let address = self.choose(range, mac, asked, now)?;
        // Whoever had it before has let it run out.
        self.machines
            .retain(|&owner, lease| owner == mac || lease.address != address);
        let held = Lease {
            address,
            until: now.saturating_add(OFFER_SECONDS),
            bound: false,
        };
        let lease = self.machines.entry(mac).or_insert(held);
        if lease.address != address || lease.until < held.until {
            *lease = held;
        }
        Ok(address)
    }

    fn choose(
        &self,
        range: &Range,
        mac: MacAddr,
        asked: Option<Ipv4Addr>,
        now: u64,
    ) -> Result<Ipv4Addr, NoAddress> {
        if let Some(&fixed) = range.fixed.get(&mac) {
            if !self.is_declined(fixed, now) {
                return Ok(fixed);
            }
            // One of the pool will do for booting: without any it would go on with its own disk.
            if range.pool.is_none() {
                return Err(NoAddress::FixedInUse(fixed));
            }
        }
        let (start, end) = range.pool.ok_or(NoAddress::NoPool)?;
        let usable = |address| range.is_free_for_all(address) && !self.is_declined(address, now);
        let own = self.machines.get(&mac).map(|lease| lease.address);
        if let Some(own) = own.filter(|&own| usable(own)) {
            return Ok(own);
        }
        let holders: BTreeMap<Ipv4Addr, u64> = self
            .machines
            .values()
            .map(|lease| (lease.address, lease.until))
            .collect();
        if let Some(asked) = asked.filter(|a| usable(*a) && !holders.contains_key(a)) {
            return Ok(asked);
        }
        // One nobody had; then the one that ran out longest ago.
        let candidates = || (u32::from(start)..=u32::from(end)).map(Ipv4Addr::from);
        if let Some(fresh) = candidates().find(|a| !holders.contains_key(a) && usable(*a)) {
            return Ok(fresh);
        }
        holders
            .into_iter()
            .filter(|&(address, until)| until <= now && usable(address))
            .min_by_key(|&(_, until)| until)
            .map(|(address, _)| address)
            .ok_or(NoAddress::PoolUsedUp)
    }

    /// Answers a request for `wanted`. `chosen`: the client named this server (it has our offer).
    pub fn request(
        &mut self,
        range: &Range,
        mac: MacAddr,
        wanted: Ipv4Addr,
        chosen: bool,
        now: u64,
    ) -> Requested {
        // Only what was offered to it, or is its own, is confirmed.
        let known = self
            .machines
            .get(&mac)
            .is_some_and(|lease| lease.address == wanted);
        let may_have = match range.fixed.get(&mac) {
            Some(&fixed) if fixed == wanted || !self.is_declined(fixed, now) => fixed == wanted,
            _ => known && range.is_free_for_all(wanted),
        };
        if may_have && !self.is_declined(wanted, now) {
            self.machines
                .retain(|&owner, lease| owner == mac || lease.address != wanted);
            let until = now.saturating_add(range.lease_seconds);
            self.machines.insert(
                mac,
                Lease {
                    address: wanted,
                    until,
                    bound: true,
                },
            );
            Requested::Granted(wanted)
        } else if chosen {
            Requested::Refused
        } else {
            Requested::NotOurs
        }
    }

    /// The client gives its address back. It is kept for it, but may be
    /// given to another machine when all others are in use. Whether anything changed.
    pub fn release(&mut self, mac: MacAddr, now: u64) -> bool {
        match self.machines.get_mut(&mac) {
            Some(lease) if lease.until > now => {
                *lease = Lease {
                    until: now,
                    bound: false,
                    ..*lease
                };
                true
            }
            _ => false,
        }
    }

    /// The client took another server's offer: ours is free again, a confirmed lease is not.
    pub fn withdraw_offer(&mut self, mac: MacAddr, now: u64) {
        if self
            .machines
            .get(&mac)
            .is_some_and(|lease| !lease.bound && lease.until > now)
        {
            self.machines.remove(&mac);
        }
    }

    /// The client found `address` in use. Only the machine that was given it is believed. Whether
    /// anything changed.
    pub fn decline(&mut self, mac: MacAddr, address: Ipv4Addr, now: u64) -> bool {
        if self
            .machines
            .get(&mac)
            .is_none_or(|lease| lease.address != address)
        {
            return false;
        }
        self.found_in_use(address, now);
        true
    }

    /// Somebody unknown has this address: it is left alone for an hour.
    pub fn found_in_use(&mut self, address: Ipv4Addr, now: u64) {
        self.machines.retain(|_, lease| lease.address != address);
        self.declined.retain(|_, until| *until > now);
        self.declined
            .insert(address, now.saturating_add(DECLINED_SECONDS));
    }

    fn is_declined(&self, address: Ipv4Addr, now: u64) -> bool {
        self.declined
            .get(&address)
            .is_some_and(|&until| until > now)
    }

    /// Which machine holds this address.
    pub fn holder(&self, address: Ipv4Addr) -> Option<MacAddr> {
        self.machines
            .iter()
            .find(|(_, lease)| lease.address == address)
            .map(|(&mac, _)| mac)
    }

    /// Every machine with its lease, run out or not.
    pub fn iter(&self) -> impl Iterator<Item = (MacAddr, Lease)> + '_ {
        self.machines.iter().map(|(&mac, &lease)| (mac, lease))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 7, last)
    }

    fn mac(last: u8) -> MacAddr {
        MacAddr::new(0x52, 0x54, 0, 0, 0, last)
    }

    fn range() -> Range {
        Range {
            pool: Some((ip(10), ip(13))),
            reserved: [ip(12)].into(),
            fixed: [(mac(1), ip(11)), (mac(2), ip(50))].into(),
            lease_seconds: 600,
        }
    }

    #[test]
    fn fixed_addresses_go_to_their_machine_only() {
        let (range, mut leases) = (range(), Leases::default());
        assert_eq!(leases.offer(&range, mac(1), None, 0), Ok(ip(11)));
        assert_eq!(leases.offer(&range, mac(2), Some(ip(10)), 0), Ok(ip(50)));
        assert_eq!(leases.offer(&range, mac(3), Some(ip(11)), 0), Ok(ip(10)));
        assert_eq!(leases.offer(&range, mac(4), Some(ip(12)), 0), Ok(ip(13)));
        assert_eq!(
            leases.offer(&range, mac(5), None, 0),
            Err(NoAddress::PoolUsedUp)
        );
    }

    #[test]
    fn a_machine_gets_the_same_address_again_and_a_dead_lease_is_reused_last() {
        let (range, mut leases) = (range(), Leases::default());
        assert_eq!(leases.offer(&range, mac(3), None, 0), Ok(ip(10)));
        assert_eq!(
            leases.request(&range, mac(3), ip(10), true, 0),
            Requested::Granted(ip(10))
        );
        assert_eq!(
            leases.offer(&range, mac(4), None, 700),
            Ok(ip(13)),
            "a fresh one first"
        );
        assert_eq!(leases.offer(&range, mac(3), None, 800), Ok(ip(10)));
        leases.request(&range, mac(3), ip(10), true, 800);
        assert_eq!(
            leases.offer(&range, mac(5), None, 1000),
            Ok(ip(13)),
            "the offer ran out"
        );
        assert_eq!(
            leases.request(&range, mac(4), ip(13), true, 1000),
            Requested::Refused
        );
    }

    #[test]
    fn an_offer_does_not_shorten_a_lease() {
        let (range, mut leases) = (range(), Leases::default());
        leases.offer(&range, mac(3), None, 0).unwrap();
        leases.request(&range, mac(3), ip(10), true, 0);
        leases.offer(&range, mac(3), None, 100).unwrap();
        assert_eq!(leases.iter().next().unwrap().1.until, 600);
    }

    #[test]
    fn a_client_of_another_server_is_left_alone() {
        let (range, mut leases) = (range(), Leases::default());
        assert_eq!(
            leases.request(&range, mac(3), ip(10), false, 0),
            Requested::NotOurs
        );
        assert_eq!(
            leases.request(&range, mac(3), ip(10), true, 0),
            Requested::Refused
        );
    }

    #[test]
    fn a_declined_address_is_left_alone_and_strangers_cannot_decline() {
        let (range, mut leases) = (range(), Leases::default());
        leases.offer(&range, mac(3), None, 0).unwrap();
        assert!(!leases.decline(mac(4), ip(10), 0));
        assert!(leases.decline(mac(3), ip(10), 0));
        assert_eq!(leases.offer(&range, mac(3), None, 0), Ok(ip(13)));
        leases.offer(&range, mac(1), None, 0).unwrap();
        assert!(leases.decline(mac(1), ip(11), 0));
        // One of the pool has to do meanwhile, and it can be had.
        assert_eq!(leases.offer(&range, mac(2), None, 9), Ok(ip(50)));
        leases.found_in_use(ip(50), 200);
        assert_eq!(leases.offer(&range, mac(2), None, 200), Ok(ip(13)));
        assert_eq!(
            leases.request(&range, mac(2), ip(13), true, 200),
            Requested::Granted(ip(13))
        );
        let no_pool = Range {
            pool: None,
            ..range.clone()
        };
        assert_eq!(
            leases.offer(&no_pool, mac(1), None, 9),
            Err(NoAddress::FixedInUse(ip(11)))
        );
        assert_eq!(leases.offer(&range, mac(1), None, 4000), Ok(ip(11)));
    }

    #[test]
    fn leases_survive_being_written_down() {
        let (range, mut leases) = (range(), Leases::default());
        leases.offer(&range, mac(3), None, 5).unwrap();
        leases.request(&range, mac(3), ip(10), true, 5);
        let text = serde_json::to_string(&leases).unwrap();
        let mut again: Leases = serde_json::from_str(&text).unwrap();
        assert_eq!(again, leases);
        assert_eq!(again.offer(&range, mac(4), None, 6), Ok(ip(13)));
    }

    proptest! {
        /// Whatever machines do, in whatever order: no address is held by two, none is given that
        /// is reserved or another's, and a granted one stays its machine's until it runs out.
        #[test]
        fn no_address_is_given_twice(
            steps in proptest::collection::vec((0u8..4, 0u8..8, 8u8..16, 0u64..400), 1..80)
        ) {
            let (range, mut leases) = (range(), Leases::default());
            let mut granted: BTreeMap<Ipv4Addr, (MacAddr, u64)> = BTreeMap::new();
            let mut now = 0;
            for (what, who, address, passed) in steps {
                now += passed;
                let (who, address) = (mac(who), ip(address));
                let given = match what {
                    0 => leases.offer(&range, who, Some(address), now).ok(),
                    1 => match leases.request(&range, who, address, true, now) {
                        Requested::Granted(address) => {
                            granted.insert(address, (who, now + range.lease_seconds));
                            Some(address)
                        }
                        _ => None,
                    },
                    2 => { leases.release(who, now); granted.retain(|_, g| g.0 != who); None }
                    _ => {
                        if leases.decline(who, address, now) { granted.remove(&address); }
                        None
                    }
                };
                if let Some(given) = given {
                    prop_assert!(!range.reserved.contains(&given));
                    match range.fixed.get(&who) {
                        Some(&fixed) if fixed == given => {}
                        // Its own was declined.
                        _ => prop_assert!(range.is_free_for_all(given)),
                    }
                    if let Some(&(owner, until)) = granted.get(&given) {
                        prop_assert!(owner == who || until <= now, "{} is {}'s", given, owner);
                    }
                }
                let held: Vec<_> = leases.iter().map(|(_, lease)| lease.address).collect();
                let distinct: BTreeSet<_> = held.iter().collect();
                prop_assert_eq!(held.len(), distinct.len());
            }
        }
    }
}
