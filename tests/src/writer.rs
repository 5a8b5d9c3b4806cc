//! A small Linux that runs as the domain `e1` and writes to its disk, one block after the other, each with `fsync`, and
//! tells on its serial port what was acknowledged (`guest/writer-init`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};

use crate::artifacts::Artifacts;
use crate::disk::Disk;
use crate::xen_host::XenHost;

/// What its serial port says.
pub const SERIAL: &str = "/var/log/xen/e1.serial";
/// Its first block on the disk, their size in bytes, and how many it writes over and over.
const FIRST: u64 = 512;
const BLOCK: u64 = 4096;
const BLOCKS: u64 = 1024;
/// What Linux says of a disk that fails, and the guest of a write.
const COMPLAINTS: &[&str] = &[
    "I/O error",
    "exception Emask",
    "lost async",
    "p2v guest: ERROR",
];

/// Has the domain boot it in the place of what is on its disk: by the config that an operator edits.
///
/// # Errors
/// As [`Shell::ok`](crate::shell::Shell::ok); the guest's init cannot be read.
pub fn install(artifacts: &Artifacts, host: &mut XenHost) -> Result<()> {
    let init = fs::read_to_string(artifacts.sources.join("guest/writer-init"))?;
    host.ok(&format!(
        "set -e; mkdir -p /tmp/writer/bin /tmp/writer/proc /tmp/writer/dev /tmp/writer/tmp; cd /tmp/writer\n\
         cp /bin/busybox bin/\n\
         cat >init <<'END'\n{init}END\n\
         chmod 755 init\n\
         for module in sd_mod ata_piix; do modprobe --show-depends $module; done | sed -n 's/^insmod //p' | \
             awk '!seen[$1]++ {{ print $1 }}' | while read file; do cp $file . && basename $file; done >modules\n\
         find . | cpio --quiet -o -H newc | gzip -1 >/var/tmp/writer.gz\n\
         p2v list >/dev/null && p2v config e1 --write\n\
         cat >>/etc/xen/e1.cfg <<END\n\
         kernel = \"$(echo /boot/vmlinuz-*)\"\n\
         ramdisk = \"/var/tmp/writer.gz\"\n\
         cmdline = \"console=ttyS0 panic=5\"\n\
         END\n\
         sync"
    ))?;
    Ok(())
}

/// What was acknowledged up to now.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    /// The last number of each block.
    blocks: BTreeMap<u64, u64>,
    /// The last number.
    pub last: u64,
    /// The longest that passed between two, in the guest's own seconds.
    pub longest: f64,
    /// Lines in which anything complains.
    pub complaints: Vec<String>,
}

/// Reads what it has said.
///
/// # Errors
/// As [`Shell::ok`](crate::shell::Shell::ok).
pub fn acknowledged(host: &mut XenHost) -> Result<Acknowledged> {
    let mut told = Acknowledged::default();
    let mut before = None;
    for line in host.ok(&format!("cat {SERIAL}"))?.lines() {
        if COMPLAINTS.iter().any(|words| line.contains(words)) {
            told.complaints.push(line.to_owned());
        }
        let Some((_, rest)) = line.split_once("p2v guest: acked ") else {
            continue;
        };
        // The last line may be half a one.
        let Some((number, at)) = rest.trim_end().split_once(" at ") else {
            continue;
        };
        let (Ok(number), Ok(at)) = (number.parse::<u64>(), at.parse::<f64>()) else {
            continue;
        };
        told.blocks.insert(FIRST + number % BLOCKS, number);
        told.last = number;
        told.longest = before.map_or(0.0, |before: f64| told.longest.max(at - before));
        before = Some(at);
    }
    Ok(told)
}

/// Waits until it has written some blocks more.
///
/// # Errors
/// It writes none in time; else as [`acknowledged`].
pub fn goes_on(host: &mut XenHost) -> Result<()> {
    let last = acknowledged(host)?.last;
    host.wait_for_line(SERIAL, &format!("p2v guest: acked {} ", last + 5))?;
    Ok(())
}

impl Acknowledged {
    /// That everything acknowledged is on the disk.
    ///
    /// # Errors
    /// Something is missing, or nothing was acknowledged; the disk cannot be read.
    pub fn are_on(&self, disk: &Disk) -> Result<()> {
        let file = File::open(&disk.path)?;
        for (block, number) in &self.blocks {
            let mut text = [0; BLOCK as usize];
            file.read_exact_at(&mut text, block * BLOCK)?;
            let text = std::str::from_utf8(&text)
                .context("not the guest's")?
                .trim_end();
            let found: u64 = text
                .parse()
                .with_context(|| format!("block {block}: {text:?}"))?;
            // A later one may be there too, whose acknowledgement was not told yet.
            ensure!(
                found >= *number && (found - number).is_multiple_of(BLOCKS),
                "block {block}: {number} was acknowledged, and {found} is there"
            );
        }
        ensure!(!self.blocks.is_empty(), "nothing was acknowledged");
        Ok(())
    }
}
