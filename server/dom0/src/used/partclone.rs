//! partclone's view of what a file system uses, and what must be true of it.

use std::path::Path;

use p2v_copy::map::Status;
use p2v_copy::mapfile;

use super::examine::{Examiner, Refusal, whole};
use super::ranges::Range;

/// What `program` says is used of the file system in `file`, which has `size` bytes, of which the
/// file system counts `free` as free. In bytes; what is after the file system's end counts as used.
///
/// # Errors
/// [`Refusal`].
pub fn used(
    examiner: &Examiner<'_>,
    program: &str,
    file: &Path,
    size: u64,
    free: u64,
) -> Result<Vec<Range>, Refusal> {
    let printed = examiner.run(
        program,
        &[
            "--domain".as_ref(),
            "--quiet".as_ref(),
            // It ends only when the thread that would show its progress wakes next: after 2 s by default, and at
            // 0 that thread never sleeps (partclone 0.3, src/main.c, thread_update_pui; 2.02 s seen with 0.3.23).
            "--UI-fresh".as_ref(),
            "1".as_ref(),
            // Else /var/log/partclone.log.
            "--logfile".as_ref(),
            "/dev/null".as_ref(),
            "--source".as_ref(),
            file.as_os_str(),
            "--output".as_ref(),
            "-".as_ref(),
        ],
    )?;
    read(&printed.stdout, size, free)
        .or_else(|why| whole(format!("the map that `{program}` printed is wrong: {why}")))
}

fn read(text: &str, size: u64, free: u64) -> Result<Vec<Range>, String> {
    let map = mapfile::read(text).map_err(|e| e.to_string())?;
    let (Some(first), Some(last)) = (map.blocks.first(), map.blocks.last()) else {
        return Err("it has no blocks".into());
    };
    // Blocks follow one another, so this is all that the bounds need.
    let end = last.end();
    if first.position != 0 || end > size {
        return Err(format!(
            "it goes from byte {} to {end} of {size}",
            first.position
        ));
    }
    // partclone writes the file system's end in its status line; a map that was cut short ends before.
    if map.position != end {
        return Err(format!("it ends at byte {end} of {}", map.position));
    }
    let mut used = Vec::new();
    let mut unused: u64 = 0;
    for block in map.blocks {
        match block.status {
            Status::Finished => used.push((block.position, block.size)),
            Status::NonTried => unused += block.size,
            status => {
                let status = status.as_char();
                return Err(format!("it has a block of status {status}"));
            }
        }
    }
    if unused > free {
        return Err(format!(
            "it has {unused} unused bytes, and the file system counts {free} free"
        ));
    }
    used.push((end, size - end));
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_whole_or_refused() {
        let map = "# x\n0x3000 ?\n0x0 0x1000 +\n0x1000 0x1000 ?\n0x2000 0x1000 +\n";
        assert_eq!(
            read(map, 0x3800, 0x1000),
            Ok(vec![(0, 0x1000), (0x2000, 0x1000), (0x3000, 0x800)])
        );
        assert!(read(map, 0x3000, 0x1000).is_ok());
        for (map, size, free, word) in [
            (map, 0x2fff, 0x1000, "of 12287"),
            (map, 0x3000, 0xfff, "counts 4095 free"),
            ("0x3000 ?\n0x0 0x1000 +\n", 0x3000, 0x3000, "ends at"),
            (
                "0x3000 ?\n0x1000 0x2000 +\n",
                0x3000,
                0x3000,
                "from byte 4096",
            ),
            ("0x3000 ?\n0x0 0x3000 /\n", 0x3000, 0x3000, "status /"),
            ("0x3000 ?\n", 0x3000, 0x3000, "no blocks"),
            ("", 0x3000, 0x3000, "no status line"),
        ] {
            let why = read(map, size, free).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }
}
