//! A destination that has, or may have, another disk's copy; and one that nothing is known by.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use p2v_contract::Address;

use super::CopyRequest;
use crate::destination::{self, Wanted};
use crate::name::MachineName;
use crate::record::{Destination, State};
use crate::timestamp::Timestamp;
use crate::tool::lvm::{self, Volume};
use crate::workflow::{Code, Context, Error, refused};

/// Tells, before the long part, that a device has nothing to know it by: the next run does not take it for
/// this disk's copy, and no domain is switched to it, which may be another one after a restart.
pub(in crate::workflow) fn warn_of_nameless(context: Context<'_>, wanted: &Wanted) {
    let Wanted::Path(path) = wanted else {
        return;
    };
    let there = fs::metadata(path).ok();
    let device = there.filter(|there| there.file_type().is_block_device());
    let Some(Err(why)) =
        device.map(|device| destination::identify(&context.host.paths, device.rdev()))
    else {
        return;
    };
    let path = path.display();
    context.report.warn(&format!(
        "{path} could not be known again after a restart: {why}. So `p2v cutover` will refuse it, and another run takes \
         it for something else's. To run a domain from it, give it to LVM (`pvcreate {path}`, `vgcreate VG {path}`: that \
         erases what is on it) and copy to that volume group"
    ));
}

/// The copies of other disks in what was named, which the operator says may go: found by where it is and what it
/// is on, as nothing that is noted of it later may tell.
///
/// # Errors
/// They may not, or a domain was switched to one of them.
pub(super) fn ask_for_others_at(
    context: Context<'_>,
    machine: &MachineName,
    request: CopyRequest<'_>,
    wanted: &Wanted,
    address: Address,
) -> Result<Vec<(MachineName, Address)>, Error> {
    let host = context.host;
    let (name, path, mark) = match wanted {
        Wanted::Path(path) => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let mark = mark_at(context, &path);
            (path.display().to_string(), path, mark)
        }
        // Whose copy a volume is, its tags say; they do not say that it is under a DRBD device.
        Wanted::Group(vg) | Wanted::Volume(vg, _) => {
            let volumes = lvm::volumes(&host.tools)?;
            let find = |lv: &str| volumes.iter().find(|v| v.vg == *vg && v.lv == lv);
            let lv = match wanted {
                Wanted::Volume(_, lv) if !find(lv).is_some_and(|v| v.is_thin_pool) => lv.clone(),
                _ => machine.volume_name(address.slot.into()),
            };
            let path = host.paths.dev.join(vg).join(&lv);
            // Of one that is not active the kernel knows nothing.
            let mark = mark_at(context, &path).or_else(|| find(&lv).map(Volume::dm_uuid));
            (format!("{vg}/{lv}"), path, mark)
        }
    };
    let known = |identity: &str| {
        mark.as_deref()
            .is_some_and(|m| destination::overlap(identity, m))
    };
    let names = |said: &str| said.starts_with('/') && is_at(Path::new(said), &path) || known(said);
    // It may be the disk of a moved system, whose domain is off.
    if let Some(record) = host
        .store
        .list()?
        .unreadable_that(&|text| text.split('"').any(names))
    {
        return refused(
            Code::RecordUnreadable,
            format!(
                "the record {} cannot be read and names {name}: what that holds may be the disk of a moved system. Repair \
                 the record (`p2v list` says what is wrong with it), or copy to another destination",
                record.display()
            ),
        );
    }
    let is_volume = !matches!(wanted, Wanted::Path(_));
    let same = |to: &Destination| match to {
        Destination::Device { identity, .. } if known(identity) => true,
        // Whose copy the volume itself is, its tags say.
        _ if is_volume => false,
        // By what they are known by they are two.
        Destination::Device { identity, .. } if !identity.is_empty() && mark.is_some() => false,
        // Where nothing is any more, there is nothing to lose.
        to => same_place(&to.path(), &path),
    };
    ask_for_others(context, machine, request, address, (&name, &same))
}

/// The copies of other disks in the destination called `name`, which the operator says may go. Refused if a
/// domain was switched to one of them.
pub(super) fn ask_for_others(
    context: Context<'_>,
    machine: &MachineName,
    request: CopyRequest<'_>,
    address: Address,
    (name, is_same): (&str, &dyn Fn(&Destination) -> bool),
) -> Result<Vec<(MachineName, Address)>, Error> {
    let mut taken = Vec::new();
    for other in context.host.store.list()?.records {
        for (slot, disk) in &other.disks {
            let own = other.name == *machine && *slot == address.slot;
            let same = disk.copy.as_ref().filter(|copy| is_same(&copy.destination));
            let Some(copy) = same.filter(|_| !own) else {
                continue;
            };
            let theirs = Address::new(other.shelf, *slot);
            if copy.was_used() {
                return refused(
                    Code::DestinationTaken,
                    format!(
                        "{name} is the disk of the moved system {} ({theirs}): what it holds is newer than the old disk. Copy \
                         to another destination",
                        other.name
                    ),
                );
            }
            let holds = format!("the copy of {theirs} of {}", other.name);
            if !(request.may_go)(name, Some(&holds)) {
                return refused(
                    Code::DestinationTaken,
                    format!(
                        "{name} holds {holds}: name another destination, or say --overwrite={name} if that may go"
                    ),
                );
            }
            taken.push((other.name.clone(), theirs));
        }
    }
    Ok(taken)
}

/// Has the records of others forget their copies in a destination that is another disk's now.
pub(super) fn give_up(
    context: Context<'_>,
    address: Address,
    to: &Destination,
    taken: &[(MachineName, Address)],
) -> Result<(), Error> {
    for (name, theirs) in taken {
        context.host.store.update(name, |record| {
            if let Some(disk) = record.disks.get_mut(&theirs.slot) {
                disk.copy = None;
            }
            if record.state == State::Copied {
                record.state = State::Copying;
            }
            let what = format!("the copy of {theirs} in {to} was given up for {address}");
            record.note(Timestamp::now(), what);
            Ok::<_, Error>(())
        })?;
        context.host.store.disclaim(name, to)?;
    }
    Ok(())
}

/// What the device at `path` says that it is, also if another one says the same: that may be a second way to it.
fn mark_at(context: Context<'_>, path: &Path) -> Option<String> {
    let there = fs::metadata(path).ok()?;
    let device = there.file_type().is_block_device();
    device.then(|| destination::mark_of(&context.host.paths, there.rdev()))?
}

/// Whether it is this path, or leads there.
fn is_at(one: &Path, path: &Path) -> bool {
    one == path || same_place(one, path)
}

/// Whether two paths lead to one file or device.
fn same_place(one: &Path, other: &Path) -> bool {
    let (Ok(one), Ok(other)) = (fs::metadata(one), fs::metadata(other)) else {
        return false;
    };
    let device = |m: &fs::Metadata| m.file_type().is_block_device();
    match device(&one) && device(&other) {
        true => one.rdev() == other.rdev(),
        false => (one.dev(), one.ino()) == (other.dev(), other.ino()),
    }
}
