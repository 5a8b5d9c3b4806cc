//! The copy of one disk: its sessions, its destination, its journal and its certificate.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use p2v_aoe::inventory::Disk;
use p2v_aoe::{Address, SECTOR};

use super::{CopyDone, CopyRequest, estimate};
use crate::copy::certificate::Certificate;
use crate::copy::destination::{self, Prepared, Wanted};
use crate::copy::journal::{Identity, Journal};
use crate::copy::{
    self, BadAreas, CopyError, Limit, Options, Piece, RANGE_SECTORS, Sources, Summary, files_hit,
    pieces,
};
use crate::name::MachineName;
use crate::record::{CopyRecord, Destination, State, Verified};
use crate::report::{self, Progress};
use crate::timestamp::Timestamp;
use crate::tool::lvm;
use crate::tool::qemu_storage_daemon::Shown;
use crate::used::{self, Extent, SourceView};
use crate::wire::Export;
use crate::workflow::{Contact, Context, Error, refused};

/// How long a program may look into one file system. It reads all that is not the files' own data: minutes
/// on a large one, over a slow disk more.
const LOOK_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Silence of the old machine that a look into its file systems outlives.
const LOOK_PATIENCE: Duration = Duration::from_secs(60);
/// Time that a disk may take for one request of a copy while its machine answers. Linux tries a sector up to
/// six times and waits 30 s for each; a request reads 64 KiB together with others.
const DISK_PATIENCE: Duration = Duration::from_secs(2 * 60 * 60);
/// Time to find out which files are hit.
const HITS_LIMIT: Duration = Duration::from_secs(120);

/// What file systems use of a disk, and all that lies outside of them; tells what is copied of each part.
pub(super) fn used_extents(
    context: Context<'_>,
    contact: &Contact,
    address: Address,
    disk: &Disk,
    request: CopyRequest<'_>,
) -> Result<Vec<(u64, u64)>, Error> {
    let report = context.report;
    let mut session = context.attach(contact, address, disk)?;
    // What looks into file systems is ended when it takes too long; a read must not keep it.
    session.wait_out_silence(LOOK_PATIENCE, Box::new(|_| {}));
    report.step(&format!(
        "asking the file systems of {address} what they use"
    ));
    let view = SourceView::new(disk.sectors, session);
    let options = used::Options {
        time_limit: LOOK_LIMIT,
        stop: request.stop,
        report,
    };
    let plan = used::plan(Arc::new(view), &context.host.tools, &options);
    let plan = plan.map_err(|used::Stopped| CopyError::Interrupted)?;
    for part in &plan.parts {
        report.step(&format!("{address}: {}", part_words(part)));
    }
    Ok(plan.extents())
}

