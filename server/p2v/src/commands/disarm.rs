//! `p2v disarm`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use p2v_dom0::workflow;
use serde_json::json;

use super::{Session, listed};
use crate::arguments::slot;

#[derive(Debug, Args)]
pub struct Disarm {
    /// The machine: its name, or the MAC address it boots from
    pub name: String,
    /// A disk that was removed on purpose: its number, as in e7.N
    #[arg(long, value_name = "N", value_parser = slot)]
    pub without_disk: Vec<u8>,
}

impl Disarm {
    pub fn run(&self, session: &Session<'_>) -> Result<ExitCode> {
        session.with_wire(|context| {
            let name = session.name_of(&self.name)?;
            let disarmed = workflow::disarm(context, &name, &self.without_disk)?;
            let sentence = match disarmed.is_empty() {
                true => format!("there is nothing to start on the old disks of {name}"),
                false => format!(
                    "nothing starts from {} any more; `p2v rearm {name}` puts back what was there",
                    listed(&disarmed)
                ),
            };
            session.done(json!({ "machine": name, "disarmed": disarmed }), &sentence)
        })
    }
}
