//! `p2v watch`: an eye on the old machines whose domains run on their disks. One that falls silent makes its domain
//! wait: its disk requests are kept by the kernel's driver, and after a while the domain is paused, so that its own
//! time-outs do not run. With the disk back, it is unpaused.
//!
//! A machine that restarted gives its domain the disks back by the way of `p2v resume`, where it is certain that its own
//! system did not run meanwhile; else it is the operator who knows. A domain whose disk the driver has given up is ended.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::continuity::{self, LastBoot};
use super::old_disks::{self, Seen, see};
use super::outage::{self, Outage, Pause};
use super::resume::{self, ResumeOptions};
use super::stop::{StopOptions, stop};
use super::{Code, Context, Error, refusal};
use crate::disk_user;
use crate::host::Host;
use crate::lock::{self, LockError, MachineLock};
use crate::name::MachineName;
use crate::record::Record;
use crate::report::Silent;
use crate::timestamp::Timestamp;
use crate::tool::aoe_driver::AoeDriver;
use crate::tool::xl;

mod decide;

use decide::{Act, decide};

/// How often the old machines are asked. (The Linux driver sends a lost frame again after some seconds.)
pub const INTERVAL: Duration = Duration::from_secs(3);

/// Looks at every machine whose domain runs on its old disks, once. What fails with one goes to
/// [`Context::report`], and the others are looked at all the same.
///
/// # Errors
/// The records or the domains cannot be listed.
pub fn watch_once(context: Context<'_>, last_boot: LastBoot<'_>) -> Result<(), Error> {
    let busy = Mutex::default();
    std::thread::scope(|scope| look_at_all(context, last_boot, &busy, scope))
}

/// Looks at them while `wait`, which lets [`INTERVAL`] pass, says so. One that takes its time (a domain that is ended) holds
/// up no other.
///
/// # Errors
/// Another one does.
pub fn watch(
    context: Context<'_>,
    last_boot: LastBoot<'_>,
    mut wait: impl FnMut() -> bool,
) -> Result<(), Error> {
    let _lock = lock_watch(context.host)?;
    let busy = Mutex::default();
    std::thread::scope(|scope| {
        loop {
            // What cannot be listed now may be at the next look: this must not end for it.
            if let Err(error) = look_at_all(context, last_boot, &busy, scope) {
                context.report.warn(&error.to_string());
            }
            if !wait() {
                return Ok(());
            }
        }
    })
}

/// Whether [`watch`] runs on this host.
pub fn is_watched(host: &Host) -> bool {
    let file = fs::File::open(host.paths.run.join("watch.lock"));
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
}

fn lock_watch(host: &Host) -> Result<MachineLock, Error> {
    let run = &host.paths.run;
    let locked = match fs::create_dir_all(run) {
        Ok(()) => MachineLock::take(run, "watch", "p2v watch"),
        Err(source) => Err(LockError::Io {
            path: run.clone(),
            source,
        }),
    };
    locked.map_err(|error| match error {
        LockError::Held { holder, .. } => refusal(Code::AlreadyWatched, format!(
            "p2v watch runs already: {holder} (`systemctl status p2v-watch` if it is the unit's)"
        )),
        error => Error::Store(error.into()),
    })
}

/// The machines that are being looked at.
type Busy = Mutex<BTreeSet<MachineName>>;

fn look_at_all<'scope>(
    context: Context<'scope>,
    last_boot: LastBoot<'scope>,
    busy: &'scope Busy,
    scope: &'scope std::thread::Scope<'scope, '_>,
) -> Result<(), Error> {
    let listing = context.host.store.list()?;
    let domains = context.domains()?;
    let any_waits = || {
        let now = context.host.store.list();
        now.is_ok_and(|now| now.records.iter().any(Record::has_domain_on_old_disks))
    };
    // A command that was killed, or an operator, may have left it at less.
    let driver = AoeDriver::new(&context.host.tools, &context.host.paths);
    let most = context.host.settings.domain_waits_seconds;
    if let Err(error) = driver.keep_requests_unless_held(most, any_waits) {
        context.report.warn(&error.to_string());
    }
    // The host may have restarted, or the site's own rules have been loaded over ours.
    if listing.records.iter().any(Record::has_domain_on_old_disks)
        && let Err(error) = context.keep_guests_off()
    {
        context.report.warn(&error.to_string());
    }
    for record in listing.records {
        let name = record.name.clone();
        let domain = domains.iter().find(|d| d.name == name.as_str());
        let is_paused = match domain.filter(|_| record.has_domain_on_old_disks()) {
            None => {
                if let Err(error) = outage::forget(context.host, &name) {
                    context.report.warn_of(&name, &error.to_string());
                }
                continue;
            }
            Some(domain) if has_its_disks(context.host, &record, domain) => domain.is_paused,
            // It is being made or torn down, or it is another domain that has the name.
            Some(_) => continue,
        };
        if !lock(busy).insert(name.clone()) {
            continue;
        }
        scope.spawn(move || {
            if let Err(error) = look_at(context, last_boot, &record, is_paused) {
                context.report.warn_of(&name, &error.to_string());
            }
            lock(busy).remove(&name);
        });
    }
    Ok(())
}

