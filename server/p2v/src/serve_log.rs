//! The lines of `p2v serve` while it serves, on standard error.
//!
//! Aside: a terminal that was stopped (^S), a pager that was not read on, or a journal that hangs takes no more of
//! them after a while, and whoever has another waits. No machine does.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;

use crate::aside::Aside;
use crate::output;

/// Lines that are kept while nobody reads: a hundred machines that boot have some two thousand.
const KEPT: usize = 10_000;
/// How long the end of the service waits for who does not read.
const END_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Lines {
    text: String,
    count: usize,
    /// Those for which there was no room.
    lost: usize,
}

impl Lines {
    fn add(&mut self, line: &str) {
        if self.count == KEPT {
            self.lost += 1;
            return;
        }
        self.count += 1;
        self.text.push_str(&output::harmless(line));
        self.text.push('\n');
    }

    fn write(mut self) {
        if self.lost > 0 {
            self.text += &format!(
                "p2v serve: {} lines are missing here: nobody read them\n",
                self.lost
            );
        }
        // There is nobody else to tell.
        let _ = io::stderr().write_all(self.text.as_bytes());
    }
}

static LOG: OnceLock<Option<&'static Aside<Lines>>> = OnceLock::new();

#[cfg(test)]
thread_local! {
    /// What the test on this thread was told.
    pub static SAID: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Says one line. Not before the service has given root up: it starts a thread.
pub fn line(line: impl Display) {
    let line = with_priority(line.to_string(), output::is_the_journal);
    #[cfg(test)]
    SAID.with_borrow_mut(|said| said.push(line.clone()));
    // Tests keep what is said of those that succeed to themselves.
    let start = || match cfg!(test) {
        true => None,
        false => Aside::start("log", Lines::write).ok(),
    };
    match LOG.get_or_init(start) {
        Some(log) => log.add(|lines| lines.add(&line)),
        None => eprintln!("{line}"),
    }
}

/// For the journal, the line of a warning begins with its priority (sd-daemon(3)).
fn with_priority(line: String, is_the_journal: impl FnOnce() -> bool) -> String {
    match line.contains("WARNING") && is_the_journal() {
        true => format!("<4>{line}"),
        false => line,
    }
}

/// Whether anything was said.
pub fn has_begun() -> bool {
    LOG.get().is_some()
}

/// Waits until all is said, or nobody reads it.
pub fn end() {
    if let Some(Some(log)) = LOG.get() {
        log.wait(END_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_warnings_have_a_priority_and_only_in_the_journal() {
        let line = |line: &str, journal| with_priority(line.to_owned(), || journal);
        assert_eq!(
            line("p2v serve: WARNING: x", true),
            "<4>p2v serve: WARNING: x"
        );
        assert_eq!(
            line("p2v serve: WARNING: x", false),
            "p2v serve: WARNING: x"
        );
        assert_eq!(line("p2v serve: x", true), "p2v serve: x");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut lines = Lines::default();
        (0..KEPT + 3).for_each(|n| lines.add(&n.to_string()));
        assert_eq!((lines.text.lines().count(), lines.lost), (KEPT, 3));
    }
}
