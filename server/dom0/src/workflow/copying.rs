//! `p2v copy`: the old disks, copied and checked.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use super::{Code, Contact, Context, Error, addresses, refused};
use crate::certificate::Certificate;
use crate::destination::{self, MayGo, Wanted};
use crate::files_hit::FileHit;
use crate::name::MachineName;
use crate::record::{CopyRecord, Destination, Mapping, NotOurs, State};
use crate::timestamp::Timestamp;
use crate::wire::Access;

mod disk;
mod estimate;
mod pools;
mod taken;
mod used_extents;

#[cfg(test)]
pub(super) use taken::warn_of_nameless;

use disk::DiskCopy;
use p2v_contract::Address;
use p2v_contract::inventory::Disk;
use p2v_copy::{Limit, MEMORY, MEMORY_MIN, Salvage, Summary, Verify};

/// What is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyTarget {
    /// Every exported disk of a machine.
    Machine(MachineName),
    /// One disk.
    Disk(Address),
}

/// A copy as it was asked for.
#[derive(Clone, Copy)]
pub struct CopyRequest<'a> {
    /// What.
    pub target: &'a CopyTarget,
    /// Where to: `VG`, `VG/LV`, a file or a block device.
    pub to: &'a str,
    /// Asks whether what is there may go.
    pub may_go: MayGo<'a>,
    /// Go on although the old machine takes no orders from this host: the operator knows that no
    /// other host writes to its disks.
    pub not_booted_by_this_host: bool,
    /// Slots of disks that are gone for good.
    pub without: &'a [u8],
    /// While the domain runs: a copy to be brought up to date when it is shut down.
    pub precopy: bool,
    /// Leave out what no file system uses.
    pub used_only: bool,
    /// What is compared.
    pub verify: Verify,
    /// How what cannot be read is worked on.
    pub salvage: Salvage,
    /// Bytes per second that may cross the wire for all disks together.
    pub limit: Option<u64>,
    /// Bytes of memory for all disks together; by itself [`MEMORY`], or what so many disks need.
    pub memory: Option<usize>,
    /// Set to stop in good order: by a signal handler, or by the copy itself before a thin pool is full.
    pub stop: &'a AtomicBool,
}

impl<'a> CopyRequest<'a> {
    /// The copy of `target` to `to`, with everything else as it is usual.
    pub fn new(target: &'a CopyTarget, to: &'a str, stop: &'a AtomicBool) -> CopyRequest<'a> {
        CopyRequest {
            target,
            to,
            may_go: &|_, _| false,
            not_booted_by_this_host: false,
            without: &[],
            precopy: false,
            used_only: false,
            verify: Verify::Both,
            salvage: Salvage::default(),
            limit: None,
            memory: None,
            stop,
        }
    }
}

/// One disk's copy that came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyDone {
    /// The disk.
    pub address: Address,
    /// Where its copy is.
    pub destination: Destination,
    /// What was done. Only with no unreadable sectors is the disk copied.
    pub summary: Summary,
    /// The files that have sectors which could not be read, where it can be told.
    pub files: Vec<FileHit>,
    /// What the copy can be held to; none for one that was made while the domain ran.
    pub certificate: Option<Certificate>,
}

