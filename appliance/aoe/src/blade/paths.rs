//! Which frame sizes have made the way to a host and back. An initiator has no fallback when long frames
//! are lost on their way (AOE.md), so none is told to send them before they have arrived.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use p2v_contract::address::SECTOR;
use p2v_contract::operation::Probe;
use pnet::util::MacAddr;

use super::SECTORS_PER_FRAME;
use crate::ata::{ATA_LEN, SECTORS_MAX, sectors_that_fit};
use crate::frame::{ETHERNET_LEN, HEADER_LEN};

/// Hosts that are remembered.
const HOSTS_MAX: usize = 64;
#[derive(Default)]
struct Way {
    /// The word of the last long reply, and its length.
    asked: (u64, u16),
    /// Sectors in a frame that have made it both ways.
    sectors: u8,
}

/// The ways to all hosts, each by interface and address.
#[derive(Default)]
pub(super) struct Paths {
    ways: HashMap<(usize, MacAddr), Way>,
    words: RandomState,
    count: u64,
}

impl Paths {
    /// Sectors in a frame that a host may be told.
    pub(super) fn sectors(&self, wire: usize, host: MacAddr, mtu: usize) -> u8 {
        let proven = self.ways.get(&(wire, host)).map_or(0, |way| way.sectors);
        proven.max(SECTORS_PER_FRAME).min(sectors_that_fit(mtu))
    }

    /// The answer to a probe; `None`: it does not fit our interface, or confirms nothing.
    pub(super) fn probed(
        &mut self,
        wire: usize,
        host: MacAddr,
        mtu: usize,
        probe: Probe,
    ) -> Option<Probe> {
        let most = mtu.saturating_sub(HEADER_LEN - ETHERNET_LEN);
        if usize::from(probe.length) > most {
            return None;
        }
        if self.ways.len() >= HOSTS_MAX && !self.ways.contains_key(&(wire, host)) {
            self.ways.clear();
        }
        let shorter = usize::from(probe.length) < ATA_LEN + SECTOR as usize;
        if shorter && !probe.confirm {
            // Asks whether we are there, and for no longer frames: what was asked about them stays.
            return Some(Probe { word: 0, ..probe });
        }
        let way = self.ways.entry((wire, host)).or_default();
        if !probe.confirm {
            // Asked again, it is the same question.
            if way.asked.1 != probe.length {
                self.count += 1;
                way.asked = (self.words.hash_one(self.count), probe.length);
            }
            let word = way.asked.0;
            return Some(Probe { word, ..probe });
        }
        if way.asked != (probe.word, probe.length) {
            return None;
        }
        let data = usize::from(probe.length).saturating_sub(ATA_LEN);
        way.sectors = u8::try_from(data / SECTOR as usize)
            .unwrap_or(u8::MAX)
            .min(SECTORS_MAX);
        Some(probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
    const OTHER: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);

    #[test]
    fn only_the_host_that_got_the_long_reply_is_told_more() {
        let mut paths = Paths::default();
        let ask = Probe {
            confirm: false,
            length: 12 + 17 * 512,
            word: 0,
        };
        assert_eq!(paths.sectors(0, HOST, 9000), 2);
        let answer = paths.probed(0, HOST, 9000, ask).unwrap();
        assert_eq!(paths.sectors(0, HOST, 9000), 2, "not confirmed yet");
        let guess = Probe {
            confirm: true,
            word: 1,
            ..ask
        };
        assert_eq!(paths.probed(0, HOST, 9000, guess), None);
        let confirm = Probe {
            confirm: true,
            ..answer
        };
        assert_eq!(paths.probed(0, OTHER, 9000, confirm), None);
        // Another session of this host asks whether we are there.
        let there = Probe { length: 16, ..ask };
        assert_eq!(paths.probed(0, HOST, 9000, there), Some(there));
        assert_eq!(paths.probed(0, HOST, 9000, confirm), Some(confirm));
        assert_eq!(paths.sectors(0, HOST, 9000), 17);
        assert_eq!(paths.sectors(0, OTHER, 9000), 2);
        assert_eq!(paths.sectors(1, HOST, 9000), 2, "another interface");
        assert_eq!(paths.sectors(0, HOST, 1500), 2, "the MTU is less now");
        assert_eq!(paths.probed(0, HOST, 1500, ask), None);
    }
}
