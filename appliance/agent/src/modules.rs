//! Kernel modules: which one drives a device, what it needs, in what order they are loaded.
//!
//! Reads depmod(8)'s text files in `/lib/modules/VERSION`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::init_module;

use crate::modalias;

/// A module's name as the kernel spells it: `_` for `-`.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// A module's name from its file's path.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    canonical(file.split_once(".ko").map_or(file, |(name, _)| name))
}

/// The modules there are and how they hang together.
#[derive(Clone, Debug, Default)]
pub struct ModuleIndex {
    /// By name: the file's path and the names of the modules it uses.
    modules: BTreeMap<String, (String, Vec<String>)>,
    /// Pattern and name.
    aliases: Vec<(String, String)>,
    /// By name: what should be loaded before it.
    soft_pre: BTreeMap<String, Vec<String>>,
}

impl ModuleIndex {
    /// Reads the contents of `modules.dep`, `modules.alias` and `modules.softdep`. Lines that are
    /// not understood are skipped: a missing driver shows by itself.
    pub fn parse(dep: &str, alias: &str, softdep: &str) -> ModuleIndex {
        let mut index = ModuleIndex::default();
        for line in dep.lines() {
            if let Some((path, needs)) = line.split_once(':') {
                let needs = needs.split_whitespace().map(name_of).collect();
                index
                    .modules
                    .insert(name_of(path), (path.to_owned(), needs));
            }
        }
        for line in alias.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(name)) =
                (words.next(), words.next(), words.next())
            {
                index.aliases.push((pattern.to_owned(), canonical(name)));
            }
        }
        for line in softdep.lines() {
            let mut words = line.split_whitespace();
            let (Some("softdep"), Some(name)) = (words.next(), words.next()) else {
                continue;
            };
            let pre = words
                .skip_while(|w| *w != "pre:")
                .skip(1)
                .take_while(|w| *w != "post:")
                .map(canonical)
                .collect();
            index.soft_pre.insert(canonical(name), pre);
        }
        index
    }

    /// Names of the modules that drive a device with this modalias, or answer to this name.
    pub fn matching(&self, wanted: &str) -> Vec<&str> {
        if let Some((name, _)) = self.modules.get_key_value(&canonical(wanted)) {
            return vec![name];
        }
        let mut names: Vec<&str> = self
            .aliases
            .iter()
            .filter(|(pattern, _)| modalias::matches(pattern, wanted))
            .map(|(_, name)| name.as_str())
            .collect();
        names.dedup();
        names
    }

    /// Names in the order they are loaded so that `name` works: what it uses first, itself last.
    pub fn load_order(&self, name: &str) -> Vec<&str> {
        let mut order = Vec::new();
        self.visit(&canonical(name), &mut BTreeSet::new(), &mut order);
        order
    }

    fn visit<'i>(&'i self, name: &str, seen: &mut BTreeSet<&'i str>, order: &mut Vec<&'i str>) {
        let Some((name, (_, needs))) = self.modules.get_key_value(name) else {
            return;
        };
        if !seen.insert(name) {
            return;
        }
        for soft in self.soft_pre.get(name).into_iter().flatten() {
            // A soft dependency names a module or an alias such as `crypto-crc32c`.
            let by_alias = self
                .aliases
                .iter()
                .filter(|(pattern, _)| canonical(pattern) == *soft)
                .map(|(_, name)| name.as_str());
            for soft in std::iter::once(soft.as_str()).chain(by_alias) {
                self.visit(soft, seen, order);
            }
        }
        for need in needs {
            self.visit(need, seen, order);
        }
        order.push(name);
    }
}

/// The parameters for a module on a kernel command line: `libata.dma=0` gives `dma=0` to `libata`,
/// as modprobe(8) does, so that an operator can get an odd machine going from the boot menu.
pub fn parameters(cmdline: &str, module: &str) -> String {
    let given: Vec<&str> = cmdline
        .split_whitespace()
        .filter_map(|word| word.split_once('.'))
        .filter(|(name, _)| canonical(name) == module)
        .map(|(_, parameter)| parameter)
        .collect();
    given.join(" ")
}

