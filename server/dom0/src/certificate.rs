//! What a finished copy can be held to: kept with the machine's record, as JSON and as a text.

use std::fmt::{self, Write as _};

use p2v_contract::{Address, SECTOR};
use p2v_copy::Verify;
use serde::{Deserialize, Serialize};

use crate::name::MachineName;
use crate::record::Destination;
use crate::timestamp::Timestamp;

/// A finished copy of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Version of this format: 1.
    pub version: u32,
    /// p2v's version.
    pub p2v: String,
    /// The machine.
    pub machine: MachineName,
    /// The disk's AoE address.
    pub disk: Address,
    /// The disk's model.
    pub model: String,
    /// The disk's serial number.
    pub serial: String,
    /// Its size in 512-byte sectors.
    pub sectors: u64,
    /// The start of the agent that gave it.
    pub boot_id: String,
    /// Where the copy is.
    pub destination: Destination,
    /// When its first run began.
    pub begun: Timestamp,
    /// When it was complete.
    pub ended: Timestamp,
    /// Pieces that were copied.
    pub pieces: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes that came over the wire in the last run.
    pub moved: u64,
    /// Bytes that were there already in the last run.
    pub equal: u64,
    /// Bytes that were written as zeros in the last run.
    pub zeroed: u64,
    /// Bytes that earlier runs had copied.
    pub before: u64,
    /// Bytes that no file system uses, which were not copied.
    pub unused: u64,
    /// What was copied where it was not all: first sector and number of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extents: Option<Vec<(u64, u64)>>,
    /// What was compared.
    pub verified: Verify,
    /// Sectors that a failing disk gave once, and that were compared with nothing but the copy.
    #[serde(default)]
    pub unchecked: u64,
    /// What could not be read: first sector and number of them.
    pub unreadable: Vec<(u64, u64)>,
    /// BLAKE3 of the pieces' BLAKE3s one after the other, hex; none where a piece could not be read.
    pub root: Option<String>,
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.unreadable.is_empty() {
            ""
        } else {
            " NOT COMPLETE"
        };
        let mut lines = vec![
            (
                "copy of",
                format!("{} of {}{whole}", self.disk, self.machine),
            ),
            ("disk", format!("{}, serial {}", self.model, self.serial)),
            (
                "size",
                format!("{} sectors, {} bytes", self.sectors, self.sectors * SECTOR),
            ),
            ("to", self.destination.to_string()),
            ("begun", self.begun.to_string()),
            ("complete", self.ended.to_string()),
            (
                "copied",
                format!("{} bytes in {} pieces", self.bytes, self.pieces),
            ),
            ("moved", format!("{} bytes", self.moved)),
            ("zeros", format!("{} bytes", self.zeroed)),
            (
                "there before",
                format!("{} bytes", self.equal + self.before),
            ),
        ];
        if self.unused > 0 {
            lines.push((
                "not copied",
                format!("{} bytes that no file system uses", self.unused),
            ));
        }
        let compared = match self.verified {
            Verify::Both => {
                "every piece read back from the copy has the BLAKE3 that the old machine computed"
            }
            Verify::Source => {
                "every piece arrived with the BLAKE3 that the old machine computed; the copy was not read back"
            }
            Verify::Written => {
                "every piece was read back from the copy; the old machine's BLAKE3 was not compared"
            }
            Verify::None => "nothing was compared",
        };
        lines.push(("compared", compared.to_owned()));
        if self.unchecked > 0 {
            let what = "sectors of the failing disk could be read once only, and have no digest to compare with";
            lines.push(("but", format!("{} {what}", self.unchecked)));
        }
        let mut unreadable = String::new();
        for (lba, count) in &self.unreadable {
            let _ = write!(unreadable, "{count} from sector {lba} on; ");
        }
        if unreadable.is_empty() {
            unreadable.push_str("nothing");
        }
        lines.push(("unreadable", unreadable.trim_end_matches("; ").to_owned()));
        lines.push(("BLAKE3", self.root.clone().unwrap_or_else(|| "none".into())));
        for (what, is) in lines {
            writeln!(f, "{what:13} {is}")?;
        }
        writeln!(f, "made by       p2v {}", self.p2v)
    }
}
