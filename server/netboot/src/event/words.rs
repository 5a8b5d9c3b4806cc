//! Texts and sizes as they stand in a line.

use std::fmt;

/// Somebody else's words, made fit for one line of a log: printable ASCII, 80 characters at most.
pub(super) struct Text<'a>(pub(super) &'a str);

/// Ours, which may have somebody else's in them: printable ASCII, and so many characters that no advice at their
/// end is lost.
pub(super) struct Reason<'a>(pub(super) &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        one_line(f, self.0, 80)
    }
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        one_line(f, self.0, 500)
    }
}

fn one_line(f: &mut fmt::Formatter<'_>, text: &str, most: usize) -> fmt::Result {
    for c in text.chars().take(most) {
        let shown = if c == ' ' || c.is_ascii_graphic() {
            c
        } else {
            '?'
        };
        fmt::Write::write_char(f, shown)?;
    }
    match text.chars().nth(most) {
        Some(_) => f.write_str("..."),
        None => Ok(()),
    }
}

/// Bytes, for people.
pub(super) struct Size(pub(super) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ ..10_000 => write!(f, "{bytes} bytes"),
            bytes @ ..1_000_000 => write!(f, "{} kB", bytes / 1000),
            bytes => write!(f, "{:.1} MB", bytes as f64 / 1e6),
        }
    }
}
