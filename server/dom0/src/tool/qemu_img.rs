//! `qemu-img`: images with a format of their own are made and looked at.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{ToolError, Tools, unexpected};

/// Time to read an image's header and tables.
const INFO_LIMIT: Duration = Duration::from_secs(60);
/// The bytes that QEMU locks in an image that it has open, as the number of the first and how many: one for
/// each permission that it takes or shares (QEMU, block/file-posix.c, `RAW_LOCK_PERM_BASE` 100 and
/// `RAW_LOCK_SHARED_BASE` 200; less than 100 each).
const LOCKED: (i64, i64) = (100, 200);

/// What `qemu-img info` says of an image.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Info {
    format: String,
    virtual_size: u64,
    backing_filename: Option<String>,
    #[serde(default)]
    encrypted: bool,
    #[serde(default)]
    snapshots: Vec<IgnoredAny>,
    format_specific: Option<Specific>,
}

#[derive(Clone, Debug, Deserialize)]
struct Specific {
    #[serde(default)]
    data: Data,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Data {
    corrupt: bool,
    data_file: Option<String>,
}

impl Info {
    /// Why this is not a disk of `bytes` bytes that stands for itself; `None` if it is.
    pub fn fault(&self, bytes: u64) -> Option<String> {
        let data = self.format_specific.as_ref().map(|specific| &specific.data);
        let elsewhere = data.and_then(|data| data.data_file.as_ref());
        let printable = |text: &str| text.replace(char::is_control, "?");
        if self.format != "qcow2" {
            return Some(format!(
                "it is not qcow2 but {} to qemu-img",
                printable(&self.format)
            ));
        }
        if let Some(other) = &self.backing_filename {
            return Some(format!(
                "what is not in it is read from another file ({})",
                printable(other)
            ));
        }
        if let Some(other) = elsewhere {
            return Some(format!(
                "its data is in another file ({})",
                printable(other)
            ));
        }
        if self.encrypted {
            return Some("it is encrypted".into());
        }
        if data.is_some_and(|data| data.corrupt) {
            return Some("QEMU marked it as corrupt".into());
        }
        if !self.snapshots.is_empty() {
            return Some(format!("it has {} snapshots", self.snapshots.len()));
        }
        (self.virtual_size != bytes).then(|| {
            format!(
                "it is a disk of {} bytes and the old one has {bytes}",
                self.virtual_size
            )
        })
    }
}

/// Makes `image` an empty qcow2 image of a disk with `bytes` bytes. A file of that name loses its content.
///
/// # Errors
/// What `qemu-img` said.
pub fn create(tools: &Tools, image: &Path, bytes: u64) -> Result<(), ToolError> {
    let bytes = bytes.to_string();
    let arguments = ["create", "-q", "-f", "qcow2"].map(AsRef::as_ref);
    let rest = [image.as_os_str(), bytes.as_ref()];
    tools
        .run("qemu-img", arguments.into_iter().chain(rest))
        .map(drop)
}

/// What is known of a qcow2 image. For one that p2v made: a stranger's may have QEMU open other files.
///
/// # Errors
/// What `qemu-img` said; an image that another QEMU writes to is refused by it.
pub fn info(tools: &Tools, image: &Path) -> Result<Info, ToolError> {
    let arguments = ["info", "--output=json", "-f", "qcow2"].map(AsRef::as_ref);
    let arguments = arguments.into_iter().chain([image.as_os_str()]);
    let text = tools.run_within("qemu-img", arguments, INFO_LIMIT)?;
    serde_json::from_str(&text).map_err(|error| unexpected("qemu-img info", error))
}

/// The size in bytes of the disk that a qcow2 image is of, by its header alone; `None` for what is no qcow2
/// image.
///
/// # Errors
/// It cannot be read.
pub fn disk_bytes(image: &Path) -> io::Result<Option<u64>> {
    let mut head = [0; 32];
    match io::Read::read_exact(&mut File::open(image)?, &mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    // QEMU, docs/interop/qcow2.txt: magic at 0, size at 24, big-endian.
    let (magic, size) = (&head[..4], head[24..].try_into().unwrap_or_default());
    Ok((magic == b"QFI\xfb").then(|| u64::from_be_bytes(size)))
}

/// Whether a QEMU program has the image open, by the locks that it takes on it. A domain's does not always
/// take them: `xl` is asked for those.
///
/// # Errors
/// It cannot be opened, or its file system has no locks.
pub fn is_open(image: &Path) -> io::Result<bool> {
    let file = File::open(image)?;
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: LOCKED.0,
        l_len: LOCKED.1,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_image_of_the_right_size_will_do() {
        let fault = |more: &str| {
            let json =
                format!(r#"{{"format": "qcow2", "virtual-size": 512, "dirty-flag": false{more}}}"#);
            let info: Info = serde_json::from_str(&json).unwrap();
            info.fault(512)
        };
        assert_eq!(fault(""), None);
        let specific =
            |data: &str| format!(r#", "format-specific": {{"type": "qcow2", "data": {data}}}"#);
        assert_eq!(
            fault(&specific(r#"{"compat": "1.1", "corrupt": false}"#)),
            None
        );
        for (more, word) in [
            (r#", "backing-filename": "base.img""#.to_owned(), "base.img"),
            (r#", "encrypted": true"#.to_owned(), "encrypted"),
            (r#", "snapshots": [{"id": "1"}]"#.to_owned(), "1 snapshots"),
            (specific(r#"{"corrupt": true}"#), "corrupt"),
            (specific(r#"{"data-file": "x.raw"}"#), "x.raw"),
        ] {
            let why = fault(&more).unwrap();
            assert!(why.contains(word), "{why}");
        }
        let other = r#"{"format": "raw", "virtual-size": 512}"#;
        let other: Info = serde_json::from_str(other).unwrap();
        assert!(other.fault(512).unwrap().contains("raw"));
    }

    #[test]
    fn the_real_program_makes_what_is_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let (image, tools) = (dir.path().join("a,b c.qcow2"), Tools::new());
        std::fs::write(&image, "short").unwrap();
        assert_eq!(disk_bytes(&image).unwrap(), None);
        create(&tools, &image, 1536).unwrap();
        assert_eq!(disk_bytes(&image).unwrap(), Some(1536));
        let made = info(&tools, &image).unwrap();
        assert_eq!(made.fault(1536), None);
        assert!(made.fault(2048).unwrap().contains("1536"));
        assert!(!is_open(&image).unwrap());
        std::fs::write(&image, vec![7; 4096]).unwrap();
        assert_eq!(disk_bytes(&image).unwrap(), None);
        assert!(
            info(&tools, &image)
                .unwrap_err()
                .to_string()
                .contains("qcow2")
        );
    }
}
