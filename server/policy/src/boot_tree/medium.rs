//! An image for CDs and USB sticks, made by GRUB's and libburnia's tools: it starts by BIOS and by UEFI.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail};
use p2v_dom0::tool::Tools;

/// The name of its volume: the agent knows by it what it was started from, and never exports it
/// (`appliance/agent/src/partitions.rs`).
const VOLUME: &str = "P2V_AGENT";

/// Where an ISO 9660 volume's identifier is, in bytes: sector 16 of 2048 (ECMA-119, 6.2.1 and 8.4).
const VOLUME_ID: u64 = 16 * 2048 + 40;

/// What GRUB needs to start by each firmware, and where Debian has it.
const PLATFORMS: [(&str, &str, &str); 2] = [
    ("/usr/lib/grub/i386-pc", "BIOS", "grub-pc-bin"),
    (
        "/usr/lib/grub/x86_64-efi",
        "64-bit UEFI",
        "grub-efi-amd64-bin",
    ),
];

/// What goes into it, beside the menu.
#[derive(Clone, Debug)]
pub struct Contents<'a> {
    /// The kernel.
    pub kernel: &'a Path,
    /// The initial RAM disk.
    pub initrd: &'a Path,
    /// What to do if one of them is not there.
    pub advice: String,
}

/// Whether an image may be written to `file`: there is nothing, or an earlier image of ours.
///
/// # Errors
/// Something else is there.
pub fn may_be_written(file: &Path) -> Result<()> {
    let Ok(meta) = fs::symlink_metadata(file) else {
        return Ok(());
    };
    let ours = || -> std::io::Result<bool> {
        let mut id = [0; 32];
        let mut image = File::open(file)?;
        image.seek(SeekFrom::Start(VOLUME_ID))?;
        image.read_exact(&mut id)?;
        Ok(id == *format!("{VOLUME:<32}").as_bytes())
    };
    if !meta.is_file() {
        bail!(
            "{} is there and is no file: name a file, and write that to the stick or CD",
            file.display()
        );
    }
    if !ours().unwrap_or(false) {
        bail!(
            "{} is there and is no image of p2v's: move it away, or name another file",
            file.display()
        );
    }
    Ok(())
}

/// Writes the image; returns its size in bytes. What was at `file` is replaced when it is whole.
///
/// # Errors
/// What is missing, with its Debian package; or what the tool said.
pub fn write(file: &Path, contents: Contents<'_>, menu: &str) -> Result<u64> {
    let tools = Tools::new();
    for (dir, firmware, package) in PLATFORMS {
        // grub-mkrescue leaves out what is not there, and says nothing.
        if !Path::new(dir).exists() {
            bail!("GRUB for {firmware} is not installed ({dir}); on Debian: apt install {package}");
        }
    }
    // It runs both, and its errors do not name their packages.
    tools.run("xorriso", ["-version"])?;
    tools.run("mtools", ["--version"])?;

    let stage = tempfile::tempdir().context("cannot make a directory for the image's files")?;
    let boot = stage.path().join("boot");
    let put = |from: &Path, name: &str| {
        fs::copy(from, boot.join(name))
            .with_context(|| format!("cannot copy {} ({})", from.display(), contents.advice))
    };
    fs::create_dir_all(boot.join("grub"))?;
    put(contents.kernel, "vmlinuz")?;
    put(contents.initrd, "initrd")?;
    fs::write(boot.join("grub/grub.cfg"), menu)?;

    let dir = match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let image = tempfile::Builder::new()
        .prefix(".p2v-image-")
        .tempfile_in(dir)
        .with_context(|| format!("cannot write in {}", dir.display()))?;
    // Without fonts and translations, and packed: the menu is plain text.
    tools.run(
        "grub-mkrescue",
        [
            "--fonts=".as_ref(),
            "--locales=".as_ref(),
            "--themes=".as_ref(),
            "--compress=xz".as_ref(),
            "-o".as_ref(),
            image.path().as_os_str(),
            stage.path().as_os_str(),
            "--".as_ref(),
            "-volid".as_ref(),
            VOLUME.as_ref(),
        ],
    )?;
    may_be_written(image.path())
        .context("grub-mkrescue has made something else than was expected")?;
    let bytes = image.path().metadata()?.len();
    File::open(image.path())?.sync_all()?;
    image
        .persist(file)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(bytes)
}
