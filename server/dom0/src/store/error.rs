//! What can be wrong with the records, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use p2v_contract::MacAddr;

use crate::lock::LockError;
use crate::name::MachineName;
use crate::shelves::Shelves;

/// What went wrong with the records.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A record that cannot be understood is never replaced.
    #[error(
        "the machine record {} cannot be read: {why}. It was left as it is; repair it, or move it away \
         if the machine is no longer needed",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It says what root did not write there.
    #[error(
        "the machine record {} is not as p2v wrote it: {why} ({}). If it was put back from a backup and is right: \
         `p2v trust {name}`",
        path.display(),
        claim.display()
    )]
    NotRoots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// Where root noted what it made.
        claim: PathBuf,
        /// The machine.
        name: MachineName,
    },
    /// No such machine.
    #[error("no machine is called `{name}`: {}", known(others))]
    Unknown {
        /// The name.
        name: String,
        /// Those there are.
        others: Vec<String>,
    },
    /// Something was made for the machine, and its record is gone.
    #[error(
        "the record of {name} is lost: put it back as {}, then `p2v trust {name}`; or, if nothing of it is left, \
         `p2v forget {name}`",
        path.display()
    )]
    Lost {
        /// The machine.
        name: MachineName,
        /// Where its record was.
        path: PathBuf,
    },
    /// The wanted name is taken.
    #[error(
        "the name {name} given to {mac} already belongs to the machine with MAC {owner}: give it another one under \
         [machines] in the settings"
    )]
    NameTaken {
        /// The name.
        name: MachineName,
        /// Who wanted it.
        mac: MacAddr,
        /// Who has it.
        owner: MacAddr,
    },
    /// Two records claim one shelf.
    #[error(
        "machines {0} and {1} both have shelf {2}: two disks must not have one address; correct the \
         record of one that no domain runs from (where one does: `p2v stop` first)"
    )]
    SharedShelf(MachineName, MachineName, u16),
    /// Two records claim one machine.
    #[error(
        "the records of {0} and {1} both have the MAC {2}: move the one away that is not wanted"
    )]
    SharedMac(MachineName, MachineName, MacAddr),
    /// As many machines as there may be were seen, and none of their agents heard.
    #[error(
        "{limit} machines were seen whose agent was not heard, and no more are met: run `p2v list` while their agents are up, \
         which hears them; or name this one's MAC under [machines] in p2v.toml and restart p2v-serve; or `p2v forget` \
         those that never were (records in {}); or raise `seen_max` under [serve]",
        machines.display()
    )]
    TooManySeen {
        /// So many.
        limit: u16,
        /// The directory of the records.
        machines: PathBuf,
    },
    /// No shelf is left.
    #[error("all AoE shelves from {} to {} are taken (`shelves` in the settings): `p2v forget` machines that are gone",
        .0.range().start(), .0.range().end())]
    Full(Shelves),
    /// The system has no randomness for an id.
    #[error("no random bytes for the id of a boot menu: {0}")]
    Random(String),
    /// Another command has the machine.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl StoreError {
    /// The file or directory that is the trouble.
    pub fn path(&self) -> Option<&Path> {
        match self {
            StoreError::Io { path, .. }
            | StoreError::Unreadable { path, .. }
            | StoreError::NotRoots { path, .. } => Some(path),
            _ => None,
        }
    }
}

/// Machines there are, for somebody who named another.
fn known(others: &[String]) -> String {
    match others {
        [] => {
            "there is no record here yet, or none that can be read; `p2v list` shows what there is"
                .into()
        }
        [one] => format!("there is {one}"),
        [..] => format!("there are {}", others.join(", ")),
    }
}
