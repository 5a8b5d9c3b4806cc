//! What is remembered of an old machine that does not serve its domain's disks.

use std::fs;
use std::io;
use std::path::PathBuf;

use p2v_copy::atomic_file;
use serde::{Deserialize, Serialize};

use super::old_disks::Seen;
use super::{Code, Error, continuity, refusal};
use crate::host::Host;
use crate::name::MachineName;
use crate::timestamp::Timestamp;

/// Who has paused the domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pause {
    /// Nobody, as far as is known.
    #[default]
    None,
    /// p2v is about to.
    Pausing,
    /// p2v, which unpauses it when the disks are back.
    Ours,
    /// The operator has unpaused it, and it is left so until the disks are back.
    LeftAlone,
}

/// What is remembered of an outage, until it is over or the host restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// Since when the disks were not there.
    pub since: Timestamp,
    /// What was logged about it.
    pub(super) told: Option<Seen>,
    /// Whether the domain is paused for it.
    pub pause: Pause,
    /// When it was last tried to give the disks back.
    #[serde(default)]
    pub(super) tried: Option<Timestamp>,
    /// Why they were not given back then.
    #[serde(default)]
    pub why_not: Option<String>,
}

/// The outage of a machine that is remembered.
pub fn outage(host: &Host, name: &MachineName) -> Option<Outage> {
    let text = fs::read(file(host, name)).ok()?;
    serde_json::from_slice(&text).ok()
}

pub(super) fn remember(host: &Host, name: &MachineName, outage: &Outage) -> Result<(), Error> {
    let (file, text) = (file(host, name), serde_json::to_vec(outage));
    let written = fs::create_dir_all(file.parent().unwrap_or(&file))
        .and_then(|()| atomic_file::replace(&file, &text?, 0o644));
    written.map_err(|e| refusal(Code::File, format!("cannot write {}: {e}", file.display())))
}

/// Nothing is known of a machine any more: the domain is another one from now on.
pub(super) fn forget(host: &Host, name: &MachineName) -> Result<(), Error> {
    continuity::forget(host, name).map_err(|e| {
        refusal(
            Code::File,
            format!("cannot forget what was seen of {name}: {e}"),
        )
    })?;
    end(host, name)
}

pub(super) fn end(host: &Host, name: &MachineName) -> Result<(), Error> {
    match fs::remove_file(file(host, name)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(refusal(
            Code::File,
            format!("cannot remove {}: {e}", file(host, name).display()),
        )),
        _ => Ok(()),
    }
}

fn file(host: &Host, name: &MachineName) -> PathBuf {
    host.paths.run.join("outages").join(format!("{name}.json"))
}
