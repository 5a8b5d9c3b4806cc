//! The files that are served, read once at the start.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::boot_menu::BootFile;
use crate::image::Image;
use crate::settings::Settings;

/// The files of the boot set, read once and shared by all transfers.
#[derive(Clone, Debug, Default)]
pub(crate) struct BootSet(BTreeMap<BootFile, Bytes>);

/// A file of the boot set that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the {what} {}: {source} ({advice})", path.display())]
pub struct BootSetError {
    /// What it is, in words.
    pub what: String,
    /// Where it should be.
    pub path: PathBuf,
    /// Why it cannot be read.
    pub source: io::Error,
    /// What to do.
    pub advice: &'static str,
}

/// A file that is not there, and without which most machines boot all the same.
#[derive(Debug)]
pub struct Missing {
    /// Which, and what to do.
    pub error: BootSetError,
    /// Whom it concerns.
    pub need: Need,
}

/// Who needs a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Every machine.
    Every,
    /// Machines of some kind.
    Some,
    /// It is a loader that the settings name, or is needed by one: its machines get the usual one of their
    /// kind.
    NamedLoader,
    /// It is part of an image in the settings: its machines get the usual one.
    Image,
}

/// A file, before it is read.
struct Source<'a> {
    file: BootFile,
    path: &'a Path,
    /// What it is, in words.
    what: String,
    /// What to do if it is not there.
    advice: &'static str,
    need: Need,
}

impl Source<'_> {
    /// Its path, if that means the same to the service as to whoever wrote it.
    fn openable(&self) -> io::Result<&Path> {
        match self.need != Need::Image || self.path.is_absolute() {
            true => Ok(self.path),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the path does not begin with `/`",
            )),
        }
    }

    fn read(&self) -> Result<Vec<u8>, BootSetError> {
        self.openable()
            .and_then(std::fs::read)
            .and_then(not_empty)
            .map_err(|source| BootSetError {
                what: self.what.clone(),
                path: self.path.to_owned(),
                source,
                advice: self.advice,
            })
    }
}

/// All files that there shall be.
fn sources(settings: &Settings) -> Vec<Source<'_>> {
    let usual = BootFile::USUAL
        .into_iter()
        .filter_map(|file| usual(file, settings));
    let of_images = settings.images.iter().flat_map(|(&name, files)| {
        [
            (BootFile::KernelOf(name), "kernel", &files.kernel),
            (BootFile::InitrdOf(name), "initial RAM disk", &files.initrd),
        ]
        .map(|(file, what, path)| Source {
            file,
            path,
            what: format!("{what} of the image `{name}`"),
            advice: "the service's user must be able to read it; [serve.images] in the settings says where it is",
            need: Need::Image,
        })
    });
    usual.chain(of_images).collect()
}

/// A file that there shall be without any settings.
fn usual(file: BootFile, settings: &Settings) -> Option<Source<'_>> {
    let image =
        "it is part of the netboot image: make it with `p2v-image`, or set `kernel` and `initrd`";
    let (path, what, advice, every): (&Path, _, _, _) = match file {
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
        BootFile::KernelOf(_) | BootFile::InitrdOf(_) => return None,
    };
    Some(Source {
        file,
        path,
        what: what.to_owned(),
        advice,
        need: match every {
            true => Need::Every,
            false if is_named(file, settings) => Need::NamedLoader,
            false => Need::Some,
        },
    })
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

