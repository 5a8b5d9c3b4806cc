//! `p2v rearm`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use p2v_dom0::workflow;
use serde_json::json;

use super::{Session, listed};

#[derive(Debug, Args)]
pub struct Rearm {
    /// The machine: its name, or the MAC address it boots from
    pub name: String,
}

impl Rearm {
    pub fn run(&self, session: &Session<'_>) -> Result<ExitCode> {
        session.with_wire(|context| {
            let name = session.name_of(&self.name)?;
            let rearmed = workflow::rearm(context, &name)?;
            session.done(
                json!({ "machine": name, "rearmed": rearmed }),
                &format!(
                    "{} can start again: only `p2v serve`, and a boot order with the network first, keep the old machine from it",
                    listed(&rearmed)
                ),
            )
        })
    }
}
