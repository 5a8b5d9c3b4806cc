//! One record's file, as it is read.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use p2v_contract::MacAddr;

use super::error::StoreError;
use crate::record::{RECORD_VERSION, Record};

/// Bytes of a record at most. A usual one has some ten thousand; each stretch of a failing disk that cannot be
/// read adds some fifty.
pub(super) const RECORD_BYTES_MAX: u64 = 64 << 20;

/// Whether a record's text, whole or not, says which card the machine boots from.
pub(super) fn boot_mac_in(text: &str) -> bool {
    let value = || {
        let (_, rest) = text.split_once("\"boot_mac\"")?;
        let rest = rest.trim_start().strip_prefix(':')?.trim_start();
        rest.strip_prefix('"')?.split_once('"')?.0.parse().ok()
    };
    value().is_some_and(|mac: MacAddr| !mac.is_zero())
}

/// What is in a record's file. The directory may be the boot service's user's, who answers strangers, and
/// root reads it: no link is followed, nothing waited for, and no endless file read.
pub(super) fn text_of(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)?;
    let refused = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    if !file.metadata()?.is_file() {
        return Err(refused("it is not a regular file".into()));
    }
    let mut text = Vec::new();
    file.take(RECORD_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > RECORD_BYTES_MAX {
        return Err(refused(format!(
            "it is larger than {RECORD_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

pub(super) fn read(path: &Path) -> Result<Record, StoreError> {
    let unreadable = |why: String| StoreError::Unreadable {
        path: path.to_owned(),
        why,
    };
    let text = text_of(path).map_err(|source| StoreError::Io {
        doing: "read the machine record",
        path: path.to_owned(),
        source,
    })?;
    let value: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|e| unreadable(format!("not whole or not JSON ({e})")))?;
    // The version first: a newer record may have fields that would only confuse the message.
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(RECORD_VERSION) => {}
        Some(version) => {
            return Err(unreadable(format!(
                "it has version {version} and this p2v knows version {RECORD_VERSION}"
            )));
        }
        None => return Err(unreadable("it has no version".into())),
    }
    let record: Record = serde_json::from_value(value).map_err(|e| unreadable(e.to_string()))?;
    if path.file_stem().and_then(|s| s.to_str()) != Some(record.name.as_str()) {
        return Err(unreadable(format!("it is the record of {}", record.name)));
    }
    record.check().map_err(unreadable)?;
    Ok(record)
}
