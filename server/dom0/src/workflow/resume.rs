//! `p2v resume`: the old machine was away and is back, and its domain gets its disks again.

use std::time::Duration;

use p2v_contract::Address;

use super::continuity::{self, Doubt, LastBoot};
use super::old_disks::{ExportState, state, the_domains};
use super::{Code, Contact, Context, Error, addresses, outage, refused};
use crate::name::MachineName;
use crate::record::Record;
use crate::timestamp::Timestamp;
use crate::tool::aoe_driver::{self, AoeDriver};
use crate::wire::Access;

/// What the operator confirms.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResumeOptions {
    /// The old machine did not run its own system while it was away.
    pub old_system_did_not_run: bool,
    /// Nor is it the reason why a disk is not as it was.
    pub although_changed: bool,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// The disks were given back to the domain.
    Disks,
    /// The agent did not restart: the domain has its disks.
    HadThem,
}

/// Gives the old disks back to the domain that waits for them, where it is certain that the old system did not run
/// meanwhile, by what was seen or by the operator's word.
///
/// # Errors
/// It is not known to be safe: the reason, and what to do.
pub fn resume(
    context: Context<'_>,
    name: &MachineName,
    options: ResumeOptions,
    last_boot: LastBoot<'_>,
) -> Result<Resumed, Error> {
    resume_as(
        context,
        name,
        options,
        last_boot,
        &format!("p2v resume {name}"),
    )
}

/// The same by the command `command`, as others are told that wait for it.
pub(super) fn resume_as(
    context: Context<'_>,
    name: &MachineName,
    options: ResumeOptions,
    last_boot: LastBoot<'_>,
    command: &str,
) -> Result<Resumed, Error> {
    let Context { host, report, .. } = context;
    let _lock = host.store.lock(name, command)?;
    let before = host.store.get(name)?;
    if !before.has_domain_on_old_disks() {
        return refused(
            Code::NoDomain,
            format!(
                "no domain runs on the old disks of {name} (it is {}), so none waits for them",
                before.state
            ),
        );
    }
    if !context.domains()?.iter().any(|d| d.name == name.as_str()) {
        return refused(
            Code::NoDomain,
            format!(
                "there is no domain {name}, so none waits for the old disks: `p2v start {name}` starts one"
            ),
        );
    }
    let contact = context.contact_or_stand_in(name)?;
    let last = continuity::last_seen(host, &before);
    same_disks(&before, &contact, last.is_some())?;
    let mut waiting = Vec::new();
    for address in the_domains(&before) {
        match state(&mut *context.session(&contact, address)?)? {
            ExportState::ReadWrite => {}
            ExportState::Waiting => waiting.push(address),
            ExportState::ReadOnly => {
                return refused(
                    Code::WritesLost,
                    format!(
                        "{address} is READ-ONLY: the old machine was started by a menu that does not know of the domain, and \
                         the domain gets errors for what it writes. End it (`p2v stop {name} --destroy`), and start it anew \
                         (`p2v start {name}`); its file systems will want a check"
                    ),
                );
            }
        }
    }
    if waiting.is_empty() {
        return Ok(Resumed::HadThem);
    }
    let driver = AoeDriver::new(&host.tools, &host.paths);
    for address in &waiting {
        let device = driver.device(*address);
        if !aoe_driver::sectors(&device).is_ok_and(|sectors| sectors > 0) {
            return refused(
                Code::WritesLost,
                format!(
                    "{} has FAILED on this host: the old machine was away for longer than domain_waits_seconds, and the domain \
                     got errors for what it wrote since. End it (`p2v stop {name} --destroy`), and start it anew \
                     (`p2v start {name}`); its file systems will want a check",
                    device.display()
                ),
            );
        }
    }
    let most = Duration::from_secs(host.settings.domain_waits_seconds.into());
    let outage = outage::outage(host, name);
    if outage.is_some_and(|outage| outage.may_have_failed(most, Timestamp::now())) {
        return refused(
            Code::WritesLost,
            format!(
                "the old machine of {name} was away for longer than domain_waits_seconds: what the domain had asked for may have \
                 been refused. End it (`p2v stop {name} --destroy`), and start it anew (`p2v start {name}`); its file systems will \
                 want a check"
            ),
        );
    }
    context.need_orders(&contact)?;
    let changed = match &last {
        Some(last) => last.changed(context, &before)?,
        None => None,
    };
    let boot = last_boot(before.boot_mac);
    let stats = context.session(&contact, waiting[0])?.stats()?;
    let age = stats.get("inventory_age_ms").map(Duration::from_millis);
    let reset = age.and_then(|age| contact.reset_at(age, Timestamp::now()));
    let most = host.settings.unseen_seconds;
    let doubt = continuity::doubt(last.as_ref(), boot, changed, reset, most);
    let confirmed = match &doubt {
        // Of a disk in another machine that may mean that it is another disk.
        Some(Doubt::Changed(_)) => options.although_changed && !contact.inventory.stands_in,
        Some(_) => options.old_system_did_not_run,
        None => true,
    };
    if let Some(doubt) = doubt.filter(|_| !confirmed) {
        return refused(
            Code::OldSystemMayHaveRun,
            in_doubt(name, &doubt, contact.inventory.stands_in),
        );
    }
    context.keep_guests_off()?;
    report.step("asking the old machine for write access");
    context.set_access(&contact, &waiting, Access::ReadWrite)?;
    context.note_or_warn(
        name,
        match contact.inventory.stands_in {
            false => "the old machine had restarted; the domain got its old disks back",
            true => "another machine has the old disks now; the domain got them back",
        },
    );
    Ok(Resumed::Disks)
}

