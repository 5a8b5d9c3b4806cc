//! What `--used-only` copies of a disk.

use std::sync::Arc;
use std::time::Duration;

use p2v_contract::inventory::Disk;
use p2v_contract::{Address, SECTOR, Size};
use p2v_copy::CopyError;

use super::CopyRequest;
use crate::used::{self, Extent, SourceView};
use crate::workflow::{Contact, Context, Error};

/// How long a program may look into one file system. It reads all that is not the files' own data: minutes
/// on a large one, over a slow disk more.
const LOOK_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Silence of the old machine that a look into its file systems outlives.
const LOOK_PATIENCE: Duration = Duration::from_secs(60);

/// What file systems use of a disk, and all that lies outside of them; tells what is copied of each part.
pub(super) fn of(
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
    let size = |sectors: u64| Size(sectors * SECTOR);
    let what = part.what.replace(char::is_control, "?");
    match &part.extent {
        Extent::Whole { why } if why.is_empty() => format!("{what}: all {}", size(part.sectors)),
        Extent::Whole { why } => format!(
            "{what}: all {}, because {}",
            size(part.sectors),
            why.replace(char::is_control, " ")
        ),
        Extent::UsedOnly => format!("{what}: {} of {}", size(part.copied), size(part.sectors)),
    }
}
