//! The terminals people look at: the machine's screen and its serial lines.
//!
//! A terminal that does not take what is written (a serial line with flow control and nobody at
//! the other end) must not hold up the agent, so what it does not take soon is lost.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sysfs;

/// How long a terminal may take over one message.
const PATIENCE: Duration = Duration::from_millis(500);

/// Rows of a text screen.
const ROWS: usize = 25;

/// All terminals of the machine.
#[derive(Debug, Default)]
pub struct Console {
    /// The screen, where the status is redrawn.
    screen: Option<File>,
    /// Serial lines, which get plain lines.
    lines: Vec<File>,
    /// The last messages, shown under the status.
    recent: VecDeque<String>,
    /// The status on the screen; empty until there is one.
    status: Vec<String>,
}

/// Names of the serial terminals to write to: those the kernel uses as consoles, and the first
/// port if there is hardware behind it (`type` is not 0, PORT_UNKNOWN).
fn serial_names(sys: &Path) -> Vec<String> {
    let tty = sys.join("class/tty");
    let active = sysfs::text(tty.join("console/active")).unwrap_or_default();
    let mut names: Vec<String> = active
        .split_whitespace()
        .filter(|name| !is_screen(name))
        .map(str::to_owned)
        .collect();
    let first = "ttyS0".to_owned();
    let there = sysfs::number::<u32>(tty.join("ttyS0/type")).is_some_and(|kind| kind != 0);
    if there && !names.contains(&first) {
        names.push(first);
    }
    names
}

/// Whether a terminal is a virtual one on the machine's screen: `tty0`, `tty1`, not `ttyS0`.
fn is_screen(name: &str) -> bool {
    name.strip_prefix("tty")
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

impl Console {
    /// Opens all terminals there are.
    pub fn open() -> Console {
        let open = |name: &str| {
            OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
                .open(Path::new("/dev").join(name))
                .ok()
        };
        let mut console = Console {
            screen: open("tty1").or_else(|| open("tty0")),
            lines: serial_names(Path::new("/sys"))
                .iter()
                .filter_map(|name| open(name))
                .collect(),
            ..Console::default()
        };
        if console.screen.is_none() && console.lines.is_empty() {
            console.lines.extend(open("console"));
        }
        console
    }

    /// One line to everybody.
    pub fn say(&mut self, text: &str) {
        let text = printable(text);
        for line in &mut self.lines {
            write_patiently(line, format!("p2v: {text}\r\n").as_bytes());
        }
        self.recent.push_back(text.clone());
        while self.recent.len() > ROWS {
            self.recent.pop_front();
        }
        if self.status.is_empty() {
            if let Some(screen) = &mut self.screen {
                write_patiently(screen, format!("p2v: {text}\r\n").as_bytes());
            }
        } else {
            self.redraw();
        }
    }

    /// Shows a new status on the screen; serial lines are told what changed by [`Console::say`].
    pub fn show(&mut self, status: Vec<String>) {
        if status != self.status {
            self.status = status;
            self.redraw();
        }
    }

    fn redraw(&mut self) {
        let page = page(&self.status, &self.recent);
        if let Some(screen) = &mut self.screen {
            write_patiently(screen, page.as_bytes());
        }
    }
}

/// A screen full: home and clear, the status, and as many of the last messages as fit.
fn page(status: &[String], recent: &VecDeque<String>) -> String {
    let mut page = String::from("\x1b[H\x1b[2J");
    for line in status.iter().take(ROWS - 1) {
        page.push_str(&printable(line));
        page.push_str("\r\n");
    }
    let room = (ROWS - 1).saturating_sub(status.len() + 1);
    if room > 0 {
        page.push_str("\r\n");
        for line in recent.iter().skip(recent.len().saturating_sub(room)) {
            page.extend(line.chars().take(79));
            page.push_str("\r\n");
        }
    }
    page
}

/// Text from a disk or the firmware as it can be shown: no control characters.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// Writes what the terminal takes within [`PATIENCE`].
fn write_patiently(terminal: &mut File, mut bytes: &[u8]) {
    let until = Instant::now() + PATIENCE;
    while !bytes.is_empty() {
        match terminal.write(bytes) {
            Ok(0) => return,
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let left = until.saturating_duration_since(Instant::now());
                let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
                let mut fds = [PollFd::new(terminal.as_fd(), PollFlags::POLLOUT)];
                if left.is_zero() || !matches!(poll(&mut fds, timeout), Ok(1..)) {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::tree::Tree;

    #[test]
    fn the_terminals_there_are() {
        let t = Tree::new();
        assert!(serial_names(t.root()).is_empty());
        t.file("class/tty/console/active", "tty0 ttyS1\n");
        t.file("class/tty/ttyS0/type", "4\n");
        assert_eq!(serial_names(t.root()), ["ttyS1", "ttyS0"]);
        t.file("class/tty/ttyS0/type", "0\n");
        assert_eq!(serial_names(t.root()), ["ttyS1"]);
    }

    #[test]
    fn a_page_fits_the_screen_and_shows_the_last_messages() {
        let status: Vec<String> = (0..5).map(|n| format!("status {n}")).collect();
        let recent: VecDeque<String> = (0..100).map(|n| format!("message {n}")).collect();
        let page = page(&status, &recent);
        assert!(page.lines().count() < ROWS + 1);
        assert!(page.contains("status 0") && page.contains("message 99"));
        assert!(!page.contains("message 1\r"));
        let long: Vec<String> = (0..50).map(|n| format!("{n}")).collect();
        assert!(super::page(&long, &recent).lines().count() < ROWS + 1);
    }

    #[test]
    fn what_a_disk_calls_itself_cannot_drive_the_terminal() {
        assert_eq!(printable("disk\x1b[2J\n"), "disk?[2J?");
    }

    #[test]
    fn a_terminal_that_takes_nothing_holds_nobody_up() {
        let (_reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        let mut terminal = File::from(writer);
        let start = Instant::now();
        write_patiently(&mut terminal, &vec![b'x'; 1 << 20]);
        assert!(start.elapsed() < PATIENCE * 4);
    }
}
