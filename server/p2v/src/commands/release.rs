//! `p2v release`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use p2v_dom0::workflow::{self, ReleaseOptions};
use serde_json::json;

use super::Session;

#[derive(Debug, Args)]
pub struct Release {
    /// The machine: its name, or the MAC address it boots from
    pub name: String,
    /// It is off already: only update the record. Refused while it answers
    #[arg(long)]
    pub off: bool,
}

impl Release {
    pub fn run(&self, session: &Session<'_>) -> Result<ExitCode> {
        session.with_wire(|context| {
            let name = session.name_of(&self.name)?;
            workflow::release(context, &name, ReleaseOptions { off: self.off })?;
            session.done(
                json!({ "machine": name }),
                &format!("{name}: the old machine is off"),
            )
        })
    }
}
