//! `p2v cutover`: the domain is switched to the copies and started.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use p2v_contract::Address;
use p2v_copy::Verify;

use super::devices::{backing_ready, up};
use super::release::QUIET;
use super::start::destroy_if_there;
use super::{Code, Contact, Context, Error, addresses, config, refusal, refused, stop};
use crate::config_file;
use crate::destination::{refuse_domains_disk, reopen};
use crate::name::MachineName;
use crate::record::{Destination, Mapping, Record, State};
use crate::timestamp::Timestamp;
use crate::tool::{dmsetup, lvm, xl};
use crate::wire::Access;

mod ends;

/// How `cutover` may go on.
#[derive(Clone, Debug, Default)]
pub struct CutoverOptions {
    /// Have the domain start with the host.
    pub autostart: bool,
    /// Go on although sectors of the old disk could not be read.
    pub accept_unreadable: bool,
    /// Go on although this host could not or cannot make the old disks read-only: the operator
    /// knows that no other host writes to them.
    pub accept_unguarded: bool,
    /// Go on without the old machine: the operator knows that it is off, and that it did not run its
    /// own system since the copy. Refused while it is heard.
    pub old_machine_gone: bool,
    /// The old disks are to be disarmed afterwards: what that needs is looked at before.
    pub will_disarm: bool,
    /// Slots of disks that are gone for good.
    pub without: Vec<u8>,
    /// Machines that share a network card with this one, and are others: the operator knows it.
    pub another_machine: Vec<MachineName>,
}

/// Switches the domain to the copies, starts it, and returns its config file.
///
/// # Errors
/// Then everything was taken back, or the error says what was not.
pub fn cutover(
    context: Context<'_>,
    name: &MachineName,
    options: CutoverOptions,
) -> Result<PathBuf, Error> {
    let Context { host, report, .. } = context;
    let _lock = host.store.lock(name, &format!("p2v cutover {name}"))?;
    let record = host.store.get(name)?;
    may_cut_over(&record, &options)?;
    if !host.is_xen() {
        return refused(
            Code::NotXen,
            "this host does not run Xen, so there is nothing to start a domain with; see `p2v doctor`",
        );
    }
    context.refuse_saved(name)?;
    let known = stop::known_addresses(&record);
    context.refuse_while_in_use(name, &known)?;
    let contact = if options.old_machine_gone {
        refuse_if_heard(context, &record)?;
        report.warn(
            "the old machine is not asked, as you said: both ends of each copy are compared with what was noted when it was \
             checked, and nothing is compared with its disks",
        );
        None
    } else {
        let contact = context.contact_of(name, options.accept_unguarded);
        let contact = contact.or_else(|error| {
            refused(Code::OldMachineSilent, format!(
                "{error}. If it is off for good and did not run its own system since the copy, say --old-machine-gone"
            ))
        })?;
        Some(contact)
    };
    let record = host.store.get(name)?;
    context.take_word(&record, &options.another_machine)?;
    context.refuse_second_server(&record, "p2v cutover")?;
    context.refuse_missing(&record, &options.without)?;
    let copied_in = same_boot(&record)?;
    if contact.is_none()
        && let Some(at) = record.inventory_read
    {
        context.refuse_other_start(&record, &copied_in, at)?;
    }
    if let Some(contact) = contact.as_ref().filter(|_| options.will_disarm) {
        context.need_orders(contact)?;
    }
    if let Some(contact) = &contact {
        guarded(context, contact, &options)?;
    }
    context.let_go(name, &known)?;

    // Which disks there are: as the agent said when they were copied.
    let slots: Vec<u8> = record
        .disks
        .iter()
        .filter(|(slot, _)| !options.without.contains(slot))
        .filter(|(_, d)| d.copy.as_ref().is_some_and(|c| c.verified().is_some()))
        .map(|(slot, _)| *slot)
        .collect();
    let mut planned = record.clone();
    planned.state = State::Moved;
    for slot in &slots {
        let Some(disk) = planned.disks.get_mut(slot) else {
            continue;
        };
        let Some(copy) = &mut disk.copy else {
            continue;
        };
        copy.use_from(Timestamp::now());
        let how = copy.verified().map(|verified| verified.how);
        if let Some(how) = how.filter(|how| *how != Verify::Both) {
            report.warn(&format!(
                "the copy of {} was made with --verify {how}: not all of it was compared with the old disk",
                Address::new(record.shelf, *slot)
            ));
        }
        let backing = backing_ready(host, &copy.destination, disk.sectors)?;
        still_ours(context, &record, *slot, &copy.destination)?;
        refuse_domains_disk(host, &backing.path)?;
        // Refused while anything has it open, and by that the domain's alone.
        let opened = reopen(
            host,
            name,
            *slot,
            &copy.destination,
            &backing.path,
            disk.sectors,
        )?;
        let address = Address::new(record.shelf, *slot);
        if let Some(known) = record.disks.get(slot) {
            ends::compare(context, contact.as_ref(), address, known, opened.sink())?;
        }
        disk.mapping = Some(Mapping::Copy);
    }
    let domain = config::of_record(host, &planned)?;

    context.or_take_back(|undo| {
        let back = record.clone();
        let started = Rc::new(Cell::new(false));
        let may_have_run = started.clone();
        undo.push("the machine's record", move || {
            mark_not_moved(context, &back, may_have_run.get())
        });
        // Before the domain can write to the volumes: from here on no copy is made over them.
        host.store.update(name, |record| {
            record.state = State::Moved;
            record.served = None;
            record.disks.clone_from(&planned.disks);
            record.note(Timestamp::now(), "switching the domain to the copies");
            Ok::<_, Error>(())
        })?;
        for slot in &slots {
            let Some(disk) = planned.disks.get(slot) else {
                continue;
            };
            let destination = disk.copy.as_ref().map(|c| c.destination.clone());
            if let Some(Destination::Volume { vg, lv, .. }) = destination {
                let (group, volume) = (vg.clone(), lv.clone());
                undo.push(format!("the mark on {vg}/{lv}"), move || {
                    lvm::retag(&host.tools, &group, &volume, &[], &[lvm::TAG_MOVED])
                });
                lvm::retag(&host.tools, &vg, &lv, &[lvm::TAG_MOVED], &[])?;
            }
            if disk.mapped_copy().is_some_and(Destination::is_device) {
                let dm = name.dm_name((*slot).into());
                report.step(&format!(
                    "/dev/mapper/{dm}: linear on the copy, {} sectors",
                    disk.sectors
                ));
                up(host, name, *slot, disk)?;
                undo.push(format!("/dev/mapper/{dm}"), move || {
                    dmsetup::remove(&host.tools, &dm)
                });
            }
        }
        let config = config::ready(host, &host.store.get(name)?, &domain, report)?;
        if options.autostart {
            let link = config_file::link_auto(&host.settings.auto_dir, &config.path)?;
            report.step(&format!("{} starts it with this host", link.display()));
            undo.push(format!("the link {}", link.display()), move || {
                std::fs::remove_file(&link)
            });
        }
        report.step(&format!("xl create {}", config.path.display()));
        let domain_name = name.clone();
        // While it may run, its disks keep their marks and the machine stays moved.
        undo.push_carried(format!("domain {name}"), move || {
            destroy_if_there(context, &domain_name)
        });
        started.set(true);
        xl::create(&host.tools, &config.path)?;
        context.note_served(name, "the domain was started on the copies");
        Ok(config.path)
    })
}

