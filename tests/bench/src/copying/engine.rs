//! The copy engine as `p2v copy` runs it for one disk, in a process of its own and without a Xen host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Result, bail};
use p2v_aoe::Address;
use p2v_aoe::initiator::Initiator;
use p2v_dom0::copy::journal::{Identity, Journal};
use p2v_dom0::copy::{self, FileSink, Job, Options, RANGE_SECTORS, Sources, Verify, pieces};
use serde::{Deserialize, Serialize};

use crate::scene::SLOT;

/// What took how long.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Timed {
    /// Finding the target and trying its frames, for two sessions.
    pub attach_seconds: f64,
    /// The copy, from an empty file to a checked and noted one.
    pub copy_seconds: f64,
}

/// Where the journal of a copy is.
pub fn journal_beside(copy: &Path) -> PathBuf {
    copy.with_extension("journal")
}

/// Copies: interface, shelf of the disk, file to make, `checked` or `plain`, and a file with the extents to
/// copy (all, without it).
pub fn run(arguments: &[String]) -> Result<()> {
    let (iface, shelf, to, way, extents) = match arguments {
        [iface, shelf, to, way] => (iface, shelf, Path::new(to), way, None),
        [iface, shelf, to, way, extents] => {
            (iface, shelf, Path::new(to), way, Some(Path::new(extents)))
        }
        _ => bail!("copy IFACE SHELF FILE checked|plain [EXTENTS]"),
    };
    let options = Options {
        fresh: true,
        blank: true,
        ..match way.as_str() {
            "checked" => Options::default(),
            // For a target that has no digests: what arrives is hashed here, and read back.
            "plain" => Options {
                changing: true,
                verify: Verify {
                    source: false,
                    written: true,
                },
                ..Options::default()
            },
            _ => bail!("{way} is neither checked nor plain"),
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
    File::create_new(to)?.set_len(sectors * p2v_aoe::SECTOR)?;
    let sink = FileSink::open(to, false)?;
    let pieces = pieces::cut(sectors, &what(sectors, extents)?, RANGE_SECTORS);
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
    let bad = Mutex::new(p2v_dom0::copy::BadAreas::forgotten(sectors));
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

/// The extents to copy. Those of the file systems of an image are known from its making; looking for
/// them, as `p2v copy --used-only` does, belongs here.
fn what(sectors: u64, used: Option<&Path>) -> Result<Vec<(u64, u64)>> {
    match used {
        None => Ok(vec![(0, sectors)]),
        Some(used) => Ok(serde_json::from_slice(&fs::read(used)?)?),
    }
}
