//! Why a command did not do what it was asked to.

use crate::config_file::ConfigFileError;
use crate::copy::CopyError;
use crate::copy::destination::DestinationError;
use crate::domain::Refusal;
use crate::record::DiskChanged;
use crate::store::StoreError;
use crate::table::BadTable;
use crate::tool::ToolError;
use crate::wire::WireError;

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine records.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The old machine, over the wire.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A program or driver of this host.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// There is no domain that fits.
    #[error("no domain fits this machine: {0}")]
    Domain(#[from] Refusal),
    /// The domain's config file.
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    /// The copy's destination.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// The copy.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The disks are not those they were.
    #[error(transparent)]
    DiskChanged(#[from] DiskChanged),
    /// A device-mapper table.
    #[error(transparent)]
    Table(#[from] BadTable),
    /// A rule that keeps data safe.
    #[error("{0}")]
    Refused(String),
    /// A command failed half way.
    #[error("{cause}. {}", undone(left))]
    TakenBack {
        /// What failed.
        cause: Box<Error>,
        /// What could not be taken back.
        left: Vec<String>,
    },
}

fn undone(left: &[String]) -> String {
    if left.is_empty() {
        "What had been done was taken back".into()
    } else {
        format!(
            "NOT everything could be taken back, look at it now: {}",
            left.join("; ")
        )
    }
}

/// A rule that keeps data safe says no.
pub(super) fn refused<T>(why: impl Into<String>) -> Result<T, Error> {
    Err(Error::Refused(why.into()))
}
