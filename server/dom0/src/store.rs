//! The records on disk: one JSON file per machine under `STATE/machines/`.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use p2v_aoe::MacAddr;
use p2v_aoe::address::SHELF_MAX;
use p2v_aoe::token::Token;

use crate::atomic_file;
use crate::lock::{Held, LockError, MachineLock};
use crate::name::MachineName;
use crate::record::{RECORD_VERSION, Record};
use crate::timestamp::Timestamp;

/// The machine records of one state directory.
#[derive(Clone, Debug)]
pub struct Store {
    machines: PathBuf,
    locks: PathBuf,
    copies: PathBuf,
}

/// What went wrong with the records.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A record that cannot be understood is never replaced.
    #[error(
        "the machine record {} cannot be read: {why}. It was left as it is; repair it, or move it away \
         if the machine is no longer needed",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No such machine.
    #[error("no machine is called `{name}`: {}", known(others))]
    Unknown {
        /// The name.
        name: String,
        /// Those there are.
        others: Vec<String>,
    },
    /// The wanted name is taken.
    #[error("the name {name} given to {mac} already belongs to the machine with MAC {owner}")]
    NameTaken {
        /// The name.
        name: MachineName,
        /// Who wanted it.
        mac: MacAddr,
        /// Who has it.
        owner: MacAddr,
    },
    /// Two records claim one shelf.
    #[error(
        "machines {0} and {1} both have shelf {2}: two disks must not have one address; correct one record"
    )]
    SharedShelf(MachineName, MachineName, u16),
    /// Two records claim one machine.
    #[error(
        "the records of {0} and {1} both have the MAC {2}: move the one away that is not wanted"
    )]
    SharedMac(MachineName, MachineName, MacAddr),
    /// No shelf is left.
    #[error(
        "all {SHELF_MAX} AoE shelves are taken; move records of machines that are gone out of the way"
    )]
    Full,
    /// The system has no randomness for a token.
    #[error("no random bytes for a boot token: {0}")]
    Random(String),
    /// Another command has the machine.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl StoreError {
    /// The file or directory that is the trouble.
    fn path(&self) -> Option<&Path> {
        match self {
            StoreError::Io { path, .. } | StoreError::Unreadable { path, .. } => Some(path),
            _ => None,
        }
    }
}

/// All that could be read, and what could not.
#[derive(Debug, Default)]
pub struct Listing {
    /// Readable records, by shelf.
    pub records: Vec<Record>,
    /// One error per record that is not.
    pub unreadable: Vec<StoreError>,
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

    /// Whether a record that cannot be understood has this address in its text: it may be that
    /// machine's.
    pub fn names_in_unreadable(&self, mac: MacAddr) -> bool {
        let wanted = mac.to_string();
        self.unreadable.iter().any(|error| match error {
            StoreError::Unreadable { path, .. } => fs::read(path)
                .is_ok_and(|text| String::from_utf8_lossy(&text).contains(wanted.as_str())),
            _ => false,
        })
    }

