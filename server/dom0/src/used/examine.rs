//! Running a program on a window of the disk, and reading a value out of what it printed.

use std::ffi::OsStr;
use std::sync::atomic::Ordering;

use super::window::Windows;
use super::{Options, Stopped};
use crate::tool::limited::{Limits, Printed};
use crate::tool::{ToolError, Tools};

/// Longest output of a program that is looked at, in bytes: partclone prints 27 to 40 for each used
/// or unused stretch, and a file system in more than some million pieces is not worth the trouble.
const OUTPUT: usize = 256 << 20;

/// Why what is unused cannot be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// All of it is to be copied, and why.
    Whole(String),
    /// The operator wants an end.
    Stopped,
}

impl From<Stopped> for Refusal {
    fn from(Stopped: Stopped) -> Refusal {
        Refusal::Stopped
    }
}

/// [`Refusal::Whole`].
pub fn whole<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Whole(why.into()))
}

/// What examining takes.
pub struct Examiner<'a> {
    /// The disk.
    pub windows: &'a Windows,
    /// The programs.
    pub tools: &'a Tools,
    /// Time limit and stop.
    pub options: &'a Options<'a>,
}

impl Examiner<'_> {
    /// Runs a program that reads a window. A read of the disk that failed counts as its failure,
    /// whatever its exit status: partclone.fat goes on after one with what is in its memory.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn run<A: AsRef<OsStr>>(&self, program: &str, args: &[A]) -> Result<Printed, Refusal> {
        self.try_run(program, args)?
            .or_else(|error| whole(error.to_string()))
    }

    /// Runs a file system's own checker, which must find no fault.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check<A: AsRef<OsStr>>(&self, program: &str, args: &[A]) -> Result<Printed, Refusal> {
        match self.try_run(program, args)? {
            Ok(printed) => Ok(printed),
            Err(ToolError::Failed { status, stderr, .. }) => whole(format!(
                "`{program}` finds fault with it ({status}): {}",
                shortened(&stderr)
            )),
            Err(error) => whole(error.to_string()),
        }
    }

    /// The same for a program whose failures say something.
    ///
    /// # Errors
    /// [`Refusal`] if the disk or the operator is why.
    pub fn try_run<A: AsRef<OsStr>>(
        &self,
        program: &str,
        args: &[A],
    ) -> Result<Result<Printed, ToolError>, Refusal> {
        let before = self.windows.failures();
        let limits = Limits {
            time: self.options.time_limit,
            output: OUTPUT,
            stop: self.options.stop,
        };
        let result = self.tools.run_limited(program, args, limits);
        if self.options.stop.load(Ordering::Relaxed) {
            return Err(Refusal::Stopped);
        }
        if self.windows.failures() != before {
            return whole(format!(
                "the disk could not be read everywhere that `{program}` looked, or it tried to write there"
            ));
        }
        Ok(result)
    }
}

/// The first and last lines of what a program said; in between it may have named every file.
fn shortened(text: &str) -> String {
    const ENDS: usize = 5;
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    if lines.len() <= 2 * ENDS {
        return lines.join("\n");
    }
    let (begin, end) = (&lines[..ENDS], &lines[lines.len() - ENDS..]);
    format!("{}\n...\n{}", begin.join("\n"), end.join("\n"))
}

/// The value after `key` and `separator` in the one line that begins with them. Two such lines are
/// as bad as none: a label with a line break could have made one of them.
///
/// # Errors
/// [`Refusal::Whole`], which names `program`.
pub fn value<'t>(
    text: &'t str,
    program: &str,
    key: &str,
    separator: char,
) -> Result<&'t str, Refusal> {
    let mut values = text.lines().filter_map(|line| {
        let rest = line.trim().strip_prefix(key)?;
        if separator.is_whitespace() {
            rest.starts_with(char::is_whitespace).then(|| rest.trim())
        } else {
            Some(rest.trim_start().strip_prefix(separator)?.trim())
        }
    });
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        _ => whole(format!(
            "`{program}` did not print one line with `{key}`, as it should"
        )),
    }
}

/// The number that such a value begins with.
///
/// # Errors
/// As [`value`].
pub fn number(text: &str, program: &str, key: &str, separator: char) -> Result<u64, Refusal> {
    let value = value(text, program, key, separator)?;
    let digits = value
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap_or("");
    digits.parse().or_else(|_| {
        whole(format!(
            "`{program}` printed no number for `{key}`: {value}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_talk_is_shortened() {
        assert_eq!(shortened("a\n\nb\n"), "a\nb");
        let long: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(
            shortened(&long.join("\n")),
            "0\n1\n2\n3\n4\n...\n95\n96\n97\n98\n99"
        );
    }

    #[test]
    fn one_line_and_only_one() {
        let text =
            "Free blocks:    12 (3%)\nlog_root\t\t0\nlog_root_level\t\t7\nTwice: 1\n  Twice: 2\n";
        assert_eq!(number(text, "p", "Free blocks", ':'), Ok(12));
        assert_eq!(number(text, "p", "log_root", '\t'), Ok(0));
        assert_eq!(value(text, "p", "Free blocks", ':'), Ok("12 (3%)"));
        for key in ["Twice", "None", "Free"] {
            assert!(value(text, "p", key, ':').is_err(), "{key}");
        }
    }
}