/// Why a module is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The index cannot be read.
    #[error("reading {path}: {source}")]
    Index {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Its file cannot be read.
    #[error("module {name}: reading {path}: {source}")]
    File {
        /// The module.
        name: String,
        /// Its file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The kernel refuses it.
    #[error("module {name}: the kernel refuses it: {source}")]
    Refused {
        /// The module.
        name: String,
        /// The kernel's reason.
        source: Errno,
    },
    /// There is no such module.
    #[error("no module {0} in this image")]
    Unknown(String),
}

/// Reads a module's file, packed (`.ko.zst`) or not. Packed modules are what lets the image
/// unpack in the memory of an old machine; Debian's 6.1 kernel does not unpack them itself.
fn read_module(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut image = Vec::new();
    if path.extension().is_some_and(|e| e == "zst") {
        ruzstd::decoding::StreamingDecoder::new(&mut file)
            .map_err(io::Error::other)?
            .read_to_end(&mut image)?;
    } else {
        file.read_to_end(&mut image)?;
    }
    Ok(image)
}

/// Loads modules from a module tree.
#[derive(Debug)]
pub struct Loader {
    dir: PathBuf,
    index: ModuleIndex,
    cmdline: String,
    /// Loaded, or refused once: not tried again.
    done: BTreeSet<String>,
}

impl Loader {
    /// A loader for the tree at `dir` (`/lib/modules/VERSION`).
    ///
    /// # Errors
    /// `modules.dep` or `modules.alias` cannot be read.
    pub fn open(dir: &Path) -> Result<Loader, ModuleError> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(|source| ModuleError::Index { path, source })
        };
        Ok(Loader {
            index: ModuleIndex::parse(
                &read("modules.dep")?,
                &read("modules.alias")?,
                &read("modules.softdep").unwrap_or_default(),
            ),
            dir: dir.to_owned(),
            cmdline: fs::read_to_string("/proc/cmdline").unwrap_or_default(),
            done: BTreeSet::new(),
        })
    }

    /// The tree of the running kernel.
    ///
    /// # Errors
    /// As [`Loader::open`].
    pub fn of_running_kernel() -> Result<Loader, ModuleError> {
        let release = nix::sys::utsname::uname()
            .map(|u| u.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        Loader::open(&Path::new("/lib/modules").join(release))
    }

    /// Loads whatever answers to a modalias or a module's name, with what it needs. Returns the
    /// names newly loaded and what went wrong; one module's failure does not stop the others.
    pub fn load_matching(&mut self, wanted: &str) -> (Vec<String>, Vec<ModuleError>) {
        let order: Vec<String> = self
            .index
            .matching(wanted)
            .into_iter()
            .flat_map(|name| self.index.load_order(name))
            .map(str::to_owned)
            .collect();
        let (mut loaded, mut errors) = (Vec::new(), Vec::new());
        for name in order {
            if !self.done.insert(name.clone()) {
                continue;
            }
            match self.insert(&name) {
                Ok(true) => loaded.push(name),
                Ok(false) => {}
                Err(error) => errors.push(error),
            }
        }
        (loaded, errors)
    }

    /// Loads a module by name.
    ///
    /// # Errors
    /// There is no such module; it or one that it needs cannot be read, or the kernel refuses it (told at the first try
    /// only).
    pub fn load(&mut self, name: &str) -> Result<(), ModuleError> {
        if self.index.matching(name).is_empty() {
            return Err(ModuleError::Unknown(name.to_owned()));
        }
        match self.load_matching(name).1.pop() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Gives one module's file to the kernel; false if it was there already or is of no use here.
    fn insert(&self, name: &str) -> Result<bool, ModuleError> {
        let Some((path, _)) = self.index.modules.get(name) else {
            return Err(ModuleError::Unknown(name.to_owned()));
        };
        let path = self.dir.join(path);
        let image = read_module(&path).map_err(|source| ModuleError::File {
            name: name.to_owned(),
            path,
            source,
        })?;
        // A command line holds no NUL.
        let parameters = CString::new(parameters(&self.cmdline, name)).unwrap_or_default();
        match init_module(&image, &parameters) {
            Ok(()) => Ok(true),
            // There already; or a module for a processor feature that this one does not have.
            Err(Errno::EEXIST | Errno::ENODEV) => Ok(false),
            Err(source) => Err(ModuleError::Refused {
                name: name.to_owned(),
                source,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> ModuleIndex {
        ModuleIndex::parse(
            "kernel/ata/ahci.ko: kernel/ata/libahci.ko\n\
             kernel/ata/libahci.ko: kernel/ata/libata.ko\n\
             kernel/ata/libata.ko:\n\
             kernel/crypto/crc32c-intel.ko.zst:\n\
             kernel/a.ko: kernel/b.ko\nkernel/b.ko: kernel/a.ko\nnonsense\n",
            "alias pci:v*d*sv*sd*bc01sc06i01* ahci\nalias crypto-crc32c crc32c_intel\n# x\n",
            "softdep libata pre: crypto_crc32c gone post: later\nsoftdep\n",
        )
    }

    #[test]
    fn what_is_needed_comes_first() {
        let index = index();
        assert_eq!(
            index.load_order("ahci"),
            ["crc32c_intel", "libata", "libahci", "ahci"]
        );
        assert_eq!(index.load_order("a"), ["b", "a"]);
        assert!(index.load_order("gone").is_empty());
    }

    #[test]
    fn found_by_device_and_by_name() {
        let index = index();
        assert_eq!(
            index.matching("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"),
            ["ahci"]
        );
        assert_eq!(index.matching("crypto-crc32c"), ["crc32c_intel"]);
        assert_eq!(index.matching("crc32c-intel"), ["crc32c_intel"]);
        assert!(index.matching("pci:other").is_empty());
    }

    #[test]
    fn parameters_go_to_their_module() {
        let line =
            "quiet libata.dma=0 p2v.shelf=7 libata.force=1.5Gbps,noncq hpsa-x.a=1 x=libata.no";
        assert_eq!(parameters(line, "libata"), "dma=0 force=1.5Gbps,noncq");
        assert_eq!(parameters(line, "hpsa_x"), "a=1");
        assert_eq!(parameters(line, "ahci"), "");
    }

    #[test]
    fn a_damaged_packed_module_is_an_error_and_no_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.ko.zst");
        // A zstd frame of one raw block: magic, header (single segment, size 2), last block.
        let packed = b"\x28\xb5\x2f\xfd\x20\x02\x11\x00\x00hi";
        fs::write(&path, packed).unwrap();
        assert_eq!(read_module(&path).unwrap(), b"hi");
        for length in 0..packed.len() {
            fs::write(&path, &packed[..length]).unwrap();
            assert!(read_module(&path).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_missing_index_is_named() {
        let error = Loader::open(Path::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().contains("modules.dep"), "{error}");
    }
}
