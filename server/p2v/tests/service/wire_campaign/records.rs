//! What the host remembers: machines in every state, and which of it a stranger who asks for a menu may change.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use p2v_contract::MacAddr;
use p2v_contract::inventory::Disk;
use p2v_contract::{Address, key::SecretKey};
use p2v_dom0::record::Mapping;
use p2v_dom0::{State, Store, Timestamp, host_key};
use serde_json::Value;

use super::cast::{BOOTING, EXPORTED, KNOWN, MOVED, RELEASED, RUNNING, uuid};

/// Machines that were seen and never heard of, at most (`seen_max`).
pub const SEEN_MAX: usize = 8;
/// What was seen of the boots of 1024 machines is kept: twelve steps of each, with up to 80 characters of what it said
/// itself and as many of ours.
const BOOTS_BYTES: u64 = 1024 * (12 * 160 + 300);
/// The service's own files.
const SERVICES: [&str; 3] = ["boots.json", "cards.json", "leases.json"];

/// Makes the records; the host's key.
pub fn make(state: &Path) -> SecretKey {
    let store = Store::open(state).unwrap();
    for mac in KNOWN {
        let facts = store.menu(mac, None, Timestamp::now()).unwrap();
        let change = |record: &mut p2v_dom0::Record| {
            record.cards.insert(mac);
            record.uuids.insert(uuid(mac));
            let disk = Disk {
                sectors: 1000,
                serial: format!("S{}", mac.5),
                ..Disk::default()
            };
            let slot = record
                .use_disk(Address::new(facts.shelf, 0), &disk)
                .unwrap();
            slot.mapping = (mac == RUNNING).then_some(Mapping::OldDisk { shelf: facts.shelf });
            record.state = match mac {
                RUNNING => State::Running,
                MOVED => State::Moved,
                RELEASED => State::Released,
                _ => State::Exported,
            };
            Ok::<_, p2v_dom0::store::StoreError>(())
        };
        store.update(&facts.name, change).unwrap();
    }
    host_key::secret(state).unwrap()
}

/// Everything under the state directory.
pub struct Kept {
    state: PathBuf,
    /// Of root's files: the bytes. Of the records: what a menu does not change.
    before: BTreeMap<PathBuf, Vec<u8>>,
}

impl Kept {
    pub fn of(state: &Path) -> Kept {
        let before = files(state)
            .into_iter()
            .filter_map(|path| Some((path.clone(), fixed(state, &path)?)))
            .collect();
        Kept {
            state: state.to_owned(),
            before,
        }
    }

    /// That it is as it was, but for what a menu that is asked for changes: the ids of the menus that were given to a machine
    /// that may be booted, and when; new machines that `allow` lets in, [`SEEN_MAX`] at most, of which nothing is known; and
    /// the service's own notes, which are bounded. Returns how many such machines there are.
    pub fn check(&self) -> usize {
        let (mut left, mut seen) = (self.before.clone(), 0);
        for path in files(&self.state) {
            let Some(now) = fixed(&self.state, &path) else {
                continue;
            };
            match left.remove(&path) {
                Some(before) => assert!(
                    now == before,
                    "{} was\n{}\nand is\n{}",
                    path.display(),
                    String::from_utf8_lossy(&before),
                    String::from_utf8_lossy(&now)
                ),
                None => {
                    let record: Value = serde_json::from_slice(&now).unwrap_or_default();
                    let nothing_known = record["state"] == "seen"
                        && record["disks"] == serde_json::json!({})
                        && record["inventory"].is_null();
                    assert!(nothing_known, "{}: {record:#}", path.display());
                    seen += 1;
                }
            }
        }
        assert!(left.is_empty(), "they are gone: {:?}", left.keys());
        assert!(seen <= SEEN_MAX, "{seen} machines were made up");
        seen
    }
}

/// All files under a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => all.push(path),
        }
    }
    all
}

/// What nobody's question may change; `None`: nothing of it, or it is being replaced just now.
fn fixed(state: &Path, path: &Path) -> Option<Vec<u8>> {
    let (folder, name) = (path.parent()?, path.file_name()?.to_str()?);
    if folder == state.join("netboot") {
        // One that has not its name yet takes the other's place in a moment.
        let known = name.starts_with('.') || SERVICES.contains(&name);
        assert!(known, "what is {}?", path.display());
        let size = fs::metadata(path).map_or(0, |found| found.len());
        assert!(size <= BOOTS_BYTES, "{} has {size} bytes", path.display());
        return None;
    }
    if folder != state.join("machines") {
        return fs::read(path).ok();
    }
    if name.starts_with('.') {
        return None;
    }
    let text = fs::read(path).ok()?;
    let mut record: Value = serde_json::from_slice(&text).unwrap();
    let mac: MacAddr = record["boot_mac"].as_str()?.parse().ok()?;
    // Those that are held, or left alone, get no menu with an id.
    if ![MOVED, RELEASED, EXPORTED].contains(&mac) {
        record.as_object_mut()?.remove("menu_fetched");
        record["menus"].as_object_mut()?.remove("issued");
    }
    Some(serde_json::to_vec_pretty(&record).unwrap())
}

/// The lines of the settings about machines.
pub fn settings() -> String {
    let [(one, at), (other, there)] = BOOTING;
    format!(
        "fixed = {{ \"{one}\" = \"{at}\", \"{other}\" = \"{there}\" }}\n\
         allow = [\"{one}\", \"{other}\", \"02:aa:*\"]\nseen_max = {SEEN_MAX}\n"
    )
}
