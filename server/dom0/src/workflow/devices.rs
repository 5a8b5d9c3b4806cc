//! The device-mapper devices of moved machines: made at cutover, and again after the host restarted.

use super::{Error, refused};
use crate::copy::destination::{device_identity, device_number, measure};
use crate::copy::image;
use crate::host::Host;
use crate::name::MachineName;
use crate::record::{Destination, DiskRecord, MappingKind, Record, State};
use crate::report::Report;
use crate::table::Table;
use crate::tool::{ToolError, dmsetup, lvm};

/// What became of one device.
#[derive(Debug)]
pub struct DeviceResult {
    /// The machine.
    pub name: MachineName,
    /// The device-mapper name, or the record's file when that is what failed.
    pub device: String,
    /// What was done (`made`, `was there`, `removed`), or why not.
    pub result: Result<&'static str, Error>,
}

/// Makes the devices of every moved machine. One that fails does not stop the others.
///
/// # Errors
/// The records cannot be listed.
pub fn devices_up(host: &Host, report: &dyn Report) -> Result<Vec<DeviceResult>, Error> {
    each(host, |name, slot, disk| {
        report.step(&format!("/dev/mapper/{}", name.dm_name(slot.into())));
        up(host, name, slot, disk)
    })
}

/// Removes the devices of every moved machine that are not in use.
///
/// # Errors
/// The records cannot be listed.
pub fn devices_down(host: &Host, report: &dyn Report) -> Result<Vec<DeviceResult>, Error> {
    each(host, |name, slot, _| {
        let dm = name.dm_name(slot.into());
        report.step(&format!("/dev/mapper/{dm}"));
        match dmsetup::info(&host.tools, &dm)? {
            None => Ok("was not there"),
            Some(device) if !device.is_ours() => refused(format!("{dm} was not made by p2v")),
            Some(device) if device.open > 0 => {
                refused(format!("{dm} is in use; stop its domain first"))
            }
            Some(_) => {
                dmsetup::remove(&host.tools, &dm)?;
                Ok("removed")
            }
        }
    })
}

fn each(
    host: &Host,
    act: impl Fn(&MachineName, u8, &DiskRecord) -> Result<&'static str, Error>,
) -> Result<Vec<DeviceResult>, Error> {
    let listing = host.store.list()?;
    let mut results = Vec::new();
    for error in listing.unreadable {
        // Its devices may be missed by a domain that starts by itself: it must be seen.
        results.push(DeviceResult {
            name: MachineName::of_shelf(0),
            device: "a machine record".into(),
            result: Err(error.into()),
        });
    }
    for record in listing.records.iter().filter(|r| is_moved(r)) {
        for (slot, disk) in &record.disks {
            let mapped = disk
                .mapping
                .as_ref()
                .is_some_and(|m| !m.old_disk && m.kind == MappingKind::Linear);
            if mapped {
                results.push(DeviceResult {
                    name: record.name.clone(),
                    device: record.name.dm_name((*slot).into()),
                    result: act(&record.name, *slot, disk),
                });
            }
        }
    }
    Ok(results)
}

fn is_moved(record: &Record) -> bool {
    matches!(record.state, State::Moved | State::Released)
}

/// Makes one device on the disk's copy, of exactly the old size.
pub(super) fn up(
    host: &Host,
    name: &MachineName,
    slot: u8,
    disk: &DiskRecord,
) -> Result<&'static str, Error> {
    let Some(copy) = &disk.copy else {
        return refused(format!("disk {slot} of {name} has no copy"));
    };
    let backing = backing_ready(host, &copy.destination, disk.sectors)?;
    let table = Table::linear(disk.sectors, &backing.path)?;
    let dm = name.dm_name(slot.into());
    match dmsetup::info(&host.tools, &dm)? {
        None => {
            dmsetup::create(&host.tools, &dm, &table)?;
            Ok("made")
        }
        Some(device)
            if device.is_ours()
                && table.is_line(&dmsetup::table(&host.tools, &dm)?, backing.number) =>
        {
            Ok("was there")
        }
        Some(_) => refused(format!(
            "the device-mapper device {dm} exists and is not on {}: it may be on the old disk still. Stop what uses it \
             (`p2v stop {name}`) and remove it (`dmsetup remove {dm}`)",
            backing.path.display()
        )),
    }
}

/// A copy that is there, large enough and the one it was.
pub(super) struct Backing {
    /// Its path.
    pub path: std::path::PathBuf,
    /// Its major and minor number; of a file and an image, nothing.
    pub number: (u64, u64),
}

pub(super) fn backing_ready(
    host: &Host,
    destination: &Destination,
    sectors: u64,
) -> Result<Backing, Error> {
    let path = match destination {
        Destination::Volume { vg, lv, uuid } => {
            match lvm::volume(&host.tools, vg, lv)? {
                None => {
                    return refused(format!(
                        "the volume {vg}/{lv} is not on this host; `lvs` shows those there are"
                    ));
                }
                Some(volume) if !uuid.is_empty() && volume.uuid != *uuid => {
                    return refused(format!(
                        "the volume {vg}/{lv} is not the one that was copied to (its UUID is {} and was {uuid}): another \
                         one of that name was made since",
                        volume.uuid
                    ));
                }
                Some(volume) if !volume.active => lvm::activate(&host.tools, vg, lv)?,
                Some(_) => {}
            }
            host.paths.dev.join(vg).join(lv)
        }
        Destination::Qcow2 { path, .. } => {
            // Its size is not that of its disk.
            image::is_as_copied(host, destination, path, sectors)?;
            return Ok(Backing {
                number: (0, 0),
                path: path.clone(),
            });
        }
        Destination::File { path, .. } | Destination::Device { path, .. } => path.clone(),
    };
    let (have, rdev) = measure(&path).map_err(|e| {
        ToolError::NotDone(format!(
            "cannot open {destination} at {}: {e}",
            path.display()
        ))
    })?;
    if have < sectors {
        return refused(format!(
            "{destination} has {have} sectors and the disk {sectors}: it was made smaller"
        ));
    }
    if let Destination::Device { identity, .. } = destination
        && (identity.is_empty() || device_identity(rdev) != *identity)
    {
        return refused(format!(
            "{} cannot be told to be the device that was copied to (it was `{identity}`, it is `{}`): device names may \
             change when the host starts. Copy to a logical volume, or to a device with a serial number",
            path.display(),
            device_identity(rdev)
        ));
    }
    Ok(Backing {
        number: device_number(rdev),
        path,
    })
}
