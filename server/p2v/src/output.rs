//! `println!` and `eprintln!` that do not panic: an output that is full, or that nobody reads any more (`| head`), is no
//! reason to stop in the middle of a copy or a cutover. All that the command says goes out here.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::{env, fs};

use crate::arguments::exit;

macro_rules! print {
    ($($text:tt)*) => { $crate::output::out(format_args!($($text)*), "") };
}

macro_rules! println {
    ($($text:tt)*) => { $crate::output::out(format_args!($($text)*), "\n") };
}

macro_rules! eprint {
    ($($text:tt)*) => { $crate::output::error(format_args!($($text)*), "") };
}

macro_rules! eprintln {
    ($($text:tt)*) => { $crate::output::error(format_args!($($text)*), "\n") };
}

/// The text without anything that a terminal obeys: much of what is said came over the wire, from a disk or from another
/// program.
pub fn harmless(text: &str) -> String {
    let plain = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars()
        .map(|c| if plain(c) { c } else { '?' })
        .collect()
}

/// Whether standard error is the journal, which takes a line's priority from its beginning: `$JOURNAL_STREAM` has the device
/// and the inode number of what systemd connected (systemd.exec(5), sd-daemon(3)).
pub fn is_the_journal() -> bool {
    let stream = env::var("JOURNAL_STREAM");
    let is = fs::metadata("/proc/self/fd/2").map(|m| format!("{}:{}", m.dev(), m.ino()));
    matches!((stream, is), (Ok(stream), Ok(is)) if stream == is)
}

/// Why standard output did not take something.
static FAILED: OnceLock<io::Error> = OnceLock::new();

pub fn out(text: Arguments<'_>, end: &str) {
    let text = harmless(&text.to_string());
    if cfg!(test) {
        // What tests say is kept.
        std::print!("{text}{end}");
    } else if let Err(error) = write!(io::stdout().lock(), "{text}{end}") {
        let _ = FAILED.set(error);
    }
}

pub fn error(text: Arguments<'_>, end: &str) {
    let text = harmless(&text.to_string());
    if cfg!(test) {
        std::eprint!("{text}{end}");
    } else {
        // There is nobody else to tell.
        let _ = write!(io::stderr().lock(), "{text}{end}");
    }
}

/// The command's exit code: a result that could not be written whole is a failure, but for one that was not wanted.
pub fn checked(code: ExitCode) -> ExitCode {
    if let Err(error) = io::stdout().flush() {
        let _ = FAILED.set(error);
    }
    match FAILED.get() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("p2v: cannot write to standard output: {error}");
            match code == ExitCode::SUCCESS {
                true => ExitCode::from(exit::FAILED),
                false => code,
            }
        }
        _ => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_not_steered() {
        assert_eq!(
            harmless("disk\u{1b}[2J\u{9b}2J\r\u{7f} of\te1\n"),
            "disk?[2J?2J?? of\te1\n"
        );
    }
}
