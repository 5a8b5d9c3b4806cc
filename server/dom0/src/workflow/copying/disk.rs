//! The copy of one disk: its sessions, its destination and its journal.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use p2v_contract::Address;
use p2v_contract::inventory::Disk;
use p2v_copy::Progress;
use p2v_copy::journal::{Identity, Journal};
use p2v_copy::{
    self as copy, Allowance, BadAreas, CopyError, Limit, Options, Piece, RANGE_SECTORS, Sources,
    Summary, pieces,
};

use super::taken::{ask_for_others, ask_for_others_at, give_up, warn_of_nameless};
use super::{CopyRequest, estimate, used_extents};
use crate::destination::thin_pool::Full;
use crate::destination::{self, InPool, Prepared, Wanted};
use crate::name::MachineName;
use crate::record::{CopyRecord, Destination, Stage, State};
use crate::report;
use crate::timestamp::Timestamp;
use crate::tool::qemu_storage_daemon::Shown;
use crate::wire::Export;
use crate::workflow::old_disks::{self, ExportState};
use crate::workflow::{Code, Contact, Context, Error, refused};

mod finish;

/// Time that a disk may take for one request of a copy while its machine answers. Linux tries a sector up to
/// six times and waits 30 s for each; a request reads 64 KiB together with others.
const DISK_PATIENCE: Duration = Duration::from_secs(2 * 60 * 60);

/// What the copies of one command have in common.
pub(super) struct Job<'a> {
    pub(super) context: Context<'a>,
    pub(super) contact: &'a Contact,
    pub(super) wanted: &'a Wanted,
    pub(super) request: CopyRequest<'a>,
    /// This host cannot make the disks read-only.
    pub(super) unguarded: bool,
    /// How many disks are copied at the same time.
    pub(super) disks: usize,
    pub(super) limit: Option<&'a Limit>,
    /// The thin pool that the copies were stopped for.
    pub(super) pool_full: OnceLock<Full>,
    /// Bytes for each disk.
    pub(super) memory: usize,
}

impl Job<'_> {
    fn name(&self) -> &MachineName {
        &self.contact.record.name
    }
}

/// One disk on its way.
pub(super) struct DiskCopy {
    address: Address,
    disk: Disk,
    data: Box<dyn Export>,
    digests: Box<dyn Export>,
    reserved: bool,
    /// The copy as the record had it before.
    before: Option<CopyRecord>,
    prepared: Option<Prepared>,
    /// What is copied, where it is not all.
    extents: Option<Vec<(u64, u64)>>,
    pieces: Vec<Piece>,
    journal: Option<Mutex<Journal>>,
    bad: Mutex<BadAreas>,
    /// The destination was made by this run or an unfinished one.
    fresh: bool,
    begun: Timestamp,
}

/// A disk that another host's orders hold: not while a domain may write to it.
fn may_be_copied_unreserved(address: Address, state: ExportState) -> Result<(), Error> {
    match state {
        ExportState::ReadOnly => Ok(()),
        ExportState::ReadWrite | ExportState::Waiting => refused(
            Code::OtherHost,
            format!(
                "a domain of another host has {address}, which can be written: a copy of it would be of no use. Stop that domain there"
            ),
        ),
    }
}

