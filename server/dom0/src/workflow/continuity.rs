//! Whether an old machine that was away can have run its own system meanwhile: what is known of that time, and what
//! follows from it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use p2v_contract::inventory::Disk;
use p2v_contract::{Address, MacAddr};
use p2v_copy::atomic_file;
use serde::{Deserialize, Serialize};

use super::{Code, Context, Error, old_disks, refusal};
use crate::host::Host;
use crate::name::MachineName;
use crate::record::Record;
use crate::timestamp::Timestamp;

/// Sectors at each end of a disk that are looked at: the partition table, a boot loader's first sectors, and the copy of
/// a GUID partition table.
const END: u32 = 34;
/// Sectors at the beginning of a partition. The superblocks of ext2 to ext4 change when they are mounted for writing; what
/// is there of XFS, NTFS and LVM mostly does not: for these only the times tell.
const PARTITION: u32 = 8;
/// Where the superblock of btrfs is, in sectors.
const BTRFS: u64 = 128;
/// Partitions looked at: more of them are not read each few seconds.
const PARTITIONS_MAX: usize = 16;

/// Seconds from the last sign of a machine to the reset that its agent was started by, within which it cannot have been
/// started before: that takes a BIOS and the beginnings of a system.
const RESET_WITHIN: u64 = 20;

/// What `p2v serve` saw of a machine's last boot over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServedBoot {
    /// Since when the service has answered.
    pub serving_since: Timestamp,
    /// When the machine's first question came.
    pub began: Timestamp,
    /// When something was seen of it last.
    pub ended: Timestamp,
    /// Whether it fetched all that starts the agent.
    pub complete: bool,
}

/// Tells the last boot of the machine that boots from a network card.
pub type LastBoot<'a> = &'a (dyn Fn(MacAddr) -> Option<ServedBoot> + Sync);

/// What was seen of a machine while its domain had its disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastSeen {
    at: Timestamp,
    disks: BTreeMap<u8, Landmarks>,
}

/// Places of a disk that a system which starts from it changes, and a BLAKE3 of what is there, in hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Landmarks {
    /// First sector and count.
    places: Vec<(u64, u32)>,
    blake3: String,
}

/// Why the old system may have run meanwhile, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Doubt {
    #[error(
        "{0} is NOT AS IT WAS when the domain was last seen to have it: something has written to its partition table or to \
         the beginning of a file system since. That is what the old system does when it starts"
    )]
    Changed(Address),
    #[error(
        "`p2v watch` has not seen the machine with its domain, so it is not known what its disks were like"
    )]
    NotWatched,
    #[error("the settings say so (unseen_seconds = 0)")]
    TurnedOff,
    #[error(
        "`p2v serve` has not answered all the time, so the old machine may have found nothing to boot on the network and \
         have started from its disk"
    )]
    NotServed,
    #[error("`p2v serve` has not seen the machine boot over the network since it fell silent")]
    NoBoot,
    #[error("the old machine's processor does not tell when it was switched on or reset")]
    ResetUnknown,
    #[error(
        "it was switched on or reset {seconds} s after it was seen last (more than {RESET_WITHIN}), and may have run its own \
         system before that"
    )]
    ResetLate { seconds: u64 },
    #[error(
        "nothing was seen of it for {seconds} s (more than unseen_seconds = {most}), in which its own system may have run"
    )]
    Unseen { seconds: u64, most: u32 },
}

