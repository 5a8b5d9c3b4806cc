//! All modules of a kernel, what each needs, and the index files the agent loads them by
//! (`modules.dep`, `modules.alias`, `modules.softdep`: depmod(8)'s text formats).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::modinfo::{self, ModInfo, ModInfoError};

/// One module of the kernel.
#[derive(Clone, Debug)]
pub struct Module {
    /// Path below `kernel/`, without `.ko`.
    pub path: String,
    /// Where the file is.
    pub file: PathBuf,
    /// What it says about itself.
    pub info: ModInfo,
}

impl Module {
    /// Its path in the image, below `lib/modules/VERSION`. Each module is packed by itself: with
    /// all of them unpacked the image needs 256 MB of memory to start, and old machines have less.
    pub fn file_in_image(&self) -> String {
        format!("kernel/{}.ko.zst", self.path)
    }
}

/// Why the modules cannot be indexed.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A directory or file cannot be read.
    #[error("reading {path}: {source}")]
    Read {
        /// What was read.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is not a module.
    #[error("{path}: {source}")]
    Module {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ModInfoError,
    },
    /// A module needs another one that the kernel package does not have.
    #[error(
        "module {module} needs {missing}, which this kernel package does not have: \
         the package is incomplete, fetch it again"
    )]
    Missing {
        /// The module that needs it.
        module: String,
        /// What it needs.
        missing: String,
    },
}

/// The modules of one kernel, by name (with `_` for `-`).
#[derive(Clone, Debug, Default)]
pub struct ModuleIndex {
    modules: BTreeMap<String, Module>,
    builtin: BTreeSet<String>,
}

/// A module's name from its path.
fn name_of(path: &str) -> String {
    modinfo::canonical(path.rsplit('/').next().unwrap_or(path))
}

impl ModuleIndex {
    /// Reads every module under `tree` (`lib/modules/VERSION`).
    ///
    /// # Errors
    /// A directory or a file cannot be read, or is not a module.
    pub fn read(tree: &Path) -> Result<ModuleIndex, IndexError> {
        let mut index = ModuleIndex::default();
        let top = tree.join("kernel");
        let mut dirs = vec![top.clone()];
        while let Some(dir) = dirs.pop() {
            let read_error = |source| IndexError::Read {
                path: dir.clone(),
                source,
            };
            for entry in fs::read_dir(&dir).map_err(read_error)? {
                let entry = entry.map_err(read_error)?;
                let file = entry.path();
                if entry.file_type().map_err(read_error)?.is_dir() {
                    dirs.push(file);
                    continue;
                }
                let Some(path) = file
                    .strip_prefix(&top)
                    .ok()
                    .and_then(Path::to_str)
                    .and_then(|p| p.strip_suffix(".ko"))
                else {
                    continue;
                };
                let bytes = fs::read(&file).map_err(|source| IndexError::Read {
                    path: file.clone(),
                    source,
                })?;
                let info = modinfo::read(&bytes).map_err(|source| IndexError::Module {
                    path: file.clone(),
                    source,
                })?;
                index.insert(path.to_owned(), file, info);
            }
        }
        let builtin = tree.join("modules.builtin");
        let text = fs::read_to_string(&builtin).map_err(|source| IndexError::Read {
            path: builtin,
            source,
        })?;
        index.builtin = text
            .lines()
            .map(|l| name_of(l.trim_end_matches(".ko")))
            .collect();
        Ok(index)
    }

    fn insert(&mut self, path: String, file: PathBuf, info: ModInfo) {
        self.modules
            .insert(name_of(&path), Module { path, file, info });
    }

    /// Paths of all modules, below `kernel/`, without `.ko`.
    pub fn paths(&self) -> impl Iterator<Item = &str> + Clone {
        self.modules.values().map(|m| m.path.as_str())
    }