/// Copies and checks. Refuses while anything uses the disks.
///
/// # Errors
/// What stopped it; the same command goes on from there.
pub fn copy(context: Context<'_>, request: CopyRequest<'_>) -> Result<Vec<CopyDone>, Error> {
    let Context { host, report, .. } = context;
    let wanted: Wanted = request
        .to
        .parse()
        .map_err(destination::DestinationError::from)?;
    let name = machine(context, request.target)?;
    let _lock = host.store.lock(&name, &format!("p2v copy {name}"))?;
    if let state @ (State::Moved | State::Released) = host.store.get(&name)?.state {
        return refused(
            Code::AlreadyMoved,
            format!(
                "{name} is {state}: the domain runs on its volume, which is newer than the old disk. There is nothing to copy"
            ),
        );
    }
    refuse_live_file_systems(request)?;
    if !request.precopy {
        // Before the wire is asked: a running domain is the first thing to hear of.
        context.refuse_while_in_use(
            &name,
            &super::stop::known_addresses(&host.store.get(&name)?),
        )?;
    }
    let contact = contact(context, &name, request)?;
    context.refuse_missing(&contact.record, request.without)?;
    context.refuse_forgotten(&contact.record)?;
    let all = addresses(&contact.disks);
    if !request.precopy {
        context.refuse_while_in_use(&name, &all)?;
    }
    let chosen = chosen(context, &contact, &wanted, request)?;
    let mut unguarded = false;
    if request.precopy {
        if !context.waiting(&contact)?.is_empty() {
            return refused(
                Code::DomainWaits,
                format!(
                    "the old machine of {name} was restarted and waits, as its domain does: `p2v resume {name}` first"
                ),
            );
        }
        report.warn(&format!(
            "{name} may write to its disks while they are copied: this copy is to begin with, and no domain is switched \
             to it. Shut the domain down and run `p2v copy {name} --to {}` then: it moves only what differs",
            request.to
        ));
    } else {
        let guard = guard(context, &contact, request)?;
        context.end_waiting(&contact)?;
        context.let_go(&name, &all)?;
        if guard {
            report.step("making the exports read-only");
            context.set_access(&contact, &all, Access::ReadOnly)?;
        }
        // A domain that ended without `p2v stop`: it has its disks no longer.
        host.store.update(&name, |record| {
            for disk in record.disks.values_mut() {
                disk.mapping = disk.mapping.filter(|mapping| *mapping == Mapping::Copy);
            }
            if record.state == State::Running {
                record.state = State::Exported;
            }
            Ok::<_, Error>(())
        })?;
        context.driver_as_before();
        unguarded = !guard;
    }
    context.refuse_disarmed(&contact, &[])?;
    let limit = request.limit.map(Limit::new);
    let job = disk::Job {
        context,
        contact: &contact,
        wanted: &wanted,
        request,
        unguarded,
        disks: chosen.len(),
        limit: limit.as_ref(),
        pool_full: OnceLock::new(),
        memory: request
            .memory
            .unwrap_or(MEMORY.max(MEMORY_MIN * chosen.len()))
            / chosen.len(),
    };
    let mut open = Vec::new();
    let copied = copy_disks(&job, &chosen, &mut open);
    // Also after a failure: the domain's driver must be let in again.
    for disk in &mut open {
        disk.let_go(&job);
    }
    let done = copied?;
    if request.precopy {
        return Ok(done);
    }
    if finish_state(context, &name, &all)? {
        let checked = match request.verify {
            Verify::Both => "and checked",
            _ => "(not all of it was compared with the old disk: --verify)",
        };
        report.step(&format!(
            "{name} is copied {checked}; next: `p2v cutover {name}`"
        ));
    }
    Ok(done)
}

fn refuse_live_file_systems(request: CopyRequest<'_>) -> Result<(), Error> {
    if request.precopy && request.used_only {
        return refused(
            Code::BadOption,
            "--used-only asks file systems that nobody writes to what they use: not with --precopy",
        );
    }
    Ok(())
}

/// The disks that were asked for.
fn chosen(
    context: Context<'_>,
    contact: &Contact,
    wanted: &Wanted,
    request: CopyRequest<'_>,
) -> Result<Vec<(Address, Disk)>, Error> {
    let name = &contact.record.name;
    let chosen: Vec<(Address, Disk)> = match request.target {
        CopyTarget::Machine(_) => contact.disks.clone(),
        CopyTarget::Disk(address) => contact
            .disks
            .iter()
            .filter(|(a, _)| a == address)
            .cloned()
            .collect(),
    };
    if chosen.is_empty() {
        return refused(
            Code::DiskMissing,
            format!("{name} exports no such disk; `p2v show {name}` lists those it does"),
        );
    }
    if chosen.len() > 1 && !wanted.takes_several(context.host)? {
        return refused(
            Code::BadOption,
            format!(
                "{name} has {} disks and {} is one destination: name a volume group, or one disk at a time (as in \
                 `p2v copy {} --to ...`)",
                chosen.len(),
                request.to,
                chosen[0].0
            ),
        );
    }
    let least = MEMORY_MIN * chosen.len();
    if let Some(memory) = request.memory.filter(|memory| *memory < least) {
        return refused(
            Code::BadOption,
            format!(
                "--memory {memory} (bytes) is too little: the disks that are copied at the same time ({}) need {}M at least. \
                 Or copy one after the other, by their addresses",
                chosen.len(),
                least.div_ceil(1 << 20)
            ),
        );
    }
    Ok(chosen)
}