/// Why it is not certain that the old system did not run since the machine was last seen; `None` if it is.
/// `changed`: a disk that is not as it was. `reset`: when the processor was reset, at the latest.
pub(super) fn doubt(
    last: Option<&LastSeen>,
    boot: Option<ServedBoot>,
    changed: Option<Address>,
    reset: Option<Timestamp>,
    unseen_seconds: u32,
) -> Option<Doubt> {
    if let Some(address) = changed {
        return Some(Doubt::Changed(address));
    }
    let Some(last) = last else {
        return Some(Doubt::NotWatched);
    };
    if unseen_seconds == 0 {
        return Some(Doubt::TurnedOff);
    }
    // A time in the future is that of a clock that was set back: nothing is known.
    let unseen = match boot {
        Some(boot) if boot.serving_since > last.at => return Some(Doubt::NotServed),
        Some(boot) if boot.complete && boot.began >= last.at => last.at.age_at(boot.ended),
        _ => None,
    };
    match unseen.map(|unseen| unseen.as_secs()) {
        None => Some(Doubt::NoBoot),
        Some(seconds) if seconds > unseen_seconds.into() => Some(Doubt::Unseen {
            seconds,
            most: unseen_seconds,
        }),
        Some(_) => match reset {
            None => Some(Doubt::ResetUnknown),
            Some(reset) => reset_in_doubt(last.at, reset),
        },
    }
}

/// A counter that was not set back by the reset tells of one before the machine was seen: nothing is known. (Both are whole
/// seconds, and clocks go apart a little.)
fn reset_in_doubt(seen: Timestamp, reset: Timestamp) -> Option<Doubt> {
    let seen = seen.before(Duration::from_secs(2));
    let age = seen.and_then(|seen| seen.age_at(reset));
    match age.map(|age| age.as_secs().saturating_sub(2)) {
        None => Some(Doubt::ResetUnknown),
        Some(seconds) if seconds > RESET_WITHIN => Some(Doubt::ResetLate { seconds }),
        Some(_) => None,
    }
}

/// What is looked at of a disk: first sector and count.
fn places(disk: &Disk) -> Vec<(u64, u32)> {
    let mut places = vec![(0, END), (disk.sectors.saturating_sub(END.into()), END)];
    let partitions = disk.table.iter().flat_map(|table| &table.partitions);
    for partition in partitions.take(PARTITIONS_MAX) {
        places.push((partition.start, PARTITION));
        if partition.sectors > BTRFS + u64::from(PARTITION) {
            places.push((partition.start + BTRFS, PARTITION));
        }
    }
    places.retain(|(lba, count)| lba.saturating_add((*count).into()) <= disk.sectors);
    places.sort_unstable();
    places.dedup();
    places
}

