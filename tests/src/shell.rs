//! A root shell on one of the lab's hosts, by its control channel.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::control::{Control, Outcome};

/// Silence of a command after which it counts as stuck.
const SILENCE_LIMIT: Duration = Duration::from_secs(400);

/// Runs commands, and keeps a log of them and of what came of each.
pub struct Shell {
    control: Control,
    prompt: &'static str,
    log: PathBuf,
    echo: bool,
    started: Instant,
}

impl Shell {
    /// Commands go over `control`; `prompt` is what they are shown behind, `log` the file they are
    /// kept in.
    pub fn new(control: Control, prompt: &'static str, log: PathBuf) -> Shell {
        Shell {
            control,
            prompt,
            log,
            echo: false,
            started: Instant::now(),
        }
    }

    /// Waits until the host is ready for commands.
    ///
    /// # Errors
    /// As [`Control::wait_ready`].
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        self.control.wait_ready(limit)
    }

    /// Shows commands and their output as they come.
    pub fn echo(&mut self, on: bool) {
        self.echo = on;
    }

    /// Runs a shell command.
    ///
    /// # Errors
    /// As [`Control::run`].
    pub fn run(&mut self, command: &str) -> Result<Outcome> {
        self.run_within(command, SILENCE_LIMIT)
    }

    /// Runs a shell command that is stuck if it says nothing for `silence`.
    ///
    /// # Errors
    /// As [`Control::run`].
    pub fn run_within(&mut self, command: &str, silence: Duration) -> Result<Outcome> {
        let echo = self.echo;
        if echo {
            println!("{}# {command}", self.prompt);
        }
        let began = Instant::now();
        let outcome = self.control.run(command, silence, &mut |_, line| {
            if echo {
                println!("  {line}");
            }
        });
        self.note(command, began, &outcome);
        outcome
    }

    /// Keeps what was asked for and what came of it with the run's logs.
    fn note(&self, command: &str, began: Instant, outcome: &Result<Outcome>) {
        let told = match outcome {
            Ok(outcome) => format!("status {}\n{}{}", outcome.status, outcome.out, outcome.err),
            Err(error) => format!("{error:#}\n"),
        };
        let seconds = self.started.elapsed().as_secs_f32();
        let line = format!(
            "[{seconds:.1} s] # {command}\n[took {:.1} s] {told}",
            began.elapsed().as_secs_f32()
        );
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        if let Ok(mut log) = log {
            let _ = log.write_all(line.as_bytes());
        }
    }

    /// Runs a shell command that must succeed and returns its standard output.
    ///
    /// # Errors
    /// As [`Shell::run`]; the command fails.
    pub fn ok(&mut self, command: &str) -> Result<String> {
        Ok(self.run(command)?.success()?.out)
    }

    /// Starts a command that goes on, with its output in `/var/log/NAME.log`, and returns when that
    /// says `ready`.
    ///
    /// # Errors
    /// As [`Shell::wait_for_line`].
    pub fn background(&mut self, name: &str, command: &str, ready: &str) -> Result<()> {
        let quiet = std::mem::take(&mut self.echo);
        if quiet {
            println!("{}# {command} &", self.prompt);
        }
        let log = format!("/var/log/{name}.log");
        let started = self.run(&format!(
            "setsid sh -c {} >{log} 2>&1 </dev/null & echo $! >/run/{name}.pid",
            quoted(&format!("exec {command}"))
        ));
        let waited = started
            .and_then(Outcome::success)
            .and_then(|_| self.wait_for_line(&log, ready));
        self.echo = quiet;
        waited.map(|_| ())
    }

    /// Ends a command started with [`Shell::background`].
    ///
    /// # Errors
    /// As [`Shell::ok`]: it has ended by itself, say.
    pub fn end_background(&mut self, name: &str) -> Result<()> {
        self.run(&format!("kill $(cat /run/{name}.pid)"))?
            .success()
            .map(|_| ())
    }

    /// Waits until a file on the host has a line with `wanted`, and returns that line.
    ///
    /// # Errors
    /// As [`Shell::run`]; there is no such line in time.
    pub fn wait_for_line(&mut self, file: &str, wanted: &str) -> Result<String> {
        let echo = std::mem::take(&mut self.echo);
        let found = self.run(&format!(
            "/lab/lab-guest wait-line {} {}",
            quoted(file),
            quoted(wanted)
        ));
        self.echo = echo;
        Ok(found?.success()?.out.trim_end().to_owned())
    }
}

/// A word for the shell.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