/// What the operator has to know first.
fn in_doubt(name: &MachineName, doubt: &Doubt, stands_in: bool) -> String {
    let destroy = format!(
        "end it with `p2v stop {name} --destroy`, then `p2v start {name}` boots it anew (if there is time, copy the disk before: \
         two systems may have written to it)"
    );
    match doubt {
        Doubt::Changed(_) if stands_in => format!(
            "{doubt}: it may be another disk, or something wrote to it since it left the old machine. The domain does not \
             resume with it. Look whether it is the right disk. If it is: `p2v stop {name} --destroy`, put it \
             back into the old machine, restart that from the network, `p2v start {name}`"
        ),
        Doubt::Changed(_) => format!(
            "{doubt}, and a domain that resumes with such a disk destroys its file systems: {destroy}. Only if you know that \
             it was the domain itself (it had just mounted a file system or changed a partition when the old machine fell \
             silent): `p2v resume {name} --although-changed`"
        ),
        _ => format!(
            "the old machine of {name} was restarted (or its disks are in another one), and the domain waits; nothing is \
             lost so far. It is not resumed unasked: {doubt}. If the old system started from its own disk meanwhile, even for a moment, the domain must \
             not resume with that disk: {destroy}. If you know that it did not (the network is first in its boot order, and \
             cable, switch and this host were up the whole time): `p2v resume {name} --old-system-did-not-run`"
        ),
    }
}

/// Each disk that the domain has is there and is the one it was. In another machine it may have another name (behind
/// another controller), and is known by its size and by what is on it, if that was seen before.
fn same_disks(before: &Record, contact: &Contact, by_content: bool) -> Result<(), Error> {
    let by_content = by_content && contact.inventory.stands_in;
    for address in the_domains(before) {
        let known = &before.disks[&address.slot];
        let Some((_, disk)) = contact.disks.iter().find(|(a, _)| *a == address) else {
            return refused(
                Code::DiskMissing,
                format!(
                    "the domain's disk {address} is not exported: it did not come up. Look at the old machine, and switch it \
                     off and on once more; the domain waits"
                ),
            );
        };
        let same_name = disk.model == known.model && disk.serial == known.serial;
        if disk.sectors != known.sectors || !(same_name || by_content) {
            return refused(
                Code::DiskChanged,
                format!(
                    "{address} is another disk now: it has {} sectors, model `{}` and serial number `{}`, and the domain's \
                     has {}, `{}` and `{}`. The domain waits; put the right disk back, and switch the old machine off and on",
                    disk.sectors, disk.model, disk.serial, known.sectors, known.model, known.serial
                ),
            );
        }
        if !contact.inventory.stands_in {
            before.same_place(&contact.inventory, address, disk)?;
        }
    }
    Ok(())
}

impl Context<'_> {
    /// The disks that wait.
    pub(super) fn waiting(&self, contact: &Contact) -> Result<Vec<Address>, Error> {
        let mut waiting = Vec::new();
        for address in addresses(&contact.disks) {
            if state(&mut *self.session(contact, address)?)? == ExportState::Waiting {
                waiting.push(address);
            }
        }
        Ok(waiting)
    }

    /// Has disks that wait answer again, read-only, where no domain uses them any more: what one had not written
    /// when it ended is given up, and the driver lets go of the disk.
    pub(super) fn end_waiting(&self, contact: &Contact) -> Result<(), Error> {
        let waiting = self.waiting(contact)?;
        if waiting.is_empty() {
            return Ok(());
        }
        self.need_orders(contact)?;
        self.report
            .step("the old machine was restarted and waits: making its exports read-only");
        self.set_access(contact, &waiting, Access::ReadOnly)
    }
}
