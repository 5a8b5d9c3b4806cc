//! The Xen host as it is when it has booted, saved: a story that begins there has one a second after
//! QEMU's start, where booting takes most of a minute.
//!
//! It is saved anew when anything has changed that it was made of: QEMU, its arguments, the root file
//! system, the product. Stories get disks of their own over the saved one's, which nobody writes to.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::artifacts::{Artifacts, checked};
use crate::debian;
use crate::times;
use crate::xen_host::{self, SETTINGS, VOLUMES, XenHost};

/// Found once in a process: the product does not change meanwhile.
static FOUND: Mutex<Option<SavedHost>> = Mutex::new(None);

/// What is kept of a host.
#[derive(Clone, Debug)]
pub struct SavedHost {
    directory: PathBuf,
}

impl SavedHost {
    /// The file that QEMU wrote.
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Makes disks in `work` with what is on the saved one's.
    ///
    /// # Errors
    /// A file cannot be made in `work`, or the saved one not be read.
    pub fn disks(&self, work: &Path) -> Result<()> {
        let saved = |name: &str| self.directory.join(name);
        debian::root_over(&saved("dom0.qcow2"), "qcow2", work)?;
        fs::hard_link(saved("payload.img"), work.join("payload.img"))?;
        checked(
            Command::new("cp")
                .arg("--sparse=always")
                .args([saved(VOLUMES), work.join(VOLUMES)]),
        )
    }
}

/// Finds the saved host, or boots one and saves it.
///
/// # Errors
/// What it is made of cannot be read; it is not there, and cannot be booted or saved.
pub fn find(artifacts: &Artifacts) -> Result<SavedHost> {
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if found.is_none() {
        *found = Some(find_or_save(artifacts)?);
    }
    found.clone().context("it was found")
}

fn find_or_save(artifacts: &Artifacts) -> Result<SavedHost> {
    let directory = artifacts.lab.join("saved/xen-host");
    let saved = SavedHost {
        directory: directory.clone(),
    };
    let product = artifacts.lab.join("saved/product");
    remove(&product)?;
    let tree = artifacts.payload_tree(&product, SETTINGS)?;
    let made_of = made_of(artifacts, &directory, &tree)?;
    remove(&product)?;
    let label = directory.join("made-of");
    if fs::read(&label).is_ok_and(|text| text == made_of.as_bytes()) {
        return Ok(saved);
    }
    let began = Instant::now();
    remove(&directory)?;
    fs::create_dir_all(&directory)?;
    let mut host = XenHost::boot(artifacts, &directory)?;
    host.save(&saved.state())?;
    // At last: what is not complete has no label.
    fs::write(&label, made_of)?;
    times::note("booting and saving the Xen host", began.elapsed());
    Ok(saved)
}

/// All that the state depends on, in words.
fn made_of(artifacts: &Artifacts, directory: &Path, product: &Path) -> Result<String> {
    let version = Command::new("qemu-system-x86_64")
        .arg("--version")
        .output()
        .context("cannot run qemu-system-x86_64 (`make setup` installs it)")?;
    let mut text = String::from_utf8(version.stdout)?;
    text += &xen_host::arguments(artifacts, directory).join(" ");
    for name in ["dom0.img", "xen", "vmlinuz", "initrd"] {
        let file = fs::metadata(artifacts.xen_host.join(name))?;
        let changed = file.modified()?.duration_since(UNIX_EPOCH)?.as_nanos();
        text += &format!("\n{name} {} {changed}", file.len());
    }
    text.push('\n');
    digests(product, &mut text)?;
    Ok(text)
}

/// A line for each file below `directory`.
fn digests(directory: &Path, text: &mut String) -> Result<()> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        paths.push(entry?.path());
    }
    paths.sort();
    for path in paths {
        if path.is_dir() {
            digests(&path, text)?;
            continue;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(&path)?)?;
        *text += &format!("{} {}\n", hasher.finalize().to_hex(), path.display());
    }
    Ok(())
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}
