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
mod tests;
