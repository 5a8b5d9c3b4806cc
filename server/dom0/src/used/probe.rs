//! What the disk or a partition holds, by `blkid`'s low-level probing.

use std::path::Path;

use super::examine::{Examiner, Refusal, whole};
use crate::tool::{ToolError, blkid};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file system of this type.
    FileSystem(String),
    /// A partition table of this type, and nothing else.
    Table(String),
    /// What is no plain file system: blkid's type and its usage (`raid`, `crypto`, `other`).
    Other(String, String),
    /// Nothing that blkid knows.
    Nothing,
}

/// Exit status of `blkid -p` when it knows nothing of it (blkid(8), "EXIT STATUS").
const NOTHING: i32 = 2;
/// Exit status of `blkid -p` when it knows more than one thing of it.
const AMBIVALENT: i32 = 8;

/// Looks at a window.
///
/// # Errors
/// [`Refusal`]; also if more than one thing was found.
pub fn probe(examiner: &Examiner<'_>, file: &Path) -> Result<Content, Refusal> {
    let result = examiner.try_run(
        "blkid",
        &[
            "-p".as_ref(),
            "-o".as_ref(),
            "export".as_ref(),
            file.as_os_str(),
        ],
    )?;
    match result {
        Ok(printed) => read(&printed.stdout),
        Err(ToolError::Failed { status, .. }) if status.code() == Some(NOTHING) => {
            Ok(Content::Nothing)
        }
        Err(ToolError::Failed { status, .. }) if status.code() == Some(AMBIVALENT) => {
            whole("`blkid` finds signs of more than one thing in it")
        }
        Err(error) => whole(error.to_string()),
    }
}

fn read(text: &str) -> Result<Content, Refusal> {
    let all = |key| -> Vec<&str> { blkid::values(text, key).collect() };
    match (&all("TYPE")[..], &all("USAGE")[..], &all("PTTYPE")[..]) {
        ([kind], ["filesystem"], []) => Ok(Content::FileSystem((*kind).to_owned())),
        ([kind], [usage], []) => Ok(Content::Other((*kind).to_owned(), (*usage).to_owned())),
        ([], [], [table]) => Ok(Content::Table((*table).to_owned())),
        ([], [], []) => Ok(Content::Nothing),
        ([kind], _, [table]) => whole(format!(
            "`blkid` finds {kind} in it and also a partition table ({table})"
        )),
        _ => whole("`blkid` finds signs of more than one thing in it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_or_none() {
        assert_eq!(
            read("DEVNAME=x\nTYPE=ext4\nUSAGE=filesystem\n"),
            Ok(Content::FileSystem("ext4".into()))
        );
        assert_eq!(
            read("TYPE=LVM2_member\nUSAGE=raid\n"),
            Ok(Content::Other("LVM2_member".into(), "raid".into()))
        );
        assert_eq!(
            read("PTUUID=1\nPTTYPE=dos\n"),
            Ok(Content::Table("dos".into()))
        );
        assert_eq!(read(""), Ok(Content::Nothing));
        for text in [
            "TYPE=ext4\nUSAGE=filesystem\nPTTYPE=dos\n",
            "TYPE=ext4\nTYPE=xfs\nUSAGE=filesystem\n",
            "TYPE=ext4\n",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
