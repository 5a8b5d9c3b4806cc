//! The files that are served, read once at the start.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::boot_menu::BootFile;
use crate::settings::Settings;

/// The files of the boot set, read once and shared by all transfers.
#[derive(Clone, Debug, Default)]
pub(crate) struct BootSet(BTreeMap<BootFile, Bytes>);

/// A file of the boot set that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the {what} {}: {source} ({advice})", path.display())]
pub struct BootSetError {
    /// What it is, in words.
    pub what: &'static str,
    /// Where it should be.
    pub path: PathBuf,
    /// Why it cannot be read.
    pub source: io::Error,
    /// What to do.
    pub advice: &'static str,
}

/// A loader that only some machines need, and that is not there.
#[derive(Debug)]
pub struct MissingLoader {
    /// Which, and what to do.
    pub error: BootSetError,
    /// The settings name it, or what it needs: its machines get the usual loader of their kind.
    pub named: bool,
}

/// Where a file is, what it is, what to do if it is not there, and whether all is in vain then.
fn source(file: BootFile, settings: &Settings) -> (&Path, &'static str, &'static str, bool) {
    let image =
        "it is part of the netboot image: make it with `p2v-image`, or set `kernel` and `initrd`";
    match file {
        BootFile::Pxelinux => (
            &settings.pxelinux,
            "boot loader",
            "it is in Debian's package `pxelinux`; or set `pxelinux`",
            true,
        ),
        BootFile::Lpxelinux => (
            &settings.lpxelinux,
            "boot loader",
            "it is in Debian's package `pxelinux`; or set `lpxelinux`",
            false,
        ),
        BootFile::Ldlinux => (
            &settings.ldlinux,
            "boot loader's module",
            "it is in Debian's package `syslinux-common`; or set `ldlinux`",
            true,
        ),
        BootFile::ShimX64 => (
            &settings.shim_x64,
            "boot loader for UEFI",
            "it is in Debian's package `shim-signed`; or set `shim_x64`",
            false,
        ),
        BootFile::GrubX64 if !settings.signed_grub() => (
            &settings.grub_x64_unsigned,
            "boot loader for UEFI without Secure Boot",
            "`make install` makes it of Debian's package `grub-efi-amd64-bin`; or set `grub_x64_unsigned`",
            false,
        ),
        BootFile::GrubX64 => (
            &settings.grub_x64,
            "boot loader for UEFI",
            "it is in Debian's package `grub-efi-amd64-signed`; or set `grub_x64`",
            false,
        ),
        BootFile::GrubIa32 => (
            &settings.grub_ia32,
            "boot loader for 32-bit UEFI",
            "`make install` makes it of Debian's package `grub-efi-ia32-bin`; or set `grub_ia32`",
            false,
        ),
        BootFile::Kernel => (&settings.kernel, "kernel", image, true),
        BootFile::Initrd => (&settings.initrd, "initial RAM disk", image, true),
    }
}

/// Whether the settings name a loader that needs this file: whoever named it counts on it.
fn is_named(file: BootFile, settings: &Settings) -> bool {
    std::iter::once(&settings.bios_loader)
        .chain(settings.loaders.values())
        .filter_map(|loader| loader.file())
        .any(|named| named == file || (named, file) == (BootFile::ShimX64, BootFile::GrubX64))
}

/// The line that our own GRUB images begin with (`pxelinux/grub/embedded.cfg`).
const EMBEDDED: &[u8] = include_bytes!("../../../pxelinux/grub/embedded.cfg");

/// Our own GRUB images are told where they are from in a line left for it. By itself GRUB 2.06 takes
/// that from the answer that gave the machine its address (grub-core/net/drivers/efi/efinet.c reads
/// `dhcp_ack`, never `proxy_offer`), and beside the site's DHCP server that is not ours.
fn with_server(mut file: Vec<u8>, server: Ipv4Addr) -> Vec<u8> {
    let line = EMBEDDED.trim_ascii_end();
    if let Some(at) = file.windows(line.len()).position(|part| part == line) {
        let mut told =
            format!("set root=tftp,{server}\nset prefix=(tftp,{server})/grub\n").into_bytes();
        told.resize(line.len(), b'\n');
        file[at..at + line.len()].copy_from_slice(&told);
    }
    file
}

fn not_empty(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    match bytes.is_empty() {
        true => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file is empty",
        )),
        false => Ok(bytes),
    }
}

/// The loaders that some machines cannot boot without, and that are not there. Blocks.
pub fn missing_loaders(settings: &Settings) -> Vec<MissingLoader> {
    BootFile::ALL
        .into_iter()
        .filter_map(|file| {
            let named = is_named(file, settings);
            let (path, what, advice, needed) = source(file, settings);
            // Nobody gets lpxelinux.0 unasked.
            if needed || (file == BootFile::Lpxelinux && !named) {
                return None;
            }
            let source = std::fs::read(path).and_then(not_empty).err()?;
            let error = BootSetError {
                what,
                path: path.to_owned(),
                source,
                advice,
            };
            Some(MissingLoader { error, named })
        })
        .collect()
}

