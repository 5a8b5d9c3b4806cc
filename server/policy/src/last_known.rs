//! The network cards of machines whose records cannot be read: a machine whose server is on this host must not
//! start its own disk because of that, also if the service was started anew since.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use p2v_contract::MacAddr;
use p2v_copy::atomic_file;
use p2v_dom0::store::Listing;
use p2v_dom0::{MachineName, Store};

use tracing::warn;

use crate::network_cards::cards;

type Cards = BTreeMap<MachineName, Vec<MacAddr>>;

/// The cards of each machine, by the last listing in which its record could be read.
#[derive(Debug)]
pub struct LastKnown {
    cards: Cards,
    /// Where they are kept for the next start.
    file: PathBuf,
    /// What the file holds.
    kept: Cards,
    /// There was a listing, now or at an earlier start.
    listed: bool,
    failed: bool,
}

impl LastKnown {
    /// Goes on with what is kept there.
    pub fn keep(state_dir: &Path) -> LastKnown {
        let file = state_dir.join("cards.json");
        let read = fs::read(&file)
            .and_then(|text| serde_json::from_slice::<Cards>(&text).map_err(io::Error::from));
        let listed = read.is_ok();
        let cards = read.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(
                    "{} is made anew, because it cannot be read: {error}",
                    file.display()
                );
            }
            Cards::new()
        });
        LastKnown {
            kept: cards.clone(),
            cards,
            file,
            listed,
            failed: false,
        }
    }

    /// Takes down what can be read, and forgets the machines whose records were moved away.
    pub fn learn(&mut self, store: &Store, listing: &Listing) {
        self.listed = true;
        self.cards
            .retain(|name, _| listing.cannot_read(&store.path(name)));
        for record in &listing.records {
            self.cards
                .insert(record.name.clone(), cards(record).collect());
        }
        if self.cards != self.kept {
            self.write();
        }
    }

    fn write(&mut self) {
        let written = serde_json::to_vec(&self.cards)
            .map_err(io::Error::from)
            .and_then(|text| atomic_file::replace(&self.file, &text, 0o600));
        match &written {
            Ok(()) => self.kept.clone_from(&self.cards),
            Err(error) if !self.failed => warn!(
                "cannot write {}: {error}; should a record become unreadable, its machine is not known after a restart",
                self.file.display()
            ),
            Err(_) => {}
        }
        self.failed = written.is_err();
    }

    /// Whether `mac` is, or for all that is known may be, of a machine whose record cannot be read now:
    /// `listing` has the others; `None` if nothing could be listed.
    pub fn hides(&self, store: &Store, listing: Option<&Listing>, mac: MacAddr) -> bool {
        let nothing_known = match listing {
            None => !self.listed,
            Some(listing) => listing.silent().any(|path| {
                let names = self.cards.keys();
                names
                    .map(|name| store.path(name))
                    .all(|known| known != path)
            }),
        };
        nothing_known
            || self.cards.iter().any(|(name, cards)| {
                listing.is_none_or(|listing| listing.cannot_read(&store.path(name)))
                    && cards.contains(&mac)
            })
    }
}
