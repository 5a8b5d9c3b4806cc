//! Why a command did not do what it was asked to.
use p2v_copy::CopyError;

use super::Code;
use crate::config_file::ConfigFileError;
use crate::destination::DestinationError;
use crate::destination::thin_pool::Full;
use crate::domain::Refusal;
use crate::name::MachineName;
use crate::record::{DiskChanged, NotOurs};
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
    /// A thin pool would not have lasted.
    #[error(
        "the copy stopped, and what is copied stays: {0}. Then run the same command again to resume; finished ranges are skipped"
    )]
    PoolFull(Box<Full>),
    /// The disks are not those they were.
    #[error(transparent)]
    DiskChanged(#[from] DiskChanged),
    /// A device-mapper table.
    #[error(transparent)]
    Table(#[from] BadTable),
    /// What answers for the machine's shelf is not the machine, or is not known to be.
    #[error(
        "what answers for shelf e{shelf} is not known to be {name}: {why}. {}",
        todo(name, why)
    )]
    NotOurs {
        /// The machine.
        name: MachineName,
        /// Its shelf.
        shelf: u16,
        /// What it is instead.
        why: NotOurs,
    },
    /// A rule that keeps data safe.
    #[error("{text}")]
    Refused {
        /// Which.
        code: Code,
        /// What was found, and what to do.
        text: String,
    },
    /// A command failed half way.
    #[error("{cause}. {}", undone(left))]
    TakenBack {
        /// What failed.
        cause: Box<Error>,
        /// What could not be taken back.
        left: Vec<String>,
    },
}

/// What to do about what answers in a machine's place.
fn todo(name: &MachineName, why: &NotOurs) -> String {
    match why {
        NotOurs::NoMenuOfOurs => {
            "Restart the old machine so that it boots from `p2v serve` here".to_owned()
        }
        NotOurs::NoCard | NotOurs::OtherKey => {
            "End what answers there, and look at the old machine's screen".to_owned()
        }
        NotOurs::OtherCard { was, .. } => format!(
            "If it is {name}, restart the old machine so that it boots from the network by {was}. Else two machines may have \
             been given one shelf, or a record was moved; `p2v list` shows both"
        ),
        NotOurs::OtherUuid { .. } => format!(
            "If its disks were put into this one on purpose: `p2v stop {name} --destroy`, then `p2v start {name}`"
        ),
    }
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

impl Error {
    /// Why, for programs.
    pub fn code(&self) -> Code {
        match self {
            Error::Store(_) => Code::Records,
            Error::Wire(_) => Code::Wire,
            Error::Tool(_) => Code::Tool,
            Error::Domain(_) => Code::DoesNotFit,
            Error::Config(_) => Code::Config,
            Error::Destination(DestinationError::PoolFull(_)) | Error::PoolFull(_) => {
                Code::PoolFull
            }
            Error::Destination(_) => Code::Destination,
            Error::Copy(_) => Code::Copy,
            Error::DiskChanged(_) => Code::DiskChanged,
            Error::Table(_) => Code::Internal,
            Error::NotOurs { .. } => Code::NotOurs,
            Error::Refused { code, .. } => *code,
            Error::TakenBack { cause, .. } => cause.code(),
        }
    }
}

/// A rule that keeps data safe says no.
pub(super) fn refused<T>(code: Code, why: impl Into<String>) -> Result<T, Error> {
    Err(refusal(code, why))
}

pub(super) fn refusal(code: Code, why: impl Into<String>) -> Error {
    let text = why.into();
    Error::Refused { code, text }
}
