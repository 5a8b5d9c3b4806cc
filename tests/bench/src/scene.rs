//! Two network namespaces, a target in one and the load in the other.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde::Serialize;

use crate::generator::Figures;
use crate::measured::{self, median};
use crate::network::Network;
use crate::rows::{Disk, Pattern, Row, Server};
use crate::slow_disk;

/// Where the targets serve.
pub const SHELF: u16 = 1;
pub const SLOT: u8 = 0;
/// Bytes of the disk image: many times what a target keeps of its own.
const SIZE: u64 = 1 << 30;

/// What a row came to: the median of its rounds by each server.
pub type Measured = measured::Measured<Row, Server, Taken>;

/// One server's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Taken {
    #[serde(flatten)]
    pub figures: Figures,
    /// Processor seconds of the target's threads for 2^30 bytes.
    pub cpu_seconds_per_gib: f64,
}

/// The disks.
pub struct Scene {
    image: PathBuf,
    mount: PathBuf,
}

impl Scene {
    /// Makes the image in `directory`, if it is not there.
    pub fn new(directory: &Path) -> Result<Scene> {
        fs::create_dir_all(directory)?;
        let image = directory.join("disk.img");
        if fs::metadata(&image).map(|m| m.len()).ok() != Some(SIZE) {
            println!("making {} (1 GiB of random data)", image.display());
            let mut from = File::open("/dev/urandom")?.take(SIZE);
            let mut to = File::create(&image)?;
            std::io::copy(&mut from, &mut to)?;
            to.flush()?;
            to.sync_all()?;
        }
        Ok(Scene {
            image: image.canonicalize()?,
            mount: directory.join("slow"),
        })
    }

    /// Measures a row so many times, the servers by turns, and takes the median of each.
    pub fn measure(&self, row: &Row, seconds: f64, rounds: usize) -> Result<Measured> {
        let slow = match row.disk {
            Disk::Slow => Some(slow_disk::mount(&self.mount)?),
            _ => None,
        };
        let file = match slow {
            Some(_) => self.mount.join(slow_disk::NAME).canonicalize()?,
            None => self.image.clone(),
        };
        Measured::by_turns(
            row,
            row.name(),
            &row.servers,
            rounds,
            |server| self.once(row, server, &file, seconds),
            |list| median(list, |taken| taken.figures.iops),
        )
    }

    fn once(&self, row: &Row, server: Server, file: &Path, seconds: f64) -> Result<Taken> {
        match row.disk {
            Disk::Cached => warm(file)?,
            Disk::Uncached => forget(file)?,
            Disk::Slow => {}
        }
        let network = Network::new(row.mtu)?;
        let own = std::env::current_exe()?;
        let own = own.to_str().context("the program's path is not UTF-8")?;
        let path = file.to_str().context("the image's path is not UTF-8")?;
        let words: Vec<&str> = match server {
            Server::Ours => vec![own, "target", "target0", path],
            Server::Ceiling => vec![own, "ceiling", "target0", path],
            Server::Vblade => {
                let mut words = vec!["vblade", "-b", "64"];
                words.extend(row.vblade);
                words.extend(["1", "0", "target0", path]);
                words
            }
        };
        let target = Process(
            network
                .command(&network.target, 1, &words)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .with_context(|| format!("cannot start {}", words[0]))?,
        );
        let pattern = match row.pattern {
            Pattern::SequentialRead => "sequential-read",
            Pattern::SequentialWrite => "sequential-write",
            Pattern::RandomRead => "random-read",
        };
        let (in_flight, sectors) = (row.in_flight.to_string(), row.sectors().to_string());
        let (size, seconds) = (
            (SIZE / p2v_contract::SECTOR).to_string(),
            seconds.to_string(),
        );
        let words = [
            own, "generate", "load0", pattern, &in_flight, &sectors, &size, &seconds,
        ];
        let before = processor_seconds(target.0.id())?;
        let output = network.command(&network.load, 0, &words).output()?;
        let used = processor_seconds(target.0.id()).context("the target has ended")? - before;
        if !output.status.success() {
            bail!(
                "{}",
                String::from_utf8_lossy(&output.stderr).trim().to_owned()
            );
        }
        let figures: Figures = serde_json::from_slice(&output.stdout)?;
        let gib = figures.bytes as f64 / f64::from(1 << 30);
        Ok(Taken {
            cpu_seconds_per_gib: if gib > 0.0 { used / gib } else { f64::NAN },
            figures,
        })
    }
}

/// Reads the file into memory.
fn warm(file: &Path) -> Result<()> {
    std::io::copy(&mut File::open(file)?, &mut std::io::sink())?;
    Ok(())
}

/// Has the kernel forget what it has of the file.
pub fn forget(file: &Path) -> Result<()> {
    let file = File::open(file)?;
    file.sync_all()?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(())
}

/// User and system time of all threads of a process (`proc(5)`, fields 14 and 15 of `stat`). What the
/// kernel does for others in its interrupts is not in it.
pub fn processor_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit_once(')').context("no name in stat")?.1;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks: f64 = [11, 12]
        .iter()
        .filter_map(|field| fields.get(*field)?.parse::<f64>().ok())
        .sum();
    // SAFETY: no pointers are passed.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(ticks / per_second as f64)
}

/// A process that ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
