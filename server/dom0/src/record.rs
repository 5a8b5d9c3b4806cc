//! What is remembered of a machine.
//!
//! A record says what was done and decided. What is true now is asked of the wire, of `xl` and of
//! LVM; a record never stands in for that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use p2v_contract::inventory::{Disk, Inventory};
use p2v_contract::{Address, MacAddr};
use p2v_copy::Verify;
use serde::{Deserialize, Serialize};

use crate::menus::Menus;
use crate::name::MachineName;
use crate::timestamp::Timestamp;
use crate::tool::lvm;

pub use destination::Destination;
pub use inventory::NotOurs;

mod check;
mod destination;
mod inventory;
#[cfg(test)]
mod tests;

/// Version of the record's format; raised when an older p2v could misread a newer record.
pub const RECORD_VERSION: u32 = 2;

/// History lines kept; the oldest go first.
pub const HISTORY_KEPT: usize = 500;

/// Where a machine is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It asked for its menu, or its menu was made for a server or a medium without us.
    Seen,
    /// Its agent answered on AoE and the inventory was read.
    Exported,
    /// A domain was started on the old disks.
    Running,
    /// A copy was begun and is not complete.
    Copying,
    /// Every exported disk was copied and checked, and nothing could write to it since.
    Copied,
    /// The domain was switched to the volumes.
    Moved,
    /// The old machine was powered off.
    Released,
}

impl State {
    /// All of them, in their order.
    pub const ALL: [State; 7] = [
        State::Seen,
        State::Exported,
        State::Running,
        State::Copying,
        State::Copied,
        State::Moved,
        State::Released,
    ];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Seen => "seen",
            State::Exported => "exported",
            State::Running => "running",
            State::Copying => "copying",
            State::Copied => "copied",
            State::Moved => "moved",
            State::Released => "released",
        })
    }
}

/// One machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`RECORD_VERSION`] of the writer.
    pub version: u32,
    /// Its name, also the file's.
    pub name: MachineName,
    /// The permanent MAC of the interface it network-boots from.
    pub boot_mac: MacAddr,
    /// Its AoE shelf.
    pub shelf: u16,
    /// Where it is on its way.
    pub state: State,
    /// Menus given out.
    #[serde(default)]
    pub menus: Menus,
    /// The counter of the last control request; written before the request is sent, never set back.
    #[serde(default)]
    pub counter: u64,
    /// When its menu was last asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub menu_fetched: Option<Timestamp>,
    /// When it was given the netboot image by `p2v serve --once`, which does it once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted_once: Option<Timestamp>,
    /// The last inventory read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory_read: Option<Timestamp>,
    /// Every AoE slot that an inventory ever named: a disk that did not come up is noticed by it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub slots: BTreeSet<u8>,
    /// Every network card that an inventory ever named: none of them may bring the machine to its old disk once its
    /// server is on this host.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub cards: BTreeSet<MacAddr>,
    /// Every SMBIOS UUID that an inventory ever told, for cards that none named.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub uuids: BTreeSet<String>,
    /// The disks something was done with, by AoE slot.
    #[serde(default)]
    pub disks: BTreeMap<u8, DiskRecord>,
    /// When a domain of it was first known to run from the copies, since it was moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<Timestamp>,
    /// The domain config as we last wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<WrittenConfig>,
    /// What happened, oldest first.
    #[serde(default)]
    pub history: Vec<HistoryLine>,
}

/// What is remembered of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRecord {
    /// Size in 512-byte sectors when it was first used.
    pub sectors: u64,
    /// Model, to know it again.
    pub model: String,
    /// Serial number, to know it again.
    pub serial: String,
    /// The id of its partition table when it was first used, to know it again where it has no serial number. Empty: it
    /// had none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub table_id: String,
    /// What the domain's disk is; `None` if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<Mapping>,
    /// Its copy, begun or done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyRecord>,
}

/// What the domain's disk is (see `DESIGN.md`, "The disk the domain sees").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mapping {
    /// The old machine's disk: dm-linear over the kernel's AoE device.
    OldDisk {
        /// The shelf that it was given to the domain from: the record's must not change while it is.
        shelf: u16,
    },
    /// The copy: dm-linear over a volume or a device; a file is named by the domain's config.
    Copy,
}

impl DiskRecord {
    /// That of a disk with which nothing was done.
    fn new(disk: &Disk) -> DiskRecord {
        DiskRecord {
            sectors: disk.sectors,
            model: disk.model.clone(),
            serial: disk.serial.clone(),
            table_id: inventory::table_id(disk).to_owned(),
            mapping: None,
            copy: None,
        }
    }

    /// The copy that the domain's disk is, if it is one.
    pub fn mapped_copy(&self) -> Option<&Destination> {
        match self.mapping? {
            Mapping::OldDisk { .. } => None,
            Mapping::Copy => Some(&self.copy.as_ref()?.destination),
        }
    }
}

