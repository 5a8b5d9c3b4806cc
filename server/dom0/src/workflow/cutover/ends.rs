//! Both ends of a copy, compared before a domain is started on it: finds a copy that was written since it was
//! checked, whatever it is in.

use p2v_contract::{Address, SECTOR};
use p2v_copy::{FileSink, Sink};

use crate::record::{CopyRecord, DiskRecord, Spot};
use crate::workflow::{Code, Contact, Context, Error, refusal, refused};

/// Compares the first and the last stretch that were copied without a gap: with the old disk, or, without the old
/// machine, with what was noted when the copy was checked. Where there is nothing to compare, it warns.
///
/// # Errors
/// They differ, or cannot be compared.
pub(super) fn compare(
    context: Context<'_>,
    contact: Option<&Contact>,
    address: Address,
    disk: &DiskRecord,
    sink: &FileSink,
) -> Result<(), Error> {
    let verified = disk.copy.as_ref().and_then(CopyRecord::verified);
    let spots = verified.map_or(&[][..], |verified| &verified.spots);
    if spots.is_empty() {
        context.report.warn(&format!(
            "no stretch of {address} was copied without a gap: nothing tells whether its copy was written since"
        ));
        return Ok(());
    }
    match contact {
        Some(contact) => with_old_disk(context, contact, address, spots, sink),
        None => with_notes(context, address, spots, sink),
    }
}

fn with_old_disk(
    context: Context<'_>,
    contact: &Contact,
    address: Address,
    spots: &[Spot],
    sink: &FileSink,
) -> Result<(), Error> {
    let Some((_, disk)) = contact.disks.iter().find(|(a, _)| *a == address) else {
        return refused(
            Code::DiskMissing,
            format!("the old machine does not export {address} any more: look at its disks"),
        );
    };
    context
        .report
        .step(&format!("comparing both ends of {address} with its copy"));
    let mut session = context.attach(contact, address, disk)?;
    for spot in spots {
        let digest = session.digest(spot.lba, spot.count).map_err(|e| {
            refusal(
                Code::CopyDiffers,
                format!("cannot compare {address} with its copy: {e}"),
            )
        })?;
        if held(address, spot, sink)? != blake3::Hash::from(digest.blake3) {
            return refused(
                Code::CopyDiffers,
                format!("{}. Run `p2v copy` again", differs(address, spot)),
            );
        }
    }
    Ok(())
}

fn with_notes(
    context: Context<'_>,
    address: Address,
    spots: &[Spot],
    sink: &FileSink,
) -> Result<(), Error> {
    context.report.step(&format!(
        "comparing both ends of the copy of {address} with what was noted when it was checked"
    ));
    for spot in spots {
        let Some(noted) = &spot.blake3 else {
            context.report.warn(&format!(
                "a domain was started on the copy of {address} before, and may have written to it: nothing tells whether \
                 it did"
            ));
            return Ok(());
        };
        if held(address, spot, sink)?.to_hex().as_str() != noted {
            return refused(
                Code::CopyDiffers,
                format!(
                    "{}. With the old machine's agent up, `p2v copy` puts that right",
                    differs(address, spot)
                ),
            );
        }
    }
    Ok(())
}

/// The hash of what the copy holds.
fn held(address: Address, spot: &Spot, sink: &FileSink) -> Result<blake3::Hash, Error> {
    let mut have = vec![0; spot.count as usize * SECTOR as usize];
    let read = sink.read_back(spot.lba * SECTOR, &mut have);
    read.map_err(|e| {
        refusal(
            Code::CopyDiffers,
            format!(
                "cannot read the copy of {address} at sector {}: {e}",
                spot.lba
            ),
        )
    })?;
    Ok(blake3::hash(&have))
}

fn differs(address: Address, spot: &Spot) -> String {
    format!(
        "the copy of {address} is not what it was when it was checked (sectors {} to {}): something wrote to it",
        spot.lba,
        spot.lba + u64::from(spot.count) - 1
    )
}
