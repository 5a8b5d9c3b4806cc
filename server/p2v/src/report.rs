//! Where long work says what it does: a bar on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use p2v_contract::Size;
use p2v_copy::Progress;
use p2v_dom0::report::{self, Report};
use p2v_dom0::wire::SilenceListener;

use crate::output;

/// Time between two lines about one disk where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Time between two events about one disk for programs.
const EVENT_EVERY: Duration = Duration::from_secs(1);

/// One copy under way.
struct Running {
    began: Instant,
    last_line: Option<Instant>,
    complete: bool,
    bar: Option<ProgressBar>,
}

/// Tells the operator on standard error, so that standard output is for results.
pub struct Reporter {
    /// Progress goes to standard output, as JSON for programs.
    json: bool,
    /// What a warning begins with.
    warning: &'static str,
    bars: Option<MultiProgress>,
    running: Mutex<BTreeMap<String, Running>>,
}

impl Reporter {
    /// For standard error as it is; with `json`, progress goes to standard output.
    pub fn new(json: bool) -> Reporter {
        let terminal = std::io::stderr().is_terminal() && !json;
        Reporter {
            json,
            warning: if output::is_the_journal() {
                "<4>! "
            } else {
                "! "
            },
            bars: terminal.then(MultiProgress::new),
            running: Mutex::default(),
        }
    }

    fn line(&self, text: &str) {
        say(&self.bars, text);
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, what: &str, total: u64) -> Running {
        let bar = self.bars.as_ref().map(|bars| {
            let style = ProgressStyle::with_template(
                "  {prefix} [{bar:30}] {percent:>3} %  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left  {msg}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar());
            bars.add(ProgressBar::new(total).with_style(style).with_prefix(what.to_owned()))
        });
        Running {
            began: Instant::now(),
            last_line: None,
            complete: false,
            bar,
        }
    }
}

/// A line on standard error, above the bars if there are some.
fn say(bars: &Option<MultiProgress>, text: &str) {
    match bars {
        Some(bars) => bars.suspend(|| eprintln!("{text}")),
        None => eprintln!("{text}"),
    }
}

impl Report for Reporter {
    fn silence(&self, what: &str, patience: Duration) -> SilenceListener {
        let (bars, what, warning) = (self.bars.clone(), what.to_owned(), self.warning);
        Box::new(move |silence| {
            let text = report::silence(&what, silence, patience);
            say(&bars, &format!("{warning}{text}"));
        })
    }

    fn step(&self, text: &str) {
        self.line(&format!("  {text}"));
    }

    fn warn(&self, text: &str) {
        self.line(&format!("{}{text}", self.warning));
    }

    fn progress(&self, what: &str, progress: Progress) {
        let complete = progress.checked + progress.unreadable >= progress.total;
        let line = {
            let mut all = self.running();
            let running = all
                .entry(what.to_owned())
                .or_insert_with(|| self.start(what, progress.total));
            if let Some(bar) = &running.bar {
                bar.set_position(progress.checked);
                bar.set_message(details(progress));
                if complete {
                    bar.finish_and_clear();
                }
            }
            let every = if self.json { EVENT_EVERY } else { LINE_EVERY };
            let due = running.last_line.is_none_or(|last| last.elapsed() >= every);
            let ends = complete && !running.complete;
            running.complete = complete;
            (running.bar.is_none() && (ends || (due && !complete))).then(|| {
                running.last_line = Some(Instant::now());
                running.began.elapsed()
            })
        };
        match line {
            Some(elapsed) if self.json => println!("{}", event(what, progress, elapsed)),
            Some(elapsed) => self.line(&plain(what, progress, elapsed)),
            None => {}
        }
    }
}

/// What became of the bytes, in a few words.
fn details(progress: Progress) -> String {
    let parts = [
        (progress.moved, "moved"),
        (progress.zeroed, "zeros"),
        (progress.equal + progress.before, "there before"),
        (progress.unreadable, "unreadable"),
    ];
    let parts = parts.iter().filter(|(bytes, _)| *bytes > 0);
    let words: Vec<String> = parts
        .map(|(bytes, what)| format!("{} {what}", Size(*bytes)))
        .collect();
    words.join(", ")
}

/// An event for programs.
fn event(what: &str, progress: Progress, elapsed: Duration) -> serde_json::Value {
    serde_json::json!({
        "event": "progress", "disk": what, "checked": progress.checked, "total": progress.total,
        "moved": progress.moved, "zeroed": progress.zeroed, "equal": progress.equal,
        "before": progress.before, "unreadable": progress.unreadable, "seconds": elapsed.as_secs_f64(),
    })
}

/// A line about a copy after `elapsed`.
fn plain(what: &str, progress: Progress, elapsed: Duration) -> String {
    let Progress {
        checked,
        total,
        moved,
        ..
    } = progress;
    let percent = (checked * 100).checked_div(total).unwrap_or(100);
    let mut line = format!(
        "  {what}: {percent:>3} %, {} of {} checked",
        Size(checked),
        Size(total)
    );
    let details = details(progress);
    if !details.is_empty() {
        line += &format!(" ({details})");
    }
    let seconds = elapsed.as_secs_f64();
    let now = checked.saturating_sub(progress.before);
    if now > 0 && checked < total && seconds >= 1.0 {
        let rate = now as f64 / seconds;
        let left = Duration::from_secs_f64((total - checked) as f64 / rate);
        line += &format!(", {}/s, {} left", Size(rate as u64), HumanDuration(left));
    }
    if checked == total && moved == 0 && total > 0 {
        line += " (nothing had to cross the wire)";
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_say_how_far_and_how_long() {
        let progress = Progress {
            checked: 256 << 20,
            total: 1 << 30,
            moved: 256 << 20,
            ..Progress::default()
        };
        assert_eq!(
            plain("e7.0", progress, Duration::from_secs(16)),
            "  e7.0:  25 %, 256.00 MiB of 1.00 GiB checked (256.00 MiB moved), 16.00 MiB/s, 48 seconds left"
        );
        let done = Progress {
            checked: 1 << 30,
            total: 1 << 30,
            equal: 1 << 30,
            ..Progress::default()
        };
        assert_eq!(
            plain("e7.0", done, Duration::from_secs(16)),
            "  e7.0: 100 %, 1.00 GiB of 1.00 GiB checked (1.00 GiB there before) (nothing had to cross the wire)"
        );
        assert!(plain("e7.0", Progress::default(), Duration::ZERO).contains("100 %"));
    }
}
