//! `p2v stop`: the domain is shut down; if it ran on the old disk, that is read-only again.

use std::time::Instant;

use p2v_aoe::Address;

use super::{Context, Error, refused, watch};
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
    let mut giving_up = None;
    if record.has_domain_on_old_disks() {
        match options.destroy {
            true => giving_up = fail_what_waits(context, name)?,
            false => refuse_while_it_waits(context, name)?,
        }
    }
    let disk_is_away = giving_up.is_some();
    let was_there = stop_domain(context, name, options)?;
    if matches!(record.state, State::Moved | State::Released) {
        return match was_there {
            true => context.note(name, "the domain was stopped"),
            false => Ok(()),
        };
    }
    let ran = was_there || record.state == State::Running;
    let disks = known_addresses(&record);
    if disk_is_away {
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
    watch::forget(host, name)?;
    context.driver_as_before();
    let contact = match context.contact(name) {
        Err(error) if disk_is_away => {
            report.warn(&format!(
                "{error}. The domain is ended, and what it had not written is missing on the old disk. If the old machine \
                 was not switched off (its cable was out), `p2v stop {name}` once more makes its exports read-only"
            ));
            return Ok(());
        }
        contact => contact?,
    };
    let token = context.need_token(&contact)?;
    report.step("making the exports read-only");
    context.set_access(
        &contact,
        &super::addresses(&contact.disks),
        &token,
        Access::ReadOnly,
    )
}

/// A domain whose disk is away cannot shut down.
fn refuse_while_it_waits(context: Context<'_>, name: &MachineName) -> Result<(), Error> {
    let domains = context.domains()?;
    let is_paused = domains
        .iter()
        .any(|d| d.name == name.as_str() && d.is_paused);
    let is_away = watch::outage(context.host, name).is_some();
    if !is_paused && !is_away {
        return Ok(());
    }
    refused(format!(
        "the domain {name} {}, so it cannot shut down. `p2v show {name}` says what became of the old machine; with its disk \
         back it can. To end it without that, and lose what it had not written: `p2v stop {name} --destroy`",
        match is_away {
            true => "waits for its disk",
            false => "is paused (`xl unpause` lets it run)",
        }
    ))
}

/// A domain that waits for its disk cannot be ended before its requests are: an old machine that was restarted and
/// waits is made to refuse them, and for one that is away the kernel's driver does, until the result is dropped.
fn fail_what_waits<'a>(
    context: Context<'a>,
    name: &MachineName,
) -> Result<Option<GivingUp<'a>>, Error> {
    let Context { host, report, .. } = context;
    // It sees none of what is refused. It may be paused already, or not be there.
    let _ = xl::pause(&host.tools, name.as_str());
    let ended = context
        .contact(name)
        .and_then(|contact| context.end_waiting(&contact));
    let Err(error) = ended else {
        return Ok(None);
    };
    report.warn(&error.to_string());
    let driver = AoeDriver::new(&host.tools, &host.paths);
    if !driver.is_loaded() {
        return Ok(None);
    }
    let others = host.store.list()?.records.into_iter();
    for other in others.filter(|other| other.name != *name && other.has_domain_on_old_disks()) {
        if !watch::serves(context, &other) {
            return refused(format!(
                "{} waits for its old disks too, and the kernel's driver gives up what it keeps for all silent machines at \
                 once. See to {0} first (`p2v show {0}`); the domain {name} is paused meanwhile",
                other.name
            ));
        }
    }
    report.step(
        "having the kernel's driver refuse what the domain had not written (up to half a minute)",
    );
    Ok(Some(driver.give_up()?))
}

/// A program that had something on its way to a disk which is away (the domain's device model) ends when that is
/// refused.
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
            return refused(format!(
                "{name} has not shut down within {} s: look at its screen (`xl vncviewer {name}`), or pull the plug \
                 with `p2v stop {name} --destroy`",
                host.settings.wait_seconds
            ));
        }
        std::thread::sleep(POLL);
    }
    Ok(true)
}
