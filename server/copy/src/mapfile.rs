//! GNU ddrescue's map file: text that `ddrescue`, `ddrescuelog` and `ddrescueview` read.
//!
//! The format is that of ddrescue's manual, section "Mapfile structure": comments, a status line
//! (position, phase, pass), and one line for each area (position, size, status), in bytes. So that
//! what p2v could not read can be examined or resumed with the tools for that. partclone writes what a file
//! system uses in it, too.
use p2v_contract::SECTOR;

use super::map::{Current, Map, Phase, Status};

/// A map file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapfile {
    /// Comment lines, without `#`.
    pub comments: Vec<String>,
    /// What is known of the disk.
    pub map: Map,
}

/// What is wrong with a map file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapfileError {
    /// A line is not as it must be.
    #[error("line {line} of the map file: {why}")]
    Line {
        /// From 1 on.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// The status line is missing.
    #[error("the map file has no status line: it is empty or was cut off")]
    NoStatus,
    /// It is of a larger disk.
    #[error("the map file is of a disk of more than {have} bytes, and this one has {size}")]
    OtherDisk {
        /// First byte past the disk that the file speaks of.
        have: u64,
        /// Size of the disk in bytes.
        size: u64,
    },
}

/// The text of a map file. `comments` come first, one line each.
pub fn format(comments: &[String], map: &Map) -> String {
    let mut text = String::new();
    for comment in comments {
        for line in comment.lines() {
            text.push_str(&format!("#{line}\n"));
        }
    }
    let Current { lba, phase, pass } = map.current;
    text.push_str("# current_pos  current_status  current_pass\n");
    text.push_str(&format!(
        "0x{:08X}     {}               {pass}\n",
        lba * SECTOR,
        phase.as_char()
    ));
    text.push_str("#      pos        size  status\n");
    for (range, status) in map.areas() {
        text.push_str(&format!(
            "0x{:08X}  0x{:08X}  {}\n",
            range.start * SECTOR,
            (range.end - range.start) * SECTOR,
            status.as_char()
        ));
    }
    text
}

/// What a map file says, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Comment lines, without `#`.
    pub comments: Vec<String>,
    /// Where the work is. In a map of partclone's: the end of the file system.
    pub position: u64,
    /// What is being done.
    pub phase: Phase,
    /// Which time, from 1 on.
    pub pass: u32,
    /// Ascending, one beginning where the one before it ends.
    pub blocks: Vec<Block>,
}

/// A line of a map file. In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// From 1 on.
    line: usize,
    /// First byte.
    pub position: u64,
    /// Bytes; not zero.
    pub size: u64,
    /// What is known of it.
    pub status: Status,
}

impl Block {
    /// The byte after its last one.
    pub fn end(&self) -> u64 {
        self.position + self.size
    }

    fn wrong(&self, why: String) -> MapfileError {
        let line = self.line;
        MapfileError::Line { line, why }
    }
}

/// Reads a map file, of whatever it is.
///
/// # Errors
/// [`MapfileError::Line`], [`MapfileError::NoStatus`].
pub fn read(text: &str) -> Result<Content, MapfileError> {
    let mut comments = Vec::new();
    let mut current = None;
    let mut blocks: Vec<Block> = Vec::new();
    for (at, full) in text.lines().enumerate() {
        let line = at + 1;
        let wrong = |why: String| MapfileError::Line { line, why };
        if let Some(comment) = full.strip_prefix('#') {
            if !is_heading(comment) {
                comments.push(comment.to_owned());
            }
            continue;
        }
        let words: Vec<&str> = full
            .split_whitespace()
            .take_while(|word| !word.starts_with('#'))
            .collect();
        match (words.as_slice(), &current) {
            ([], _) => {}
            // partclone, and ddrescue before 1.20, write no pass.
            ([position, phase], None) => {
                current = Some(status_line(position, phase, "1").map_err(wrong)?);
            }
            ([position, phase, pass], None) => {
                current = Some(status_line(position, phase, pass).map_err(wrong)?);
            }
            ([position, size, status], Some(_)) => {
                let block = Block {
                    line,
                    position: number(position).map_err(wrong)?,
                    size: number(size).map_err(wrong)?,
                    status: one_char(status)
                        .and_then(Status::from_char)
                        .ok_or_else(|| wrong(format!("`{status}` is not a status")))?,
                };
                if blocks
                    .last()
                    .is_some_and(|last| last.end() != block.position)
                {
                    return Err(wrong("it does not begin where the last one ended".into()));
                }
                if block.size == 0 {
                    return Err(wrong("it is empty".into()));
                }
                if block.position.checked_add(block.size).is_none() {
                    return Err(wrong("it is larger than any disk".into()));
                }
                blocks.push(block);
            }
            _ => return Err(wrong(format!("`{full}` has too many or too few words"))),
        }
    }
    let (position, phase, pass) = current.ok_or(MapfileError::NoStatus)?;
    Ok(Content {
        comments,
        position,
        phase,
        pass,
        blocks,
    })
}