/// What is copied of a part, in a line.
fn part_words(part: &used::Part) -> String {
    let mib = |sectors: u64| sectors.div_ceil(2048);
    let what = part.what.replace(char::is_control, "?");
    match &part.extent {
        Extent::Whole { why } if why.is_empty() => format!("{what}: all {} MiB", mib(part.sectors)),
        Extent::Whole { why } => format!(
            "{what}: all {} MiB, because {}",
            mib(part.sectors),
            why.replace(char::is_control, " ")
        ),
        Extent::UsedOnly => format!("{what}: {} of {} MiB", mib(part.copied), mib(part.sectors)),
    }
}

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
        let reserved = !job.request.precopy;
        if reserved {
            report.step(&format!("reserving {address}"));
            data.reserve()?;
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
    pub(super) fn let_go(&mut self, context: Context<'_>) {
        if !std::mem::take(&mut self.reserved) {
            return;
        }
        if let Err(error) = self.data.release() {
            context.report.warn(&format!(
                "the reservation of {} could not be ended: {error}",
                self.address
            ));
        }
    }

    /// Leaves out what file systems do not use, and tells what is copied of each part.
    pub(super) fn leave_out_unused(&mut self, job: &Job<'_>) -> Result<(), Error> {
        let extents = used_extents(
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

    /// Finds or makes the destination, and notes in the record what is copied where.
    pub(super) fn prepare(&mut self, job: &Job<'_>) -> Result<(), Error> {
        let Context { host, report, .. } = job.context;
        let (name, address, disk) = (job.name(), self.address, &self.disk);
        let Some(tag) = host.store.get(name)?.volume_tag(address.slot) else {
            return refused(format!("the record of {name} lost its disk {address}"));
        };
        // What a domain ran from is newer than the old disk: not a copy to bring up to date.
        let before = self.before.as_ref().filter(|copy| copy.moved.is_none());
        if let Wanted::Path(path) = job.wanted {
            let name = path.display().to_string();
            let same = |to: &Destination| same_place(&to.path(), path);
            ask_for_others(job, address, &name, &same)?;
        }
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
        // Only now that it is ours: refused by anything else, the other copy would be forgotten for nothing.
        let taken = ask_for_others(job, address, &to.name(), &|other| *other == to)?;
        give_up(job, address, &to, &taken)?;
        if let Some(earlier) = self
            .before
            .as_ref()
            .map(|copy| &copy.destination)
            .filter(|d| **d != to)
        {
            // One disk has one copy that the domain can be switched to: the operator must know which.
            report.warn(&format!(
                "`p2v cutover {name}` will use {to} for {address} from now on, instead of the earlier copy in {earlier}; that \
                 one is left as it is (to use it again, run the copy to it again: only what differs is moved)"
            ));
        }
        let same = before.filter(|copy| copy.destination == to && prepared.ours);
        self.begun = same.map_or_else(Timestamp::now, |copy| copy.begun);
        // What an unfinished run noted counts while nothing could write to the disk or to its copy. After
        // a finished one all is compared: that is what it is run again for.
        let guarded = !job.request.precopy && !job.unguarded;
        let finished = |copy: &CopyRecord| {
            let verified = copy.verified.as_ref();
            verified.is_some_and(|verified| verified.unreadable.is_empty())
        };
        let unfinished = same.filter(|copy| !finished(copy) && !prepared.fresh);
        let noted = unfinished.and_then(|copy| copy.journal.clone());
        let id = match noted.filter(|_| guarded) {
            Some(id) => id,
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
        self.fresh = prepared.fresh || goes_on && unfinished.is_some_and(|copy| copy.fresh);
        host.store.update(name, |record| {
            record.use_disk(address, disk)?.copy = Some(CopyRecord {
                destination: to.clone(),
                begun: self.begun,
                unguarded: job.unguarded,
                journal: guarded.then(|| id.clone()),
                fresh: self.fresh && !job.request.precopy,
                moved: None,
                precopied: job.request.precopy.then(Timestamp::now),
                verified: None,
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

    /// Copies.
    pub(super) fn run(&mut self, job: &Job<'_>) -> Result<Summary, Error> {
        let Some(prepared) = &self.prepared else {
            return refused(format!("{} has no destination", self.address));
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
        Ok(copied.inspect_err(|error| {
            // The copy's own error is what the operator must see.
            let what = format!("copying {label} ended: {error}");
            let _ = job.context.note(job.name(), &what);
        })?)
    }

    /// Makes sure that it was the same disk to the end, and writes down what the copy is.
    pub(super) fn finish(&mut self, job: &Job<'_>, summary: Summary) -> Result<CopyDone, Error> {
        let Context { host, .. } = job.context;
        let (name, address) = (job.name(), self.address);
        let Some(prepared) = self.prepared.take() else {
            return refused(format!("{address} has no destination"));
        };
        let to = prepared.destination.clone();
        // Before it is called a copy.
        self.prepared = prepared.close_image()?;
        // A restart of the old machine in between would have been heard as silence at most.
        let now = self.data.inventory()?;
        if now.boot_id != job.contact.inventory.boot_id {
            return refused(format!(
                "the old machine restarted while {address} was copied: its disk may have changed. Run the copy again; it \
                 moves only what differs"
            ));
        }
        let ended = Timestamp::now();
        let certificate = if job.request.precopy {
            None
        } else {
            let certificate = self.certificate(job, &summary, &to, ended);
            let json = serde_json::to_vec_pretty(&certificate).map_err(std::io::Error::from);
            for (ending, bytes) in [
                ("certificate.json", json),
                ("certificate.txt", Ok(certificate.to_string().into_bytes())),
            ] {
                let path = host.store.copy_file(name, address.slot, ending);
                let written =
                    bytes.and_then(|bytes| crate::atomic_file::replace(&path, &bytes, 0o600));
                written.map_err(|source| CopyError::Journal { path, source })?;
            }
            Some(certificate)
        };
        host.store.update(name, |record| {
            let disk = record.use_disk(address, &self.disk)?;
            if let Some(copy) = disk.copy.as_mut().filter(|_| !job.request.precopy) {
                copy.verified = Some(Verified {
                    at: ended,
                    boot_id: now.boot_id.clone(),
                    unreadable: summary.unreadable.clone(),
                    spots: self.spots(&summary),
                    how: job.request.verify.word().into(),
                });
                copy.fresh = false;
            }
            record.note(
                ended,
                format!(
                    "{address} compared with {to}: {} bytes moved, {} equal, {} zero, {} copied before, {} sectors \
                     unreadable",
                    summary.moved,
                    summary.equal,
                    summary.zeroed,
                    summary.before,
                    summary.unreadable_sectors()
                ),
            );
            Ok::<_, Error>(())
        })?;
        if let Destination::Volume { vg, lv, .. } = &to
            && summary.is_complete()
            && !job.request.precopy
        {
            lvm::retag(&host.tools, vg, lv, &[], &[lvm::TAG_COPYING])?;
        }
        let files = self.files_hit(job, &to, &summary);
        Ok(CopyDone {
            address,
            destination: to,
            files,
            summary,
            certificate,
        })
    }

    /// Which files have what could not be read. The destination is let go for it.
    fn files_hit(
        &mut self,
        job: &Job<'_>,
        to: &Destination,
        summary: &Summary,
    ) -> Vec<files_hit::FileHit> {
        self.prepared = None;
        if summary.is_complete() {
            return Vec::new();
        }
        let Context { host, report, .. } = job.context;
        report.step("looking which files the unreadable sectors belong to");
        let path = match to {
            Destination::Volume { vg, lv, .. } => host.paths.dev.join(vg).join(lv),
            other => other.path(),
        };
        let hit =
            |path: &Path| files_hit::files_hit(&host.tools, path, &summary.unreadable, HITS_LIMIT);
        let Destination::Qcow2 { .. } = to else {
            return hit(&path);
        };
        let (slot, sectors) = (self.address.slot, self.disk.sectors);
        match destination::reopen(host, job.name(), slot, to, &path, sectors) {
            Ok(image) => hit(image.raw(&path)),
            Err(error) => {
                report.warn(&format!("which files those are is not known: {error}"));
                Vec::new()
            }
        }
    }

    /// The first and the last piece of which nothing is missing.
    fn spots(&self, summary: &Summary) -> Vec<(u64, u32)> {
        let whole = |piece: &&Piece| {
            let missing =
                |(lba, count): &(u64, u64)| *lba <= piece.last() && piece.lba < lba + count;
            !summary.unreadable.iter().any(missing)
        };
        let first = self.pieces.iter().find(whole);
        let last = self.pieces.iter().rev().find(whole);
        let mut spots: Vec<(u64, u32)> = first
            .into_iter()
            .chain(last)
            .map(|piece| (piece.lba, piece.count))
            .collect();
        spots.dedup();
        spots
    }

    fn certificate(
        &self,
        job: &Job<'_>,
        summary: &Summary,
        to: &Destination,
        ended: Timestamp,
    ) -> Certificate {
        let bytes: u64 = self.pieces.iter().map(|p| p.bytes() as u64).sum();
        let root = self.journal.as_ref().and_then(|journal| {
            let journal = journal.lock().ok()?;
            journal.root()
        });
        Certificate {
            version: 1,
            p2v: env!("CARGO_PKG_VERSION").into(),
            machine: job.name().clone(),
            disk: self.address,
            model: self.disk.model.clone(),
            serial: self.disk.serial.clone(),
            sectors: self.disk.sectors,
            boot_id: job.contact.inventory.boot_id.clone(),
            destination: to.clone(),
            begun: self.begun,
            ended,
            pieces: self.pieces.len(),
            bytes,
            moved: summary.moved,
            equal: summary.equal,
            zeroed: summary.zeroed,
            before: summary.before,
            unused: self.disk.sectors * SECTOR - bytes,
            extents: self.extents.clone(),
            verified: job.request.verify.word().into(),
            unchecked: summary.unchecked,
            unreadable: summary.unreadable.clone(),
            root: root.map(|root| root.to_string()),
        }
    }
}

/// The copies of other disks in a destination, which the operator says may go. Refused if a domain was switched
/// to one of them.
fn ask_for_others(
    job: &Job<'_>,
    address: Address,
    name: &str,
    is_same: &dyn Fn(&Destination) -> bool,
) -> Result<Vec<(MachineName, Address)>, Error> {
    let host = job.context.host;
    let mut taken = Vec::new();
    for other in host.store.list()?.records {
        for (slot, disk) in &other.disks {
            let own = other.name == *job.name() && *slot == address.slot;
            let same = disk.copy.as_ref().filter(|copy| is_same(&copy.destination));
            let Some(copy) = same.filter(|_| !own) else {
                continue;
            };
            let theirs = Address::new(other.shelf, *slot);
            if copy.moved.is_some() {
                return refused(format!(
                    "{name} is the disk of the moved system {} ({theirs}): what it holds is newer than the old disk. Copy \
                     to another destination",
                    other.name
                ));
            }
            let holds = format!("the copy of {theirs} of {}", other.name);
            if !(job.request.may_go)(name, Some(&holds)) {
                return refused(format!(
                    "{name} holds {holds}: name another destination, or say --overwrite={name} if that may go"
                ));
            }
            taken.push((other.name.clone(), theirs));
        }
    }
    Ok(taken)
}

/// Has the records of others forget their copies in a destination that is another disk's now.
fn give_up(
    job: &Job<'_>,
    address: Address,
    to: &Destination,
    taken: &[(MachineName, Address)],
) -> Result<(), Error> {
    for (name, theirs) in taken {
        job.context.host.store.update(name, |record| {
            if let Some(disk) = record.disks.get_mut(&theirs.slot) {
                disk.copy = None;
            }
            if record.state == State::Copied {
                record.state = State::Copying;
            }
            let what = format!("the copy of {theirs} in {to} was given up for {address}");
            record.note(Timestamp::now(), what);
            Ok::<_, Error>(())
        })?;
    }
    Ok(())
}

/// Whether two paths lead to one file or device.
fn same_place(one: &Path, other: &Path) -> bool {
    let (Ok(one), Ok(other)) = (fs::metadata(one), fs::metadata(other)) else {
        return false;
    };
    let device = |m: &fs::Metadata| m.file_type().is_block_device();
    match device(&one) && device(&other) {
        true => one.rdev() == other.rdev(),
        false => (one.dev(), one.ino()) == (other.dev(), other.ino()),
    }
}

/// A name that no other copy has.
fn new_id() -> Result<String, Error> {
    let mut bytes = [0; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(format!("{:032x}", u128::from_le_bytes(bytes))),
        Err(error) => refused(format!("the system gives no random numbers: {error}")),
    }
}
