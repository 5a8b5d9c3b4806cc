//! Where the log of a service goes: to the journal, with its fields, where standard error is the journal; else to standard
//! error, in lines.
//!
//! Nobody who logs waits. A terminal that was stopped (^S), a pager that is not read on, or a journal that hangs take
//! nothing, and machines would wait with them.

use std::fmt::Debug;
use std::io::{self, BufWriter, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use p2v_copy::Progress;
use p2v_dom0::{MachineName, Report};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, info, warn};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;

use crate::output;

/// Lines that are kept while nobody reads: a hundred machines that boot have some two thousand.
const KEPT: usize = 10_000;
/// How long the end of the service waits for who does not read.
const END_WAIT: Duration = Duration::from_secs(1);
/// Where the journal takes messages with fields (systemd, "Native Journal Protocol").
const JOURNAL: &str = "/run/systemd/journal/socket";

/// The log; dropped, it waits until all is written, or nobody reads it.
pub struct Log {
    guard: Option<WorkerGuard>,
    lost: ErrorCounter,
    told: AtomicUsize,
}

impl Log {
    /// Starts that of `service`. Not before the service has given root up: it starts a thread.
    pub fn start(service: &'static str) -> Log {
        let journal = UnixDatagram::unbound()
            .ok()
            .filter(|_| output::is_the_journal());
        let is_journal = journal.is_some();
        let builder = NonBlockingBuilder::default()
            .buffered_lines_limit(KEPT)
            .thread_name("log");
        let (to, guard) = match journal {
            Some(socket) => builder.finish(Journal(socket)),
            None => builder.finish(BufWriter::new(io::stderr())),
        };
        let lost = to.error_counter();
        let log = registry().with(Out {
            to,
            is_journal,
            service,
        });
        // The first one stays; there is one in a process.
        let _ = tracing::subscriber::set_global_default(log);
        Log {
            guard: Some(guard),
            lost,
            told: AtomicUsize::new(0),
        }
    }

    /// Logs how many lines were lost since it was logged last, if any were.
    pub fn tell_lost(&self) {
        let lost = self.lost.dropped_lines();
        let told = self.told.swap(lost, Ordering::Relaxed);
        if lost > told {
            warn!("{} lines were lost: nobody read them", lost - told);
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // It has a limit of its own, but may say something about it where nobody reads.
        let guard = self.guard.take();
        let (done, ended) = mpsc::channel();
        thread::spawn(move || {
            drop(guard);
            let _ = done.send(());
        });
        let _ = ended.recv_timeout(END_WAIT);
    }
}

impl Report for Log {
    fn step(&self, text: &str) {
        info!("{text}");
    }

    fn warn(&self, text: &str) {
        warn!("{text}");
    }

    fn step_of(&self, machine: &MachineName, text: &str) {
        info!(%machine, "{text}");
    }

    fn warn_of(&self, machine: &MachineName, text: &str) {
        warn!(%machine, "{text}");
    }

    fn progress(&self, _: &str, _: Progress) {}
}

/// The journal, one message a write.
struct Journal(UnixDatagram);

impl Write for Journal {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        // Standard error is the journal's, too, though it takes no fields there.
        self.0
            .send_to(message, JOURNAL)
            .or_else(|_| io::stderr().write_all(message).map(|()| message.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Out {
    to: NonBlocking,
    is_journal: bool,
    service: &'static str,
}

impl<S: Subscriber> Layer<S> for Out {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = Line::of(self.service, event);
        let bytes = match self.is_journal {
            true => line.for_the_journal(),
            false => line.text().into_bytes(),
        };
        // It takes all, or counts what is lost.
        let _ = self.to.clone().write_all(&bytes);
    }
}

/// An event: its level, its message and its other fields.
#[derive(Debug)]
struct Line {
    service: &'static str,
    level: Level,
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = output::harmless(&format!("{value:?}"));
        match field.name() {
            "message" => self.message = value,
            name => self.fields.push((name, value)),
        }
    }
}

impl Line {
    fn of(service: &'static str, event: &Event<'_>) -> Line {
        let mut line = Line {
            service,
            level: *event.metadata().level(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut line);
        line
    }

    /// The message, with the machine it is about before it.
    fn message(&self) -> String {
        let field = |wanted| self.fields.iter().find(|(name, _)| *name == wanted);
        let about = field("mac").or_else(|| field("machine"));
        let about = about.map_or(self.service, |(_, value)| value);
        let level = match self.level {
            Level::ERROR => "ERROR: ",
            Level::WARN => "WARNING: ",
            _ => "",
        };
        format!("{about}: {level}{}", self.message)
    }

    fn text(&self) -> String {
        self.message() + "\n"
    }

    fn for_the_journal(&self) -> Vec<u8> {
        // syslog(3).
        let priority = match self.level {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            _ => "7",
        };
        let mut bytes = Vec::new();
        let mut add = |name: &str, value: &str| match value.contains('\n') {
            false => {
                let _ = writeln!(bytes, "{name}={value}");
            }
            true => {
                let _ = writeln!(bytes, "{name}");
                bytes.extend((value.len() as u64).to_le_bytes());
                bytes.extend(value.as_bytes());
                bytes.push(b'\n');
            }
        };
        add("PRIORITY", priority);
        add("SYSLOG_IDENTIFIER", "p2v");
        add("MESSAGE", &self.message());
        for (name, value) in &self.fields {
            add(&name.to_uppercase(), value);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Seen(Arc<Mutex<Vec<Line>>>);

    impl<S: Subscriber> Layer<S> for Seen {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(Line::of("p2v serve", event));
        }
    }

    fn lines(log: impl FnOnce()) -> Vec<Line> {
        let lines = Arc::<Mutex<Vec<Line>>>::default();
        let subscriber = registry().with(Seen(Arc::clone(&lines)));
        tracing::subscriber::with_default(subscriber, log);
        std::mem::take(&mut lines.lock().unwrap())
    }

    #[test]
    fn a_line_says_whom_it_is_about_and_how_grave_it_is() {
        let lines = lines(|| {
            info!("serving");
            warn!(mac = "52:54:00:00:00:01", event = "x", "held\x1b[31m");
        });
        let texts: Vec<String> = lines.iter().map(Line::text).collect();
        assert_eq!(
            texts,
            [
                "p2v serve: serving\n",
                "52:54:00:00:00:01: WARNING: held?[31m\n"
            ]
        );
    }

    #[test]
    fn the_journal_gets_each_field_and_a_line_break_forges_none() {
        let lines = lines(|| warn!(mac = "52:54:00:00:00:01", machine = "e1", "a\nPRIORITY=0"));
        let message = "52:54:00:00:00:01: WARNING: a\nPRIORITY=0";
        let mut wanted = b"PRIORITY=4\nSYSLOG_IDENTIFIER=p2v\nMESSAGE\n".to_vec();
        wanted.extend((message.len() as u64).to_le_bytes());
        wanted.extend(message.as_bytes());
        wanted.extend(b"\nMAC=52:54:00:00:00:01\nMACHINE=e1\n");
        assert_eq!(lines[0].for_the_journal(), wanted);
    }
}
