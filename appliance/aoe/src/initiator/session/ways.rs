//! The ways to the disk: which of them lead to it, and how long the frames are that they carry.

use std::collections::BTreeSet;

use pnet::util::MacAddr;

use super::Session;
use crate::ata::sectors_that_fit;
use crate::initiator::Error;
use crate::initiator::probe::{self, ALWAYS_FITS};

impl Session {
    pub(super) fn probe(&mut self, path: usize, offered: u8) -> Result<u8, Error> {
        let exchange = &mut self.exchange;
        let wire = &exchange.links[exchange.paths[path].wire].wire;
        // A disk of fewer sectors cannot be asked for more.
        let fits = sectors_that_fit(wire.mtu());
        let most = u8::try_from(self.identify.sectors).map_or(fits, |sectors| fits.min(sectors));
        probe::sectors(exchange, path, most.max(1), offered)
    }

    /// Asks on every way what is there, and keeps those that lead to the same disk. A station that is
    /// not known to be the same machine as the others is an error.
    pub(super) fn use_ways_to_one_disk(&mut self) -> Result<(), Error> {
        let count = self.exchange.paths.len();
        let stations: BTreeSet<MacAddr> = self.exchange.paths.iter().map(|p| p.mac).collect();
        let mut answers = Vec::new();
        for path in 0..count {
            answers.push(match self.ask_identify(Some(path)) {
                Ok(identify) => {
                    self.identify = identify.clone();
                    let boot_id = match count {
                        1 => None,
                        _ => self.read_inventory(Some(path)).ok().map(|i| i.boot_id),
                    };
                    Some((identify, boot_id))
                }
                // This way, we are not on the target's list.
                Err(Error::Silent { .. }) => None,
                Err(error) => return Err(error),
            });
        }
        let Some(first) = answers.iter().flatten().next().cloned() else {
            let path = &self.exchange.paths[0];
            return Err(Error::NotOnList {
                address: self.address(),
                mac: path.mac,
                own: self.exchange.own_mac(0),
                iface: self.exchange.links[path.wire].iface.clone(),
            });
        };
        let known: BTreeSet<MacAddr> = (0..count)
            .filter(|path| answers[*path].is_some())
            .map(|path| self.exchange.paths[path].mac)
            .collect();
        let alike = answers.iter().flatten().all(|answer| *answer == first);
        let proven = first.1.as_ref().is_some_and(|boot_id| !boot_id.is_empty());
        if !alike || known != stations || (stations.len() > 1 && !proven) {
            return Err(Error::TwoStations {
                address: self.address(),
                macs: stations.into_iter().collect(),
            });
        }
        let keep: Vec<bool> = answers.iter().map(Option::is_some).collect();
        self.exchange.retain(&keep);
        self.identify = first.0;
        Ok(())
    }

    /// Whether a silence ends with shorter frames: the way may carry less than it did when the session
    /// began.
    pub(super) fn shorten(&mut self, error: &Error) -> bool {
        let answers = |macs: &[MacAddr]| self.exchange.paths.iter().any(|p| macs.contains(&p.mac));
        let Error::Silent {
            now: Some(macs), ..
        } = error
        else {
            return false;
        };
        if self.sectors_per_frame <= ALWAYS_FITS || !answers(macs) {
            return false;
        }
        let mut most = u8::MAX;
        for path in 0..self.paths() {
            self.exchange.links[self.exchange.paths[path].wire]
                .wire
                .refresh();
            match self.probe(path, self.sectors_per_frame) {
                Ok(sectors) => most = most.min(sectors),
                Err(_) => return false,
            }
        }
        let shorter = most < self.sectors_per_frame;
        self.sectors_per_frame = self.sectors_per_frame.min(most);
        self.probe_no_longer_than_needed();
        shorter
    }
}
