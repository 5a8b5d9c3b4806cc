//! `p2v stop`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use p2v_dom0::workflow::{self, StopOptions};
use serde_json::json;

use super::Session;

#[derive(Debug, Args)]
pub struct Stop {
    /// The machine: its name, or the MAC address it boots from
    pub name: String,
    /// Pull the plug instead of asking the guest to shut down
    #[arg(long)]
    pub destroy: bool,
}

impl Stop {
    pub fn run(&self, session: &Session<'_>) -> Result<ExitCode> {
        session.with_wire(|context| {
            let name = session.name_of(&self.name)?;
            let destroy = self.destroy;
            workflow::stop(context, &name, StopOptions { destroy })?;
            session.done(
                json!({ "machine": name }),
                &format!("the domain {name} is stopped"),
            )
        })
    }
}
