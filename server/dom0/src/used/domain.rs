//! ddrescue's mapfile, which partclone writes its domain in (GNU ddrescue manual, "Mapfile
//! structure"). Positions and sizes in bytes.

use std::fmt;

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `?`: not tried; in a domain: outside of it.
    NonTried,
    /// `*`: failed, not trimmed.
    NonTrimmed,
    /// `/`: failed, not scraped.
    NonScraped,
    /// `-`: bad sectors.
    Bad,
    /// `+`: finished; in a domain: inside of it.
    Finished,
}

impl Status {
    fn parse(text: &str) -> Option<Status> {
        Some(match text {
            "?" => Status::NonTried,
            "*" => Status::NonTrimmed,
            "/" => Status::NonScraped,
            "-" => Status::Bad,
            "+" => Status::Finished,
            _ => return None,
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::NonTried => "?",
            Status::NonTrimmed => "*",
            Status::NonScraped => "/",
            Status::Bad => "-",
            Status::Finished => "+",
        })
    }
}

/// A block of one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// First byte.
    pub position: u64,
    /// Bytes; not zero.
    pub size: u64,
    /// What is known of it.
    pub status: Status,
}

/// The status line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// Where the work is.
    pub position: u64,
    /// What is being done: one of `? * / - F G +`.
    pub status: char,
    /// The pass, since ddrescue 1.23; partclone writes none.
    pub pass: Option<u32>,
}

/// A mapfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapfile {
    /// The status line.
    pub current: Current,
    /// Ascending, one beginning where the one before it ends.
    pub blocks: Vec<Block>,
}

/// What is wrong with a mapfile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A line that is none of the three kinds.
    #[error("line {line} is neither a comment nor what belongs there")]
    Line {
        /// Its number, from 1 on.
        line: usize,
    },
    /// A block that does not begin where the one before it ends, is empty or passes the end of
    /// numbers.
    #[error("the block in line {line} is empty or does not begin where the one before it ends")]
    Order {
        /// Its number, from 1 on.
        line: usize,
    },
    /// No status line.
    #[error("it has no status line")]
    Empty,
}

impl Mapfile {
    /// Reads a mapfile.
    ///
    /// # Errors
    /// [`Error`] with the line.
    pub fn parse(text: &str) -> Result<Mapfile, Error> {
        let mut current = None;
        let mut blocks: Vec<Block> = Vec::new();
        for (index, text) in text.lines().enumerate() {
            let line = index + 1;
            // A comment may also follow on a line.
            let text = text.split('#').next().unwrap_or("");
            let words: Vec<&str> = text.split_ascii_whitespace().collect();
            if words.is_empty() {
                continue;
            }
            if current.is_none() {
                current = Some(status_line(&words).ok_or(Error::Line { line })?);
                continue;
            }
            let block = block_line(&words).ok_or(Error::Line { line })?;
            let follows = blocks
                .last()
                .is_none_or(|b| b.position + b.size == block.position);
            // The sum is what the next line is compared with.
            if !follows || block.size == 0 || block.position.checked_add(block.size).is_none() {
                return Err(Error::Order { line });
            }
            blocks.push(block);
        }
        Ok(Mapfile {
            current: current.ok_or(Error::Empty)?,
            blocks,
        })
    }
}

impl fmt::Display for Mapfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# current_pos  current_status  current_pass")?;
        write!(
            f,
            "0x{:08X}     {}",
            self.current.position, self.current.status
        )?;
        if let Some(pass) = self.current.pass {
            write!(f, "               {pass}")?;
        }
        writeln!(f, "\n#      pos        size  status")?;
        for block in &self.blocks {
            writeln!(
                f,
                "0x{:08X}  0x{:08X}  {}",
                block.position, block.size, block.status
            )?;
        }
        Ok(())
    }
}

fn status_line(words: &[&str]) -> Option<Current> {
    let (position, status, pass) = match words {
        [position, status] => (position, status, None),
        [position, status, pass] => (position, status, Some(pass.parse().ok()?)),
        _ => return None,
    };
    let mut letters = status.chars();
    let (Some(status), None) = (letters.next(), letters.next()) else {
        return None;
    };
    "?*/-FG+".contains(status).then_some(())?;
    Some(Current {
        position: number(position)?,
        status,
        pass,
    })
}

