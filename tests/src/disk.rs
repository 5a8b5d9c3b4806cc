//! Disks of the old server, whose every byte the tests know.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// Bytes in a sector.
pub const SECTOR: u64 = 512;
/// Where the guest counts its boots.
pub const COUNTER_SECTOR: u64 = 1;

/// A raw disk image.
pub struct Disk {
    /// The file.
    pub path: PathBuf,
}

impl Disk {
    /// A disk with the boot-sector guest, no boots counted, and in every other sector a pattern that
    /// tells where it is.
    ///
    /// # Errors
    /// It cannot be written; `boot_sector` is not one sector, or `bytes` no whole number of them.
    pub fn with_guest(path: &Path, bytes: u64, boot_sector: &[u8]) -> Result<Disk> {
        ensure!(boot_sector.len() as u64 == SECTOR && bytes.is_multiple_of(SECTOR));
        let mut file = File::create(path)?;
        file.write_all(boot_sector)?;
        file.write_all(&[0; SECTOR as usize])?;
        write_pattern(&mut file, 2, bytes / SECTOR)?;
        Ok(Disk {
            path: path.to_owned(),
        })
    }

    /// A disk with a pattern in every sector that tells where it is.
    ///
    /// # Errors
    /// It cannot be written, or `bytes` is no whole number of sectors.
    pub fn with_pattern(path: &Path, bytes: u64) -> Result<Disk> {
        ensure!(bytes.is_multiple_of(SECTOR));
        write_pattern(&mut File::create(path)?, 0, bytes / SECTOR)?;
        Ok(Disk {
            path: path.to_owned(),
        })
    }

    /// Makes it the first half of a mirror of whole disks: a superblock of md's version 1.0, which is at the end
    /// (`struct mdp_superblock_1` in Linux' `include/uapi/linux/raid/md_p.h`).
    ///
    /// # Errors
    /// It cannot be written.
    pub fn make_raid_member(&self) -> Result<()> {
        const ROLES: usize = 128;
        let sectors = self.bytes()? / SECTOR;
        // 8 KiB from the end, and on a boundary of 4 KiB.
        let at = (sectors - 16) & !7;
        let mut block = vec![0; 256 + 2 * ROLES];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &0xa92b_4efc_u32.to_le_bytes());
        put(4, &1_u32.to_le_bytes());
        put(16, b"p2v's lab: array");
        put(32, b"oldserver:0");
        let [level, disks] = [1_u32, 2].map(u32::to_le_bytes);
        put(72, &level);
        put(80, &at.to_le_bytes());
        put(92, &disks);
        put(136, &at.to_le_bytes());
        put(144, &at.to_le_bytes());
        put(168, b"p2v's lab: disk ");
        put(200, &1_u64.to_le_bytes());
        // It was in sync everywhere.
        put(208, &u64::MAX.to_le_bytes());
        put(220, &(ROLES as u32).to_le_bytes());
        // The first has role 0, the second 1, and no other any.
        put(256, &0_u16.to_le_bytes());
        put(258, &1_u16.to_le_bytes());
        put(260, &[0xff; 2 * (ROLES - 2)]);
        let words = block.chunks_exact(4);
        let sum: u64 = words
            .map(|w| u64::from(u32::from_le_bytes([w[0], w[1], w[2], w[3]])))
            .sum();
        let sum = (sum & u64::from(u32::MAX)) + (sum >> 32);
        block[216..220].copy_from_slice(&(sum as u32).to_le_bytes());
        let mut file = File::options().write(true).open(&self.path)?;
        file.seek(SeekFrom::Start(at * SECTOR))?;
        Ok(file.write_all(&block)?)
    }

    /// Whether the bytes `from` to `to` still are the pattern.
    ///
    /// # Errors
    /// It cannot be read, or they are no whole sectors.
    pub fn has_pattern(&self, from: u64, to: u64) -> Result<bool> {
        ensure!(from.is_multiple_of(SECTOR) && to.is_multiple_of(SECTOR));
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut found = vec![0; usize::try_from(to - from)?];
        file.read_exact(&mut found)?;
        Ok(found == pattern(from / SECTOR, to / SECTOR))
    }

    /// BLAKE3 of the whole disk, in hex.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn hash(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(&self.path)?)?;
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// The number of boots that the guest has counted.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn boots(&self) -> Result<u32> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(COUNTER_SECTOR * SECTOR))?;
        let mut number = [0; 4];
        file.read_exact(&mut number)?;
        Ok(u32::from_le_bytes(number))
    }

    /// Size in bytes.
    ///
    /// # Errors
    /// The file is not there.
    pub fn bytes(&self) -> Result<u64> {
        Ok(fs::metadata(&self.path)?.len())
    }
}

/// Fills sectors `from` to `to` with a pattern that names each sector.
pub(crate) fn write_pattern(file: &mut File, from: u64, to: u64) -> Result<()> {
    let mut at = from;
    while at < to {
        let end = to.min(at + 2048);
        file.write_all(&pattern(at, end))?;
        at = end;
    }
    Ok(())
}

/// The pattern of sectors `from` to `to`.
fn pattern(from: u64, to: u64) -> Vec<u8> {
    let words = SECTOR / 8;
    (from..to)
        .flat_map(|sector| (0..words).flat_map(move |i| (sector << 8 | i).to_le_bytes()))
        .collect()
}
