//! A tree of files that is laid out beside others': only what p2v wrote is ever replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use p2v_copy::atomic_file;
use serde::{Deserialize, Serialize};

/// What p2v wrote into a directory is remembered there.
const MANIFEST: &str = ".p2v-image.json";

/// A file that shall be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Below the tree's root.
    pub path: String,
    /// Its contents.
    pub bytes: Vec<u8>,
    /// Somebody else's is as good.
    leave_others: bool,
}

impl Item {
    /// A file that must be ours.
    pub fn new(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Item {
        Item {
            path: path.into(),
            bytes: bytes.into(),
            leave_others: false,
        }
    }

    /// The same, if there is none yet.
    pub fn or_the_sites(self) -> Item {
        Item {
            leave_others: true,
            ..self
        }
    }
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// New, or replaced.
    pub written: Vec<String>,
    /// As it should be already.
    pub unchanged: Vec<String>,
    /// Somebody else's, left as it is.
    pub left: Vec<String>,
    /// Ours of an earlier time, and not wanted now; left as it is.
    pub stale: Vec<String>,
}

/// BLAKE3 of each file we wrote. Two, while one is being replaced by the other.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    files: BTreeMap<String, BTreeSet<String>>,
}

/// The directory.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    manifest: Manifest,
}

impl Tree {
    /// Opens the tree, which need not be there yet.
    ///
    /// # Errors
    /// What is remembered of it cannot be read.
    pub fn open(root: &Path) -> Result<Tree> {
        let path = root.join(MANIFEST);
        let manifest = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!(
                    "{} says which files are p2v's, and cannot be understood: move it away, with the files",
                    path.display()
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Manifest {
                version: 1,
                ..Manifest::default()
            },
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        Ok(Tree {
            root: root.to_owned(),
            manifest,
        })
    }

    /// Whether p2v never wrote there.
    pub fn is_new(&self) -> bool {
        self.manifest.files.is_empty()
    }

    /// What p2v wrote, and nobody changed or removed since.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn still_ours(&self) -> Result<Vec<&str>> {
        let mut ours = Vec::new();
        for path in self.manifest.files.keys() {
            if let Found::File(hash) = self.find(path)?
                && self.is_ours(path, &hash)
            {
                ours.push(path.as_str());
            }
        }
        Ok(ours)
    }

    /// Makes the tree have `items`, in their order, each replaced at once.
    ///
    /// # Errors
    /// There are files in the way that are not ours: all are named, and nothing was changed. Or a
    /// file cannot be written: those before it are.
    pub fn install(mut self, items: &[Item]) -> Result<Written> {
        let mut done = Written::default();
        let mut foreign = Vec::new();
        let mut wanted = Vec::new();
        let mut ours = Vec::new();
        for item in items {
            match self.find(&item.path)? {
                Found::Nothing => wanted.push(item),
                Found::File(hash) if hash == hash_of(&item.bytes) => {
                    done.unchanged.push(item.path.clone());
                    // The site's own is not ours for being the same today.
                    if self.is_ours(&item.path, &hash) {
                        ours.push(item);
                    }
                }
                Found::File(hash) if self.is_ours(&item.path, &hash) => wanted.push(item),
                Found::File(_) | Found::Other if item.leave_others => {
                    done.left.push(item.path.clone());
                }
                Found::File(_) | Found::Other => foreign.push(item.path.as_str()),
            }
        }
        if !foreign.is_empty() {
            bail!(
                "in {} there are files that p2v did not write, or that were changed since: {}. Nothing was changed: move \
                 them away, or choose another directory",
                self.root.display(),
                foreign.join(", ")
            );
        }
        let names: BTreeSet<&str> = items.iter().map(|item| item.path.as_str()).collect();
        let mut gone = Vec::new();
        for path in self.manifest.files.keys() {
            if !names.contains(path.as_str()) {
                match self.find(path)? {
                    Found::Nothing => gone.push(path.clone()),
                    Found::File(_) | Found::Other => done.stale.push(path.clone()),
                }
            }
        }
        for path in gone {
            self.manifest.files.remove(&path);
        }

        // Known as ours before they are there, so that a run that is cut off can be repeated.
        ours.extend(&wanted);
        for item in &ours {
            let hashes = self.manifest.files.entry(item.path.clone()).or_default();
            hashes.insert(hash_of(&item.bytes));
        }
        fs::create_dir_all(&self.root)
            .with_context(|| format!("cannot make {}", self.root.display()))?;
        self.remember()?;
        for item in wanted {
            let path = self.root.join(&item.path);
            let write = || -> io::Result<()> {
                fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
                atomic_file::replace(&path, &item.bytes, 0o644)
            };
            write().with_context(|| format!("cannot write {}", path.display()))?;
            done.written.push(item.path.clone());
        }
        for item in ours {
            let hashes = BTreeSet::from([hash_of(&item.bytes)]);
            self.manifest.files.insert(item.path.clone(), hashes);
        }
        self.remember()?;
        Ok(done)
    }

