//! Copying a whole disk to a file, by us and by what an administrator would use otherwise.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;

use crate::measured::{self, median};
use crate::network::Network;
use crate::scene::forget;

pub mod engine;
mod images;
mod peers;
mod process;
pub mod report;
mod rows;
pub mod share;

use images::{Image, Images};
pub use rows::{Disk, Link, Peer, Row, all};

/// Bits that cross the slow wire in a second, each way.
const GIGABIT: u64 = 1_000_000_000;
/// Bytes that are compared at once.
const PIECE: usize = 1 << 20;
/// A server that does not listen for so long does not run.
const READY: Duration = Duration::from_secs(20);

/// One copy.
#[derive(Clone, Debug, Serialize)]
pub struct Taken {
    /// From the start to a copy on stable storage; ours: without finding and probing the target.
    pub seconds: f64,
    /// What that took, for ours.
    pub attach_seconds: f64,
    /// Bytes of the disk a second, in units of 10^6.
    pub megabytes: f64,
    /// Processor seconds for 2^30 bytes of the disk, on the old machine's side.
    pub old_cpu_per_gib: f64,
    /// And on the copying one's.
    pub new_cpu_per_gib: f64,
    /// The most memory that a copying process had, in MiB.
    pub max_rss: f64,
}

/// What a row came to: by each peer the median of its rounds.
pub type Measured = measured::Measured<Row, Peer, Taken>;

/// Where copies are made.
pub struct Workshop {
    directory: PathBuf,
    images: Images,
}

impl Workshop {
    /// In `directory`; images are made there when they are first asked for, and kept.
    pub fn new(directory: &Path) -> Result<Workshop> {
        fs::create_dir_all(directory)?;
        let directory = directory.canonicalize()?;
        Ok(Workshop {
            images: Images::new(&directory),
            directory,
        })
    }

    /// The directory and the disks, for other measurements of copies.
    pub(crate) fn parts(&self) -> (&Path, &Images) {
        (&self.directory, &self.images)
    }

    /// Measures a row so many times, the peers by turns.
    pub fn measure(&self, row: &Row, rounds: usize) -> Result<Measured> {
        Measured::by_turns(
            row,
            row.name(),
            &row.peers,
            rounds,
            |peer| self.once(row, peer),
            |list| median(list, |taken| taken.seconds),
        )
    }

    fn once(&self, row: &Row, peer: Peer) -> Result<Taken> {
        let image = self.images.get(row.disk)?;
        let copy = Destination::new(&self.directory)?;
        forget(&image.path)?;
        let network = Network::new(row.mtu)?;
        network.with_addresses()?;
        network.without_offloads()?;
        if row.link == Link::Gigabit {
            network.slow_down(GIGABIT, row.mtu)?;
        }
        let roles = peers::roles(peer, image, &copy.0)?;
        let old: Vec<&str> = roles.old.iter().map(String::as_str).collect();
        let new: Vec<&str> = roles.new.iter().map(String::as_str).collect();
        let server = process::Running::start(network.command(&network.target, 1, &old))?;
        if let Some(port) = roles.port {
            let until = Instant::now() + READY;
            while !network.listens(port)? {
                if Instant::now() > until {
                    bail!("{} does not listen", old[0]);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let begun = Instant::now();
        let mut copying = process::Running::start(network.command(&network.load, 0, &new))?;
        let said = copying.output()?;
        let (status, copied) = copying.wait()?;
        let seconds = begun.elapsed().as_secs_f64();
        if !status.success() {
            bail!("{} ended with {status}: {said}", new[0]);
        }
        let served = server.end()?;
        let timed = match peer.is_ours() {
            true => serde_json::from_str(&said)?,
            false => engine::Timed {
                attach_seconds: 0.0,
                copy_seconds: seconds,
            },
        };
        match peer {
            Peer::P2vUsedOnly => same_where_used(image, &copy.0)?,
            _ => same(&image.path, &copy.0)?,
        }
        let gib = image.bytes as f64 / f64::from(1 << 30);
        Ok(Taken {
            seconds: timed.copy_seconds,
            attach_seconds: timed.attach_seconds,
            megabytes: image.bytes as f64 / timed.copy_seconds / 1e6,
            old_cpu_per_gib: served.cpu_seconds / gib,
            new_cpu_per_gib: copied.cpu_seconds / gib,
            max_rss: copied.max_rss_kib as f64 / 1024.0,
        })
    }
}

/// A place for a copy, which is gone with this value.
struct Destination(PathBuf);

impl Destination {
    fn new(directory: &Path) -> Result<Destination> {
        let destination = Destination(directory.join("copy.img"));
        destination.clear();
        // What others have left to be written is not to be our trouble.
        fs::File::open(directory)?.sync_all()?;
        std::io::stdout().flush()?;
        Ok(destination)
    }

    fn clear(&self) {
        for path in [&self.0, &engine::journal_beside(&self.0)] {
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A figure for a copy that is none would be of no use.
fn same(image: &Path, copy: &Path) -> Result<()> {
    let status = std::process::Command::new("cmp")
        .args([image, copy])
        .status()?;
    if !status.success() {
        bail!("the copy is not equal to its disk");
    }
    Ok(())
}

/// The same for a copy of what is used only.
fn same_where_used(image: &Image, copy: &Path) -> Result<()> {
    let extents: Vec<(u64, u64)> = serde_json::from_slice(&fs::read(&image.used)?)?;
    let (one, other) = (fs::File::open(&image.path)?, fs::File::open(copy)?);
    let (mut here, mut there) = (vec![0; PIECE], vec![0; PIECE]);
    for (first, count) in extents {
        let (mut at, end) = (
            first * p2v_contract::SECTOR,
            (first + count) * p2v_contract::SECTOR,
        );
        while at < end {
            let len = PIECE.min((end - at) as usize);
            one.read_exact_at(&mut here[..len], at)?;
            other.read_exact_at(&mut there[..len], at)?;
            if here[..len] != there[..len] {
                bail!("the copy lacks what is used near byte {at} of its disk");
            }
            at += len as u64;
        }
    }
    Ok(())
}