/// Reads the map file of a disk of `sectors` sectors. Sectors that it does not mention are `?`.
///
/// # Errors
/// [`MapfileError`]; areas must follow one another without gaps, and begin and end at sectors.
pub fn parse(text: &str, sectors: u64) -> Result<Mapfile, MapfileError> {
    let content = read(text)?;
    let mut map = Map::new(sectors, Status::NonTried);
    for block in &content.blocks {
        // ddrescue writes this where it does not know how large the disk is.
        let open = block.status == Status::NonTried;
        if block.end() > sectors * SECTOR && !open {
            return Err(MapfileError::OtherDisk {
                have: block.end(),
                size: sectors * SECTOR,
            });
        }
        if block.position % SECTOR != 0 || (block.size % SECTOR != 0 && !open) {
            return Err(block.wrong(format!("it is not of whole sectors of {SECTOR} bytes")));
        }
        map.mark(block.position / SECTOR, block.size / SECTOR, block.status);
    }
    map.current = Current {
        lba: (content.position / SECTOR).min(sectors),
        phase: content.phase,
        pass: content.pass,
    };
    Ok(Mapfile {
        comments: content.comments,
        map,
    })
}

/// Whether a comment is one of the two headings, which are written anew each time.
fn is_heading(comment: &str) -> bool {
    let mut words = comment.split_whitespace();
    matches!(
        (words.next(), words.next()),
        (Some("current_pos"), _) | (Some("pos"), Some("size"))
    )
}

fn status_line(position: &str, phase: &str, pass: &str) -> Result<(u64, Phase, u32), String> {
    Ok((
        number(position)?,
        one_char(phase)
            .and_then(Phase::from_char)
            .ok_or_else(|| format!("`{phase}` is not a phase"))?,
        pass.parse()
            .ok()
            .filter(|pass| *pass > 0)
            .ok_or_else(|| format!("`{pass}` is not the number of a pass"))?,
    ))
}