/// BLAKE3 of what is at these places of the disk, in hex.
fn look(context: Context<'_>, address: Address, places: &[(u64, u32)]) -> Result<String, Error> {
    let mut session = context.wire.attach(address)?;
    // A machine that falls silent now is noticed at the next look, and not in a minute.
    session.wait_out_silence(old_disks::PATIENCE, Box::new(|_| {}));
    let mut hasher = blake3::Hasher::new();
    for (lba, sectors) in places {
        let digest = session.digest(*lba, *sectors);
        let digest = digest.map_err(|e| refusal(Code::Wire, format!("{address}: {e}")))?;
        hasher.update(&digest.blake3);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Remembers what the disks of a machine are like while its domain has them.
pub(super) fn seen(context: Context<'_>, record: &Record, now: Timestamp) -> Result<(), Error> {
    let mut seen = LastSeen {
        at: now,
        disks: BTreeMap::new(),
    };
    let inventory = record.inventory.iter().flat_map(|i| &i.disks);
    let disks: BTreeMap<_, _> = inventory.filter_map(|d| Some((d.address?, d))).collect();
    for address in old_disks::the_domains(record) {
        let Some(disk) = disks.get(&address) else {
            continue;
        };
        let places = places(disk);
        let blake3 = look(context, address, &places)?;
        seen.disks
            .insert(address.slot, Landmarks { places, blake3 });
    }
    let (file, text) = (file(context.host, &record.name), serde_json::to_vec(&seen));
    let written = fs::create_dir_all(file.parent().unwrap_or(&file))
        .and_then(|()| atomic_file::replace(&file, &text?, 0o600));
    written.map_err(|e| refusal(Code::File, format!("cannot write {}: {e}", file.display())))
}

/// What was seen last, if it tells of every disk that the domain has.
pub(super) fn last_seen(host: &Host, record: &Record) -> Option<LastSeen> {
    let text = fs::read(file(host, &record.name)).ok()?;
    let seen: LastSeen = serde_json::from_slice(&text).ok()?;
    let mut domains = old_disks::the_domains(record).into_iter();
    domains
        .all(|address| seen.disks.contains_key(&address.slot))
        .then_some(seen)
}

impl LastSeen {
    /// The first disk that is not as it was.
    pub(super) fn changed(
        &self,
        context: Context<'_>,
        record: &Record,
    ) -> Result<Option<Address>, Error> {
        for (slot, landmarks) in &self.disks {
            let address = Address::new(record.shelf, *slot);
            if look(context, address, &landmarks.places)? != landmarks.blake3 {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }
}

/// Nothing that was seen counts for the next domain.
pub(super) fn forget(host: &Host, name: &MachineName) -> io::Result<()> {
    match fs::remove_file(file(host, name)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn file(host: &Host, name: &MachineName) -> PathBuf {
    host.paths.run.join("seen").join(format!("{name}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_contract::inventory::{Partition, PartitionTable, TableKind};

    #[test]
    fn what_is_certain_and_what_is_not() {
        let at = |seconds: u64| Timestamp::from_unix(1_000_000 + seconds);
        let last = LastSeen {
            at: at(100),
            disks: BTreeMap::new(),
        };
        let boot = |serving_since, began, complete| {
            Some(ServedBoot {
                serving_since: at(serving_since),
                began: at(began),
                ended: at(began),
                complete,
            })
        };
        let address = Address::new(1, 0);
        for (watched, boot, changed, unseen_seconds, expected) in [
            (true, boot(0, 140, true), None, 120, None),
            (true, boot(100, 220, true), None, 120, None),
            (
                true,
                boot(0, 221, true),
                None,
                120,
                Some(Doubt::Unseen {
                    seconds: 121,
                    most: 120,
                }),
            ),
            (
                true,
                boot(101, 140, true),
                None,
                120,
                Some(Doubt::NotServed),
            ),
            // An earlier boot, one that was not completed, one that the service knows nothing of.
            (true, boot(0, 99, true), None, 120, Some(Doubt::NoBoot)),
            (true, boot(0, 140, false), None, 120, Some(Doubt::NoBoot)),
            (true, None, None, 120, Some(Doubt::NoBoot)),
            (
                false,
                boot(0, 140, true),
                None,
                120,
                Some(Doubt::NotWatched),
            ),
            (true, boot(0, 140, true), None, 0, Some(Doubt::TurnedOff)),
            // What is worst is said.
            (false, None, Some(address), 0, Some(Doubt::Changed(address))),
        ] {
            let case = format!("{watched} {boot:?} {changed:?} {unseen_seconds}");
            let last = watched.then_some(&last);
            let found = doubt(last, boot, changed, Some(at(105)), unseen_seconds);
            assert_eq!(found, expected, "{case}");
        }
        for (reset, expected) in [
            (Some(at(100)), None),
            (Some(at(120)), None),
            (Some(at(121)), Some(Doubt::ResetLate { seconds: 21 })),
            (Some(at(98)), None),
            (Some(at(97)), Some(Doubt::ResetUnknown)),
            (None, Some(Doubt::ResetUnknown)),
        ] {
            let found = doubt(Some(&last), boot(0, 140, true), None, reset, 120);
            assert_eq!(found, expected, "{reset:?}");
        }
    }

    #[test]
    fn the_places_are_on_the_disk() {
        let partition = |start, sectors| Partition {
            start,
            sectors,
            ..Partition::default()
        };
        let disk = Disk {
            sectors: 4096,
            table: Some(PartitionTable {
                kind: TableKind::Mbr,
                id: String::new(),
                // The second is an extended one of two sectors; a table may lie, too.
                partitions: vec![
                    partition(2048, 1024),
                    partition(3072, 2),
                    partition(1 << 40, 9),
                ],
            }),
            ..Disk::default()
        };
        assert_eq!(
            places(&disk),
            [(0, 34), (2048, 8), (2176, 8), (3072, 8), (4062, 34)]
        );
        let tiny = Disk {
            sectors: 20,
            ..Disk::default()
        };
        assert_eq!(places(&tiny), []);
    }
}
