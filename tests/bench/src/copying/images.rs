//! The disks that are copied. Made once, and the same every time.

use std::cell::OnceCell;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::rows::Disk;

const MIB: u64 = 1 << 20;
/// Bytes of the disk with random data.
const RANDOM: u64 = 2 << 30;
/// Bytes of those with file systems.
const AGED: u64 = 8 << 30;
/// The ext4 partition: first MiB, MiB, and MiB of files in it.
const EXT4: (u64, u64, u64) = (1, 5 * 1024, 1024);
/// The FAT one.
const FAT: (u64, u64, u64) = (EXT4.0 + EXT4.1, 3 * 1024 - 1, 600);
/// MiB of one file.
const FILE: u64 = 25;
/// Bytes that count as in use or not together.
const GRAIN: usize = 64 << 10;

/// A disk.
pub struct Image {
    pub path: PathBuf,
    pub bytes: u64,
    /// First sector and number of them of what was written into the file systems, as JSON: every copy has it.
    pub used: PathBuf,
}

/// Those there are.
pub struct Images {
    directory: PathBuf,
    made: [OnceCell<Image>; 3],
}

impl Images {
    pub fn new(directory: &Path) -> Images {
        Images {
            directory: directory.to_owned(),
            made: Default::default(),
        }
    }

    /// The disk, which is made if it is not there.
    pub fn get(&self, disk: Disk) -> Result<&Image> {
        let cell = &self.made[disk as usize];
        if let Some(image) = cell.get() {
            return Ok(image);
        }
        let (name, bytes) = match disk {
            Disk::Random => ("random.img", RANDOM),
            Disk::Aged => ("aged.img", AGED),
            Disk::AgedZeros => ("aged-zeros.img", AGED),
        };
        let image = Image {
            path: self.directory.join(name),
            bytes,
            used: self.directory.join("aged-used.json"),
        };
        if fs::metadata(&image.path).map(|m| m.len()).ok() != Some(bytes) {
            println!("making {}", image.path.display());
            let half_made = image.path.with_extension("half-made");
            match disk {
                Disk::Random => fill(&half_made, bytes, 1)?,
                Disk::Aged => self.make_aged(&half_made, true)?,
                Disk::AgedZeros => self.make_aged(&half_made, false)?,
            }
            fs::rename(&half_made, &image.path)?;
        }
        if disk == Disk::Aged && !image.used.exists() {
            let zeros = self.get(Disk::AgedZeros)?;
            let used = serde_json::to_vec(&used(&image.path, &zeros.path)?)?;
            fs::write(&image.used, used)?;
        }
        Ok(cell.get_or_init(|| image))
    }

    /// File systems with files in them, over old data or over zeros.
    fn make_aged(&self, path: &Path, old_data: bool) -> Result<()> {
        let work = path.with_extension("work");
        if old_data {
            fill(&work, AGED, 2)?;
        } else {
            File::create(&work)?.set_len(AGED)?;
        }
        let disk = text(&work)?;
        let mib = |sectors: u64| sectors * (MIB / 512);
        let table = format!(
            "label: dos\nlabel-id: 0x70327620\n{},{},83\n{},{},c\n",
            mib(EXT4.0),
            mib(EXT4.1),
            mib(FAT.0),
            mib(FAT.1)
        );
        feed(Command::new("sfdisk").args(["-q", disk]), &table)?;
        let files = self.directory.join("files");
        let _ = fs::remove_dir_all(&files);
        self.write_files(&files, EXT4.2, 3)?;
        // No discards: they would punch holes. Names and times that are the same every time.
        let uuid = "70327620-6265-4e63-8820-636f70696573";
        run(Command::new("mke2fs")
            .env("E2FSPROGS_FAKE_TIME", "1700000000")
            .args(["-q", "-F", "-t", "ext4", "-U", uuid, "-d"])
            .arg(&files)
            .arg("-E")
            .arg(format!(
                "offset={},nodiscard,lazy_itable_init=0,lazy_journal_init=0,hash_seed={uuid}",
                EXT4.0 * MIB
            ))
            .arg(disk)
            .arg(format!("{}k", EXT4.1 * 1024)))?;
        fs::remove_dir_all(&files)?;
        self.write_files(&files, FAT.2, 4)?;
        run(Command::new("mkfs.vfat")
            .args(["-F", "32", "-i", "70327620", "--offset"])
            .arg((FAT.0 * MIB / 512).to_string())
            .arg(disk)
            .arg((FAT.1 * 1024).to_string()))?;
        let mut names: Vec<PathBuf> = fs::read_dir(&files)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        names.sort();
        run(Command::new("mcopy")
            .args(["-m", "-i", &format!("{disk}@@{}", FAT.0 * MIB)])
            .args(names)
            .arg("::"))?;
        fs::remove_dir_all(&files)?;
        // Holes, which mke2fs leaves as well, become zeros that were written.
        run(Command::new("cp").arg("--sparse=never").args([&work, path]))?;
        File::open(path)?.sync_all()?;
        fs::remove_file(&work)?;
        Ok(())
    }

    fn write_files(&self, to: &Path, mib: u64, seed: u64) -> Result<()> {
        fs::create_dir_all(to)?;
        for number in 0..mib / FILE {
            let path = to.join(format!("file{number:03}"));
            fill(&path, FILE * MIB, seed << 32 | number)?;
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
            File::open(&path)?.set_modified(time)?;
        }
        Ok(())
    }
}

/// A file of data that nothing can make shorter.
fn fill(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    let mut space = vec![0u8; MIB as usize];
    let mut place = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for _ in 0..bytes / MIB {
        for word in space.as_chunks_mut::<8>().0 {
            // xorshift64 (Marsaglia).
            place ^= place << 13;
            place ^= place >> 7;
            place ^= place << 17;
            *word = place.to_le_bytes();
        }
        file.write_all(&space)?;
    }
    file.sync_all()?;
    Ok(())
}

/// What is in use: what the two disks, which differ in the rest, have alike.
fn used(one: &Path, other: &Path) -> Result<Vec<(u64, u64)>> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut here, mut there) = (vec![0; GRAIN], vec![0; GRAIN]);
    let sectors = GRAIN as u64 / p2v_contract::SECTOR;
    let mut extents: Vec<(u64, u64)> = Vec::new();
    let end = one.seek(SeekFrom::End(0))?;
    one.rewind()?;
    for grain in 0..end / GRAIN as u64 {
        one.read_exact(&mut here)?;
        other.read_exact(&mut there)?;
        let free = here != there && there.iter().all(|byte| *byte == 0);
        let lba = grain * sectors;
        match extents.last_mut() {
            _ if free => {}
            Some((first, count)) if *first + *count == lba => *count += sectors,
            _ => extents.push((lba, sectors)),
        }
    }
    Ok(extents)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is not UTF-8")
}

fn run(command: &mut Command) -> Result<()> {
    feed(command, "")
}

/// Runs a program, which must succeed.
fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
