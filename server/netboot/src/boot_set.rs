//! The files that are served, read once at the start.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::boot_menu::BootFile;
use crate::settings::Settings;

/// The files of the boot set, read once and shared by all transfers.
#[derive(Clone, Debug)]
pub(crate) struct BootSet {
    pxelinux: Bytes,
    ldlinux: Bytes,
    kernel: Bytes,
    initrd: Bytes,
}

/// A file of the boot set that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the {what} {}: {source} ({advice})", path.display())]
pub struct BootSetError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
    advice: &'static str,
}

impl BootSet {
    /// Reads them. Blocks.
    pub fn read(settings: &Settings) -> Result<BootSet, BootSetError> {
        let read = |what, path: &Path, advice| {
            let contents = std::fs::read(path).and_then(|bytes| match bytes.is_empty() {
                true => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the file is empty",
                )),
                false => Ok(Bytes::from(bytes)),
            });
            contents.map_err(|source| BootSetError {
                what,
                path: path.to_owned(),
                source,
                advice,
            })
        };
        let image = "it is part of the netboot image: make it with `p2v-image`, or set `kernel` and `initrd`";
        Ok(BootSet {
            pxelinux: read(
                "boot loader",
                &settings.pxelinux,
                "it is in Debian's package `pxelinux`; or set `pxelinux`",
            )?,
            ldlinux: read(
                "boot loader's module",
                &settings.ldlinux,
                "it is in Debian's package `syslinux-common`; or set `ldlinux`",
            )?,
            kernel: read("kernel", &settings.kernel, image)?,
            initrd: read("initial RAM disk", &settings.initrd, image)?,
        })
    }

    pub fn contents(&self, file: BootFile) -> Bytes {
        match file {
            BootFile::Pxelinux => self.pxelinux.clone(),
            BootFile::Ldlinux => self.ldlinux.clone(),
            BootFile::Kernel => self.kernel.clone(),
            BootFile::Initrd => self.initrd.clone(),
        }
    }
}