/// The files that some machines cannot boot without, or not as they should, and that are not there. Blocks.
pub fn missing_files(settings: &Settings) -> Vec<Missing> {
    sources(settings)
        .into_iter()
        // Nobody gets lpxelinux.0 unasked.
        .filter(|source| {
            source.need != Need::Every
                && (source.file, source.need) != (BootFile::Lpxelinux, Need::Some)
        })
        .filter_map(|source| {
            let error = source.read().err()?;
            let need = source.need;
            Some(Missing { error, need })
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
    ) -> Result<(BootSet, Vec<Missing>), BootSetError> {
        let (mut set, mut missing) = (BTreeMap::new(), Vec::new());
        for source in sources(settings) {
            let need = source.need;
            match source.read() {
                Ok(bytes) => drop(set.insert(source.file, Bytes::from(with_server(bytes, server)))),
                Err(error) if need == Need::Every => return Err(error),
                Err(error) => missing.push(Missing { error, need }),
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

    /// The image that a machine gets which shall have this one. Half of one is none: the modules in the
    /// initial RAM disk are its own kernel's.
    pub fn image(&self, wanted: Image) -> Image {
        let there = |file| self.0.contains_key(&file);
        match wanted {
            Image::Named(name)
                if !(there(BootFile::KernelOf(name)) && there(BootFile::InitrdOf(name))) =>
            {
                Image::UsualFor(name)
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageFiles;
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
        let named = |all: Vec<Missing>| -> Vec<String> {
            let of_named = |missing: &Missing| missing.need == Need::NamedLoader;
            let named = all.into_iter().filter(of_named);
            named.map(|missing| missing.error.to_string()).collect()
        };
        let read = |settings: &Settings| {
            let (set, missing) = BootSet::read(settings, Ipv4Addr::LOCALHOST).unwrap();
            assert_eq!(missing.len(), 3);
            // Without its GRUB shim cannot be told.
            let files = [BootFile::Pxelinux, BootFile::Ldlinux, BootFile::Kernel];
            assert!(set.files().is_superset(&files.into()));
            assert!(!set.files().contains(&BootFile::ShimX64));
            let named = (named(missing), named(missing_files(settings)));
            assert_eq!(named.0, named.1);
            named.0
        };
        assert_eq!(read(&usual), [""; 0]);
        assert_eq!(missing_files(&usual).len(), 2, "two GRUBs");
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
    fn an_image_of_which_anything_is_missing_is_replaced_by_the_usual_one() {
        let dir = tempfile::tempdir().unwrap();
        let (there, missing) = (dir.path().join("there"), dir.path().join("missing"));
        std::fs::write(&there, "x").unwrap();
        // From the directory that tests run in, it is there.
        let relative = PathBuf::from("Cargo.toml");
        assert!(relative.exists());
        let name = |text: &str| text.parse().unwrap();
        let images = [
            ("whole", &there, &there),
            ("no-kernel", &missing, &there),
            ("no-initrd", &there, &missing),
            ("relative", &relative, &there),
        ];
        let settings = Settings {
            pxelinux: there.clone(),
            ldlinux: there.clone(),
            kernel: there.clone(),
            initrd: there.clone(),
            images: images
                .map(|(text, kernel, initrd)| {
                    let (kernel, initrd) = (kernel.clone(), initrd.clone());
                    (name(text), ImageFiles { kernel, initrd })
                })
                .into(),
            ..Settings::default()
        };
        let (set, at_start) = BootSet::read(&settings, Ipv4Addr::LOCALHOST).unwrap();
        for missing in [at_start, missing_files(&settings)] {
            let mut of_images = missing.into_iter().filter(|m| m.need == Need::Image);
            for what in [
                "initial RAM disk of the image `no-initrd`",
                "kernel of the image `no-kernel`",
            ] {
                let error = of_images.next().unwrap().error.to_string();
                let place = format!("{what} {}", dir.path().join("missing").display());
                assert!(error.contains(&place), "{error}");
            }
            let error = of_images.next().unwrap().error.to_string();
            assert!(
                error.contains("Cargo.toml: the path does not begin"),
                "{error}"
            );
            assert!(of_images.next().is_none());
        }
        let whole = Image::Named(name("whole"));
        assert_eq!(set.image(whole), whole);
        assert_eq!(set.image(Image::Usual), Image::Usual);
        for text in ["no-kernel", "no-initrd", "relative", "nobodys"] {
            let image = set.image(Image::Named(name(text)));
            assert_eq!(image, Image::UsualFor(name(text)));
        }
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
