//! `println!` and `eprintln!` that do not panic: an output that is full, or that nobody reads any more (`| head`), is no
//! reason to stop in the middle of a copy or a cutover.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

use crate::arguments::exit;

/// Why standard output did not take something.
static FAILED: OnceLock<io::Error> = OnceLock::new();

pub fn out(text: Arguments<'_>, end: &str) {
    if cfg!(test) {
        // What tests say is kept.
        std::print!("{text}{end}");
    } else if let Err(error) = write!(io::stdout().lock(), "{text}{end}") {
        let _ = FAILED.set(error);
    }
}

pub fn error_line(text: Arguments<'_>) {
    if cfg!(test) {
        std::eprintln!("{text}");
    } else {
        // There is nobody else to tell.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// The command's exit code: a result that could not be written whole is a failure, but for one that was not wanted.
pub fn checked(code: ExitCode) -> ExitCode {
    if let Err(error) = io::stdout().flush() {
        let _ = FAILED.set(error);
    }
    match FAILED.get() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            error_line(format_args!(
                "p2v: cannot write to standard output: {error}"
            ));
            ExitCode::from(exit::FAILED)
        }
        _ => code,
    }
}

macro_rules! print {
    ($($text:tt)*) => { $crate::output::out(format_args!($($text)*), "") };
}

macro_rules! println {
    ($($text:tt)*) => { $crate::output::out(format_args!($($text)*), "\n") };
}

macro_rules! eprintln {
    ($($text:tt)*) => { $crate::output::error_line(format_args!($($text)*)) };
}
