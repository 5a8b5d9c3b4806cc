//! The image: kernel, agent, modules and their index, within the size an old machine can load.

use std::path::{Path, PathBuf};
use std::{fs, io};

use object::read::elf::{FileHeader, ProgramHeader};

use crate::archive::{Archive, Entry};
use crate::kernel::Kernel;
use crate::module_index::{IndexError, ModuleIndex};
use crate::selection::{self, Rule};

/// Kernel and initrd together take no more than this: 32 MiB is loaded over TFTP in well under a
/// minute on 100 Mbit/s, and leaves a machine of 256 MB room to unpack.
pub const BUDGET: u64 = 32 << 20;

/// What goes into an image.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The kernel.
    pub kernel: Kernel,
    /// The static agent.
    pub agent: PathBuf,
    /// Where firmware files are (laid out as `/lib/firmware`), if any are to be put in.
    pub firmware: Option<PathBuf>,
}

/// A finished image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The kernel's bytes.
    pub vmlinuz: Vec<u8>,
    /// The packed initial RAM file system.
    pub initrd: Vec<u8>,
    /// Modules in it.
    pub modules: usize,
    /// Firmware files in it.
    pub firmware: usize,
    /// Bytes the initrd takes when unpacked.
    pub unpacked: u64,
    /// What was asked for and this kernel does not have.
    pub unanswered: Vec<Rule>,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file cannot be read or written.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The modules cannot be indexed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The agent is not an ELF program.
    #[error("{path} is not a Linux program: {source}")]
    NotAProgram {
        /// The agent.
        path: PathBuf,
        /// Why.
        source: object::Error,
    },
    /// The agent needs a loader and libraries that are not in the image.
    #[error(
        "{path} is linked dynamically and cannot run as PID 1 of the image: build it with \
         RUSTFLAGS='-C target-feature=+crt-static' and an explicit --target"
    )]
    NotStatic {
        /// The agent.
        path: PathBuf,
    },
    /// Packing failed.
    #[error("packing the initrd: {0}")]
    Pack(io::Error),
    /// Too big.
    #[error(
        "kernel ({vmlinuz} bytes) and initrd ({initrd} bytes) together are over the limit of \
         {BUDGET} bytes: leave modules out (initramfs/src/selection.rs) or firmware"
    )]
    TooBig {
        /// Kernel, bytes.
        vmlinuz: u64,
        /// Initrd, bytes.
        initrd: u64,
    },
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Io {
        doing,
        path,
        source,
    }
}

/// Whether a program needs a dynamic loader (has a PT_INTERP segment).
fn needs_loader(program: &[u8]) -> Result<bool, object::Error> {
    fn any_interp<H: FileHeader<Endian = object::Endianness>>(
        data: &[u8],
    ) -> Result<bool, object::Error> {
        let header = H::parse(data)?;
        let endian = header.endian()?;
        Ok(header
            .program_headers(endian, data)?
            .iter()
            .any(|p| p.p_type(endian) == object::elf::PT_INTERP))
    }
    match object::FileKind::parse(program)? {
        object::FileKind::Elf32 => any_interp::<object::elf::FileHeader32<_>>(program),
        _ => any_interp::<object::elf::FileHeader64<_>>(program),
    }
}

/// Puts the image together, in memory.
///
/// # Errors
/// A file cannot be read; the agent is not a static program; a module that another one needs is missing; it cannot be
/// packed, or is over [`BUDGET`].
pub fn build(recipe: &Recipe) -> Result<Image, ImageError> {
    let read = |path: &Path| fs::read(path).map_err(io_error("reading", path));
    let agent = read(&recipe.agent)?;
    match needs_loader(&agent) {
        Ok(false) => {}
        Ok(true) => {
            return Err(ImageError::NotStatic {
                path: recipe.agent.clone(),
            });
        }
        Err(source) => {
            return Err(ImageError::NotAProgram {
                path: recipe.agent.clone(),
                source,
            });
        }
    }
    let vmlinuz = read(&recipe.kernel.vmlinuz)?;
    let all = ModuleIndex::read(&recipe.kernel.modules)?;
    let taken = all.closure(selection::wanted)?;

    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "run"] {
        archive.add(directory, Entry::Directory);
    }
    archive.add_file("init", 0o755, agent);
    // The kernel asks for modules by this name (/proc/sys/kernel/modprobe).
    archive.add("sbin/modprobe", Entry::Symlink("/init".into()));
    let tree = format!("lib/modules/{}", recipe.kernel.version);
    let mut firmware = 0;
    for module in taken.modules() {
        let path = format!("{tree}/{}", module.file_in_image());
        archive
            .add_packed(&path, &read(&module.file)?)
            .map_err(ImageError::Pack)?;
        let Some(from) = &recipe.firmware else {
            continue;
        };
        for name in &module.info.firmware {
            let file = from.join(name);
            if file.is_file() {
                archive.add_file(&format!("lib/firmware/{name}"), 0o644, read(&file)?);
                firmware += 1;
            }
        }
    }
    archive.add_file(&format!("{tree}/modules.dep"), 0o644, taken.modules_dep());
    archive.add_file(
        &format!("{tree}/modules.alias"),
        0o644,
        taken.modules_alias(),
    );
    archive.add_file(
        &format!("{tree}/modules.softdep"),
        0o644,
        taken.modules_softdep(),
    );

    let initrd = archive.pack().map_err(ImageError::Pack)?;
    within_budget(vmlinuz.len() as u64, initrd.len() as u64)?;
    Ok(Image {
        modules: taken.modules().count(),
        firmware,
        unpacked: archive.unpacked(),
        unanswered: selection::unanswered(all.paths()),
        vmlinuz,
        initrd,
    })
}

/// Refuses an image over [`BUDGET`].
fn within_budget(vmlinuz: u64, initrd: u64) -> Result<(), ImageError> {
    if vmlinuz + initrd > BUDGET {
        return Err(ImageError::TooBig { vmlinuz, initrd });
    }
    Ok(())
}

/// Writes `vmlinuz` and `initrd` into `dir`, each replaced as a whole.
///
/// # Errors
/// The directory cannot be made, or a file in it not be replaced.
pub fn write(image: &Image, dir: &Path) -> Result<(), ImageError> {
    fs::create_dir_all(dir).map_err(io_error("creating", dir))?;
    for (name, bytes) in [("vmlinuz", &image.vmlinuz), ("initrd", &image.initrd)] {
        let path = dir.join(name);
        let partial = dir.join(format!(".{name}.new"));
        fs::write(&partial, bytes).map_err(io_error("writing", &partial))?;
        fs::rename(&partial, &path).map_err(io_error("replacing", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_the_limit_is_refused() {
        assert!(within_budget(BUDGET - 1, 1).is_ok());
        let error = within_budget(BUDGET, 1).unwrap_err();
        assert!(error.to_string().contains("over the limit"), "{error}");
    }

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        // This test's own program is dynamic; without its interpreter segment it is static.
        let mut own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(needs_loader(&own).unwrap());
        let header =
            object::elf::FileHeader64::<object::Endianness>::parse(own.as_slice()).unwrap();
        let endian = header.endian().unwrap();
        let at = header
            .program_headers(endian, own.as_slice())
            .unwrap()
            .iter()
            .position(|p| p.p_type(endian) == object::elf::PT_INTERP)
            .unwrap();
        let offset = header.e_phoff.get(endian) as usize + at * 56;
        own[offset..offset + 4].fill(0);
        assert!(!needs_loader(&own).unwrap());
        assert!(needs_loader(b"#!/bin/sh\n").is_err());
    }
}
