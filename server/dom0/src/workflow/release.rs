//! `p2v release`: the old machine is switched off.

use std::time::{Duration, Instant};

use super::discover::how_a_moved_one_starts;
use super::stop::known_addresses;
use super::{Code, Context, Error, addresses, config, refused};
use crate::name::MachineName;
use crate::record::{Record, State};
use crate::timestamp::Timestamp;
use crate::tool::aoe_driver::AoeDriver;
use crate::wire::{Access, Finish};

/// How long a machine must not answer to count as off: several discoveries may be lost.
pub(super) const QUIET: u32 = 3;

/// How to release.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReleaseOptions {
    /// It is off already; only the record is brought up to date.
    pub off: bool,
}

/// Powers the old machine off by an authorised request and waits until it no longer answers.
///
/// # Errors
/// It was not moved, no domain ran from its copies, or it does not answer, or goes on answering.
pub fn release(
    context: Context<'_>,
    name: &MachineName,
    options: ReleaseOptions,
) -> Result<(), Error> {
    let Context { host, report, wire } = context;
    let _lock = host.store.lock(name, &format!("p2v release {name}"))?;
    let record = host.store.get(name)?;
    if record.state != State::Moved {
        return refused(
            Code::NotMoved,
            match record.state {
                State::Released => format!("{name} was released already"),
                state => format!(
                    "{name} is {state}, not moved: its only whole disk is in the old machine, which stays on. Run `p2v copy` \
                     and `p2v cutover` first"
                ),
            },
        );
    }
    let wait = Duration::from_secs(host.settings.discovery_seconds.max(1));
    let answers = || -> Result<bool, Error> {
        Ok(wire
            .discover(wait)?
            .iter()
            .any(|f| f.address.shelf == record.shelf))
    };
    if options.off {
        if answers()? {
            return refused(
                Code::OldMachineAnswers,
                format!("{name} is not off: shelf e{} answers", record.shelf),
            );
        }
    } else {
        let contact = context.contact(name)?;
        context.need_orders(&contact)?;
        let runs = context.domains()?.iter().any(|d| d.name == name.as_str());
        may_power_off(&record, runs, config::is_there(host, &record))?;
        let disks = addresses(&contact.disks);
        let Some(first) = disks.first().copied() else {
            return refused(
                Code::DiskMissing,
                format!(
                    "the inventory of {name} names no exported disk: switch it off by hand and say --off"
                ),
            );
        };
        // The agent does not switch off while a disk may be written.
        context.set_access(&contact, &disks, Access::ReadOnly)?;
        report.step("switching the old machine off");
        context.order(&contact, first, |session, key, counter| {
            session.finish(key, counter, Finish::PowerOff)
        })?;
        report.step("waiting until it no longer answers");
        let started = Instant::now();
        let mut quiet = 0;
        while quiet < QUIET {
            quiet = if answers()? { 0 } else { quiet + 1 };
            if quiet == 0 && started.elapsed() >= host.wait() {
                return refused(
                    Code::OldMachineAnswers,
                    format!(
                        "{name} accepted the request to switch off, and still answers after {} s: look at its screen, and \
                         switch it off by hand",
                        host.settings.wait_seconds
                    ),
                );
            }
        }
    }
    // The driver found the disks again while the machine was still up. Gone ones make whatever looks
    // at all disks of this host (`vgs`, `sync`) wait for three minutes (`aoe_deadsecs`).
    let driver = AoeDriver::new(&host.tools, &host.paths);
    for address in known_addresses(&record) {
        if let Err(error) = driver.forget(address) {
            report.warn(&format!(
                "the kernel's aoe driver still has {address} ({error}): `aoe-flush {address}` makes it forget"
            ));
        }
    }
    host.store.update(name, |record| {
        record.state = State::Released;
        record.note(Timestamp::now(), "the old machine is off");
        Ok(())
    })
}

impl Context<'_> {
    /// Notes that a domain of a moved machine runs from the copies. `what`: how that is known.
    pub(super) fn note_served(&self, name: &MachineName, what: &str) {
        let noted = self.host.store.update(name, |record| {
            record.served = Some(Timestamp::now());
            record.note(Timestamp::now(), what);
            Ok::<_, Error>(())
        });
        if let Err(error) = noted {
            self.report
                .warn(&format!("{what}, but its record does not say so: {error}"));
        }
    }
}

/// A cutover that was cut off leaves a moved machine, and may have started nothing. `runs`: a domain of it does; `has_config`:
/// that is there.
fn may_power_off(record: &Record, runs: bool, has_config: bool) -> Result<(), Error> {
    if runs || record.served.is_some() {
        return Ok(());
    }
    let name = &record.name;
    refused(
        Code::NotServing,
        format!(
            "{name} is moved, and as far as p2v knows no domain of it has run from its copies yet (a cutover that was cut off \
             starts none), so the old machine stays on: {}. When it serves, `p2v release {name}`. If the old machine is to go \
             off all the same, switch it off by hand and say --off",
            how_a_moved_one_starts(name, has_config)
        ),
    )
}
