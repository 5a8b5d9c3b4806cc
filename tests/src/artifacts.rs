//! What the lab's machines are made of, and where `make` has put it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Files that `make` builds before a test or the demo.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// `target/lab`: caches and logs.
    pub lab: PathBuf,
    /// Directory with the Xen host's `dom0.img`, `xen`, `vmlinuz` and `initrd`.
    pub xen_host: PathBuf,
    /// Release builds without symbols, as they are shipped: `p2v`, `lab-guest`.
    pub binaries: PathBuf,
    /// The netboot image: `vmlinuz` and `initrd`.
    pub image: PathBuf,
    /// The static `p2v-agent` that is in it.
    pub agent: PathBuf,
    /// This crate's directory.
    pub sources: PathBuf,
}

impl Artifacts {
    /// Finds them all, or says which is missing and what makes it.
    ///
    /// # Errors
    /// One is missing.
    pub fn find() -> Result<Artifacts> {
        let found = Self::without_xen()?;
        there(&found.xen_host.join("dom0.img"), "make lab")?;
        Ok(found)
    }

    /// The same, but for the Xen host.
    ///
    /// # Errors
    /// As [`Artifacts::find`].
    pub fn without_xen() -> Result<Artifacts> {
        let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let root = sources.parent().context("the crate is in the workspace")?;
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let found = Artifacts {
            lab: target.join("lab"),
            xen_host: target.join("lab/cache/xen-host"),
            binaries: target.join("dist"),
            image: target.join("netboot"),
            agent: target.join("dist/p2v-agent"),
            sources,
        };
        let wanted = [
            (found.binaries.join("p2v"), "make build"),
            (found.binaries.join("lab-guest"), "make build"),
            (found.image.join("initrd"), "make image"),
            (found.agent.clone(), "make image"),
        ];
        for (file, make) in wanted {
            there(&file, make)?;
        }
        Ok(found)
    }

    /// Assembles the boot-sector guest.
    ///
    /// # Errors
    /// `as` or `ld` fails, or does not make one sector.
    pub fn boot_sector(&self, work: &Path) -> Result<Vec<u8>> {
        let (object, binary) = (work.join("boot.o"), work.join("boot.bin"));
        checked(
            Command::new("as")
                .args(["--32", "-o"])
                .arg(&object)
                .arg(self.sources.join("guest/boot.S")),
        )?;
        checked(
            Command::new("ld")
                .args([
                    "-m",
                    "elf_i386",
                    "-Ttext",
                    "0x7c00",
                    "--oformat",
                    "binary",
                    "-o",
                ])
                .arg(&binary)
                .arg(&object),
        )?;
        let bytes = fs::read(&binary)?;
        ensure!(
            bytes.len() == 512,
            "the boot sector has {} bytes",
            bytes.len()
        );
        Ok(bytes)
    }

    /// Makes `payload.img` in `work`, a small ext4 image of what a host gets for one run.
    ///
    /// # Errors
    /// As [`Artifacts::payload_tree`]; `mke2fs` fails.
    pub fn payload(&self, work: &Path, settings: &str) -> Result<()> {
        let tree = self.payload_tree(work, settings)?;
        checked(
            Command::new("mke2fs")
                .args(["-q", "-t", "ext4", "-L", "payload", "-d"])
                .arg(&tree)
                .arg(work.join("payload.img"))
                .arg("256M"),
        )?;
        Ok(fs::remove_dir_all(&tree)?)
    }

    /// What is in that image, as a directory in `work`: the product installed as `make install` does,
    /// `settings` as `/etc/p2v/p2v.toml`, and the lab's own program and init.
    ///
    /// # Errors
    /// A file cannot be read or written, or `make` fails.
    pub fn payload_tree(&self, work: &Path, settings: &str) -> Result<PathBuf> {
        let tree = work.join("payload");
        let root = tree.join("root");
        fs::create_dir_all(root.join("etc/p2v"))?;
        fs::write(root.join("etc/p2v/p2v.toml"), settings)?;
        let repository = self
            .sources
            .parent()
            .context("the crate is in the workspace")?;
        checked(
            Command::new("make")
                .args(["--no-print-directory", "-s", "install-files"])
                .arg(format!("DESTDIR={}", root.display()))
                .current_dir(repository),
        )?;
        fs::copy(&self.agent, root.join("usr/sbin/p2v-agent"))?;
        fs::copy(self.binaries.join("lab-guest"), tree.join("lab-guest"))?;
        fs::copy(
            self.sources.join("xen-host/lab-init"),
            tree.join("lab-init"),
        )?;
        Ok(tree)
    }
}

fn there(file: &Path, make: &str) -> Result<()> {
    ensure!(
        file.exists(),
        "{} is not there: `{make}` makes it",
        file.display()
    );
    Ok(())
}

/// Runs a program that must succeed.
///
/// # Errors
/// It cannot be run, or fails.
pub fn checked(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