impl BootSet {
    /// Reads them. Blocks. Also returns what is missing without being needed by all machines.
    ///
    /// # Errors
    /// A file that no machine boots without. Of others a service that is not started is the greater
    /// evil: every machine whose server is on this host would go on with its own disk.
    pub fn read(
        settings: &Settings,
        server: Ipv4Addr,
    ) -> Result<(BootSet, Vec<MissingLoader>), BootSetError> {
        let (mut set, mut missing) = (BTreeMap::new(), Vec::new());
        for file in BootFile::ALL {
            let (path, what, advice, needed) = source(file, settings);
            match std::fs::read(path).and_then(not_empty) {
                Ok(bytes) => drop(set.insert(file, Bytes::from(with_server(bytes, server)))),
                Err(source) => {
                    let error = BootSetError {
                        what,
                        path: path.to_owned(),
                        source,
                        advice,
                    };
                    if needed {
                        return Err(error);
                    }
                    let named = is_named(file, settings);
                    missing.push(MissingLoader { error, named });
                }
            }
        }
        // shim without GRUB beside it would leave the machine where shim gives up.
        if !set.contains_key(&BootFile::GrubX64) {
            set.remove(&BootFile::ShimX64);
        }
        Ok((BootSet(set), missing))
    }

    pub fn contents(&self, file: BootFile) -> Option<Bytes> {
        self.0.get(&file).cloned()
    }

    pub fn files(&self) -> BTreeSet<BootFile> {
        self.0.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::Loader;
    use pnet::util::MacAddr;

    #[test]
    fn no_missing_loader_keeps_the_service_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        std::fs::write(&there, "x").unwrap();
        let missing = dir.path().join("missing");
        let usual = Settings {
            pxelinux: there.clone(),
            ldlinux: there.clone(),
            kernel: there.clone(),
            initrd: there.clone(),
            lpxelinux: missing.clone(),
            shim_x64: there.clone(),
            grub_x64: missing.clone(),
            grub_x64_unsigned: missing.clone(),
            grub_ia32: missing.clone(),
            ..Settings::default()
        };
        let named = |all: Vec<MissingLoader>| -> Vec<String> {
            let named = all.into_iter().filter(|missing| missing.named);
            named.map(|missing| missing.error.to_string()).collect()
        };
        let read = |settings: &Settings| {
            let (set, missing) = BootSet::read(settings, Ipv4Addr::LOCALHOST).unwrap();
            assert_eq!(missing.len(), 3);
            // Without its GRUB shim cannot be told.
            let files = [BootFile::Pxelinux, BootFile::Ldlinux, BootFile::Kernel];
            assert!(set.files().is_superset(&files.into()));
            assert!(!set.files().contains(&BootFile::ShimX64));
            let named = (named(missing), named(missing_loaders(settings)));
            assert_eq!(named.0, named.1);
            named.0
        };
        assert_eq!(read(&usual), [""; 0]);
        assert_eq!(missing_loaders(&usual).len(), 2, "two GRUBs");
        let lpxelinux = Settings {
            bios_loader: Loader::Lpxelinux,
            ..usual.clone()
        };
        assert!(read(&lpxelinux)[0].contains("set `lpxelinux`"));
        for (loader, needs) in [
            (Loader::GrubIa32, Some("grub_ia32")),
            (Loader::ShimX64, Some("grub_x64")),
            (Loader::Pxelinux, None),
            (Loader::Ipxe, None),
        ] {
            let mut settings = usual.clone();
            settings
                .loaders
                .insert(MacAddr::new(2, 0, 0, 0, 0, 1), loader);
            let named = read(&settings);
            assert_eq!(named.len(), usize::from(needs.is_some()), "{named:?}");
            assert!(needs.is_none_or(|needs| named[0].contains(needs)));
        }
        // No machine boots without these.
        let settings = Settings {
            pxelinux: missing,
            ..usual
        };
        assert!(BootSet::read(&settings, Ipv4Addr::LOCALHOST).is_err());
    }

    #[test]
    fn our_own_grub_is_told_where_it_is_from_and_nothing_else_changes() {
        let line = EMBEDDED.trim_ascii_end();
        let longest = Ipv4Addr::new(192, 168, 177, 254);
        let file = [b"before\n", line, b"\nafter"].concat();
        let told = with_server(file.clone(), longest);
        assert_eq!(told.len(), file.len());
        let text = String::from_utf8(told).unwrap();
        let server = "set root=tftp,192.168.177.254\nset prefix=(tftp,192.168.177.254)/grub\n";
        assert!(text.starts_with(&format!("before\n{server}\n")), "{text}");
        assert!(text.ends_with("\n\nafter"), "{text}");
        for other in [&b""[..], b"MZ", &line[1..]] {
            assert_eq!(with_server(other.to_vec(), longest), other);
        }
    }
}
