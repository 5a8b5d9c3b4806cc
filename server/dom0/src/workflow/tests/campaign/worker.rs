//! A process that does one command after the other, so that it can be killed in the midst of one.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command as Program, Stdio};
use std::sync::atomic::AtomicBool;

use p2v_contract::MacAddr;
use p2v_copy::boundary;
use serde::{Deserialize, Serialize};

use super::old_server::Segment;
use super::world::{self, Trouble};
use crate::report::Silent;
use crate::timestamp::Timestamp;
use crate::workflow::tests::lab::Warnings;
use crate::workflow::*;
use crate::{MachineName, Store};

/// What is done in one go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Command {
    /// `p2v serve` gives the menu of the machine with this card.
    Menu {
        card: MacAddr,
    },
    List,
    Start {
        name: MachineName,
        discard_copy: bool,
        discard_moved: bool,
    },
    Stop {
        name: MachineName,
        destroy: bool,
    },
    Resume {
        name: MachineName,
        did_not_run: bool,
        although_changed: bool,
    },
    Copy {
        name: MachineName,
        to: String,
        precopy: bool,
        overwrite: bool,
    },
    PlanCopy {
        name: MachineName,
        to: String,
    },
    Verify {
        name: MachineName,
        from_certificate: bool,
    },
    Cutover {
        name: MachineName,
        autostart: bool,
        gone: bool,
    },
    Release {
        name: MachineName,
        off: bool,
    },
    Disarm {
        name: MachineName,
    },
    Rearm {
        name: MachineName,
    },
    Forget {
        name: MachineName,
        gone: bool,
    },
    Trust {
        name: MachineName,
    },
    Config {
        name: MachineName,
    },
    DevicesUp,
    DevicesDown,
    Watch,
}

impl Command {
    /// Its first word.
    pub(super) fn word(&self) -> String {
        let text = format!("{self:?}");
        let end = text.find(|c: char| !c.is_alphanumeric());
        text[..end.unwrap_or(text.len())].to_lowercase()
    }
}

/// A command and what happens meanwhile.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    root: PathBuf,
    command: Command,
    deadly: Option<u64>,
    trouble: Option<(u64, Trouble)>,
    clock: i64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Outcome {
    Done(String),
    Refused(String),
    /// And where.
    Killed(String),
    Panicked(String),
}

/// The process.
pub(super) struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Boundaries of the last command that came to its end.
    pub(super) boundaries: u64,
}

/// Sectors of a piece of a copy, of which a disk has several: what is in the midst of it is in neither end.
const PIECE: u32 = 32;

/// Says to the process that it is one.
const VARIABLE: &str = "P2V_CAMPAIGN_WORKER";