/// What a copy would do with one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyPlan {
    /// The disk.
    pub address: Address,
    /// What would be written to, in words.
    pub to: String,
    /// Bytes that would be compared or moved.
    pub bytes: u64,
    /// Bytes per second at which the disk was read just now.
    pub rate: Option<u64>,
    /// How long that takes, in words.
    pub time: Option<String>,
}

/// Says what [`copy`] would do, and does nothing.
///
/// # Errors
/// What would stop the copy.
pub fn plan_copy(context: Context<'_>, request: CopyRequest<'_>) -> Result<Vec<CopyPlan>, Error> {
    let Context { host, report, .. } = context;
    let wanted: Wanted = request
        .to
        .parse()
        .map_err(destination::DestinationError::from)?;
    let name = machine(context, request.target)?;
    let contact = contact(context, &name, request)?;
    if let state @ (State::Moved | State::Released) = contact.record.state {
        return refused(
            Code::AlreadyMoved,
            format!("{name} is {state}: there is nothing to copy"),
        );
    }
    refuse_live_file_systems(request)?;
    context.refuse_missing(&contact.record, request.without)?;
    if !request.precopy {
        context.refuse_while_in_use(&name, &addresses(&contact.disks))?;
        guard(context, &contact, request)?;
    }
    // One that waits answers no reads.
    if context.waiting(&contact)?.is_empty() {
        context.refuse_disarmed(&contact, &[])?;
    }
    let chosen = chosen(context, &contact, &wanted, request)?;
    let mut plans = Vec::new();
    let mut filled = Vec::new();
    for (address, disk) in &chosen {
        let mut record = host.store.get(&name)?;
        let before = record.use_disk(*address, disk)?.copy.clone();
        let before = before.filter(|copy| !copy.was_used());
        let tag = record.volume_tag(address.slot).unwrap_or_default();
        taken::ask_for_others_at(context, &name, request, &wanted, *address)?;
        let (to, in_pool) = destination::look(
            host,
            &wanted,
            destination::Request {
                name: &name,
                slot: address.slot,
                tag: &tag,
                sectors: disk.sectors,
                before: before.as_ref().map(|c| &c.destination),
                may_go: request.may_go,
            },
        )?;
        let mut session = context.attach(&contact, *address, disk)?;
        let rate = estimate::rate(&mut *session);
        let mut bytes = disk.sectors * p2v_contract::SECTOR;
        if request.used_only {
            if contact.record.state == State::Running {
                report.warn(
                    "a domain may have written to the disk just now: what is used may change",
                );
            }
            let extents = used_extents::of(context, &contact, *address, disk, request)?;
            bytes = extents
                .iter()
                .map(|(_, count)| count * p2v_contract::SECTOR)
                .sum();
        }
        filled.extend(in_pool.map(|place| (place, bytes)));
        let time = rate.map(|rate| estimate::words(bytes, rate, request.limit, chosen.len()));
        plans.push(CopyPlan {
            address: *address,
            to,
            bytes,
            rate,
            time,
        });
    }
    pools::check(context, filled.iter().map(|(place, bytes)| (place, *bytes)))?;
    taken::warn_of_nameless(context, &wanted);
    Ok(plans)
}

