//! `p2v start`: a domain on the old machine's disks.

use std::path::PathBuf;

use p2v_contract::Address;

use super::stop::known_addresses;
use super::{Code, Context, Error, addresses, config, disarm, outage, refused, watch};
use crate::name::MachineName;
use crate::record::{Mapping, Record, State};
use crate::table::Table;
use crate::timestamp::Timestamp;
use crate::tool::aoe_driver::AoeDriver;
use crate::tool::{dmsetup, xl};
use crate::wire::Access;

/// How `start` may go on.
#[derive(Clone, Debug, Default)]
pub struct StartOptions {
    /// The operator knows that the machine was copied, and gives the copy up.
    pub discard_copy: bool,
    /// The operator knows that the machine was moved, and gives up what its domain wrote since.
    pub discard_moved: bool,
    /// Slots of disks that are gone for good.
    pub without: Vec<u8>,
    /// Machines that share a network card with this one, and are others: the operator knows it.
    pub another_machine: Vec<MachineName>,
}

/// Starts a domain on the old disks and returns its config file.
///
/// # Errors
/// Then everything was taken back and the exports are read-only again, or the error says what was not.
pub fn start(
    context: Context<'_>,
    name: &MachineName,
    options: StartOptions,
) -> Result<PathBuf, Error> {
    let Context { host, report, .. } = context;
    let _lock = host.store.lock(name, &format!("p2v start {name}"))?;
    may_start(&host.store.get(name)?, &options)?;
    if !host.is_xen() {
        return refused(
            Code::NotXen,
            "this host does not run Xen, so there is nothing to start a domain with; see `p2v doctor`",
        );
    }
    context.refuse_saved(name)?;
    let contact = context.contact(name)?;
    context.refuse_missing(&contact.record, &options.without)?;
    context.refuse_forgotten(&contact.record)?;
    context.take_word(&contact.record, &options.another_machine)?;
    context.refuse_second_server(&contact.record, "p2v start")?;
    let disks = addresses(&contact.disks);
    let known = known_addresses(&contact.record);
    context.refuse_while_in_use(name, &known)?;
    context.need_orders(&contact)?;
    context.end_waiting(&contact)?;
    let disarmed = disarm::disarmed(host, name)?;
    context.refuse_disarmed(&contact, &disarmed)?;
    // All that can be known to be wrong is found before anything is changed.
    let before = host.store.get(name)?;
    let mut planned = before.clone();
    planned.inventory = Some(contact.inventory.clone());
    // One that is gone has no copy beside the old disks either.
    for disk in planned.disks.values_mut() {
        disk.mapping = None;
    }
    let driver = AoeDriver::new(&host.tools, &host.paths);
    for (address, disk) in &contact.disks {
        drop(context.attach(&contact, *address, disk)?);
        // What is known of a moved machine's disks stays as it was.
        planned.same_place(&contact.inventory, *address, disk)?;
        planned.use_disk(*address, disk)?.mapping = Some(Mapping::OldDisk {
            shelf: address.shelf,
        });
    }
    let mut fitting = planned.clone();
    fitting.state = State::Running;
    let domain = config::of_record(host, &fitting)?;
    context.let_go(name, &known)?;
    outage::forget(host, name)?;

    context.or_take_back(|undo| {
        let back = before.clone();
        undo.push("the machine's record", move || mark_stopped(context, &back));
        // Well before the disk can be written: from here on no copy counts as current.
        host.store.update(name, |record| {
            record.disks.clone_from(&planned.disks);
            record.forget_verified();
            record.state = State::Running;
            record.served = None;
            record.take_inventory(contact.inventory.clone(), Timestamp::now());
            record.note(Timestamp::now(), "starting a domain on the old disks");
            Ok::<_, Error>(())
        })?;

        if !disarmed.is_empty() {
            let (old, slots) = (contact.clone(), disarmed.clone());
            undo.push("disarming the old disks", move || {
                disarm::disarm_disks(context, &old, &slots).map(drop)
            });
            disarm::rearm_disks(context, &contact)?;
        }

        report.step(&format!("loading the aoe driver for {}", host.iface));
        if driver.load(&host.iface)? {
            undo.push("unloading the aoe driver", move || {
                // udev may still look at a device that went; a driver that stays harms nobody.
                if let Err(error) = driver.unload() {
                    report.warn(&format!("the aoe driver stays loaded: {error}"));
                }
                Ok::<_, Error>(())
            });
        }
        undo.push("the driver's patience", move || {
            context.driver_as_before();
            Ok::<_, Error>(())
        });
        for (address, disk) in &contact.disks {
            map_old_disk(context, &driver, name, *address, disk.sectors, undo)?;
        }
        let record = host.store.get(name)?;
        let config = config::ready(host, &record, &domain, report)?;
        // Last, when nothing but the domain is missing.
        let (old, all) = (contact.clone(), disks.clone());
        undo.push("making the exports read-only", move || {
            context.set_access(&old, &all, Access::ReadOnly)
        });
        report.step("keeping guests' AoE frames off the old machine");
        context.keep_guests_off()?;
        report.step("asking the old machine for write access");
        context.set_access(&contact, &disks, Access::ReadWrite)?;
        report.step(&format!("xl create {}", config.path.display()));
        let domain_name = name.clone();
        // While it may run, its disks are not taken from it.
        undo.push_carried(format!("domain {name}"), move || {
            destroy_if_there(context, &domain_name)
        });
        xl::create(&host.tools, &config.path)?;
        context.note_or_warn(name, "a domain was started on the old disks");
        if !watch::is_watched(host) {
            report.warn(
                "p2v watch is not running: if the old machine falls silent, nothing pauses the domain or resumes it \
                 (systemctl enable --now p2v-watch)",
            );
        }
        Ok(config.path)
    })
}

