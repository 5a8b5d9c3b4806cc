//! `p2v list`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use p2v_dom0::{Timestamp, workflow};
use p2v_policy::approvals::Approvals;
use p2v_policy::{asks, boots};

use super::Session;
use crate::show;

#[derive(Debug, Args)]
pub struct List {
    /// Show how each machine's last network boot went instead
    #[arg(long)]
    pub boot: bool,
}

impl List {
    pub fn run(&self, session: &Session<'_>) -> Result<ExitCode> {
        session.with_wire(|context| {
            let machines = workflow::discover(context)?;
            if self.boot {
                let boots = boots::read(&session.settings.serve.state_dir)?;
                return show::boots::list(&boots, &machines, session.json);
            }
            // The machines that are known are worth a list without these.
            let askers = askers(session).unwrap_or_else(|error| {
                eprintln!("p2v: machines that ask cannot be shown: {error:#}");
                Vec::new()
            });
            show::list(&machines, &askers, session.json)
        })
    }
}

fn askers(session: &Session<'_>) -> Result<Vec<asks::Asker>> {
    let settings = session.settings;
    Ok(asks::askers(
        &boots::read(&settings.serve.state_dir)?,
        settings.lists(),
        &Approvals::of(&settings.state).all()?,
        &session.host.store.list()?.records,
        Timestamp::now(),
    ))
}
