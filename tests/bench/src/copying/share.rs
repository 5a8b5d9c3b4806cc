//! Two machines whose disks are copied at once over one slow wire: how evenly they share it.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::Workshop;
use super::process::Running;
use super::rows::Disk;
use crate::network::Network;
use crate::scene::{SLOT, forget};

/// Bits that cross the wire in a second: slow enough that nothing else of this machine matters.
const BITS: u64 = 100_000_000;
/// Bytes of each disk.
const BYTES: u64 = 256 << 20;

/// One measurement.
pub struct Row {
    mtu: u32,
}

impl Row {
    pub fn name(&self) -> String {
        format!("copy share 100mbit mtu={} machines=2", self.mtu)
    }
}

/// All of them. A wire of 100 Mbit/s with jumbo frames is not to be found.
pub fn all() -> Vec<Row> {
    vec![Row { mtu: 1500 }]
}

/// How two copies shared the wire.
pub struct Shared {
    name: String,
    /// When each was done, in seconds, the first one first.
    done: [f64; 2],
}

impl Shared {
    /// What each had of the wire while both copied: with a wire that is always full, the second had moved what
    /// is not left over for the time after the first was done.
    fn shares(&self) -> [f64; 2] {
        let [first, second] = self.done;
        let of_first = second / (2.0 * first);
        [of_first, 1.0 - of_first]
    }

    /// Jain's index: 1 where both have the same, 1/2 where one has all (R. Jain et al., DEC-TR-301).
    fn jain(&self) -> f64 {
        let [a, b] = self.shares();
        (a + b).powi(2) / (2.0 * (a * a + b * b))
    }

    pub fn print(&self) {
        let [a, b] = self.shares();
        println!(
            "{}\n  done after {:.1} s and {:.1} s; shares {:.1} % and {:.1} %, Jain's index {:.4}; {:.1} MB/s together",
            self.name,
            self.done[0],
            self.done[1],
            a * 100.0,
            b * 100.0,
            self.jain(),
            2.0 * BYTES as f64 / self.done[1] / 1e6
        );
    }
}

/// Measures a row.
pub fn measure(workshop: &Workshop, row: &Row) -> Result<Shared> {
    let (directory, images) = workshop.parts();
    let text = |path: &std::path::Path| -> Result<String> {
        Ok(path.to_str().context("a path that is no text")?.to_owned())
    };
    let whole = images.get(Disk::Random)?;
    let own = std::env::current_exe()?;
    let agent = text(&own.with_file_name("p2v-agent"))?;
    let own = text(&own)?;
    let network = Network::new(row.mtu)?;
    network.without_offloads()?;
    network.slow_down(BITS, row.mtu)?;
    let (mut servers, mut copies) = (Vec::new(), Vec::new());
    for shelf in ["1", "2"] {
        // Each its own: what one has read is not to be in memory for the other.
        let disk = directory.join(format!("share{shelf}.img"));
        let mut from = std::io::Read::take(fs::File::open(&whole.path)?, BYTES);
        std::io::copy(&mut from, &mut fs::File::create(&disk)?)?;
        forget(&disk)?;
        let slot = SLOT.to_string();
        let words = [
            &agent,
            "export",
            "--shelf",
            shelf,
            "--slot",
            &slot,
            "--iface",
            "target0",
            "--read-only",
        ];
        let disk = text(&disk)?;
        let words: Vec<&str> = words.into_iter().chain([disk.as_str()]).collect();
        servers.push(Running::start(network.command(&network.target, 1, &words))?);
    }
    let begun = Instant::now();
    for shelf in ["1", "2"] {
        let to = directory.join(format!("share{shelf}-copy.img"));
        for old in [&to, &super::engine::journal_beside(&to)] {
            let _ = fs::remove_file(old);
        }
        let to = text(&to)?;
        let words = [&own, "copy", "load0", shelf, &to, "checked"];
        copies.push(Running::start(network.command(&network.load, 0, &words))?);
    }
    let done = std::thread::scope(|scope| {
        let waits: Vec<_> = copies
            .into_iter()
            .map(|copy| {
                scope.spawn(move || -> Result<f64> {
                    let (status, _) = copy.wait()?;
                    let seconds = begun.elapsed().as_secs_f64();
                    if !status.success() {
                        bail!("a copy ended with {status}");
                    }
                    Ok(seconds)
                })
            })
            .collect();
        let mut done = waits
            .into_iter()
            .map(|wait| wait.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
            .collect::<Result<Vec<f64>>>()?;
        done.sort_by(f64::total_cmp);
        Ok::<_, anyhow::Error>([done[0], done[1]])
    })?;
    for server in servers {
        server.end()?;
    }
    for shelf in ["1", "2"] {
        let image = directory.join(format!("share{shelf}.img"));
        let copy = directory.join(format!("share{shelf}-copy.img"));
        super::same(&image, &copy)?;
        for path in [image, super::engine::journal_beside(&copy), copy] {
            fs::remove_file(path)?;
        }
    }
    Ok(Shared {
        name: row.name(),
        done,
    })
}