    /// The modules that `wanted` takes and all they depend on, by name. Soft dependencies are
    /// followed where the kernel has them (by module name or by an exact alias, as
    /// `crypto-crc32c`).
    ///
    /// # Errors
    /// A module that one of them needs is missing.
    pub fn closure(&self, wanted: impl Fn(&str) -> bool) -> Result<ModuleIndex, IndexError> {
        let mut by_alias: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (name, module) in &self.modules {
            for alias in module.info.aliases.iter().filter(|a| !a.contains('*')) {
                by_alias
                    .entry(modinfo::canonical(alias))
                    .or_default()
                    .push(name);
            }
        }
        let mut taken = BTreeSet::new();
        let mut open: Vec<&str> = self
            .modules
            .iter()
            .filter(|(_, m)| wanted(&m.path))
            .map(|(name, _)| name.as_str())
            .collect();
        while let Some(name) = open.pop() {
            if !taken.insert(name.to_owned()) {
                continue;
            }
            let info = &self.modules[name].info;
            for needed in &info.depends {
                match self.modules.get_key_value(needed) {
                    Some((needed, _)) => open.push(needed),
                    None if self.builtin.contains(needed) => {}
                    None => {
                        return Err(IndexError::Missing {
                            module: name.to_owned(),
                            missing: needed.clone(),
                        });
                    }
                }
            }
            for soft in info.soft_pre.iter().chain(&info.soft_post) {
                if let Some((soft, _)) = self.modules.get_key_value(soft) {
                    open.push(soft);
                }
                open.extend(by_alias.get(soft).into_iter().flatten().copied());
            }
        }
        Ok(ModuleIndex {
            modules: self
                .modules
                .iter()
                .filter(|(name, _)| taken.contains(*name))
                .map(|(name, module)| (name.clone(), module.clone()))
                .collect(),
            builtin: self.builtin.clone(),
        })
    }

    /// The modules, in the order of their names.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.modules.values()
    }

    /// `modules.dep`: one line a module, with the modules it uses directly (a reader follows them;
    /// depmod lists the indirect ones too).
    pub fn modules_dep(&self) -> String {
        let mut text = String::new();
        for module in self.modules.values() {
            let _ = write!(text, "{}:", module.file_in_image());
            for needed in module
                .info
                .depends
                .iter()
                .filter_map(|n| self.modules.get(n))
            {
                let _ = write!(text, " {}", needed.file_in_image());
            }
            text.push('\n');
        }
        text
    }

    /// `modules.alias`: `alias PATTERN MODULE`.
    pub fn modules_alias(&self) -> String {
        let mut text = String::new();
        for (name, module) in &self.modules {
            for alias in &module.info.aliases {
                let _ = writeln!(text, "alias {alias} {name}");
            }
        }
        text
    }

    /// `modules.softdep`: `softdep MODULE pre: ... post: ...`.
    pub fn modules_softdep(&self) -> String {
        let mut text = String::new();
        for (name, module) in &self.modules {
            let info = &module.info;
            if info.soft_pre.is_empty() && info.soft_post.is_empty() {
                continue;
            }
            let _ = write!(text, "softdep {name}");
            for (word, names) in [("pre:", &info.soft_pre), ("post:", &info.soft_post)] {
                if !names.is_empty() {
                    let _ = write!(text, " {word} {}", names.join(" "));
                }
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Path, hard dependencies, soft ones, aliases.
    type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str]);

    fn index(modules: &[Row]) -> ModuleIndex {
        let mut index = ModuleIndex::default();
        for (path, depends, soft, aliases) in modules {
            let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
            let info = ModInfo {
                depends: own(depends),
                soft_pre: own(soft),
                aliases: own(aliases),
                ..ModInfo::default()
            };
            index.insert((*path).to_owned(), PathBuf::new(), info);
        }
        index.builtin.insert("builtin".into());
        index
    }

    #[test]
    fn what_is_wanted_brings_what_it_needs() {
        let all = index(&[
            ("ata/ahci", &["libahci", "builtin"], &[], &["pci:v1*"]),
            ("ata/libahci", &["libata"], &[], &[]),
            ("ata/libata", &[], &["crypto_crc32c", "not_there"], &[]),
            ("crypto/crc32c_generic", &[], &[], &["crypto-crc32c"]),
            ("net/other", &[], &[], &[]),
        ]);
        let taken = all.closure(|path| path == "ata/ahci").unwrap();
        let paths: Vec<_> = taken.paths().collect();
        assert_eq!(
            paths,
            [
                "ata/ahci",
                "crypto/crc32c_generic",
                "ata/libahci",
                "ata/libata"
            ]
        );
        assert!(
            taken
                .modules_dep()
                .contains("kernel/ata/ahci.ko.zst: kernel/ata/libahci.ko.zst\n")
        );
        assert!(taken.modules_alias().contains("alias pci:v1* ahci\n"));
        assert_eq!(
            taken.modules_softdep(),
            "softdep libata pre: crypto_crc32c not_there\n"
        );
    }

    #[test]
    fn a_missing_dependency_is_an_error() {
        let all = index(&[("a", &["gone"], &[], &[])]);
        let error = all.closure(|_| true).unwrap_err();
        assert!(error.to_string().contains("a needs gone"), "{error}");
    }

    #[test]
    fn circles_end() {
        let all = index(&[("a", &["b"], &[], &[]), ("b", &["a"], &[], &[])]);
        assert_eq!(all.closure(|p| p == "a").unwrap().modules().count(), 2);
    }
}
