//! The copy engine as `p2v copy` runs it for one disk, in a process of its own and without a Xen host.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use p2v_aoe::initiator::{Initiator, Session};
use p2v_contract::Address;
use p2v_copy::journal::{Identity, Journal};
use p2v_copy::{self as copy, FileSink, Job, Options, RANGE_SECTORS, Sources, Verify, pieces};
use p2v_dom0::report::Silent;
use p2v_dom0::tool::Tools;
use p2v_dom0::used::{self, SourceView};
use serde::{Deserialize, Serialize};

use crate::scene::SLOT;

/// How long a program may look into one file system.
const LOOK_LIMIT: Duration = Duration::from_secs(600);

/// What took how long.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Timed {
    /// Finding the target and trying its frames, for two sessions.
    pub attach_seconds: f64,
    /// The copy, from an empty file to a checked and noted one; asking what is used is part of it.
    pub copy_seconds: f64,
}

/// Where the journal of a copy is.
pub fn journal_beside(copy: &Path) -> PathBuf {
    copy.with_extension("journal")
}

/// Copies: interface, shelf of the disk, file to make, and `checked`, `used-only` (checked too) or `plain`.
pub fn run(arguments: &[String]) -> Result<()> {
    let [iface, shelf, to, way] = arguments else {
        bail!("copy IFACE SHELF FILE checked|used-only|plain");
    };
    let to = Path::new(to);
    let options = Options {
        fresh: true,
        blank: true,
        ..match way.as_str() {
            "checked" | "used-only" => Options::default(),
            // For a target that has no digests: what arrives is hashed here, and read back.
            "plain" => Options {
                changing: true,
                verify: Verify::Written,
                ..Options::default()
            },
            _ => bail!("{way} is no way to copy"),
        }
    };
    let begun = Instant::now();
    let initiator = Initiator::open(iface)?;
    let address = Address::new(shelf.parse()?, SLOT);
    let mut data = initiator.attach(address)?;
    let mut digests = initiator.attach(address)?;
    digests.without_data();
    let attached = Instant::now();
    let sectors = data.sectors();
    File::create_new(to)?.set_len(sectors * p2v_contract::SECTOR)?;
    let sink = FileSink::open(to, false)?;
    let extents = match way.as_str() {
        "used-only" => used(sectors, initiator.attach(address)?)?,
        _ => vec![(0, sectors)],
    };
    let pieces = pieces::cut(sectors, &extents, RANGE_SECTORS);
    let identity = Identity {
        copy: "bench".into(),
        model: data.identify().model.clone(),
        serial: data.identify().serial.clone(),
        sectors,
        boot_id: String::new(),
        destination: to.display().to_string(),
        pieces: pieces::fingerprint(&pieces).to_string(),
    };
    let journal = Journal::open(&journal_beside(to), &identity, pieces.len())?;
    let bad = Mutex::new(p2v_copy::BadAreas::forgotten(sectors));
    let summary = copy::run(
        Sources {
            digests: &mut digests,
            data: &mut data,
        },
        &sink,
        &Job {
            pieces: &pieces,
            journal: Some(&Mutex::new(journal)),
            bad: &bad,
            options,
        },
        &AtomicBool::new(false),
        &|_| {},
    )?;
    if !summary.is_complete() {
        bail!("not everything could be read");
    }
    let timed = Timed {
        attach_seconds: (attached - begun).as_secs_f64(),
        copy_seconds: attached.elapsed().as_secs_f64(),
    };
    println!("{}", serde_json::to_string(&timed)?);
    let counters = [data.counters(), digests.counters()];
    if counters.iter().any(|c| c.repeated > 0) {
        eprintln!("requests sent again: {counters:?}");
    }
    Ok(())
}

/// What the file systems use, by their own programs, as `p2v copy --used-only` asks them.
fn used(sectors: u64, session: Session) -> Result<Vec<(u64, u64)>> {
    let options = used::Options {
        time_limit: LOOK_LIMIT,
        stop: &AtomicBool::new(false),
        report: &Silent,
    };
    let view = SourceView::new(sectors, Box::new(session));
    let Ok(plan) = used::plan(Arc::new(view), &Tools::new(), &options) else {
        bail!("stopped");
    };
    // A figure for a copy of everything would be one for something else.
    if plan.sectors() > sectors / 2 {
        bail!("hardly anything is left out: {:?}", plan.parts);
    }
    Ok(plan.extents())
}