/// The rule, from the record alone.
fn may_cut_over(record: &Record, options: &CutoverOptions) -> Result<(), Error> {
    let name = &record.name;
    if matches!(record.state, State::Moved | State::Released) {
        return refused(
            Code::AlreadyMoved,
            format!(
                "{name} is {} already: its domain is started with `xl create` (after a cutover that was cut off: `p2v devices up` \
                 and `p2v config {name} --write` first)",
                record.state
            ),
        );
    }
    let exported: Vec<Address> = record
        .inventory
        .iter()
        .flat_map(crate::record::exported)
        .map(|(address, _)| address)
        .collect();
    if let Err(why) = record.verified_copies(&exported) {
        return refused(
            Code::NoFinishedCopy,
            format!(
                "{name} cannot be switched over: {why}. Stop its domain and run `p2v copy {name} --to VG`; it moves only what \
                 differs"
            ),
        );
    }
    let unguarded = record
        .disks
        .values()
        .filter_map(|d| d.copy.as_ref())
        .any(|copy| copy.unguarded);
    if unguarded && !options.accept_unguarded {
        return refused(
            Code::CopyUnguarded,
            format!(
                "{name} was copied without making its disks read-only, because it was not booted by this host: a domain of \
                 another host may have written to them since. Boot it from `p2v serve` here and run the copy again (it moves \
                 only what differs); or, if you know that nothing wrote, say --accept-unguarded"
            ),
        );
    }
    let holes: u64 = record
        .disks
        .values()
        .filter_map(|d| d.copy.as_ref()?.verified())
        .flat_map(|v| &v.unreadable)
        .map(|(_, count)| count)
        .sum();
    if holes > 0 && options.will_disarm {
        return refused(
            Code::DiskFailing,
            format!(
                "the old disk of {name} is failing, and --disarm-old-disk would write to it: leave that out, and pull the disk out \
                 of the old machine"
            ),
        );
    }
    if holes > 0 && !options.accept_unreadable {
        return refused(
            Code::SectorsUnreadable,
            format!(
                "{holes} sectors of {name} could not be read, so its copy is not complete (`p2v show {name}` lists them). Run \
                 the copy again, it may succeed; or say --accept-unreadable and check the file systems afterwards"
            ),
        );
    }
    Ok(())
}

