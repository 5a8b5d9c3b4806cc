//! `p2v resume`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use p2v_dom0::workflow::{self, ResumeOptions, Resumed};
use p2v_policy::boots;
use serde_json::json;

use super::Session;

#[derive(Debug, Args)]
pub struct Resume {
    /// The machine: its name, or the MAC address it boots from
    pub name: String,
    /// Confirm that the old machine did not boot its own system from its disk meanwhile
    #[arg(long)]
    pub old_system_did_not_run: bool,
    /// The same where a disk is NOT AS IT WAS: confirm that only the domain wrote to it
    #[arg(long)]
    pub although_changed: bool,
}

impl Resume {
    pub fn run(&self, session: &Session<'_>) -> Result<ExitCode> {
        session.with_wire(|context| {
            let name = session.name_of(&self.name)?;
            let options = ResumeOptions {
                old_system_did_not_run: self.old_system_did_not_run,
                although_changed: self.although_changed,
            };
            let last_boot = |mac| boots::last_boot(&session.settings.serve.state_dir, mac);
            let resumed = workflow::resume(context, &name, options, &last_boot)?;
            let sentence = match resumed {
                Resumed::Disks => format!("the domain {name} has its old disks again, and resumes"),
                Resumed::HadThem => format!(
                    "nothing to do: the old machine of {name} answers, and the domain has its disks"
                ),
            };
            let given_back = resumed == Resumed::Disks;
            session.done(
                json!({ "machine": name, "given_back": given_back }),
                &sentence,
            )
        })
    }
}