    /// The one record that `is` it.
    fn one(&mut self, is: impl Fn(&Record) -> bool) -> Result<Option<Record>, StoreError> {
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

/// What a boot menu for a machine must hold.
#[derive(Clone, Debug)]
pub struct MenuFacts {
    /// The machine's name.
    pub name: MachineName,
    /// Its shelf (`p2v.shelf`).
    pub shelf: u16,
    /// Its token (`p2v.token`).
    pub token: Token,
}

/// Machines there are, for somebody who named another.
fn known(others: &[String]) -> String {
    match others {
        [] => "no record of any can be read here; `p2v list` shows what there is".into(),
        [one] => format!("there is {one}"),
        [..] => format!("there are {}", others.join(", ")),
    }
}

impl Store {
    /// Opens (and makes) the state directory, for commands. What is in it can be read by its owner
    /// only, as records hold boot tokens; `machines` may belong to the boot service's user, and what
    /// root writes there does so too.
    ///
    /// # Errors
    /// The directories cannot be made.
    pub fn open(state: &Path) -> Result<Store, StoreError> {
        let store = Store::open_for_boot_service(state)?;
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
    /// The directory cannot be read; a record that cannot be is in [`Listing::unreadable`].
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
            match read(&path) {
                Ok(record) => listing.records.push(record),
                Err(error) => listing.unreadable.push(error),
            }
        }
        listing
            .records
            .sort_by(|a, b| (a.shelf, &a.name).cmp(&(b.shelf, &b.name)));
        Ok(listing)
    }

    /// The record of `name`.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] or [`StoreError::Unreadable`].
    pub fn get(&self, name: &MachineName) -> Result<Record, StoreError> {
        let path = self.path(name);
        match read(&path) {
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

    /// A boot menu is asked for by `mac`: the machine's shelf, name and token, made on first sight.
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
        let _lock = self.write_lock()?;
        let mut record = self.find_or_make(mac, wanted, None, now)?;
        let token = record.tokens.issue(now, random_token)?;
        record.menu_fetched = Some(now);
        self.put(&record)?;
        Ok(MenuFacts {
            name: record.name,
            shelf: record.shelf,
            token,
        })
    }

    /// The record of the machine that boots from `mac`, made if there is none: for a menu that gives
    /// it no token. `wanted` is as for [`Store::menu`].
    ///
    /// # Errors
    /// As [`Store::menu`].
    pub fn find_or_add(
        &self,
        mac: MacAddr,
        wanted: Option<&MachineName>,
        now: Timestamp,
    ) -> Result<Record, StoreError> {
        let _lock = self.write_lock()?;
        let record = self.find_or_make(mac, wanted, None, now)?;
        self.put(&record)?;
        Ok(record)
    }

    /// What the machine that boots from `mac` was last given, without writing anything: for a host
    /// that cannot write. `None` if it is not known, or was given no token yet.
    ///
    /// # Errors
    /// As [`Store::by_mac`].
    pub fn last_menu(&self, mac: MacAddr) -> Result<Option<MenuFacts>, StoreError> {
        Ok(self.by_mac(mac)?.and_then(|record| {
            let token = record.tokens.last()?.clone();
            Some(MenuFacts {
                name: record.name,
                shelf: record.shelf,
                token,
            })
        }))
    }

    /// A machine that answers on AoE and has no record (its record was lost, or another server
    /// booted it): makes one with the shelf it uses. Control requests need a token, which it has not.
    ///
    /// # Errors
    /// As [`Store::menu`]; the shelf or the MAC belongs to another record.
    pub fn adopt(&self, mac: MacAddr, shelf: u16, now: Timestamp) -> Result<Record, StoreError> {
        let _lock = self.write_lock()?;
        let record = self.find_or_make(mac, None, Some(shelf), now)?;
        self.put(&record)?;
        Ok(record)
    }

    /// The next counter for a control request, written to the record before it is returned: a
    /// request that may have been sent is never sent again with its number.
    ///
    /// # Errors
    /// As [`Store::update`].
    pub fn next_counter(&self, name: &MachineName) -> Result<u64, StoreError> {
        self.update(name, |record| {
            record.counter += 1;
            Ok(record.counter)
        })
    }

    fn find_or_make(
        &self,
        mac: MacAddr,
        wanted: Option<&MachineName>,
        fixed_shelf: Option<u16>,
        now: Timestamp,
    ) -> Result<Record, StoreError> {
        let mut listing = self.list()?;
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
        let records = listing.records;
        let taken = |shelf: u16| records.iter().find(|r| r.shelf == shelf);
        let shelf = match fixed_shelf {
            Some(shelf) => shelf,
            None => (1..=SHELF_MAX)
                .find(|s| taken(*s).is_none())
                .ok_or(StoreError::Full)?,
        };
        let name = wanted
            .cloned()
            .unwrap_or_else(|| MachineName::of_shelf(shelf));
        if let Some(other) = taken(shelf) {
            return Err(StoreError::SharedShelf(name, other.name.clone(), shelf));
        }
        if let Some(owner) = records.iter().find(|r| r.name == name) {
            return Err(StoreError::NameTaken {
                name,
                mac,
                owner: owner.boot_mac,
            });
        }
        let mut record = Record::new(name, mac, shelf);
        record.note(now, format!("first seen, MAC {mac}, shelf {shelf}"));
        Ok(record)
    }

    fn put(&self, record: &Record) -> Result<(), StoreError> {
        let path = self.path(&record.name);
        let write = || -> io::Result<()> {
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

fn random_token() -> Result<Token, StoreError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| StoreError::Random(e.to_string()))?;
    Ok(Token::from_bytes(bytes))
}

fn read(path: &Path) -> Result<Record, StoreError> {
    let unreadable = |why: String| StoreError::Unreadable {
        path: path.to_owned(),
        why,
    };
    let text = fs::read(path).map_err(|source| StoreError::Io {
        doing: "read the machine record",
        path: path.to_owned(),
        source,
    })?;
    let value: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|e| unreadable(format!("not whole or not JSON ({e})")))?;
    // The version first: a newer record may have fields that would only confuse the message.
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(RECORD_VERSION) => {}
        Some(version) => {
            return Err(unreadable(format!(
                "it has version {version} and this p2v knows version {RECORD_VERSION}"
            )));
        }
        None => return Err(unreadable("it has no version".into())),
    }
    let record: Record = serde_json::from_value(value).map_err(|e| unreadable(e.to_string()))?;
    if path.file_stem().and_then(|s| s.to_str()) != Some(record.name.as_str()) {
        return Err(unreadable(format!("it is the record of {}", record.name)));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u8) -> MacAddr {
        MacAddr::new(0x52, 0x54, 0, 0, 0, n)
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix(1_700_000_000 + seconds)
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    /// As root only: nobody else would be let change the directory, or mount.
    #[test]
    fn a_state_directory_that_cannot_be_changed_is_used_as_it_is() {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};

        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path()).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let path = dir.path().to_owned();
        // A thread, and its mounts with it, ends with the closure.
        let opened = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            let bind = MsFlags::MS_BIND;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(none, "/", none, private, none).unwrap();
            mount(Some(&path), &path, none, bind, none).unwrap();
            let read_only = bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(none, &path, none, read_only, none).unwrap();
            assert!(let_others_pass(&path).is_err());
            Store::open_for_boot_service(&path).map(drop)
        });
        opened.join().unwrap().unwrap();
    }

    #[test]
    fn shelf_and_name_are_stable_and_first_free() {
        let (dir, store) = store();
        let a = store.menu(mac(1), None, at(0)).unwrap();
        let b = store
            .menu(mac(2), Some(&"web".parse().unwrap()), at(1))
            .unwrap();
        assert_eq!((a.shelf, a.name.as_str()), (1, "e1"));
        assert_eq!((b.shelf, b.name.as_str()), (2, "web"));
        // Another p2v on the same directory, later, with another wish.
        let again = Store::open(dir.path()).unwrap();
        let b2 = again
            .menu(mac(2), Some(&"other".parse().unwrap()), at(500))
            .unwrap();
        assert_eq!((b2.shelf, b2.name.as_str()), (2, "web"));
        assert_ne!(b2.token, b.token);
        fs::remove_file(store.path(&a.name)).unwrap();
        assert_eq!(store.menu(mac(3), None, at(2)).unwrap().shelf, 1);
        assert!(matches!(
            store.menu(mac(4), Some(&"web".parse().unwrap()), at(3)),
            Err(StoreError::NameTaken { .. })
        ));
    }

    #[test]
    fn half_a_record_is_named_and_left_alone() {
        let (_dir, store) = store();
        let facts = store.menu(mac(1), None, at(0)).unwrap();
        let path = store.path(&facts.name);
        let whole = fs::read(&path).unwrap();
        for broken in [&whole[..whole.len() / 2], b"", b"{}", b"{\"version\": 99}"] {
            fs::write(&path, broken).unwrap();
            let error = store.get(&facts.name).unwrap_err().to_string();
            assert!(error.contains("e1.json"), "{error}");
            // Nothing gets a shelf while it could be the lost one's, and nothing is overwritten.
            assert!(store.menu(mac(2), None, at(1)).is_err());
            assert!(store.menu(mac(1), None, at(1)).is_err());
            assert!(store.next_counter(&facts.name).is_err());
            assert_eq!(fs::read(&path).unwrap(), broken);
            let listing = store.list().unwrap();
            assert_eq!((listing.records.len(), listing.unreadable.len()), (0, 1));
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(store.get(&facts.name).unwrap().boot_mac, mac(1));
    }

    #[test]
    fn the_records_of_others_do_not_matter_to_a_known_machine() {
        let (dir, store) = store();
        for n in 1..=4 {
            store.menu(mac(n), None, at(0)).unwrap();
        }
        let path = |n| dir.path().join(format!("machines/e{n}.json"));
        fs::write(path(2), "{").unwrap();
        // Machines 3 and 4 claim one shelf.
        let text = fs::read_to_string(path(4)).unwrap();
        fs::write(path(4), text.replace("\"shelf\": 4", "\"shelf\": 3")).unwrap();
        assert_eq!(store.menu(mac(1), None, at(500)).unwrap().shelf, 1);
        assert!(store.by_mac(mac(1)).unwrap().is_some());
        assert!(store.by_shelf(1).unwrap().is_some());
        for n in [2, 3, 4, 9] {
            assert!(store.menu(mac(n), None, at(500)).is_err(), "{n}");
            assert!(store.by_mac(mac(n)).is_err(), "{n}");
        }
        // Two records of one machine.
        fs::write(
            path(2),
            text.replace("e4", "e2")
                .replace("\"shelf\": 4", "\"shelf\": 2"),
        )
        .unwrap();
        let error = store.by_mac(mac(4)).unwrap_err().to_string();
        assert!(error.contains("e2") && error.contains("e4"), "{error}");
    }

    #[test]
    fn what_was_last_given_is_read_without_writing() {
        let (dir, store) = store();
        assert!(store.last_menu(mac(1)).unwrap().is_none());
        let first = store.menu(mac(1), None, at(0)).unwrap();
        let second = store.menu(mac(1), None, at(500)).unwrap();
        assert_ne!(first.token, second.token);
        let path = dir.path().join("machines/e1.json");
        let before = fs::read(&path).unwrap();
        let last = store.last_menu(mac(1)).unwrap().unwrap();
        assert_eq!((last.shelf, last.token), (1, second.token));
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn the_counter_is_on_disk_before_it_is_used() {
        let (dir, store) = store();
        let name = store.menu(mac(1), None, at(0)).unwrap().name;
        assert_eq!(store.next_counter(&name).unwrap(), 1);
        assert_eq!(
            Store::open(dir.path()).unwrap().get(&name).unwrap().counter,
            1
        );
        assert_eq!(store.next_counter(&name).unwrap(), 2);
    }

    #[test]
    fn a_failed_change_writes_nothing_and_both_writers_are_heard() {
        let (_dir, store) = store();
        let name = store.menu(mac(1), None, at(0)).unwrap().name;
        let failed: Result<(), StoreError> = store.update(&name, |r| {
            r.counter = 77;
            Err(StoreError::Full)
        });
        assert!(failed.is_err());
        assert_eq!(store.get(&name).unwrap().counter, 0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..50).for_each(|_| assert!(store.next_counter(&name).unwrap() > 0)));
            }
        });
        assert_eq!(store.get(&name).unwrap().counter, 200);
    }

    #[test]
    fn a_closed_state_directory_of_roots_is_opened_to_pass_and_no_more() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        for (before, after) in [(0o700, 0o701), (0o750, 0o751), (0o755, 0o755)] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(before)).unwrap();
            let store = Store::open(dir.path()).unwrap();
            assert_eq!(mode(dir.path()), after);
            assert_eq!(mode(store.machines()), 0o700);
        }
        // Another user's is his own affair.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(dir.path(), Some(1), Some(1)).unwrap();
        Store::open(dir.path()).unwrap();
        assert_eq!(mode(dir.path()), 0o700);
    }

    #[test]
    fn records_are_for_root_only() {
        let (_dir, store) = store();
        let name = store.menu(mac(1), None, at(0)).unwrap().name;
        let mode = fs::metadata(store.path(&name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn adopting_takes_no_shelf_that_is_taken() {
        let (_dir, store) = store();
        store.menu(mac(1), None, at(0)).unwrap();
        assert_eq!(store.adopt(mac(2), 9, at(1)).unwrap().name.as_str(), "e9");
        assert!(matches!(
            store.adopt(mac(3), 1, at(1)),
            Err(StoreError::SharedShelf(..))
        ));
        assert!(matches!(
            store.adopt(mac(2), 1, at(1)),
            Err(StoreError::SharedShelf(..))
        ));
    }
}
