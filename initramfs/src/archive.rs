//! The initial RAM file system: a "newc" cpio archive (`Documentation/driver-api/early-userspace/
//! buffer-format.rst` in the kernel), packed with zstd. The same files give the same bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};

/// What stands at a path of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory, mode 0755.
    Directory,
    /// A file and its permission bits.
    File {
        /// Permission bits, such as 0o644.
        mode: u32,
        /// Its bytes.
        content: Vec<u8>,
    },
    /// A symbolic link and where it points.
    Symlink(String),
}

/// The files of an archive by path (no leading `/`), with their parent directories.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

/// zstd level: the highest whose window (8 MiB) an old machine's memory can spare while the
/// kernel unpacks.
const LEVEL: i32 = 19;

/// More than one so that both cores help; the bytes do not depend on it being 2 or more.
const WORKERS: u32 = 2;

impl Archive {
    /// Adds `entry` at `path`, and the directories above it.
    pub fn add(&mut self, path: &str, entry: Entry) {
        for (slash, _) in path.match_indices('/') {
            self.entries
                .entry(path[..slash].to_owned())
                .or_insert(Entry::Directory);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Adds a file.
    pub fn add_file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        let content = content.into();
        self.add(path, Entry::File { mode, content });
    }

    /// Adds a file that is packed with zstd by itself, so that it stays packed in the machine's
    /// memory.
    ///
    /// # Errors
    /// zstd cannot pack it.
    pub fn add_packed(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.add_file(path, 0o644, zstd::bulk::compress(content, LEVEL)?);
        Ok(())
    }

    /// Bytes of all files: about what the archive takes of the machine's memory.
    pub fn unpacked(&self) -> u64 {
        self.entries
            .values()
            .map(|e| match e {
                Entry::File { content, .. } => content.len() as u64,
                _ => 0,
            })
            .sum()
    }

    /// Writes the archive, unpacked.
    ///
    /// # Errors
    /// It cannot be written to `out`, or a file is larger than 4 GiB.
    pub fn write_cpio(&self, mut out: impl Write) -> io::Result<()> {
        for (number, (path, entry)) in (1u32..).zip(&self.entries) {
            // File type bits: stat(2).
            let (mode, content): (u32, &[u8]) = match entry {
                Entry::Directory => (0o040_755, &[]),
                Entry::File { mode, content } => (0o100_000 | mode, content),
                Entry::Symlink(target) => (0o120_777, target.as_bytes()),
            };
            let size = u32::try_from(content.len()).map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{path} is larger than 4 GiB"),
                )
            })?;
            let mut writer = cpio::newc::Builder::new(path)
                .ino(number)
                .mode(mode)
                .nlink(1)
                .mtime(0)
                .write(&mut out, size);
            writer.write_all(content)?;
            writer.finish()?;
        }
        cpio::newc::trailer(&mut out)?;
        out.flush()
    }

    /// The archive as bytes, packed.
    ///
    /// # Errors
    /// zstd cannot pack it, or a file is larger than 4 GiB.
    pub fn pack(&self) -> io::Result<Vec<u8>> {
        let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
        encoder.multithread(WORKERS)?;
        encoder.include_checksum(true)?;
        self.write_cpio(&mut encoder)?;
        encoder.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Archive {
        let mut archive = Archive::default();
        archive.add("lib/modules/x", Entry::Directory);
        archive.add_file("init", 0o755, "#!");
        archive.add("sbin/modprobe", Entry::Symlink("/init".into()));
        archive
    }

    #[test]
    fn parents_come_before_what_is_in_them() {
        let mut bytes = Vec::new();
        sample().write_cpio(&mut bytes).unwrap();
        let mut names = Vec::new();
        let mut rest = bytes.as_slice();
        loop {
            let reader = cpio::NewcReader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push((reader.entry().name().to_owned(), reader.entry().mode()));
            rest = reader.finish().unwrap();
        }
        assert_eq!(
            names,
            [
                ("init".to_owned(), 0o100_755),
                ("lib".to_owned(), 0o40_755),
                ("lib/modules".to_owned(), 0o40_755),
                ("lib/modules/x".to_owned(), 0o40_755),
                ("sbin".to_owned(), 0o40_755),
                ("sbin/modprobe".to_owned(), 0o120_777),
            ]
        );
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let mut other = Archive::default();
        other.add("sbin/modprobe", Entry::Symlink("/init".into()));
        other.add_file("init", 0o755, "#!");
        other.add("lib/modules/x", Entry::Directory);
        assert_eq!(sample().pack().unwrap(), other.pack().unwrap());
    }
}