impl DiskCopy {
    /// Reaches the disk and reserves it; it is in `open` then, and must be let go.
    pub(super) fn reserve<'o>(
        job: &Job<'_>,
        address: Address,
        disk: &Disk,
        open: &'o mut Vec<DiskCopy>,
    ) -> Result<&'o mut DiskCopy, Error> {
        let Context { host, report, .. } = job.context;
        let mut data = job.context.attach(job.contact, address, disk)?;
        let mut digests = job.context.attach(job.contact, address, disk)?;
        digests.without_data();
        let patience = Duration::from_secs(host.settings.silence_seconds);
        let (one, other) = report::told_once(report.silence(&address.to_string(), patience));
        data.wait_out_silence(patience, one);
        digests.wait_out_silence(patience, other);
        // So that a disk that changed places is noticed before a volume is touched.
        let before = host.store.update(job.name(), |record| {
            Ok::<_, Error>(record.use_disk(address, disk)?.copy.clone())
        })?;
        let mut reserved = !job.request.precopy;
        if reserved {
            report.step(&format!("reserving {address}"));
            reserved = job.context.reserve(job.contact, address, &mut *data)?;
            if !reserved {
                may_be_copied_unreserved(address, old_disks::state(&mut *data)?)?;
                report.warn(&format!(
                    "{address} takes no reservation of this host's: another host can have it written while it is copied"
                ));
            }
        }
        open.push(DiskCopy {
            address,
            disk: disk.clone(),
            data,
            digests,
            reserved,
            before,
            prepared: None,
            extents: None,
            pieces: pieces::cut(disk.sectors, &[(0, disk.sectors)], RANGE_SECTORS),
            journal: None,
            bad: Mutex::new(BadAreas::forgotten(disk.sectors)),
            fresh: false,
            begun: Timestamp::now(),
        });
        let last = open.len() - 1;
        Ok(&mut open[last])
    }

    /// Ends the reservation.
    pub(super) fn let_go(&mut self, job: &Job<'_>) {
        if !std::mem::take(&mut self.reserved) {
            return;
        }
        let ended = job
            .context
            .end_reservation(job.contact, self.address, &mut *self.data);
        if let Err(error) = ended {
            job.context.report.warn(&format!(
                "the reservation of {} could not be ended: {error}",
                self.address
            ));
        }
    }

    /// Leaves out what file systems do not use, and tells what is copied of each part.
    pub(super) fn leave_out_unused(&mut self, job: &Job<'_>) -> Result<(), Error> {
        let extents = used_extents::of(
            job.context,
            job.contact,
            self.address,
            &self.disk,
            job.request,
        )?;
        self.pieces = pieces::cut(self.disk.sectors, &extents, RANGE_SECTORS);
        self.extents = Some(extents);
        Ok(())
    }

    /// The thin pool that it is copied to, and bytes that may be written there.
    pub(super) fn fills(&self) -> Option<(&InPool, u64)> {
        let bytes = self.pieces.iter().map(|p| p.bytes() as u64).sum();
        let place = self.prepared.as_ref()?.in_pool.as_ref()?;
        Some((place, bytes))
    }

    /// Finds or makes the destination, and notes in the record what is copied where.
    pub(super) fn prepare(&mut self, job: &Job<'_>) -> Result<(), Error> {
        let Context { host, report, .. } = job.context;
        let (name, address, disk) = (job.name(), self.address, &self.disk);
        let Some(tag) = host.store.get(name)?.volume_tag(address.slot) else {
            return refused(
                Code::Internal,
                format!("the record of {name} lost its disk {address}"),
            );
        };
        // What a domain ran from is newer than the old disk: not a copy to bring up to date.
        let before = self.before.as_ref().filter(|copy| !copy.was_used());
        let mut taken = ask_for_others_at(job.context, name, job.request, job.wanted, address)?;
        let prepared = destination::prepare(
            host,
            job.wanted,
            destination::Request {
                name,
                slot: address.slot,
                tag: &tag,
                sectors: disk.sectors,
                before: before.map(|c| &c.destination),
                may_go: job.request.may_go,
            },
        )?;
        let to = prepared.destination.clone();
        warn_of_nameless(job.context, job.wanted);
        // As before: consent to one thing is not to be given by two names.
        let asked_as = job.wanted.path().unwrap_or_else(|| to.name());
        // Again: another command may have noted a copy there meanwhile.
        let late = ask_for_others(
            job.context,
            name,
            job.request,
            address,
            (&asked_as, &|other| other.is_same(&to)),
        )?;
        for one in late {
            if !taken.contains(&one) {
                taken.push(one);
            }
        }
        // Only now that it is ours: refused by anything else, the other copies would be forgotten for nothing.
        give_up(job.context, address, &to, &taken)?;
        if let Some(earlier) = self
            .before
            .as_ref()
            .map(|copy| &copy.destination)
            .filter(|d| !d.is_same(&to))
        {
            // One disk has one copy that the domain can be switched to: the operator must know which.
            report.warn(&format!(
                "`p2v cutover {name}` will use {to} for {address} from now on, instead of the earlier copy in {earlier}; that \
                 one is left as it is (to use it again, run the copy to it again: only what differs is moved)"
            ));
        }
        let same = before.filter(|copy| copy.destination.is_same(&to) && prepared.ours);
        self.begun = same.map_or_else(Timestamp::now, |copy| copy.begun);
        // What an unfinished run noted counts while nothing could write to the disk or to its copy. After
        // a finished one all is compared: that is what it is run again for.
        let guarded = !job.request.precopy && !job.unguarded;
        let finished = |copy: &CopyRecord| {
            let verified = copy.verified();
            verified.is_some_and(|verified| verified.unreadable.is_empty())
        };
        let unfinished = same.filter(|copy| !finished(copy) && !prepared.fresh);
        let noted = unfinished.and_then(CopyRecord::journal);
        let id = match noted.filter(|_| guarded) {
            Some(id) => id.to_owned(),
            None => new_id()?,
        };
        let mut goes_on = false;
        if !job.request.precopy {
            let journal = self.open_journal(job, id.clone(), &to)?;
            goes_on = journal.has_begun();
            let path = host.store.copy_file(name, address.slot, "map");
            let what = format!(
                "{id} of {} {}, boot {}, pieces {}",
                disk.model,
                disk.serial,
                job.contact.inventory.boot_id,
                pieces::fingerprint(&self.pieces)
            );
            self.bad = Mutex::new(BadAreas::open(path, &what, disk.sectors));
            self.journal = Some(Mutex::new(journal));
        }
        // Another run may have copied what cannot be read now: that is kept.
        self.fresh = prepared.fresh || goes_on && unfinished.is_some_and(CopyRecord::is_fresh);
        host.store.update(name, |record| {
            record.use_disk(address, disk)?.copy = Some(CopyRecord {
                destination: to.clone(),
                begun: self.begun,
                unguarded: job.unguarded,
                stage: match job.request.precopy {
                    true => Stage::Precopied {
                        at: Timestamp::now(),
                    },
                    false => Stage::Begun {
                        journal: guarded.then(|| id.clone()),
                        fresh: self.fresh,
                    },
                },
            });
            if job.request.precopy {
                if record.state == State::Copied {
                    record.state = State::Copying;
                }
                record.note(
                    Timestamp::now(),
                    format!("copying {address} to {to} while it may be written"),
                );
            } else {
                record.state = State::Copying;
                record.note(Timestamp::now(), format!("copying {address} to {to}"));
            }
            Ok::<_, Error>(())
        })?;
        self.prepared = Some(prepared);
        report.step(&format!("copying {address} to {to}"));
        Ok(())
    }

    fn open_journal(
        &self,
        job: &Job<'_>,
        copy: String,
        to: &Destination,
    ) -> Result<Journal, Error> {
        let path = job
            .context
            .host
            .store
            .copy_file(job.name(), self.address.slot, "journal");
        let identity = Identity {
            copy,
            model: self.disk.model.clone(),
            serial: self.disk.serial.clone(),
            sectors: self.disk.sectors,
            boot_id: job.contact.inventory.boot_id.clone(),
            destination: format!("{to:?}"),
            pieces: pieces::fingerprint(&self.pieces).to_string(),
        };
        let journal = Journal::open(&path, &identity, self.pieces.len());
        Ok(journal.map_err(|source| CopyError::Journal { path, source })?)
    }

    /// Copies. `allowance`: of the thin pool that it is copied to.
    pub(super) fn run(
        &mut self,
        job: &Job<'_>,
        allowance: Option<&Allowance>,
    ) -> Result<Summary, Error> {
        let Some(prepared) = &self.prepared else {
            return refused(
                Code::Internal,
                format!("{} has no destination", self.address),
            );
        };
        let label = self.address.to_string();
        // A disk that fails is not read for it, and what an earlier run has done is not to be done again.
        let begun = self.journal.as_ref().is_some_and(|journal| {
            let journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
            journal.has_begun()
        });
        if !begun && let Some(rate) = estimate::rate(&mut *self.data) {
            let bytes = self.pieces.iter().map(|p| p.bytes() as u64).sum();
            let time = estimate::words(bytes, rate, job.request.limit, job.disks);
            job.context.report.step(&format!("{label}: {time}"));
        }
        // Not before: an estimate is not worth it.
        self.data.wait_for_disk(DISK_PATIENCE);
        self.digests.wait_for_disk(DISK_PATIENCE);
        let options = Options {
            fresh: prepared.fresh,
            blank: prepared.blank,
            verify: job.request.verify,
            changing: job.request.precopy,
            memory: job.memory,
            limit: job.limit,
            allowance,
        };
        let sources = Sources {
            digests: &mut *self.digests,
            data: &mut *self.data,
        };
        let work = copy::Job {
            pieces: &self.pieces,
            journal: self.journal.as_ref(),
            bad: &self.bad,
            options,
        };
        let (report, stop) = (job.context.report, job.request.stop);
        let last = Mutex::new(Progress::default());
        let copied = copy::run(sources, &prepared.sink, &work, stop, &|p| {
            *last.lock().unwrap_or_else(PoisonError::into_inner) = p;
            report.progress(&label, p);
        });
        let copied = copied.and_then(|mut summary| {
            if summary.is_complete() || job.request.precopy {
                return Ok(summary);
            }
            report.warn(&format!(
                "{} of {label} cannot be read at first: all else is copied, and now this is read in smaller pieces. It \
                 may take long; stopped (^C), it goes on from there when the same command is run again",
                summary.unreadable_words()
            ));
            let salvage = job.request.salvage;
            let options = salvage.options(self.disk.physical_sector, self.fresh);
            let last = *last.lock().unwrap_or_else(PoisonError::into_inner);
            let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
            let salvaged = bad.work(
                &mut *self.data,
                &prepared.sink,
                &work,
                &options,
                stop,
                &mut |line, missing| {
                    report.step(&format!("{label}: {line}"));
                    let read = last.unreadable.saturating_sub(missing);
                    report.progress(
                        &label,
                        Progress {
                            unreadable: missing,
                            checked: last.checked + read,
                            moved: last.moved + read,
                            ..last
                        },
                    );
                },
            )?;
            summary.take_in(salvaged);
            Ok(summary)
        });
        let image = self.prepared.as_mut().and_then(|p| p.image.as_mut());
        if let Some(why) = image.and_then(Shown::ended).filter(|_| copied.is_err()) {
            report.warn(&format!("what writes the image of {label} ended: {why}"));
        }
        let copied = copied.map_err(|error| match (error, job.pool_full.get()) {
            (CopyError::Interrupted, Some(full)) => Error::PoolFull(Box::new(full.clone())),
            (error, _) => error.into(),
        });
        copied.inspect_err(|error| {
            // The copy's own error is what the operator must see.
            let what = format!("copying {label} ended: {error}");
            let _ = job.context.note(job.name(), &what);
        })
    }
}

/// A name that no other copy has.
fn new_id() -> Result<String, Error> {
    let mut bytes = [0; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(format!("{:032x}", u128::from_le_bytes(bytes))),
        Err(error) => refused(
            Code::Internal,
            format!("the system gives no random numbers: {error}"),
        ),
    }
}
