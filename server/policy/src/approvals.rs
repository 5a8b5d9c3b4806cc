//! Which machines the operator has approved by hand: a small file for each, which root writes and the netboot service
//! reads whenever the machine asks.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use p2v_contract::MacAddr;
use p2v_copy::atomic_file;
use p2v_dom0::Timestamp;
use p2v_netboot::parse_mac;
use serde::{Deserialize, Serialize};

/// What the operator said of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// It boots the agent whenever it asks.
    Always,
    /// It boots the agent one time.
    Once,
    /// It is not approved any more.
    Revoked,
}

/// The last word of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// What.
    pub word: Word,
    /// When.
    pub at: Timestamp,
}

/// All of them, by the network card that a machine boots from.
#[derive(Clone, Debug)]
pub struct Approvals {
    dir: PathBuf,
}

impl Approvals {
    /// Those in a state directory, which is root's: the service's user cannot approve a machine.
    pub fn of(state: &Path) -> Approvals {
        Approvals {
            dir: state.join("approved"),
        }
    }

    fn file(&self, mac: MacAddr) -> PathBuf {
        let name = mac.to_string().replace(':', "-");
        self.dir.join(format!("{name}.json"))
    }

    /// What was said of a machine, if anything was.
    ///
    /// # Errors
    /// The file cannot be read, or is not ours.
    pub fn get(&self, mac: MacAddr) -> Result<Option<Approval>> {
        let file = self.file(mac);
        let text = match fs::read(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("cannot read {}", file.display()))?,
        };
        let approval = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged: approve {mac} again", file.display()))?;
        Ok(Some(approval))
    }

    /// All that was said.
    ///
    /// # Errors
    /// As [`Approvals::get`], or the directory cannot be read.
    pub fn all(&self) -> Result<BTreeMap<MacAddr, Approval>> {
        let cannot = || format!("cannot read {}", self.dir.display());
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
            entries => entries.with_context(cannot)?,
        };
        let mut all = BTreeMap::new();
        for entry in entries {
            let path = entry.with_context(cannot)?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let mac = stem.and_then(|stem| parse_mac(stem).ok());
            // What is hidden was left by a command that was killed while it wrote.
            let Some(mac) = mac.filter(|mac| self.file(*mac) == path) else {
                continue;
            };
            all.extend(self.get(mac)?.map(|approval| (mac, approval)));
        }
        Ok(all)
    }

    /// Takes the operator's word down. For root.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set(&self, mac: MacAddr, approval: Approval) -> Result<()> {
        let file = self.file(mac);
        let write = || -> io::Result<()> {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&self.dir)?;
            // Whatever root's umask is, the service's user must be able to read it.
            fs::set_permissions(&self.dir, Permissions::from_mode(0o755))?;
            let text = serde_json::to_vec(&approval)?;
            atomic_file::replace(&file, &text, 0o644)?;
            fs::set_permissions(&file, Permissions::from_mode(0o644))
        };
        write().with_context(|| format!("cannot write {}: run as root", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_last_is_kept_for_each_machine_and_everybody_can_read_it() {
        let state = tempfile::tempdir().unwrap();
        let approvals = Approvals::of(state.path());
        let mac = |n| MacAddr::new(0x52, 0x54, 0, 0, 0, n);
        assert_eq!(approvals.get(mac(1)).unwrap(), None);
        assert!(approvals.all().unwrap().is_empty());
        let said = |word| Approval {
            word,
            at: Timestamp::from_unix(1000),
        };
        approvals.set(mac(1), said(Word::Always)).unwrap();
        approvals.set(mac(2), said(Word::Always)).unwrap();
        approvals.set(mac(2), said(Word::Once)).unwrap();
        assert_eq!(approvals.get(mac(2)).unwrap(), Some(said(Word::Once)));
        let dir = state.path().join("approved");
        let file = dir.join("52-54-00-00-00-02.json");
        let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&file)), (0o755, 0o644));
        fs::write(dir.join(".52-54-00-00-00-03.json.7.new"), "{").unwrap();
        assert_eq!(approvals.all().unwrap().len(), 2);
        // Damaged, it says so, and approves nobody.
        fs::write(&file, "{").unwrap();
        assert!(approvals.get(mac(2)).is_err() && approvals.all().is_err());
    }
}