/// A volume is marked as the copy of this disk, and no other copy took it since.
pub(super) fn still_ours(
    context: Context<'_>,
    record: &Record,
    slot: u8,
    destination: &Destination,
) -> Result<(), Error> {
    let Destination::Volume { vg, lv, .. } = destination else {
        return Ok(());
    };
    let tag = record.volume_tag(slot).unwrap_or_default();
    match lvm::volume(&context.host.tools, vg, lv)? {
        Some(volume) if volume.has_tag(&tag) => Ok(()),
        other => refused(
            Code::DestinationChanged,
            format!(
                "the volume {vg}/{lv} is not marked as the copy of this disk (tag {tag}; it has: {}): another copy may have \
                 been made over it. Run `p2v copy` again",
                other.map_or_else(String::new, |v| v.tags.join(", "))
            ),
        ),
    }
}

/// The old machine is not gone while anything answers for its shelf.
fn refuse_if_heard(context: Context<'_>, record: &Record) -> Result<(), Error> {
    let wait = Duration::from_secs(context.host.settings.discovery_seconds.max(1));
    context.report.step(&format!(
        "listening whether shelf e{} is silent",
        record.shelf
    ));
    // An answer may be lost.
    for _ in 0..QUIET {
        let found = context.wire.discover(wait)?;
        if let Some(heard) = found.iter().find(|f| f.address.shelf == record.shelf) {
            return refused(
                Code::OldMachineAnswers,
                format!(
                    "the old machine is not gone: {} answers for {}. Leave out --old-machine-gone, or switch it off first",
                    heard.mac, heard.address
                ),
            );
        }
    }
    Ok(())
}

/// As far as the record knows, the old machine did not restart since the copy: the id of its start.
fn same_boot(record: &Record) -> Result<String, Error> {
    let inventory = record.inventory.as_ref();
    let all: Vec<Address> = inventory
        .into_iter()
        .flat_map(crate::record::exported)
        .map(|(address, _)| address)
        .collect();
    let copied_in = record
        .verified_copies(&all)
        .map_err(|why| refusal(Code::NoFinishedCopy, why))?;
    if inventory.is_none_or(|i| i.boot_id != copied_in) {
        return refused(
            Code::OldMachineRestarted,
            format!(
                "the old machine restarted since {} was copied, and may have run its own system: run `p2v copy` again, it \
                 moves only what differs",
                record.name
            ),
        );
    }
    Ok(copied_in)
}

/// The old disks cannot be written from here on.
fn guarded(context: Context<'_>, contact: &Contact, options: &CutoverOptions) -> Result<(), Error> {
    let name = &contact.record.name;
    let all = addresses(&contact.disks);
    match context.takes_orders(contact) {
        true => context.set_access(contact, &all, Access::ReadOnly),
        false if options.accept_unguarded => {
            context.report.warn(&format!(
                "{name} takes no orders from this host: nothing here keeps another host from writing to its old disks"
            ));
            Ok(())
        }
        false => refused(
            Code::NoHostKey,
            format!(
                "the agent on {name} was started without this host's key, so this host cannot make its exports read-only: a \
                 domain of another host may be writing to them. Restart the old machine so that it boots from `p2v serve` \
                 here, and run `p2v copy` again; or, if you know that nothing writes to its disks, say --accept-unguarded"
            ),
        ),
    }
}

/// Back to the copied state. Should the domain have run for a moment, the next `cutover` compares
/// both ends of the copies with the old disks, and the next `copy` all of them.
fn mark_not_moved(
    context: Context<'_>,
    before: &Record,
    domain_may_have_run: bool,
) -> Result<(), Error> {
    context.host.store.update(&before.name, |record| {
        record.state = before.state;
        record.disks.clone_from(&before.disks);
        // Should the domain have run for a moment, nothing that was noted is so.
        for disk in record.disks.values_mut() {
            if let Some(copy) = &mut disk.copy {
                copy.forget_notes(domain_may_have_run);
            }
        }
        record.note(Timestamp::now(), "the domain was not switched over");
        Ok(())
    })
}