impl fmt::Display for DiskRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` serial `{}`, {} sectors",
            self.model, self.serial, self.sectors
        )?;
        match self.table_id.as_str() {
            "" => Ok(()),
            id => write!(f, ", partition table {id}"),
        }
    }
}

/// A copy, begun or done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyRecord {
    /// Where to.
    pub destination: Destination,
    /// When the first run began.
    pub begun: Timestamp,
    /// The old machine was not booted by this host, so another host could write to the disk
    /// meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unguarded: bool,
    /// How far it is.
    pub stage: Stage,
}

/// How far a copy is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Stage {
    /// It was begun, or the old disk may have been written since it was compared.
    Begun {
        /// Name of the journal's content: what is noted there is right. `None`: the disk or the copy may have changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        journal: Option<String>,
        /// The destination was made for this copy, and no run has come to its end yet: nothing in it is worth keeping.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        fresh: bool,
    },
    /// It was made while the domain ran, to be brought up to date.
    Precopied {
        /// When.
        at: Timestamp,
    },
    /// Every range was compared, and nothing could write to the old disk since.
    Verified {
        /// As of one that was begun: for what could not be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        journal: Option<String>,
        /// That comparison.
        verified: Verified,
    },
    /// A domain was switched to it: what it holds is newer than the old disk.
    Used {
        /// When.
        since: Timestamp,
        /// The comparison before that; none once the old disk may have been written.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verified: Option<Verified>,
    },
}

impl CopyRecord {
    /// The comparison that it came to its end with, while that counts.
    pub fn verified(&self) -> Option<&Verified> {
        match &self.stage {
            Stage::Verified { verified, .. } => Some(verified),
            Stage::Used { verified, .. } => verified.as_ref(),
            Stage::Begun { .. } | Stage::Precopied { .. } => None,
        }
    }

    /// Name of the journal's content, while what is noted there is right.
    pub fn journal(&self) -> Option<&str> {
        match &self.stage {
            Stage::Begun { journal, .. } | Stage::Verified { journal, .. } => journal.as_deref(),
            Stage::Precopied { .. } | Stage::Used { .. } => None,
        }
    }

    /// Nothing in the destination is worth keeping.
    pub fn is_fresh(&self) -> bool {
        matches!(self.stage, Stage::Begun { fresh: true, .. })
    }

    /// A domain was switched to it.
    pub fn was_used(&self) -> bool {
        matches!(self.stage, Stage::Used { .. })
    }

    /// A domain is about to be switched to it.
    pub fn use_from(&mut self, since: Timestamp) {
        let verified = self.verified().cloned();
        self.stage = Stage::Used { since, verified };
    }

    /// Every range was compared.
    pub fn verify(&mut self, verified: Verified) {
        let journal = self.journal().map(str::to_owned);
        self.stage = Stage::Verified { journal, verified };
    }

    /// The old disk may be written from now on: what was compared and noted is no longer known to be so.
    fn forget_verified(&mut self) {
        match &mut self.stage {
            Stage::Used { verified, .. } => *verified = None,
            Stage::Precopied { .. } => {}
            Stage::Begun { journal, .. } => *journal = None,
            Stage::Verified { .. } => {
                self.stage = Stage::Begun {
                    journal: None,
                    fresh: false,
                };
            }
        }
    }

    /// A domain may have written to it (`wrote`), and does so no more: nothing that was noted of it counts.
    pub fn forget_notes(&mut self, wrote: bool) {
        let verified = match &mut self.stage {
            Stage::Begun { journal, .. } => {
                *journal = None;
                None
            }
            Stage::Verified { journal, verified } => {
                *journal = None;
                Some(verified)
            }
            Stage::Used { verified, .. } => verified.as_mut(),
            Stage::Precopied { .. } => None,
        };
        for spot in verified
            .filter(|_| wrote)
            .into_iter()
            .flat_map(|v| &mut v.spots)
        {
            spot.blake3 = None;
        }
    }

    /// Sectors that it lacks, if it came to its end.
    pub fn unreadable(&self) -> u64 {
        let missing = self.verified().into_iter().flat_map(|v| &v.unreadable);
        missing.map(|(_, count)| count).sum()
    }
}

/// A finished comparison of source and copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verified {
    /// When it ended.
    pub at: Timestamp,
    /// The agent's boot at that time: another boot may have changed the disk.
    pub boot_id: String,
    /// Sectors that could not be read: first LBA and count. Empty for a complete copy.
    #[serde(default)]
    pub unreadable: Vec<(u64, u64)>,
    /// What was compared.
    pub how: Verify,
    /// The first and the last stretch that were copied without a gap: by them the copy is known again. Empty if
    /// there is none.
    #[serde(default)]
    pub spots: Vec<Spot>,
}

/// A stretch of a copy that is compared before a domain is started on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spot {
    /// Its first sector.
    pub lba: u64,
    /// Number of its sectors.
    pub count: u32,
    /// BLAKE3 of it when the copy was checked, hex; none once a domain may have written to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
}

/// A config file as we wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenConfig {
    /// Where.
    pub path: PathBuf,
    /// BLAKE3 of the text, hex.
    pub blake3: String,
    /// When.
    pub at: Timestamp,
}

/// One line of history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryLine {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: String,
}

/// A disk of the inventory is not the one that was used under its address before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk at {address} is not the one it was: {now}, but {before} when it was first used. \
     Disks may have changed places in the old machine (one that did not come up moves the others); \
     check its cabling and boot it again"
)]
pub struct DiskChanged {
    address: Address,
    before: String,
    now: String,
}

impl Record {
    /// Sectors that finished copies lack, because they could not be read.
    pub fn unreadable(&self) -> u64 {
        let copies = self.disks.values().filter_map(|disk| disk.copy.as_ref());
        copies.map(CopyRecord::unreadable).sum()
    }

    /// A machine seen for the first time.
    pub fn new(name: MachineName, boot_mac: MacAddr, shelf: u16) -> Record {
        Record {
            version: RECORD_VERSION,
            name,
            boot_mac,
            shelf,
            state: State::Seen,
            menus: Menus::default(),
            counter: 0,
            menu_fetched: None,
            booted_once: None,
            inventory: None,
            inventory_read: None,
            slots: BTreeSet::new(),
            cards: BTreeSet::new(),
            uuids: BTreeSet::new(),
            disks: BTreeMap::new(),
            served: None,
            config: None,
            history: Vec::new(),
        }
    }

    /// Adds a line to the history.
    pub fn note(&mut self, at: Timestamp, what: impl Into<String>) {
        self.history.push(HistoryLine {
            at,
            what: what.into(),
        });
        let surplus = self.history.len().saturating_sub(HISTORY_KEPT);
        self.history.drain(..surplus);
    }

    /// Whether a domain was started on the old disks, and not stopped by p2v since.
    pub fn has_domain_on_old_disks(&self) -> bool {
        let is_old = |disk: &DiskRecord| matches!(disk.mapping, Some(Mapping::OldDisk { .. }));
        self.state == State::Running || self.disks.values().any(is_old)
    }

    /// The disk is about to be used: remembers what it is, or refuses if another one was used
    /// under this address before.
    ///
    /// # Errors
    /// [`DiskChanged`] if size, model or serial differ.
    pub fn use_disk(
        &mut self,
        address: Address,
        disk: &Disk,
    ) -> Result<&mut DiskRecord, DiskChanged> {
        let now = DiskRecord::new(disk);
        if let Some(inventory) = &self.inventory {
            self.same_place(inventory, address, disk)?;
        }
        let known = self
            .disks
            .entry(address.slot)
            .or_insert_with(|| now.clone());
        if (known.sectors, &known.model, &known.serial) != (now.sectors, &now.model, &now.serial) {
            return Err(DiskChanged {
                address,
                before: known.to_string(),
                now: now.to_string(),
            });
        }
        if known.table_id.is_empty() {
            known.table_id = now.table_id;
        }
        Ok(known)
    }

    /// The old disks may be written from now on: what was checked is no longer known to be equal.
    pub fn forget_verified(&mut self) {
        for disk in self.disks.values_mut() {
            if let Some(copy) = &mut disk.copy {
                copy.forget_verified();
            }
        }
    }

    /// The LVM tag of a volume that is a copy of this machine's disk `slot`: `p2v.NAME.0.HASH`. Names
    /// and slots are given to other machines when a record is gone; the hash, of the boot MAC and
    /// the disk's serial number, is not. `None` if nothing was done with such a disk.
    pub fn volume_tag(&self, slot: u8) -> Option<String> {
        let disk = self.disks.get(&slot)?;
        let hash = blake3::Hasher::new()
            .update(self.boot_mac.to_string().as_bytes())
            .update(disk.serial.as_bytes())
            .finalize();
        Some(format!(
            "{}{}.{slot}.{}",
            lvm::TAG_PREFIX,
            self.name,
            &hash.to_hex()[..16]
        ))
    }

    /// Whether every disk of `exported` has been copied and compared, in which boot of the agent,
    /// and what could not be read.
    ///
    /// # Errors
    /// What is missing, for the operator.
    pub fn verified_copies(&self, exported: &[Address]) -> Result<String, String> {
        let mut boot: Option<&str> = None;
        if exported.is_empty() {
            return Err("no exported disk is known".into());
        }
        for address in exported {
            let verified = self
                .disks
                .get(&address.slot)
                .and_then(|d| d.copy.as_ref())
                .ok_or_else(|| format!("disk {address} was not copied"))?
                .verified()
                .ok_or_else(|| {
                    format!("the copy of disk {address} is not complete, or the old disk may have been written since")
                })?;
            match boot {
                Some(id) if id != verified.boot_id => {
                    return Err(format!(
                        "the disks were copied in different boots of the old machine (disk {address} last)"
                    ));
                }
                _ => boot = Some(&verified.boot_id),
            }
        }
        Ok(boot.unwrap_or_default().to_owned())
    }
}

/// The exported disks of an inventory with their addresses, in slot order.
pub fn exported(inventory: &Inventory) -> Vec<(Address, &Disk)> {
    let mut disks: Vec<_> = inventory
        .disks
        .iter()
        .filter_map(|disk| Some((disk.address?, disk)))
        .collect();
    disks.sort_by_key(|(address, _)| *address);
    disks
}