/// Whether the machine's state allows it.
fn may_start(record: &Record, options: &StartOptions) -> Result<(), Error> {
    let name = &record.name;
    match record.state {
        State::Copied if options.discard_copy => Ok(()),
        State::Copied => refused(
            Code::HasCopy,
            format!(
                "{name} was copied, and a domain on the old disk would make the copy out of date. Go on with \
                 `p2v cutover {name}`; or start on the old disk with --discard-copy, and copy again afterwards (it moves only \
                 what differs)"
            ),
        ),
        State::Moved | State::Released if options.discard_moved => Ok(()),
        State::Moved | State::Released => refused(
            Code::AlreadyMoved,
            format!(
                "{name} was moved to this host's own volumes: its old disk is out of date, and a domain on it would go its \
                 own way. Start the moved one with `xl create`; use --discard-moved only if it is to go back to its old disk \
                 as that was before the cutover, and what the moved one wrote since is to be given up"
            ),
        ),
        State::Copying if !options.discard_copy && record.unreadable() > 0 => refused(
            Code::HasCopy,
            format!(
                "{name} is copied but for {} sectors that could not be read: a domain on the old disk would make that copy, \
                 and the map of what is missing, void, and the whole of a failing disk would have to be read again. Go on with \
                 `p2v cutover {name} --accept-unreadable`; or start on the old disk with --discard-copy",
                record.unreadable()
            ),
        ),
        State::Seen | State::Exported | State::Running | State::Copying => Ok(()),
    }
}

fn mark_stopped(context: Context<'_>, before: &Record) -> Result<(), Error> {
    context.host.store.update(&before.name, |record| {
        // What was checked stays forgotten: write access had been asked for.
        record.state = match before.state {
            State::Copied => State::Copying,
            State::Running => State::Exported,
            other => other,
        };
        record.served = before.served;
        record.inventory.clone_from(&before.inventory);
        record.inventory_read = before.inventory_read;
        for (slot, disk) in &mut record.disks {
            disk.mapping = before.disks.get(slot).and_then(|d| d.mapping);
        }
        record.note(Timestamp::now(), "the domain was not started");
        Ok(())
    })
}

