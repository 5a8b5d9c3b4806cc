//! The end of a copy: what is written down of it.

use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use p2v_contract::SECTOR;
use p2v_copy::{CopyError, Piece, Summary};

use super::{DiskCopy, Job};
use crate::certificate::Certificate;
use crate::record::{Destination, Spot, Verified};
use crate::timestamp::Timestamp;
use crate::tool::lvm;
use crate::workflow::copying::CopyDone;
use crate::workflow::{Code, Context, Error, refused};
use crate::{destination, files_hit};

/// Time to find out which files are hit.
const HITS_LIMIT: Duration = Duration::from_secs(120);

impl DiskCopy {
    /// Makes sure that it was the same disk to the end, and writes down what the copy is.
    pub(in crate::workflow::copying) fn finish(
        &mut self,
        job: &Job<'_>,
        summary: Summary,
    ) -> Result<CopyDone, Error> {
        let Context { host, .. } = job.context;
        let (name, address) = (job.name(), self.address);
        let Some(prepared) = self.prepared.take() else {
            return refused(Code::Internal, format!("{address} has no destination"));
        };
        let to = prepared.destination.clone();
        // Before it is called a copy.
        self.prepared = prepared.close_image()?;
        // A restart of the old machine in between would have been heard as silence at most.
        let now = self.data.inventory()?;
        if now.boot_id != job.contact.inventory.boot_id {
            return refused(
                Code::OldMachineRestarted,
                format!(
                    "the old machine restarted while {address} was copied: its disk may have changed. Run the copy again; it \
                     moves only what differs"
                ),
            );
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
                    bytes.and_then(|bytes| p2v_copy::atomic_file::replace(&path, &bytes, 0o600));
                written.map_err(|source| CopyError::Journal { path, source })?;
            }
            Some(certificate)
        };
        host.store.update(name, |record| {
            let disk = record.use_disk(address, &self.disk)?;
            if let Some(copy) = disk.copy.as_mut().filter(|_| !job.request.precopy) {
                copy.verify(Verified {
                    at: ended,
                    boot_id: now.boot_id.clone(),
                    unreadable: summary.unreadable.clone(),
                    spots: self.spots(&summary),
                    how: job.request.verify,
                });
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

    /// The first and the last piece of which nothing is missing, as they were noted.
    fn spots(&self, summary: &Summary) -> Vec<Spot> {
        let Some(journal) = &self.journal else {
            return Vec::new();
        };
        let journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        let spot = |(index, piece): (usize, &Piece)| {
            let missing =
                |(lba, count): &(u64, u64)| *lba <= piece.last() && piece.lba < lba + count;
            if summary.unreadable.iter().any(missing) {
                return None;
            }
            let hash = blake3::Hash::from(journal.done(index)?.hash);
            Some(Spot {
                lba: piece.lba,
                count: piece.count,
                blake3: Some(hash.to_string()),
            })
        };
        let pieces = || self.pieces.iter().enumerate();
        let (first, last) = (pieces().find_map(spot), pieces().rev().find_map(spot));
        let mut spots: Vec<Spot> = first.into_iter().chain(last).collect();
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
            verified: job.request.verify,
            unchecked: summary.unchecked,
            unreadable: summary.unreadable.clone(),
            root: root.map(|root| root.to_string()),
        }
    }
}