fn one_char(word: &str) -> Option<char> {
    let mut chars = word.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// An integer as in C++: decimal, hexadecimal after `0x`, octal after `0`.
fn number(word: &str) -> Result<u64, String> {
    // As a part of a number it would be taken.
    if word.contains('+') {
        return Err(format!("`{word}` is not a number"));
    }
    let hex = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X"));
    let parsed = match (hex, word.strip_prefix('0')) {
        (Some(hex), _) => u64::from_str_radix(hex, 16),
        (None, Some(octal)) if !octal.is_empty() => u64::from_str_radix(octal, 8),
        _ => word.parse(),
    };
    parsed.map_err(|e| format!("`{word}` is not a number ({e})"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// From ddrescue's manual.
    const EXAMPLE: &str = "\
# Mapfile. Created by GNU ddrescue version 1.27
# Command line: ddrescue -d -c18 /dev/fd0 fdimage mapfile
# Start time:   2015-07-21 09:37:44
# current_pos  current_status  current_pass
0x00120000     ?               1
#      pos        size  status
0x00000000  0x00117000  +
0x00117000  0x00000200  -
0x00117200  0x00001000  /
0x00118200  0x00007E00  *
0x00120000  0x00048000  ?
";

    fn run(command: &mut Command) -> String {
        let output = command.output().expect("Debian's gddrescue is installed");
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_manuals_example() {
        let sectors = (0x120000 + 0x48000) / 512;
        let file = parse(EXAMPLE, sectors).unwrap();
        assert_eq!(file.comments.len(), 3);
        let sums = file.map.sums();
        assert_eq!(sums.of(Status::Finished), 0x117000 / 512);
        assert_eq!(sums.of(Status::Bad), 1);
        assert_eq!(file.map.current.lba, 0x120000 / 512);
        assert_eq!(format(&file.comments, &file.map), EXAMPLE);
    }

    #[test]
    fn other_spellings() {
        let text = " 01000 + # octal, and no pass\n0 512 +\n\n0x200 0x7FFFFFFFFFFFFDFF ?\n";
        let file = parse(text, 5).unwrap();
        assert_eq!((file.map.current.lba, file.map.current.pass), (1, 1));
        assert_eq!(file.map.sums().of(Status::NonTried), 4);
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, says) in [
            ("", "no status line"),
            ("# only a comment\n", "no status line"),
            ("0x0 ? 0\n", "pass"),
            ("0x0 x 1\n", "phase"),
            ("0x0 ? 1\n0 512 +\n1024 512 +\n", "line 3"),
            ("0x0 ? 1\n0 512 +\n0 512 -\n", "line 3"),
            ("0x0 ? 1\n0 511 +\n", "whole sectors"),
            ("0x0 ? 1\n0 512\n", "too few"),
            ("0x0 ? 1\n0 5120 +\n", "of a disk of more than 5120 bytes"),
            ("0x0 ? 1\n0xFFFFFFFFFFFFFE00 512 +\n", "any disk"),
            ("0x0 ? 1\n-512 512 +\n", "not a number"),
            ("0x0 ? 1\n0x+10 512 +\n", "not a number"),
            ("0x0 ? 1\n0 0 +\n", "empty"),
            ("0x0\n", "too few"),
            ("0x0 ? 1 2\n", "too many"),
        ] {
            let error = parse(text, 4).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn ddrescuelog_reads_ours() {
        let mut map = Map::new(1000, Status::NonTried);
        map.mark(0, 900, Status::Finished);
        map.mark(10, 2, Status::Bad);
        map.mark(50, 8, Status::Bad);
        map.mark(100, 20, Status::NonTrimmed);
        map.mark(130, 30, Status::NonScraped);
        map.current = Current {
            lba: 130,
            phase: Phase::Scraping,
            pass: 1,
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        std::fs::write(&path, format(&[" p2v: disk e7.0".into()], &map)).unwrap();
        let listed = run(Command::new("ddrescuelog").args(["-l", "-"]).arg(&path));
        let listed: Vec<u64> = listed.lines().map(|l| l.parse().unwrap()).collect();
        assert_eq!(listed, [10, 11, 50, 51, 52, 53, 54, 55, 56, 57]);
        for (status, sectors) in [("?", 100), ("*", 20), ("/", 30), ("+", 840)] {
            let listed = run(Command::new("ddrescuelog").args(["-l", status]).arg(&path));
            assert_eq!(listed.lines().count(), sectors, "{status}");
        }
        let shown = run(Command::new("ddrescuelog").arg("-t").arg(&path));
        let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(shown.contains("current status: scraping"), "{shown}");
        assert!(shown.contains("rescued: 430080 B"), "{shown}");
        assert!(
            shown.contains("bad-sector: 5120 B, in 2 area(s)"),
            "{shown}"
        );
    }

    #[test]
    fn we_read_what_ddrescue_writes() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, copy, path) = (
            dir.path().join("disk"),
            dir.path().join("copy"),
            dir.path().join("map"),
        );
        std::fs::write(&disk, vec![7; 100 * 512]).unwrap();
        // Sectors 20 to 29 "fail": ddrescue's own test mode takes what is finished in another map.
        std::fs::write(&path, "0 + 1\n0 10240 +\n10240 5120 -\n15360 35840 +\n").unwrap();
        let bad = dir.path().join("bad");
        std::fs::rename(&path, &bad).unwrap();
        run(Command::new("ddrescue")
            .arg("-q")
            .arg(format!("--test-mode={}", bad.display()))
            .args([&disk, &copy, &path]));
        let text = std::fs::read_to_string(&path).unwrap();
        let file = parse(&text, 100).unwrap();
        assert_eq!(file.map.missing(), [(20, 10)], "{text}");
        assert_eq!(file.map.sums().of(Status::Bad), 10);
        assert_eq!(file.map.sums().of(Status::Finished), 90);
        assert_eq!(file.map.current.phase, Phase::Finished);
        assert!(file.comments[0].contains("Created by GNU ddrescue"));
        let again = parse(&format(&file.comments, &file.map), 100).unwrap();
        assert_eq!(again, file);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            marks in proptest::collection::vec((0u64..5000, 1u64..600, 0usize..5), 0..30),
            lba in 0u64..5000,
            pass in 1u32..9,
            cut in any::<prop::sample::Index>(),
        ) {
            let mut map = Map::new(5000, Status::NonTried);
            for (lba, count, status) in marks {
                map.mark(lba, count, Status::ALL[status]);
            }
            map.current = Current { lba, phase: Phase::Retrying, pass };
            let text = format(&[" two\nlines".into()], &map);
            let file = parse(&text, 5000).unwrap();
            prop_assert_eq!(&file.map, &map);
            prop_assert_eq!(file.comments, [" two", "lines"]);
            // A file that was cut off says nothing of what is not there.
            let cut = cut.index(text.len());
            if let Ok(short) = parse(&text[..cut], 5000) {
                for (range, status) in short.map.areas() {
                    prop_assert!(status == Status::NonTried
                        || map.within(range).all(|(_, s)| s == status));
                }
            }
        }

        #[test]
        fn no_text_is_a_panic(text in "[0-9xA-F?*/+# \n-]{0,200}", sectors in 0u64..100) {
            let _ = parse(&text, sectors);
        }
    }
}
