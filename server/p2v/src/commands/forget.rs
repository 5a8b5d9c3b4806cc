//! `p2v forget`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use p2v_dom0::workflow;
use serde_json::json;

use super::Session;

#[derive(Debug, Args)]
pub struct Forget {
    /// The machine
    pub name: String,
    /// Confirm that the old machine is gone for good (disks removed or destroyed), and any CD or stick of p2v's for it. p2v
    /// then no longer keeps it from booting its own disk. Required if it was moved, or a medium was made
    #[arg(long)]
    pub gone: bool,
}

impl Forget {
    pub fn run(&self, session: &Session<'_>) -> Result<ExitCode> {
        session.with_wire(|context| {
            // Also one whose record is lost.
            let name = match self.name.parse() {
                Ok(name) => name,
                Err(_) => session.name_of(&self.name)?,
            };
            let kept = workflow::forget(context, &name, self.gone)?;
            session.done(
                json!({ "machine": name, "kept": kept }),
                &format!("{name} is forgotten; its history is in {}", kept.display()),
            )
        })
    }
}
