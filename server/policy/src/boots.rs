//! What was seen of each machine's last boot: noted by `p2v serve`, shown by `p2v list --boot`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use p2v_contract::MacAddr;
use p2v_copy::atomic_file;
use p2v_dom0::Timestamp;
use p2v_dom0::workflow::ServedBoot;
use p2v_netboot::{BootEvent, MachineId};
use serde::{Deserialize, Serialize};
use tracing::warn;

mod boot;

pub use boot::Boot;

/// Machines that are remembered at most: those not seen for longest are forgotten. Anybody on the wire
/// can make up MAC addresses.
const MACHINES_MAX: usize = 1024;

/// What the service has seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct All {
    /// Since when it has looked.
    since: Timestamp,
    /// The last boot of each machine, by the network card it boots from.
    boots: BTreeMap<MacAddr, Boot>,
}

/// The last boot of each machine, kept in a file.
pub struct Boots {
    all: Arc<Mutex<All>>,
    changed: SyncSender<()>,
}

/// Where they are kept.
fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("boots.json")
}

/// Those of the service that keeps its state there; none if none was seen.
///
/// # Errors
/// The file cannot be read, or is not ours.
pub fn read(state_dir: &Path) -> Result<BTreeMap<MacAddr, Boot>> {
    Ok(read_all(state_dir)?.map_or_else(BTreeMap::new, |all| all.boots))
}

/// What the service that keeps its state there saw of the last boot of a machine, if it did.
pub fn last_boot(state_dir: &Path, mac: MacAddr) -> Option<ServedBoot> {
    let all = read_all(state_dir).ok()??;
    let boot = all.boots.get(&mac)?;
    Some(ServedBoot {
        serving_since: all.since,
        began: boot.began,
        ended: boot.last,
        complete: boot.complete,
    })
}

fn read_all(state_dir: &Path) -> Result<Option<All>> {
    let path = file(state_dir);
    let text = match std::fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let all = serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged: remove it", path.display()))?;
    Ok(Some(all))
}

impl Boots {
    /// Goes on with what is there, and has it written by a thread of its own: what is seen is told by
    /// those that answer the machines.
    pub fn keep(state_dir: &Path) -> Boots {
        let boots = read(state_dir).unwrap_or_else(|error| {
            warn!("what was seen of earlier boots is forgotten: {error:#}");
            BTreeMap::new()
        });
        let all = Arc::new(Mutex::new(All {
            since: Timestamp::now(),
            boots,
        }));
        let (path, kept) = (file(state_dir), Arc::clone(&all));
        // One message is enough, however many changes it stands for.
        let (changed, changes) = sync_channel(1);
        std::thread::spawn(move || {
            let mut failed = false;
            while changes.recv().is_ok() {
                let now = lock(&kept).clone();
                let written = serde_json::to_vec(&now)
                    .map_err(io::Error::from)
                    .and_then(|text| atomic_file::replace(&path, &text, 0o644));
                if let Err(error) = &written
                    && !failed
                {
                    warn!(
                        "cannot write {}: {error}; `p2v list --boot` shows what was seen before",
                        path.display()
                    );
                }
                failed = written.is_err();
            }
        });
        let boots = Boots { all, changed };
        boots.write();
        boots
    }

    /// Has what is known written.
    fn write(&self) {
        // Full: it will be looked at all the same.
        let _ = self.changed.try_send(());
    }

    /// Takes in what was seen of a machine, whose SMBIOS UUID is `id`, if it told one. When its boot is complete: the boot.
    pub fn seen(&self, mac: MacAddr, id: Option<MachineId>, event: &BootEvent) -> Option<Boot> {
        let now = Timestamp::now();
        let mut all = lock(&self.all);
        let all = &mut all.boots;
        if !all.contains_key(&mac) && all.len() >= MACHINES_MAX {
            let oldest = all
                .iter()
                .min_by_key(|(_, boot)| (!boot.was_refused(), boot.last));
            if let Some(oldest) = oldest.map(|(mac, _)| *mac) {
                all.remove(&oldest);
            }
        }
        let boot = all.entry(mac).or_insert_with(|| Boot::new(now));
        if boot.is_over_at(event, now) {
            *boot = Boot::new(now);
        }
        let before = boot.complete;
        boot.take(event, now);
        boot.uuid = id.or(boot.uuid);
        let complete = (boot.complete && !before).then(|| boot.clone());
        self.write();
        complete
    }
}

fn lock(all: &Mutex<All>) -> MutexGuard<'_, All> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn fetched(file: &str) -> BootEvent {
        BootEvent::Fetched {
            file: file.into(),
            bytes: 10,
            elapsed: Some(Duration::ZERO),
        }
    }

    #[test]
    fn boots_are_kept_across_a_restart_and_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let mac = MacAddr::new(0x52, 0x54, 0, 0, 0, 1);
        let boots = Boots::keep(dir.path());
        assert_eq!(boots.seen(mac, None, &fetched("vmlinuz")), None);
        let boot = boots.seen(mac, None, &fetched("initrd")).unwrap();
        assert_eq!(boot.to_string(), "vmlinuz, initrd");
        assert_eq!(boots.seen(mac, None, &fetched("initrd")), None);
        let until = Instant::now() + Duration::from_secs(20);
        while read(dir.path())
            .unwrap()
            .get(&mac)
            .is_none_or(|b| !b.complete)
        {
            assert!(Instant::now() < until, "not written");
            std::thread::yield_now();
        }
        let again = Boots::keep(dir.path());
        assert_eq!(again.seen(mac, None, &fetched("initrd")), None);
    }

    #[test]
    fn made_up_addresses_do_not_fill_the_memory() {
        let dir = tempfile::tempdir().unwrap();
        let boots = Boots::keep(dir.path());
        for n in 0..2000u16 {
            let [high, low] = n.to_be_bytes();
            boots.seen(
                MacAddr::new(2, 0, 0, 0, high, low),
                None,
                &fetched("vmlinuz"),
            );
        }
        assert_eq!(lock(&boots.all).boots.len(), MACHINES_MAX);
    }
}