fn lock(busy: &Busy) -> std::sync::MutexGuard<'_, BTreeSet<MachineName>> {
    busy.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the domain is on the old disks that the record tells of: records can be written by the service's user, and no
/// other domain, nor one that was moved to its volumes, is paused or ended for what one says.
fn has_its_disks(host: &Host, record: &Record, domain: &xl::Domain) -> bool {
    let driver = AoeDriver::new(&host.tools, &host.paths);
    old_disks::the_domains(record).into_iter().any(|address| {
        let user =
            disk_user::user_among(host, std::slice::from_ref(domain), &driver.device(address));
        user.is_ok_and(|user| user.is_some_and(|user| user.id == domain.id))
    })
}

fn look_at(
    context: Context<'_>,
    last_boot: LastBoot<'_>,
    record: &Record,
    is_paused: bool,
) -> Result<(), Error> {
    let Context { host, report, .. } = context;
    let name = &record.name;
    let now = Timestamp::now();
    let seen = see(context, record);
    let before = outage::outage(host, name);
    if seen == Seen::Serves && before.is_none() {
        // Where that fails, what was seen before grows old: then nothing is certain, and the operator is asked.
        let _ = continuity::seen(context, record, now);
    }
    let most = Duration::from_secs(host.settings.domain_waits_seconds.into());
    let (mut after, acts) = decide(before.as_ref(), seen, is_paused, most, now);
    // Before the domain is paused: a watch that ends in between must know whose pause that is.
    match &after {
        Some(outage) if before.as_ref() != Some(outage) => outage::remember(host, name, outage)?,
        _ => {}
    }
    let seconds = |outage: &Outage| outage.since.age_at(now).unwrap_or_default().as_secs();
    for act in acts {
        match act {
            Act::Tell => {
                // In the history later: the store may have to be waited for, and the domain is not paused yet.
                let told = match seen {
                    Seen::Waits => {
                        "OLD MACHINE RESTARTED: the domain waits for its disk; nothing is lost so far".to_owned()
                    }
                    Seen::Failed => "OLD DISK FAILED: the old machine was away for longer than domain_waits_seconds, and \
                         what the domain had not written is lost. The domain is ended"
                        .to_owned(),
                    Seen::RefusesWrites => format!(
                        "OLD DISK READ-ONLY: the domain gets errors for what it writes. \
                         `p2v stop {name} --destroy`, then `p2v start {name}`"
                    ),
                    Seen::Silent | Seen::Serves => format!(
                        "OLD MACHINE SILENT: the domain waits for its disk (at most {} s); nothing is lost so far. \
                         Look at the old machine's power and cable",
                        host.settings.domain_waits_seconds
                    ),
                };
                report.warn_of(name, &told.to_string());
            }
            Act::Pause => {
                xl::pause(&host.tools, name.as_str())?;
                if let Some(outage) = &mut after {
                    outage.pause = Pause::Ours;
                    outage::remember(host, name, outage)?;
                }
                report.warn_of(
                    name,
                    "the domain is paused until its disk is back, so that its own time-outs do not run",
                );
                context.note_or_warn(
                    name,
                    "its old disks are away: the domain waits, and is paused",
                );
            }
            Act::Resume => {
                let quiet = Context {
                    report: &Silent,
                    ..context
                };
                let options = ResumeOptions::default();
                match resume::resume_as(quiet, name, options, last_boot, lock::WATCH) {
                    Ok(_) => report.step_of(name, "the old machine cannot have run its own system meanwhile: the domain has its disks again"),
                    Err(error) => {
                        let why = error.to_string();
                        let known = before.as_ref().and_then(|outage| outage.why_not.as_ref());
                        if known != Some(&why) {
                            report.warn_of(name, &why);
                        }
                        if let Some(outage) = &mut after {
                            outage.why_not = Some(why);
                            outage::remember(host, name, outage)?;
                        }
                    }
                }
            }
            Act::GiveUp => {
                stop(context, name, StopOptions { destroy: true })?;
                return outage::forget(host, name);
            }
            Act::Unpause => {
                xl::unpause(&host.tools, name.as_str())?;
                report.step_of(name, "the domain is unpaused");
            }
            Act::End => {
                let waited = before.as_ref().map_or(0, seconds);
                let what = format!("the old disks were away for {waited} s, and are back");
                if before.as_ref().is_some_and(|outage| outage.told.is_some()) {
                    context.note_or_warn(name, &what);
                    report.step_of(name, &what);
                }
                outage::end(host, name)?;
            }
        }
    }
    Ok(())
}
