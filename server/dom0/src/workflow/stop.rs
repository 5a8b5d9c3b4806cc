//! `p2v stop`: the domain is shut down; if it ran on the old disk, that is read-only again.

use std::time::Instant;

use p2v_contract::Address;

use super::{Code, Context, Error, old_disks, outage, refused};
use crate::name::MachineName;
use crate::record::{Record, State, exported};
use crate::timestamp::Timestamp;
use crate::tool::aoe_driver::{AoeDriver, GivingUp};
use crate::tool::xl;
use crate::wire::Access;

/// How often a domain that shuts down is looked for.
const POLL: std::time::Duration = std::time::Duration::from_millis(500);

/// How to stop.
#[derive(Clone, Copy, Debug, Default)]
pub struct StopOptions {
    /// Pull the plug instead of asking the system to shut down.
    pub destroy: bool,
}

/// Stops the machine's domain and, if it ran on the old disks, gives write access back.
///
/// # Errors
/// It does not shut down in time, or the old machine does not answer.
pub fn stop(context: Context<'_>, name: &MachineName, options: StopOptions) -> Result<(), Error> {
    let Context { host, report, .. } = context;
    let _lock = host.store.lock(name, &format!("p2v stop {name}"))?;
    let record = host.store.get(name)?;
    let (mut disk_is_away, mut giving_up) = (false, None);
    if record.has_domain_on_old_disks() {
        match options.destroy {
            true => (disk_is_away, giving_up) = fail_what_waits(context, &record)?,
            false => refuse_while_it_waits(context, name)?,
        }
    }
    let was_there = stop_domain(context, name, options)?;
    if matches!(record.state, State::Moved | State::Released) {
        return match was_there {
            true => context.note(name, "the domain was stopped"),
            false => Ok(()),
        };
    }
    let ran = was_there || record.state == State::Running;
    let disks = known_addresses(&record);
    if was_there || disk_is_away {
        wait_until_closed(context, name, &disks)?;
    }
    context.let_go(name, &disks)?;
    host.store.update(name, |record| {
        if record.state == State::Running {
            record.state = State::Exported;
        }
        for disk in record.disks.values_mut() {
            disk.mapping = None;
        }
        if ran {
            record.note(
                Timestamp::now(),
                match disk_is_away {
                    false => "the domain on the old disks was stopped",
                    true => {
                        "the domain was ended while its old disks were away: what it had not written by then is missing \
                         on them"
                    }
                },
            );
        }
        Ok::<_, Error>(())
    })?;
    drop(giving_up);
    outage::forget(host, name)?;
    context.driver_as_before();
    let contact = match context.contact_to_stop(name) {
        Err(error) if disk_is_away => {
            report.warn(&format!(
                "{error}. The domain is ended, and what it had not written is missing on the old disk. If the old machine \
                 was not switched off (its cable was out), `p2v stop {name}` once more makes its exports read-only"
            ));
            return Ok(());
        }
        contact => contact?,
    };
    context.need_orders(&contact)?;
    report.step("making the exports read-only");
    context.set_access(
        &contact,
        &super::addresses(&contact.disks),
        Access::ReadOnly,
    )
}

/// A domain whose disk is away cannot shut down.
fn refuse_while_it_waits(context: Context<'_>, name: &MachineName) -> Result<(), Error> {
    let domains = context.domains()?;
    let is_paused = domains
        .iter()
        .any(|d| d.name == name.as_str() && d.is_paused);
    let is_away = outage::outage(context.host, name).is_some();
    if !is_paused && !is_away {
        return Ok(());
    }
    refused(
        Code::DomainWaits,
        format!(
            "the domain {name} {}, so it cannot shut down. `p2v show {name}` says what became of the old machine; with its disk \
             back it can. To end it without that, and lose what it had not written: `p2v stop {name} --destroy`",
            match is_away {
                true => "waits for its disk",
                false => "is paused (`xl unpause` lets it run)",
            }
        ),
    )
}