impl Worker {
    pub(super) fn start() -> Worker {
        let mut child = Program::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .arg("workflow::tests::campaign::worker::works_for_a_campaign")
            .env(VARIABLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Worker {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            boundaries: 0,
        }
    }

    /// Has it done. One that was killed is replaced.
    pub(super) fn run(
        &mut self,
        root: &Path,
        command: &Command,
        deadly: Option<u64>,
        trouble: Option<(u64, Trouble)>,
        clock: i64,
    ) -> Outcome {
        let order = Order {
            root: root.to_owned(),
            command: command.clone(),
            deadly,
            trouble,
            clock,
        };
        writeln!(self.input, "{}", serde_json::to_string(&order).unwrap()).unwrap();
        let mut where_killed = None;
        for line in self.output.by_ref().lines() {
            let line = line.unwrap();
            if let Some(text) = line.strip_prefix("@killed ") {
                where_killed = Some(text.replace(root.to_str().unwrap(), ""));
            } else if let Some(text) = line.strip_prefix("@done ") {
                let (boundaries, outcome) = serde_json::from_str(text).unwrap();
                self.boundaries = boundaries;
                return outcome;
            }
        }
        self.child.wait().unwrap();
        *self = Worker::start();
        match where_killed {
            Some(text) => Outcome::Killed(text),
            None => Outcome::Panicked("the process ended".into()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "is started by the campaigns"]
fn works_for_a_campaign() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    boundary::set_piece(PIECE);
    for line in std::io::stdin().lines() {
        let order: Order = serde_json::from_str(&line.unwrap()).unwrap();
        world::set_trouble(order.trouble);
        boundary::set(order.deadly, order.clock);
        let done = std::panic::catch_unwind(|| perform(&order.root, &order.command));
        let outcome = match done {
            Ok(Ok(text)) => Outcome::Done(text),
            Ok(Err(text)) => Outcome::Refused(text),
            Err(panic) => Outcome::Panicked(match panic.downcast_ref::<String>() {
                Some(text) => text.clone(),
                None => format!("{:?}", panic.downcast_ref::<&str>()),
            }),
        };
        let count = boundary::count();
        boundary::set(None, 0);
        println!(
            "\n@done {}",
            serde_json::to_string(&(count, outcome)).unwrap()
        );
    }
}

fn perform(root: &Path, command: &Command) -> Result<String, String> {
    if let Command::Menu { card } = command {
        let store = Store::open_for_boot_service(&root.join("state")).map_err(|e| e.to_string())?;
        let facts = store
            .menu(*card, None, Timestamp::now())
            .map_err(|e| e.to_string())?;
        let record = store.get(&facts.name).map_err(|e| e.to_string())?;
        let waits = record.has_domain_on_old_disks();
        return Ok(serde_json::json!([facts.shelf, facts.menu_id, waits]).to_string());
    }
    let host = world::host(root)?;
    let wire = Segment {
        root: root.to_owned(),
        precopy: matches!(
            command,
            Command::Copy { precopy: true, .. } | Command::PlanCopy { .. }
        ),
    };
    let context = Context {
        host: &host,
        wire: &wire,
        report: &Silent,
    };
    act(context, command).map_err(|error| error.to_string())
}

fn act(context: Context<'_>, command: &Command) -> Result<String, Error> {
    let host = context.host;
    let stop_flag = AtomicBool::new(false);
    match command {
        Command::Menu { .. } => unreachable!(),
        Command::List => {
            let warnings = Warnings::default();
            let report = &warnings;
            let views = discover(Context { report, ..context })?;
            let warnings = warnings.0.into_inner().unwrap();
            return Ok(serde_json::json!({"views": views, "warnings": warnings}).to_string());
        }
        Command::Start {
            name,
            discard_copy,
            discard_moved,
        } => {
            let options = StartOptions {
                discard_copy: *discard_copy,
                discard_moved: *discard_moved,
                ..StartOptions::default()
            };
            start(context, name, options)?;
        }
        Command::Stop { name, destroy } => stop(context, name, StopOptions { destroy: *destroy })?,
        Command::Resume {
            name,
            did_not_run,
            although_changed,
        } => {
            let options = ResumeOptions {
                old_system_did_not_run: *did_not_run,
                although_changed: *although_changed,
            };
            resume(context, name, options, &|_| None)?;
        }
        Command::Copy {
            name,
            to,
            precopy,
            overwrite,
        } => {
            let target = CopyTarget::Machine(name.clone());
            let done = copy(
                context,
                CopyRequest {
                    precopy: *precopy,
                    may_go: &|_, _| *overwrite,
                    ..CopyRequest::new(&target, to, &stop_flag)
                },
            )?;
            assert!(done.iter().all(|done| done.summary.is_complete()));
        }
        Command::PlanCopy { name, to } => {
            let target = CopyTarget::Machine(name.clone());
            plan_copy(context, CopyRequest::new(&target, to, &stop_flag))?;
        }
        Command::Verify {
            name,
            from_certificate,
        } => {
            let done = verify(context, name, *from_certificate, &stop_flag)?;
            return Ok(format!(
                "{:?}",
                done.iter().map(|done| &done.compared).collect::<Vec<_>>()
            ));
        }
        Command::Cutover {
            name,
            autostart,
            gone,
        } => {
            let options = CutoverOptions {
                autostart: *autostart,
                old_machine_gone: *gone,
                ..CutoverOptions::default()
            };
            cutover(context, name, options)?;
        }
        Command::Release { name, off } => release(context, name, ReleaseOptions { off: *off })?,
        Command::Disarm { name } => drop(disarm(context, name, &[])?),
        Command::Rearm { name } => drop(rearm(context, name)?),
        Command::Forget { name, gone } => drop(forget(context, name, *gone)?),
        Command::Trust { name } => drop(host.store.trust(name)?),
        Command::Config { name } => drop(write_config(host, name, &Silent)?),
        Command::DevicesUp | Command::DevicesDown => {
            let results = match command {
                Command::DevicesUp => devices_up(host, &Silent)?,
                _ => devices_down(host, &Silent)?,
            };
            for result in results {
                result.result?;
            }
        }
        Command::Watch => watch_once(context, &|_| None)?,
    }
    Ok(String::new())
}
