//! An old system on a partitioned disk: GRUB, whose code is in the gap before the first partition and whose
//! files are on ext4 (`guest/grub.cfg`), the guest that counts its boots and is started by it, swap space,
//! files that were deleted, and files that were not.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::artifacts::{Artifacts, checked};
use crate::disk::{COUNTER_SECTOR, Disk, SECTOR, write_pattern};

/// Not a multiple of 4 MiB, so that a volume of whole extents is larger than the disk.
const SECTORS: u64 = 172 * 2048 + 77;
/// First sector of the swap space.
const SWAP: u64 = 2048;
/// First sector of the file system.
const ROOT: u64 = 67_584;
/// Behind its last one.
const ROOT_END: u64 = ROOT + 262_144;
const TABLE: &str =
    "label: dos\nstart=2048, size=65536, type=82\nstart=67584, size=262144, type=83, bootable\n";
/// Code of the boot sector; the disk's name and the partition table are behind it.
const BOOT_CODE: u64 = 440;
const GRUB: &str = "/usr/lib/grub/i386-pc";
/// First sector of GRUB in the gap; before it is [`COUNTER_SECTOR`].
const CORE: u64 = COUNTER_SECTOR + 1;
/// Where the boot sector has that (`GRUB_BOOT_MACHINE_KERNEL_SECTOR`), and where the first sector of what
/// is there has the next one (the last entry of its list); both as a number of 64 bits.
const NEXT_IN_BOOT: u64 = 0x5c;
const NEXT_IN_CORE: u64 = 0x1f4;

/// What it says on COM1 when its files have their contents; then the guest counts.
pub const FILES: &str = "p2v guest: the files are as they should be";
/// What the deleted files are full of.
pub const DELETED: &str = "p2v deleted payroll";

/// Writes such a disk of 180 MB to `path`; `work` is for files on the way.
///
/// # Errors
/// A file cannot be read or written, or a program that makes a part of it fails.
pub fn make(artifacts: &Artifacts, path: &Path, work: &Path) -> Result<Disk> {
    let mut file = File::create(path)?;
    write_pattern(&mut file, 0, SWAP)?;
    file.set_len(SECTORS * SECTOR)?;
    let mut sfdisk = Command::new("sfdisk")
        .arg("-q")
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()?;
    let mut stdin = sfdisk.stdin.take().context("sfdisk has no input")?;
    stdin.write_all(TABLE.as_bytes())?;
    drop(stdin);
    ensure!(
        sfdisk.wait()?.success(),
        "sfdisk could not partition {}",
        path.display()
    );

    let core = work.join("core.img");
    checked(
        Command::new("grub-mkimage")
            .args(["-O", "i386-pc", "-p", "(hd0,msdos2)/boot/grub", "-o"])
            .arg(&core)
            .args(["biosdisk", "part_msdos", "ext2", "normal", "serial", "echo"])
            .args(["test", "hashsum", "gcry_sha256", "chain", "boot"]),
    )?;
    ensure!(fs::metadata(&core)?.len() < (SWAP - CORE) * SECTOR);
    copy(&Path::new(GRUB).join("boot.img"), BOOT_CODE, path, 0)?;
    copy(&core, u64::MAX, path, CORE * SECTOR)?;
    put(path, NEXT_IN_BOOT, &CORE.to_le_bytes())?;
    put(
        path,
        CORE * SECTOR + NEXT_IN_CORE,
        &(CORE + 1).to_le_bytes(),
    )?;
    put(path, COUNTER_SECTOR * SECTOR, &[0; SECTOR as usize])?;

    let swap = work.join("swap");
    File::create(&swap)?.set_len((ROOT - SWAP) * SECTOR)?;
    checked(Command::new("mkswap").arg("-q").arg(&swap))?;
    copy(&swap, 4096, path, SWAP * SECTOR)?;

    let tree = work.join("files");
    files(artifacts, &tree, &artifacts.boot_sector(work)?)?;
    checked(
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-E"])
            .arg(format!("offset={}", ROOT * SECTOR))
            .arg("-d")
            .arg(&tree)
            .arg(path)
            .arg("128M"),
    )?;
    fs::remove_dir_all(&tree)?;
    checked(
        Command::new("debugfs")
            .args(["-w", "-R", "rm deleted"])
            .arg(at_root(&path.display().to_string())),
    )?;
    // The tail behind the last partition, to the odd last sector.
    let mut file = File::options().write(true).open(path)?;
    file.seek(SeekFrom::Start(ROOT_END * SECTOR))?;
    write_pattern(&mut file, ROOT_END, SECTORS)?;
    Ok(Disk {
        path: path.to_owned(),
    })
}

/// The file system on such a disk, as programs of e2fsprogs take it.
pub fn at_root(disk: &str) -> String {
    format!("{disk}?offset={}", ROOT * SECTOR)
}

/// A shell command that succeeds if the file system on `disk` has no faults and every file its contents.
pub fn check(disk: &str) -> String {
    format!(
        "e2fsck -fn '{}' && mkdir -p /mnt/root && mount -o ro,loop,offset={} {disk} /mnt/root && \
         (cd /mnt/root && sha256sum --quiet -c sums; status=$?; cd / && umount /mnt/root && exit $status)",
        at_root(disk),
        ROOT * SECTOR
    )
}

/// The tree of files, those to be deleted among them.
fn files(artifacts: &Artifacts, tree: &Path, guest: &[u8]) -> Result<()> {
    let grub = tree.join("boot/grub");
    fs::create_dir_all(&grub)?;
    fs::copy(
        artifacts.sources.join("guest/grub.cfg"),
        grub.join("grub.cfg"),
    )?;
    fs::write(tree.join("boot/guest"), guest)?;
    // As large as GRUB reads in some seconds through an emulated disk in an emulated domain.
    fs::write(tree.join("boot/kernel"), noise(b"kernel", 64 << 10))?;
    for n in 0..40u8 {
        fs::write(tree.join(format!("file{n}")), noise(&[n], 1 << 20))?;
    }
    fs::write(tree.join("deleted"), format!("{DELETED}\n").repeat(1 << 20))?;
    checked(
        Command::new("sh")
            .args([
                "-c",
                "sha256sum boot/kernel >boot/sums && sha256sum file* boot/guest boot/kernel >sums",
            ])
            .current_dir(tree),
    )
}

/// Bytes that do not compress and are always the same.
fn noise(seed: &[u8], bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    blake3::Hasher::new()
        .update(seed)
        .finalize_xof()
        .fill(&mut data);
    data
}

/// Writes to a place in a file.
fn put(to: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
    let mut disk = File::options().write(true).open(to)?;
    disk.seek(SeekFrom::Start(offset))?;
    Ok(disk.write_all(bytes)?)
}

/// Copies the first `most` bytes of a file to a place in another one.
fn copy(from: &Path, most: u64, to: &Path, offset: u64) -> Result<()> {
    let source = File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
    let mut disk = File::options().write(true).open(to)?;
    disk.seek(SeekFrom::Start(offset))?;
    std::io::copy(&mut source.take(most), &mut disk)?;
    Ok(())
}
