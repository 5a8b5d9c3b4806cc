//! One block written twice in a row, and looked at when every frame has arrived: where a frame of the
//! first write is doubled on the way and its copy comes late, it must not undo the second.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::libc;

/// Bytes of a frame's data at an MTU of 1500: what is written is one frame.
const BLOCK: usize = 1024;
/// Blocks written side by side, each by a thread.
const BLOCKS: usize = 16;

/// A block at an address that direct I/O takes.
#[repr(align(4096))]
struct Aligned([u8; BLOCK]);

/// Writes to the start of `device` in `rounds` rounds; a frame is on the way for no more than
/// `longest`, which each round ends with.
pub fn rewrite(device: &str, rounds: &str, longest_ms: &str) -> Result<()> {
    let rounds: u32 = rounds.parse().context("rounds")?;
    let longest = Duration::from_millis(longest_ms.parse().context("longest")?);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(device)
        .with_context(|| format!("cannot open {device}"))?;
    let undone: u32 = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..BLOCKS)
            .map(|block| {
                let (file, at) = (&file, (block * BLOCK) as u64);
                scope.spawn(move || {
                    (0..rounds).try_fold(0, |undone, round| {
                        let kept = twice(file, at, round as u8, longest)?;
                        anyhow::Ok(undone + u32::from(!kept))
                    })
                })
            })
            .collect();
        writers.into_iter().try_fold(0, |sum, writer| {
            let undone = writer
                .join()
                .map_err(|_| anyhow::anyhow!("a writer failed"))?;
            anyhow::Ok(sum + undone?)
        })
    })?;
    println!(
        "{undone} of {} writes were undone",
        rounds as usize * BLOCKS
    );
    if undone > 0 {
        bail!("acknowledged writes were undone by older ones");
    }
    Ok(())
}

/// Whether the second write of the round is what is read after it.
fn twice(file: &File, at: u64, round: u8, longest: Duration) -> Result<bool> {
    let mut block = Aligned([0; BLOCK]);
    let [first, second] = [round.wrapping_mul(2), round.wrapping_mul(2).wrapping_add(1)];
    for content in [first, second] {
        block.0.fill(content);
        file.write_all_at(&block.0, at)?;
    }
    // Not to wait for something, but because this is how long the wire may hold a frame.
    std::thread::sleep(longest);
    file.read_exact_at(&mut block.0, at)?;
    Ok(block.0 == [second; BLOCK])
}
