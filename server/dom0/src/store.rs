//! The records on disk: one JSON file per machine under `STATE/machines/`.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::lock::{Held, MachineLock};
use crate::name::MachineName;
use crate::record::{Record, State};
use crate::shelves::Shelves;
use crate::timestamp::{Timestamp, clock};

mod apart;
mod claims;
mod copies;
mod error;
mod file;
mod listing;
#[cfg(test)]
mod tests;

pub use error::StoreError;
pub use listing::Listing;

use file::read;
use p2v_contract::MacAddr;
use p2v_contract::cmdline::MENU_ID_LEN;
use p2v_copy::atomic_file;

/// The machine records of one state directory.
#[derive(Clone, Debug)]
pub struct Store {
    machines: PathBuf,
    locks: PathBuf,
    copies: PathBuf,
    /// Of machines for which something was made: root's.
    names: PathBuf,
    /// Records that were retired.
    retired: PathBuf,
    /// It is used by root's commands, which trust no record further than root wrote it.
    is_roots: bool,
    /// What new machines get.
    shelves: Shelves,
}

/// What a boot menu for a machine must hold.
#[derive(Clone, Debug)]
pub struct MenuFacts {
    /// The machine's name.
    pub name: MachineName,
    /// Its shelf (`p2v.shelf`).
    pub shelf: u16,
    /// The menu's id (`p2v.boot`).
    pub menu_id: String,
}

impl Store {
    /// Opens (and makes) the state directory, for commands. What is in it can be read by its owner
    /// only; `machines` may belong to the boot service's user, and what
    /// root writes there does so too.
    ///
    /// # Errors
    /// The directories cannot be made.
    pub fn open(state: &Path) -> Result<Store, StoreError> {
        let store = Store {
            is_roots: true,
            ..Store::open_for_boot_service(state)?
        };
        for dir in [&store.locks, &store.copies] {
            make_private(dir)?;
        }
        Ok(store)
    }

    /// Opens (and makes) only what the boot service needs: the records. Locks and copies stay out of
    /// its user's reach, because root writes there.
    ///
    /// # Errors
    /// The directories cannot be made.
    pub fn open_for_boot_service(state: &Path) -> Result<Store, StoreError> {
        let store = Store {
            machines: state.join("machines"),
            locks: state.join("locks"),
            copies: state.join("copies"),
            names: state.join("names"),
            retired: state.join("retired"),
            is_roots: false,
            shelves: Shelves::default(),
        };
        // Others may pass through it: the boot service's user has its directories in it.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(state)
            .map_err(|source| StoreError::Io {
                doing: "create the directory",
                path: state.to_owned(),
                source,
            })?;
        // Where it cannot (a read-only file system), the records may be readable all the same, and the
        // boot service says so if they are not. Without it, moved machines would start their own disks.
        let _ = let_others_pass(state);
        make_private(&store.machines)?;
        Ok(store)
    }

    /// The same, but new machines get these shelves.
    pub fn with_shelves(self, shelves: Shelves) -> Store {
        Store { shelves, ..self }
    }

    /// The directory of the records.
    pub fn machines(&self) -> &Path {
        &self.machines
    }

    /// The file of a copy: its journal, its certificate.
    pub fn copy_file(&self, name: &MachineName, slot: u8, ending: &str) -> PathBuf {
        self.copies.join(format!("{name}-disk{slot}.{ending}"))
    }

    /// The file of a machine's record.
    pub fn path(&self, name: &MachineName) -> PathBuf {
        self.machines.join(format!("{name}.json"))
    }

    /// Takes the machine's lock for a command that changes it.
    ///
    /// # Errors
    /// [`LockError::Held`] names the command that has it.
    pub fn lock(&self, name: &MachineName, command: &str) -> Result<MachineLock, StoreError> {
        Ok(MachineLock::take(&self.locks, name.as_str(), command)?)
    }