fn block_line(words: &[&str]) -> Option<Block> {
    let [position, size, status] = words else {
        return None;
    };
    Some(Block {
        position: number(position)?,
        size: number(size)?,
        status: Status::parse(status)?,
    })
}

/// Decimal, `0x` hexadecimal or `0` octal, as C reads it.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    // from_str_radix takes a sign.
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_manuals_example() {
        let text = "# Mapfile. Created by GNU ddrescue version 1.29\n\
            # Command line: ddrescue -d -c18 /dev/fd0 fdimage mapfile\n\
            # Start time:   2015-07-21 09:37:44\n\
            # current_pos  current_status  current_pass\n\
            0x00010000     +               1\n\
            #      pos        size  status\n\
            0x00000000  0x00117000  +\n\
            0x00117000  0x00000200  -\n\
            0x00117200  0x00001000  /\n\
            0x00118200  0x00007E00  *\n\
            0x00120000  0x00048000  ?\n";
        let map = Mapfile::parse(text).unwrap();
        assert_eq!(map.current.pass, Some(1));
        assert_eq!(map.blocks.len(), 5);
        assert_eq!(map.blocks[1].status, Status::Bad);
        assert_eq!(map.blocks[4].position + map.blocks[4].size, 0x168000);
    }

    #[test]
    fn what_is_odd_is_refused() {
        for (text, expected) in [
            ("# nothing\n", Error::Empty),
            ("0x0 ?\n0x0 0x10 +\n0x20 0x10 ?\n", Error::Order { line: 3 }),
            ("0x0 ?\n0x0 0x10 +\n0x8 0x10 ?\n", Error::Order { line: 3 }),
            ("0x0 ?\n0x0 0x0 +\n", Error::Order { line: 2 }),
            (
                "0x0 ?\n0x1 0xFFFFFFFFFFFFFFFF +\n",
                Error::Order { line: 2 },
            ),
            ("0x0 ?\n0x0 0x10 !\n", Error::Line { line: 2 }),
            ("0x0 ?\n0x0 0x10\n", Error::Line { line: 2 }),
            ("0x0 ?\n0x0 0x+10 +\n", Error::Line { line: 2 }),
            ("0x0\n", Error::Line { line: 1 }),
            ("0x0 ? 1 2\n", Error::Line { line: 1 }),
        ] {
            assert_eq!(Mapfile::parse(text), Err(expected), "{text}");
        }
    }

    fn maps() -> impl Strategy<Value = Mapfile> {
        let statuses = prop::sample::select(vec![
            Status::NonTried,
            Status::NonTrimmed,
            Status::NonScraped,
            Status::Bad,
            Status::Finished,
        ]);
        let currents = (
            any::<u64>(),
            prop::sample::select("?*/-FG+".chars().collect::<Vec<_>>()),
            any::<Option<u32>>(),
        );
        (
            currents,
            0..u64::from(u32::MAX),
            prop::collection::vec((1..1_u64 << 50, statuses), 0..40),
        )
            .prop_map(|((position, status, pass), start, sizes)| {
                let mut next = start;
                let blocks = sizes
                    .into_iter()
                    .map(|(size, status)| {
                        let position = next;
                        next += size;
                        Block {
                            position,
                            size,
                            status,
                        }
                    })
                    .collect();
                Mapfile {
                    current: Current {
                        position,
                        status,
                        pass,
                    },
                    blocks,
                }
            })
    }

    proptest! {
        #[test]
        fn written_and_read(map in maps()) {
            prop_assert_eq!(Mapfile::parse(&map.to_string()), Ok(map));
        }

        #[test]
        fn what_is_read_is_in_order(text in "(0x[0-9]{1,2} [?+F]( [0-9])?\n)?(0x[0-9]{1,2} +0x[0-9]{1,2} [?*/+-]\n|#.*\n|[ -~]*\n){0,6}") {
            if let Ok(map) = Mapfile::parse(&text) {
                for pair in map.blocks.windows(2) {
                    prop_assert_eq!(pair[0].position + pair[0].size, pair[1].position);
                }
            }
        }
    }
}
