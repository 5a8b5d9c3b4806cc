//! `p2v verify`: finished copies, compared once more.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use p2v_contract::Address;
use p2v_copy::compare::{self, Compared, Original};
use p2v_copy::journal::Journal;
use p2v_copy::{CopyError, RANGE_SECTORS, pieces};

use super::cutover::still_ours;
use super::devices::backing_ready;
use super::{Code, Context, Error, refused};
use crate::certificate::Certificate;
use crate::destination::{refuse_domains_disk, reopen};
use crate::name::MachineName;
use crate::record::{CopyRecord, Destination};

/// What a copy was compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// The old disk, by the digests of its agent.
    OldDisk,
    /// What was noted when the copy was made.
    Certificate,
}

/// A copy that was compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyDone {
    /// The disk.
    pub address: Address,
    /// Its copy.
    pub destination: Destination,
    /// With what.
    pub against: Against,
    /// What was found.
    pub compared: Compared,
}

/// Compares every finished copy of the machine: with the old disk if that answers, else with what was
/// noted when the copy was made. Changes nothing.
///
/// # Errors
/// What stopped it. A difference is no error: it is in the result.
pub fn verify(
    context: Context<'_>,
    name: &MachineName,
    from_certificate: bool,
    stop: &AtomicBool,
) -> Result<Vec<VerifyDone>, Error> {
    let Context { host, report, .. } = context;
    let record = host.store.get(name)?;
    let _lock = host
        .store
        .lock(&record.name, &format!("p2v verify {name}"))?;
    let record = host.store.get(name)?;
    let copies: Vec<(u8, CopyRecord)> = record
        .disks
        .iter()
        .filter_map(|(slot, disk)| Some((*slot, disk.copy.clone()?)))
        .collect();
    if copies.is_empty() {
        return refused(
            Code::NoFinishedCopy,
            format!(
                "{} has no copy to verify: `p2v copy {} --to VG` makes one",
                record.name, record.name
            ),
        );
    }
    let contact = match from_certificate {
        true => None,
        false => match context.contact(&record.name) {
            Ok(contact) => {
                if !record.has_domain_on_old_disks() {
                    context.end_waiting(&contact)?;
                }
                Some(contact)
            }
            Err(error) => {
                report.warn(&format!(
                    "{error}. The copies are compared with what was noted when they were made"
                ));
                None
            }
        },
    };
    let mut done = Vec::new();
    for (slot, copy) in copies {
        let address = Address::new(record.shelf, slot);
        let certificate = certificate(context, &record.name, slot, &copy)?;
        if copy.was_used() {
            report.warn(&format!(
                "a domain was switched to {}: what it wrote since differs, as it should",
                copy.destination
            ));
        }
        if certificate.extents.is_some() {
            report.step(&format!(
                "{address} was copied with --used-only: what was left out is not compared"
            ));
        }
        let path = backing(context, &copy.destination, certificate.sectors)?;
        still_ours(context, &record, slot, &copy.destination)?;
        refuse_domains_disk(host, &path)?;
        let opened = reopen(
            host,
            &record.name,
            slot,
            &copy.destination,
            &path,
            certificate.sectors,
        )?;
        let sink = opened.sink();
        let whole = [(0, certificate.sectors)];
        let extents = certificate.extents.as_deref().unwrap_or(&whole);
        let pieces = pieces::cut(certificate.sectors, extents, RANGE_SECTORS);
        let disk = contact.as_ref().and_then(|contact| {
            Some((contact, contact.disks.iter().find(|(a, _)| *a == address)?))
        });
        let label = address.to_string();
        let progress = |p| report.progress(&label, p);
        let (against, compared) = match disk {
            Some((contact, (_, disk))) => {
                report.step(&format!("comparing {} with {address}", copy.destination));
                let mut session = context.attach(contact, address, disk)?;
                let original = Original::Disk(&mut *session);
                let compared = compare::compare(original, sink, &pieces, stop, &progress)?;
                (Against::OldDisk, compared)
            }
            None => {
                report.step(&format!(
                    "comparing {} with its certificate",
                    copy.destination
                ));
                let hashes = noted(context, &record.name, slot, &certificate, pieces.len())?;
                let original = Original::Noted(&hashes);
                let compared = compare::compare(original, sink, &pieces, stop, &progress)?;
                (Against::Certificate, compared)
            }
        };
        done.push(VerifyDone {
            address,
            destination: copy.destination,
            against,
            compared,
        });
    }
    Ok(done)
}

/// The certificate of a copy, if it is of that copy.
fn certificate(
    context: Context<'_>,
    name: &MachineName,
    slot: u8,
    copy: &CopyRecord,
) -> Result<Certificate, Error> {
    let path = context.host.store.copy_file(name, slot, "certificate.json");
    let read = std::fs::read(&path).map_err(|error| error.to_string());
    let parsed = read.and_then(|bytes| {
        serde_json::from_slice::<Certificate>(&bytes).map_err(|error| error.to_string())
    });
    match parsed {
        Ok(certificate) if certificate.destination == copy.destination => Ok(certificate),
        Ok(_) => refused(
            Code::NoFinishedCopy,
            format!(
                "{} is that of another copy: the last one was not finished. Run `p2v copy {name}` to its end first",
                path.display()
            ),
        ),
        Err(why) => refused(
            Code::NoFinishedCopy,
            format!(
                "there is no certificate of a finished copy of disk {slot} of {name} ({}: {why}): run `p2v copy {name}` to \
                 its end first",
                path.display()
            ),
        ),
    }
}

/// The hashes that were noted, if they are those of the certificate.
fn noted(
    context: Context<'_>,
    name: &MachineName,
    slot: u8,
    certificate: &Certificate,
    pieces: usize,
) -> Result<Vec<[u8; 32]>, Error> {
    let path: PathBuf = context.host.store.copy_file(name, slot, "journal");
    let journal = Journal::existing(&path, pieces).map_err(|source| CopyError::Journal {
        path: path.clone(),
        source,
    })?;
    let root = journal.root().map(|root| root.to_string());
    if root.is_none() || root != certificate.root {
        let why = match (&root, &certificate.root) {
            (_, None) => {
                "the certificate names no digest of the whole: not every range was read and hashed"
                    .to_owned()
            }
            (None, _) => "it does not have the digests of all ranges".to_owned(),
            (Some(_), Some(_)) => {
                "its digests are of another copy than the certificate's".to_owned()
            }
        };
        return refused(
            Code::NoFinishedCopy,
            format!(
                "the copy of disk {slot} of {name} cannot be compared with what was noted in {}: {why}. With the old machine's \
                 agent up, and without --from-certificate, `p2v verify {name}` compares with the old disk",
                path.display()
            ),
        );
    }
    Ok((0..pieces)
        .filter_map(|index| journal.done(index).map(|done| done.hash))
        .collect())
}

/// Where a copy is, ready to be opened and the one that was made.
fn backing(
    context: Context<'_>,
    destination: &Destination,
    sectors: u64,
) -> Result<PathBuf, Error> {
    match destination {
        // Nothing tells it from another device, and nothing but its content is asked for.
        Destination::Device { path, identity } if identity.is_empty() => Ok(path.clone()),
        known => Ok(backing_ready(context.host, known, sectors)?.path),
    }
}