    /// Every record.
    ///
    /// # Errors
    /// The directory cannot be read. What is unreadable in it is in [`Listing::unreadable`], and so is the directory of what
    /// root noted.
    pub fn list(&self) -> Result<Listing, StoreError> {
        let io = |source| StoreError::Io {
            doing: "read the directory",
            path: self.machines.clone(),
            source,
        };
        let mut listing = Listing::default();
        for entry in fs::read_dir(&self.machines).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let hidden = path
                .file_name()
                .is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
            if hidden || path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match read(&path).and_then(|record| self.trusted(record)) {
                Ok(record) => listing.records.push(record),
                Err(error) => listing.unreadable.push(error),
            }
        }
        listing
            .records
            .sort_by(|a, b| (a.shelf, &a.name).cmp(&(b.shelf, &b.name)));
        match self.hidden(&listing.records) {
            Ok(hidden) => listing.hidden = hidden,
            Err(error) => listing.unreadable.push(error),
        }
        Ok(listing)
    }

    /// Records that belong to another user than their directory, the boot service's: it cannot read them,
    /// while root can. So it is with one that root put back from a backup.
    ///
    /// # Errors
    /// The file system's answer.
    pub fn of_another_user(&self) -> io::Result<Vec<PathBuf>> {
        let owner = fs::metadata(&self.machines)?.uid();
        let mut others = Vec::new();
        for entry in fs::read_dir(&self.machines)? {
            let entry = entry?;
            let is_record = entry.path().extension().is_some_and(|e| e == "json");
            if is_record && entry.metadata()?.uid() != owner {
                others.push(entry.path());
            }
        }
        Ok(others)
    }

    /// The record of `name`.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] or [`StoreError::Unreadable`].
    pub fn get(&self, name: &MachineName) -> Result<Record, StoreError> {
        let path = self.path(name);
        match read(&path).and_then(|record| self.trusted(record)) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(self.unknown(name))
            }
            other => other,
        }
    }

    /// That there is no machine of this name, and which there are.
    pub fn unknown(&self, name: &MachineName) -> StoreError {
        let there = self.list().unwrap_or_default();
        StoreError::Unknown {
            name: name.to_string(),
            others: there.records.iter().map(|r| r.name.to_string()).collect(),
        }
    }

    /// The record with this shelf, if there is one.
    ///
    /// # Errors
    /// As [`Store::list`]; two records have it; or none has, and one that is unreadable might.
    pub fn by_shelf(&self, shelf: u16) -> Result<Option<Record>, StoreError> {
        self.list()?.one(|r| r.shelf == shelf)
    }

    /// The record of the machine that boots from `mac`, if there is one.
    ///
    /// # Errors
    /// As [`Store::by_shelf`].
    pub fn by_mac(&self, mac: MacAddr) -> Result<Option<Record>, StoreError> {
        self.list()?.by_mac(mac)
    }

    /// Reads the record afresh, lets `change` alter it, and writes it back, all under the store's
    /// lock, so that the boot service and a command never undo each other's changes.
    ///
    /// # Errors
    /// The store's own, or what `change` returned (then nothing is written).
    pub fn update<T, E: From<StoreError>>(
        &self,
        name: &MachineName,
        change: impl FnOnce(&mut Record) -> Result<T, E>,
    ) -> Result<T, E> {
        let _lock = self.write_lock()?;
        let before = self.get(name)?;
        let mut record = before.clone();
        let value = change(&mut record)?;
        if record != before {
            self.put(&record)?;
        }
        Ok(value)
    }

    /// A boot menu is asked for by `mac`: the machine's shelf, name and the menu's id, made on first sight.
    /// `wanted` is the name the settings give it; it counts only when the machine is new.
    ///
    /// # Errors
    /// Any unreadable record stops new machines from getting a shelf: it could be the same one, or the
    /// machine's own. One that is known is not affected by the records of others.
    pub fn menu(
        &self,
        mac: MacAddr,
        wanted: Option<&MachineName>,
        now: Timestamp,
    ) -> Result<MenuFacts, StoreError> {
        self.menu_within(mac, wanted, None, now)
    }

    /// The same, but a machine is not made if there are `seen_max` already that were seen and whose agent
    /// was not heard: anybody on the wire can make up addresses, and shelves are few. A record is never
    /// taken back for another, however old: its machine's agent may be exporting on that shelf at this
    /// moment, or a medium with it be in a drawer, and no two machines may have one.
    ///
    /// # Errors
    /// As [`Store::menu`]; [`StoreError::TooManySeen`].
    pub fn menu_within(
        &self,
        mac: MacAddr,
        wanted: Option<&MachineName>,
        seen_max: Option<u16>,
        now: Timestamp,
    ) -> Result<MenuFacts, StoreError> {
        let _lock = self.write_lock()?;
        let listing = self.list()?;
        if let Some(limit) = seen_max
            && listing.records.iter().all(|record| record.boot_mac != mac)
        {
            let seen = listing.records.iter().filter(|r| r.state == State::Seen);
            if seen.count() >= limit.into() {
                return Err(StoreError::TooManySeen {
                    limit,
                    machines: self.machines.clone(),
                });
            }
        }
        let mut record = self.find_or_make(listing, mac, wanted, None, now)?;
        let before = record.clone();
        let menu_id = record.menus.issue(now, random_id)?;
        record.menu_fetched = Some(now);
        // One that is made just now has a new menu. Anybody may ask, any number of times, and a write takes a while.
        if record != before {
            self.put(&record)?;
        }
        Ok(MenuFacts {
            name: record.name,
            shelf: record.shelf,
            menu_id,
        })
    }

    /// The record of the machine that boots from `mac`, made if there is none, and the id of its menu in files for a server
    /// or a medium without p2v. `wanted` is as for [`Store::menu`].
    ///
    /// # Errors
    /// As [`Store::menu`].
    pub fn menu_in_files(
        &self,
        mac: MacAddr,
        wanted: Option<&MachineName>,
        now: Timestamp,
    ) -> Result<(Record, String), StoreError> {
        let _lock = self.write_lock()?;
        let mut record = self.find_or_make(self.list()?, mac, wanted, None, now)?;
        let menu_id = record.menus.for_files(now, random_id)?;
        self.put(&record)?;
        Ok((record, menu_id))
    }

    /// What the machine that boots from `mac` was last given, without writing anything: for a host
    /// that cannot write. `None` if it is not known, or was given no menu yet.
    ///
    /// # Errors
    /// As [`Store::by_mac`].
    pub fn last_menu(&self, mac: MacAddr) -> Result<Option<MenuFacts>, StoreError> {
        Ok(self.by_mac(mac)?.and_then(|record| {
            let menu_id = record.menus.last()?.to_owned();
            Some(MenuFacts {
                name: record.name,
                shelf: record.shelf,
                menu_id,
            })
        }))
    }

    /// A machine that answers on AoE and has no record (its record was lost, or another server
    /// booted it): makes one with the shelf it uses. It may take no orders from this host.
    ///
    /// # Errors
    /// As [`Store::menu`]; the shelf or the MAC belongs to another record.
    pub fn adopt(&self, mac: MacAddr, shelf: u16, now: Timestamp) -> Result<Record, StoreError> {
        let _lock = self.write_lock()?;
        let record = self.find_or_make(self.list()?, mac, None, Some(shelf), now)?;
        self.put(&record)?;
        Ok(record)
    }

    /// The next counter for a control request, written to the record before it is returned: a
    /// request that may have been sent is never sent again with its number. It goes by the clock (milliseconds), so that a
    /// record that was lost, or put back from a backup, is no reason for the agent to refuse.
    ///
    /// # Errors
    /// As [`Store::update`].
    pub fn next_counter(&self, name: &MachineName) -> Result<u64, StoreError> {
        let now = clock().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or_default();
        self.update(name, |record| {
            record.counter = now.max(record.counter.saturating_add(1));
            Ok(record.counter)
        })
    }

    fn put(&self, record: &Record) -> Result<(), StoreError> {
        if self.is_roots && (!record.disks.is_empty() || record.config.is_some()) {
            self.claim(record)?;
        }
        let path = self.path(&record.name);
        let write = || -> io::Result<()> {
            // What could not be read again is not written.
            record.check().map_err(io::Error::other)?;
            let mut text = serde_json::to_vec_pretty(record)?;
            text.push(b'\n');
            atomic_file::replace_as_the_directorys(&path, &text, 0o600)
        };
        write().map_err(|source| StoreError::Io {
            doing: "write the machine record",
            path: path.clone(),
            source,
        })
    }

    fn write_lock(&self) -> Result<Held, StoreError> {
        let path = self.machines.join(".lock");
        let lock = || -> io::Result<Held> {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                // The directory may be another user's, and root opens what is there.
                .custom_flags(nix::libc::O_NOFOLLOW)
                .open(&path)?;
            atomic_file::own_as(&file, &self.machines)?;
            file.lock()?;
            Ok(Held(file))
        };
        lock().map_err(|source| StoreError::Io {
            doing: "lock",
            path: path.clone(),
            source,
        })
    }

    /// Names and shelves that something was made for are no other machine's, also without a record.
    fn find_or_make(
        &self,
        mut listing: Listing,
        mac: MacAddr,
        wanted: Option<&MachineName>,
        fixed_shelf: Option<u16>,
        now: Timestamp,
    ) -> Result<Record, StoreError> {
        if let Some(known) = listing.by_mac(mac)? {
            if let Some(shelf) = fixed_shelf
                && let Some(other) = listing
                    .records
                    .iter()
                    .find(|r| r.shelf == shelf && r.name != known.name)
            {
                return Err(StoreError::SharedShelf(
                    known.name,
                    other.name.clone(),
                    shelf,
                ));
            }
            return Ok(known);
        }
        let (claims, shelves) = (self.claims()?, self.shelves);
        // Its record was lost, and not what was made for it: it is what it was.
        let own = claims.iter().find(|claim| claim.boot_mac == mac);
        let records = listing.records.iter();
        let records = records.map(|r| (&r.name, r.boot_mac, r.shelf));
        let claims = claims.iter().map(|c| (&c.name, c.boot_mac, c.shelf));
        let others: Vec<(&MachineName, MacAddr, u16)> = records
            .chain(claims)
            .filter(|(_, owner, _)| *owner != mac)
            .collect();
        let taken = |shelf: u16| others.iter().find(|(_, _, other)| *other == shelf);
        let wanted = own.map(|own| &own.name).or(wanted);
        // A name that the settings gave may look like that of a shelf.
        let has_its_name = |shelf| {
            let usual = MachineName::of_shelf(shelf);
            wanted.is_some() || others.iter().all(|(name, ..)| **name != usual)
        };
        let shelf = match fixed_shelf.or(own.map(|own| own.shelf)) {
            Some(shelf) => shelf,
            None => shelves
                .range()
                .find(|s| taken(*s).is_none() && has_its_name(*s))
                .ok_or(StoreError::Full(shelves))?,
        };
        let name = wanted
            .cloned()
            .unwrap_or_else(|| MachineName::of_shelf(shelf));
        if let Some((other, ..)) = taken(shelf) {
            return Err(StoreError::SharedShelf(name, (*other).clone(), shelf));
        }
        if let Some((_, owner, _)) = others.iter().find(|(other, ..)| **other == name) {
            return Err(StoreError::NameTaken {
                name,
                mac,
                owner: *owner,
            });
        }
        let mut record = Record::new(name, mac, shelf);
        record.note(now, format!("first seen, MAC {mac}, shelf {shelf}"));
        Ok(record)
    }
}

/// Lets others pass through a state directory of root's that an older umask closed: the boot service
/// runs as a user of its own, and has its directories in it.
fn let_others_pass(state: &Path) -> io::Result<()> {
    let found = fs::metadata(state)?;
    if nix::unistd::geteuid().is_root() && found.uid() == 0 && found.mode() & 0o001 == 0 {
        let mode = found.mode() & 0o7777 | 0o001;
        fs::set_permissions(state, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Makes a directory that only its owner can use.
fn make_private(dir: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| StoreError::Io {
            doing: "create the directory",
            path: dir.to_owned(),
            source,
        })
}

fn random_id() -> Result<String, StoreError> {
    let mut bytes = [0; MENU_ID_LEN / 2];
    getrandom::fill(&mut bytes).map_err(|e| StoreError::Random(e.to_string()))?;
    Ok(hex::encode(bytes))
}