/// A domain that waits for its disk cannot be ended before its requests are: an old machine that was restarted and
/// waits is made to refuse them, and for one that is away the kernel's driver does, until the result is dropped. Whether it
/// is away.
fn fail_what_waits<'a>(
    context: Context<'a>,
    record: &Record,
) -> Result<(bool, Option<GivingUp<'a>>), Error> {
    let Context { host, report, .. } = context;
    let name = &record.name;
    let domains = context.domains()?;
    // It sees none of what is refused. (Xen counts pauses.) It is ended next, also if it cannot be paused.
    let mut runs = domains
        .iter()
        .any(|domain| domain.name == name.as_str() && !domain.is_paused);
    let mut pause = || {
        if std::mem::take(&mut runs) {
            let _ = xl::pause(&host.tools, name.as_str());
        }
    };
    let ended = context.contact_or_stand_in(name).and_then(|contact| {
        pause();
        context.end_waiting(&contact)
    });
    let Err(error) = ended else {
        return Ok((false, None));
    };
    report.warn(&error.to_string());
    let driver = AoeDriver::new(&host.tools, &host.paths);
    let has_failed = |record: &Record| {
        let mut disks = old_disks::the_domains(record).into_iter();
        disks.all(|address| driver.has_given_up(address))
    };
    if !driver.is_loaded() || has_failed(record) {
        return Ok((true, None));
    }
    let listing = host.store.list()?;
    if let Some(unreadable) = listing.unreadable.first() {
        return refused(
            Code::RecordUnreadable,
            format!(
                "{unreadable}: it is not known whether a domain of that machine waits, too. Correct that record first"
            ),
        );
    }
    let others = listing.records.into_iter();
    for other in others.filter(|other| {
        let runs = domains
            .iter()
            .any(|domain| domain.name == other.name.as_str());
        other.name != *name && runs && other.has_domain_on_old_disks()
    }) {
        // One that has failed has nothing to lose any more.
        if !has_failed(&other) && !old_disks::serves(context, &other) {
            return refused(
                Code::DomainWaits,
                format!(
                    "{} waits for its old disks too, and the kernel's driver gives up what it keeps for all silent machines at \
                     once. See to {0} first (`p2v show {0}`)",
                    other.name
                ),
            );
        }
    }
    pause();
    report.step(
        "having the kernel's driver refuse what the domain had not written (up to half a minute)",
    );
    // No shorter than it takes: the driver does so with every device.
    let outage = outage::outage(host, name);
    let age = outage.and_then(|outage| outage.since.age_at(Timestamp::now()));
    let seconds = age.map_or(0, |age| age.as_secs().saturating_sub(5));
    let most = host.settings.domain_waits_seconds;
    let giving_up = driver.give_up(u32::try_from(seconds).unwrap_or(most).min(most), most)?;
    let began = Instant::now();
    while began.elapsed() < host.wait() / 2 {
        if has_failed(record) {
            return Ok((true, None));
        }
        std::thread::sleep(POLL);
    }
    // Nothing waits yet, or not for so long: what ends the domain may still write.
    Ok((true, Some(giving_up)))
}

/// The domain's device model ends a while after the domain, when what it had on its way to the disk is written or refused.
fn wait_until_closed(
    context: Context<'_>,
    name: &MachineName,
    disks: &[Address],
) -> Result<(), Error> {
    let names: Vec<String> = disks.iter().map(|a| name.dm_name(a.slot.into())).collect();
    let started = Instant::now();
    while started.elapsed() < context.host.wait()
        && context
            .dm_devices()?
            .iter()
            .any(|device| device.open > 0 && names.contains(&device.name))
    {
        std::thread::sleep(POLL);
    }
    Ok(())
}

pub(super) fn known_addresses(record: &Record) -> Vec<Address> {
    let mut slots: std::collections::BTreeSet<u8> = record.disks.keys().copied().collect();
    if let Some(inventory) = &record.inventory {
        slots.extend(exported(inventory).iter().map(|(a, _)| a.slot));
    }
    slots
        .into_iter()
        .map(|slot| Address::new(record.shelf, slot))
        .collect()
}

/// Whether there was one.
fn stop_domain(
    context: Context<'_>,
    name: &MachineName,
    options: StopOptions,
) -> Result<bool, Error> {
    let Context { host, report, .. } = context;
    let there = || -> Result<bool, Error> {
        Ok(context.domains()?.iter().any(|d| d.name == name.as_str()))
    };
    if !there()? {
        report.step(&format!("there is no domain {name}"));
        return Ok(false);
    }
    if options.destroy {
        report.step(&format!("xl destroy {name}"));
        xl::destroy(&host.tools, name.as_str())?;
    } else {
        report.step(&format!("asking {name} to shut down"));
        xl::shutdown(&host.tools, name.as_str())?;
    }
    let started = Instant::now();
    while there()? {
        if started.elapsed() >= host.wait() {
            return refused(
                Code::ShutdownTooSlow,
                format!(
                    "{name} has not shut down within {} s: look at its screen (`xl vncviewer {name}`), or pull the plug \
                     with `p2v stop {name} --destroy`",
                    host.settings.wait_seconds
                ),
            );
        }
        std::thread::sleep(POLL);
    }
    Ok(true)
}