/// Opens all disks' sources and destinations, one after the other, and copies them at the same time.
fn copy_disks<'a>(
    job: &disk::Job<'a>,
    chosen: &[(Address, Disk)],
    open: &mut Vec<DiskCopy>,
) -> Result<Vec<CopyDone>, Error> {
    for (address, disk) in chosen {
        let copy = DiskCopy::reserve(job, *address, disk, open)?;
        if job.request.used_only {
            copy.leave_out_unused(job)?;
        }
        copy.prepare(job)?;
    }
    let pools = pools::check(job.context, open.iter().filter_map(DiskCopy::fills))?;
    let (at_work, over) = std::sync::mpsc::channel();
    let results: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| pools::watch(job, &pools, &{ over }));
        let threads: Vec<_> = open
            .iter_mut()
            .map(|disk| {
                let place = disk.fills().map(|(place, _)| place);
                let name = place.map(|place| (place.vg.clone(), place.pool.clone()));
                let allowance = name.and_then(|name| pools.get(&name));
                scope.spawn(move || disk.run(job, allowance))
            })
            .collect();
        let results = threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let results = results.collect();
        drop(at_work);
        results
    });
    let mut done = Vec::new();
    let mut failed: Option<Error> = None;
    for (disk, result) in open.iter_mut().zip(results) {
        match result.and_then(|summary| disk.finish(job, summary)) {
            Ok(copied) => done.push(copied),
            // Those that were copied are; the first error is the command's, the others are told here.
            Err(error) => match failed {
                None => failed = Some(error),
                Some(_) => job.context.report.warn(&error.to_string()),
            },
        }
    }
    match failed {
        None => Ok(done),
        Some(error) => {
            for copied in &done {
                let (address, to) = (copied.address, &copied.destination);
                job.context
                    .report
                    .step(&format!("{address} is copied to {to} all the same"));
            }
            Err(error)
        }
    }
}

/// The machine of a target; one without a record that answers gets one.
fn machine(context: Context<'_>, target: &CopyTarget) -> Result<MachineName, Error> {
    let address = match target {
        CopyTarget::Machine(name) => return Ok(context.host.store.get(name)?.name),
        CopyTarget::Disk(address) => *address,
    };
    if let Some(record) = context.host.store.by_shelf(address.shelf)? {
        return Ok(record.name);
    }
    let inventory = context.wire.attach(address)?.inventory()?;
    let Some(nic) = inventory
        .nics
        .iter()
        .find(|n| n.boot)
        .or(inventory.nics.first())
    else {
        return refused(
            Code::NoNetworkCard,
            format!("the machine at {address} names no network card to know it by"),
        );
    };
    Ok(context
        .host
        .store
        .adopt(nic.mac, address.shelf, Timestamp::now())?
        .name)
}

/// The machine; one that another host booted where the operator has said so.
fn contact(
    context: Context<'_>,
    name: &MachineName,
    request: CopyRequest<'_>,
) -> Result<Contact, Error> {
    let contact = context.contact_of(name, request.not_booted_by_this_host);
    match contact {
        Err(Error::NotOurs {
            why: NotOurs::NoMenuOfOurs,
            ..
        }) => refused(Code::CopyUnguarded, unguarded(name)),
        contact => contact,
    }
}

fn unguarded(name: &MachineName) -> String {
    format!(
        "the agent on {name} was not started by this host, or without its key, so this host cannot make its exports \
         read-only, and a domain of another host may be writing to them. Restart the old machine so that it boots \
         from `p2v serve` here; or, if you know that nothing writes to its disks, say --not-booted-by-this-host"
    )
}

/// Whether the old disks can be made read-only by order, so that nothing writes to them while they
/// are copied; if not, the operator takes that on himself.
fn guard(context: Context<'_>, contact: &Contact, request: CopyRequest<'_>) -> Result<bool, Error> {
    let name = &contact.record.name;
    match context.takes_orders(contact) {
        true => Ok(true),
        false if request.not_booted_by_this_host => {
            context.report.warn(&format!(
                "{name} was not booted by this host, which cannot make its exports read-only: if a domain of another \
                 host writes to them meanwhile, the copy is of no use. `p2v cutover` will ask again"
            ));
            Ok(false)
        }
        false => refused(Code::CopyUnguarded, unguarded(name)),
    }
}

/// `copied` if every disk is, in this boot and completely.
fn finish_state(context: Context<'_>, name: &MachineName, all: &[Address]) -> Result<bool, Error> {
    context.host.store.update(name, |record| {
        let whole = record
            .disks
            .values()
            .filter_map(|d| d.copy.as_ref()?.verified())
            .all(|v| v.unreadable.is_empty());
        let complete = whole && record.verified_copies(all).is_ok();
        if complete {
            record.state = State::Copied;
            let copies = record.disks.values().filter_map(|d| d.copy.as_ref());
            let checked = copies
                .filter_map(CopyRecord::verified)
                .all(|verified| verified.how == Verify::Both);
            let what = match checked {
                true => "every disk is copied and checked",
                false => "every disk is copied, and not all of it was compared (--verify)",
            };
            record.note(Timestamp::now(), what);
        }
        Ok(complete)
    })
}