fn map_old_disk<'a>(
    context: Context<'a>,
    driver: &AoeDriver<'a>,
    name: &MachineName,
    address: Address,
    sectors: u64,
    undo: &mut crate::undo::Undo<'a>,
) -> Result<(), Error> {
    let Context { host, report, .. } = context;
    let device = driver.device(address);
    report.step(&format!("waiting for {}", device.display()));
    let forgotten = *driver;
    undo.push(format!("forgetting {}", device.display()), move || {
        forgotten.forget(address)
    });
    driver.keep_requests(host.settings.domain_waits_seconds)?;
    let mut have = driver.wait(address, host.wait())?;
    if have != sectors {
        // Left over from another machine that had this shelf: the driver reads it anew.
        driver.revalidate(address)?;
        have = driver.wait(address, host.wait())?;
    }
    if have != sectors {
        return refused(
            Code::DiskChanged,
            format!(
                "{} has {have} sectors, and the old machine's inventory says {sectors}: this is not the disk it should be",
                device.display()
            ),
        );
    }
    let dm = name.dm_name(address.slot.into());
    report.step(&format!(
        "/dev/mapper/{dm}: linear on {}, {sectors} sectors",
        device.display()
    ));
    let (made, table) = (dm.clone(), Table::linear(sectors, &device)?);
    // Before it is made: a `dmsetup` that failed may have made it all the same.
    undo.push(format!("/dev/mapper/{dm}"), move || {
        match dmsetup::info(&host.tools, &made)? {
            Some(device) if device.is_ours() => dmsetup::remove(&host.tools, &made),
            _ => Ok(()),
        }
    });
    dmsetup::create(&host.tools, &dm, &table)?;
    Ok(())
}

/// Takes back an `xl create`, which may have failed before or after it made the domain.
///
/// # Errors
/// The domain is not known to be gone.
pub(super) fn destroy_if_there(context: Context<'_>, name: &MachineName) -> Result<(), Error> {
    let tools = &context.host.tools;
    let ended = || -> Result<bool, Error> {
        let Some(domain) = xl::domain(tools, name.as_str())? else {
            return Ok(true);
        };
        xl::destroy(tools, name.as_str())?;
        // By its number: one that is being torn down has lost its name.
        Ok(!xl::domains(tools)?.iter().any(|d| d.id == domain.id))
    };
    let why = match ended() {
        Ok(true) => return Ok(()),
        Ok(false) => "it is still there".to_owned(),
        Err(error) => error.to_string(),
    };
    refused(
        Code::DomainMayRun,
        format!("the domain {name} may still run: {why}. End it with `p2v stop {name} --destroy`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_contract::MacAddr;

    #[test]
    fn what_was_copied_or_moved_is_not_given_up_unasked() {
        let record = |state| {
            let mut record = Record::new("web".parse().unwrap(), MacAddr::new(2, 0, 0, 0, 0, 1), 1);
            record.state = state;
            record
        };
        let options = |discard_copy, discard_moved| StartOptions {
            discard_copy,
            discard_moved,
            ..StartOptions::default()
        };
        let ok = |record: &Record, copy, moved| may_start(record, &options(copy, moved)).is_ok();
        let mut copying = record(State::Copying);
        assert!(ok(&copying, false, false));
        let copy = serde_json::json!({
            "sectors": 200, "model": "m", "serial": "s",
            "copy": {
                "destination": {"kind": "volume", "vg": "vg", "lv": "lv", "uuid": "u"},
                "begun": "2026-11-20T22:16:40Z",
                "stage": {"verified": {"verified": {
                    "at": "2026-11-20T22:16:40Z", "boot_id": "b", "unreadable": [[7, 2], [100, 1]], "how": "both",
                }}},
            },
        });
        copying
            .disks
            .insert(0, serde_json::from_value(copy).unwrap());
        assert_eq!(copying.unreadable(), 3);
        assert!(!ok(&copying, false, false) && ok(&copying, true, false));
        assert!(!ok(&record(State::Copied), false, true));
        assert!(ok(&record(State::Copied), true, false));
        for state in [State::Moved, State::Released] {
            assert!(!ok(&record(state), true, false) && ok(&record(state), false, true));
        }
    }
}