    fn is_ours(&self, path: &str, hash: &str) -> bool {
        let known = self.manifest.files.get(path);
        known.is_some_and(|hashes| hashes.contains(hash))
    }

    /// What is at `path`. Links are not followed, in directories neither: they lead to others' files.
    fn find(&self, path: &str) -> Result<Found> {
        let mut at = self.root.clone();
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            at.push(part);
            let meta = match fs::symlink_metadata(&at) {
                Ok(meta) => meta,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot look at {}", at.display()));
                }
            };
            let right = match parts.peek() {
                Some(_) => meta.is_dir(),
                None => meta.is_file(),
            };
            if !right {
                return Ok(Found::Other);
            }
        }
        let bytes = fs::read(&at).with_context(|| format!("cannot read {}", at.display()))?;
        Ok(Found::File(hash_of(&bytes)))
    }

    fn remember(&self) -> Result<()> {
        let path = self.root.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&self.manifest)?;
        atomic_file::replace(&path, &text, 0o644)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

enum Found {
    Nothing,
    File(String),
    /// A directory, a link, or on the way to it something that is no directory.
    Other,
}

fn hash_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(root: &Path, items: &[Item]) -> Result<Written> {
        Tree::open(root)?.install(items)
    }

    fn item(path: &str, text: &str) -> Item {
        Item::new(path, text)
    }

    fn read(root: &Path, path: &str) -> String {
        fs::read_to_string(root.join(path)).unwrap()
    }

    #[test]
    fn a_second_run_replaces_what_is_ours_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = &dir.path().join("new");
        let first = install(root, &[item("a", "1"), item("d/b", "1"), item("d/c", "1")]).unwrap();
        assert_eq!(first.written, ["a", "d/b", "d/c"]);
        let ours = |root: &Path| Tree::open(root).unwrap().still_ours().unwrap().join(" ");
        assert_eq!(ours(root), "a d/b d/c");
        let second = install(root, &[item("a", "1"), item("d/b", "2")]).unwrap();
        assert_eq!(second.unchanged, ["a"]);
        assert_eq!(second.written, ["d/b"]);
        assert_eq!(second.stale, ["d/c"]);
        assert_eq!(
            (read(root, "d/b"), read(root, "d/c")),
            ("2".into(), "1".into())
        );

        // Edited by somebody: not touched, and nothing else either.
        fs::write(root.join("d/b"), "mine").unwrap();
        assert_eq!(ours(root), "a d/c");
        // Removed by somebody: no more of ours.
        fs::remove_file(root.join("d/c")).unwrap();
        let third = install(root, &[item("a", "1")]).unwrap();
        assert_eq!((third.stale, ours(root)), (vec!["d/b".into()], "a".into()));
        let error = install(root, &[item("a", "3"), item("d/b", "3")]).unwrap_err();
        assert!(error.to_string().contains("d/b"), "{error}");
        assert_eq!(
            (read(root, "a"), read(root, "d/b")),
            ("1".into(), "mine".into())
        );
    }

    #[test]
    fn what_was_there_before_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("elsewhere")).unwrap();
        fs::write(root.join("default"), "the site's").unwrap();
        fs::write(root.join("same"), "same").unwrap();
        std::os::unix::fs::symlink("default", root.join("link")).unwrap();
        std::os::unix::fs::symlink("elsewhere", root.join("dir")).unwrap();
        for path in ["default", "link", "dir/x", "elsewhere", "default/x"] {
            let error = install(root, &[item("new", "1"), item(path, "1")]).unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
        assert!(!root.join("new").exists() && !root.join(MANIFEST).exists());
        let done = install(
            root,
            &[item("same", "same"), item("default", "1").or_the_sites()],
        )
        .unwrap();
        assert_eq!(
            (done.unchanged, done.left),
            (vec!["same".into()], vec!["default".into()])
        );
        assert_eq!(read(root, "default"), "the site's");
        // They are still the site's at the next run.
        for path in ["default", "same"] {
            let error = install(root, &[item(path, "1")]).unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
        assert_eq!(read(root, "same"), "same");
    }

    #[test]
    fn a_run_that_was_cut_off_is_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        install(root, &[item("a", "1"), item("b", "1")]).unwrap();
        // `b` cannot be written, after `a` was.
        fs::remove_file(root.join("b")).unwrap();
        let hidden = root.join(format!(".b.{}.new", std::process::id()));
        fs::create_dir_all(hidden.join("x")).unwrap();
        let new = [item("a", "2"), item("b", "2")];
        assert!(install(root, &new).is_err());
        assert_eq!(read(root, "a"), "2");
        fs::remove_dir_all(hidden).unwrap();
        // Meanwhile there is a newer one to install.
        let newer = [item("a", "3"), item("b", "3")];
        assert_eq!(install(root, &newer).unwrap().written, ["a", "b"]);
    }
}
