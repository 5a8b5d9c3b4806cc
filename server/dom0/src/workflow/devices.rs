//! The device-mapper devices of moved machines: made at cutover, and again after the host restarted.

use std::path::Path;

use super::{Code, Error, refusal, refused};
use crate::destination::image;
use crate::destination::{device_number, identify, mark_of, measure};
use crate::host::Host;
use crate::name::MachineName;
use crate::record::{Destination, DiskRecord, Record, State};
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
            Some(device) if !device.is_ours() => {
                refused(Code::DeviceNotOurs, format!("{dm} was not made by p2v"))
            }
            Some(device) if device.open > 0 => refused(
                Code::DiskInUse,
                format!("{dm} is in use; stop its domain first"),
            ),
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
            if disk.mapped_copy().is_some_and(Destination::is_device) {
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
        return refused(
            Code::NoFinishedCopy,
            format!("disk {slot} of {name} has no copy"),
        );
    };
    let backing = backing_ready(host, &copy.destination, disk.sectors)?;
    let table = Table::linear(disk.sectors, &backing.path)?;
    let dm = name.dm_name(slot.into());
    match dmsetup::info(&host.tools, &dm)? {
        None => {
            dmsetup::create(&host.tools, &dm, &table)
                .map_err(|error| with_holders(host, &backing, error))?;
            // The kernel looked the path up once more: while a host starts, a link may go over to another disk.
            let made = dmsetup::table(&host.tools, &dm);
            if let Ok(made) = &made
                && table.is_line(made, backing.number)
            {
                return Ok("made");
            }
            dmsetup::remove(&host.tools, &dm)?;
            refused(
                Code::DestinationChanged,
                format!(
                    "{} became another device while /dev/mapper/{dm} was made on it, which was taken back ({}): run this again",
                    backing.path.display(),
                    made?.trim()
                ),
            )
        }
        Some(device)
            if device.is_ours()
                && table.is_line(&dmsetup::table(&host.tools, &dm)?, backing.number) =>
        {
            Ok("was there")
        }
        Some(_) => refused(
            Code::DeviceNotOurs,
            format!(
                "the device-mapper device {dm} exists and is not on {}: it may be on the old disk still. Stop what uses it \
                 (`p2v stop {name}`) and remove it (`dmsetup remove {dm}`)",
                backing.path.display()
            ),
        ),
    }
}

/// The error, and what has the copy: the kernel says no more than that it is busy.
fn with_holders(host: &Host, backing: &Backing, error: ToolError) -> Error {
    let (major, minor) = backing.number;
    let holders = host
        .paths
        .sys_dev_block
        .join(format!("{major}:{minor}/holders"));
    let holders = std::fs::read_dir(holders).into_iter().flatten().flatten();
    let holders: Vec<String> = holders
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    match holders.is_empty() {
        true => error.into(),
        false => refusal(
            Code::DiskInUse,
            format!(
                "{error}. {} is in use by {}: a RAID (md...) ends with `mdadm --stop /dev/NAME`, and is not assembled again with \
                 AUTO -all in mdadm.conf (`p2v doctor`)",
                backing.path.display(),
                holders.join(" and ")
            ),
        ),
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
                    return refused(
                        Code::DestinationMissing,
                        format!(
                            "the volume {vg}/{lv} is not on this host; `lvs` shows those there are"
                        ),
                    );
                }
                Some(volume) if volume.uuid != *uuid => {
                    return refused(
                        Code::DestinationChanged,
                        format!(
                            "the volume {vg}/{lv} is not the one that was copied to (its UUID is {} and was {uuid}): another \
                             one of that name was made since",
                            volume.uuid
                        ),
                    );
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
    let (have, rdev) = measure(&host.paths, &path).map_err(|e| {
        // A volume's name is not its path.
        let at = match destination {
            Destination::Volume { .. } => format!(" at {}", path.display()),
            _ => String::new(),
        };
        ToolError::NotDone(format!("cannot use {destination}{at}: {e}"))
    })?;
    if have < sectors {
        return refused(
            Code::DestinationChanged,
            format!("{destination} has {have} sectors and the disk {sectors}: it was made smaller"),
        );
    }
    if let Destination::Device { identity, .. } = destination {
        is_as_copied(host, &path, identity, rdev)?;
    }
    Ok(Backing {
        number: device_number(rdev),
        path,
    })
}

/// Refuses a device that is not, or cannot be told to be, the one that was copied to: names of devices may change
/// when the host starts.
fn is_as_copied(host: &Host, path: &Path, identity: &str, rdev: u64) -> Result<(), Error> {
    let path = path.display();
    let now = identify(&host.paths, rdev);
    if let Err(why) = &now
        && let Some(other) = why.other()
        && mark_of(&host.paths, rdev).is_some_and(|mark| mark == identity)
    {
        return refused(
            Code::DestinationAmbiguous,
            format!(
                "{path} says that it is the device that was copied to (`{identity}`), and so does {other}: they are one \
                 disk by two ways, or two disks that their server does not tell apart. Take the other one away (end its \
                 session, or unmap it; have multipath leave it alone if it made one device of both: `blacklist` in \
                 multipath.conf), then run `p2v devices up`"
            ),
        );
    }
    match now {
        Ok(now) if now == identity => Ok(()),
        Ok(now) if !identity.is_empty() => refused(
            Code::DestinationChanged,
            format!(
                "{path} is not the device that was copied to: that is known by `{identity}`, and this is `{now}`. Find where \
                 the right one is now: nothing is done with this one"
            ),
        ),
        now => refused(
            Code::DestinationAmbiguous,
            format!(
                "{path} cannot be told to be the device that was copied to (it was `{identity}`; {}): device names may change \
                 when the host starts. Copy to a logical volume, or to a device with a serial number",
                match now {
                    Ok(now) => format!("now it is `{now}`"),
                    Err(why) => format!("now: {why}"),
                }
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Paths, Settings};
    use std::fs;

    #[test]
    fn a_device_that_was_copied_to_is_told_from_one_that_says_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::open(Settings::default(), "lo", &dir.path().join("state")).unwrap();
        host.paths = Paths::under(dir.path());
        let wwid = |minor: u64, wwid: &str| {
            let sys = host.paths.sys_dev_block.join(format!("240:{minor}"));
            fs::create_dir_all(sys.join("device")).unwrap();
            fs::write(sys.join("uevent"), format!("DEVNAME=sd{minor}\n")).unwrap();
            fs::write(sys.join("device/wwid"), wwid).unwrap();
        };
        let rdev = nix::sys::stat::makedev(240, 0);
        let says = |identity: &str| is_as_copied(&host, Path::new("/dev/x"), identity, rdev);
        wwid(0, "naa.600");
        says("naa.600").unwrap();
        assert!(
            says("naa.601")
                .unwrap_err()
                .to_string()
                .contains("is not the device")
        );
        wwid(1, "naa.600");
        let error = says("naa.600").unwrap_err().to_string();
        for part in ["/dev/x says", "so does /dev/sd1", "`p2v devices up`"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("Copy to"), "{error}");
        let error = says("naa.601").unwrap_err().to_string();
        assert!(error.contains("cannot be told"), "{error}");
    }
}
