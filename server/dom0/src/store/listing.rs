//! All records at once, those among them that cannot be read included.

use std::path::Path;

use p2v_contract::MacAddr;

use super::claims::Hidden;
use super::error::StoreError;
use super::file::{boot_mac_in, text_of};
use crate::name::MachineName;
use crate::record::Record;

/// All that could be read, and what could not.
#[derive(Debug, Default)]
pub struct Listing {
    /// Readable records, by shelf.
    pub records: Vec<Record>,
    /// One error per record that is not, and one if it cannot be told which other machines there were.
    pub unreadable: Vec<StoreError>,
    /// Of machines whose server may be on this host, and whose record is lost or one of these.
    pub(super) hidden: Vec<Hidden>,
}

impl Listing {
    /// The record of the machine that boots from `mac`, if there is one.
    ///
    /// # Errors
    /// Two records have it or its shelf; or none has, and one that is unreadable might.
    pub fn by_mac(&mut self, mac: MacAddr) -> Result<Option<Record>, StoreError> {
        self.one(|r| r.boot_mac == mac)
    }

    /// Whether there is a record at this path that cannot be read.
    pub fn cannot_read(&self, path: &Path) -> bool {
        self.unreadable
            .iter()
            .any(|error| error.path() == Some(path))
    }

    /// Machines whose server may be on this host, and that have no record any more.
    pub fn lost(&self) -> impl Iterator<Item = &MachineName> {
        let lost = self.hidden.iter().filter(|hidden| hidden.is_lost);
        lost.map(|hidden| &hidden.name)
    }

    /// Whether a record that cannot be understood or is lost has this address in its text, or in what is noted of its machine:
    /// it may be that machine's.
    pub fn names_in_unreadable(&self, mac: MacAddr) -> bool {
        let mac = mac.to_string();
        self.unreadable_that(&|text| text.contains(&mac)).is_some()
    }

    /// The same of a machine's UUID, which may be written in either of these ways.
    pub fn names_id_in_unreadable(&self, texts: &[String]) -> bool {
        let names = |text: &str| texts.iter().any(|id| text.contains(id.as_str()));
        self.unreadable_that(&names).is_some()
    }

    /// A record that cannot be understood, or what is noted of its machine or of one without a record, whose text `names`
    /// something.
    pub fn unreadable_that(&self, names: &dyn Fn(&str) -> bool) -> Option<&Path> {
        let records = self.unreadable.iter().filter_map(|error| match error {
            StoreError::Unreadable { path, .. } | StoreError::NotRoots { path, .. } => {
                Some(path.as_path())
            }
            _ => None,
        });
        let notes = self.hidden.iter().map(|hidden| hidden.note.as_path());
        records
            .chain(notes)
            .find(|path| text_of(path).is_ok_and(|text| names(&String::from_utf8_lossy(&text))))
    }

    /// Records that cannot be understood, and whose text does not even say which card their machine boots
    /// from: each may be anybody's.
    pub fn silent(&self) -> impl Iterator<Item = &Path> {
        let names_a_card = |path: &&Path| {
            text_of(path).is_ok_and(|text| boot_mac_in(&String::from_utf8_lossy(&text)))
        };
        let paths = self.unreadable.iter().filter_map(StoreError::path);
        paths.filter(move |path| !names_a_card(path))
    }

    /// The one record that `is` it.
    pub(super) fn one(
        &mut self,
        is: impl Fn(&Record) -> bool,
    ) -> Result<Option<Record>, StoreError> {
        let Some(record) = self.records.iter().find(|r| is(r)) else {
            // It might be one that cannot be read.
            return self.unreadable.pop().map_or(Ok(None), Err);
        };
        let rival = |r: &&Record| r.name != record.name && (is(r) || r.shelf == record.shelf);
        match self.records.iter().find(rival) {
            Some(other) if other.shelf == record.shelf => Err(StoreError::SharedShelf(
                record.name.clone(),
                other.name.clone(),
                record.shelf,
            )),
            Some(other) => Err(StoreError::SharedMac(
                record.name.clone(),
                other.name.clone(),
                record.boot_mac,
            )),
            None => Ok(Some(record.clone())),
        }
    }
}
