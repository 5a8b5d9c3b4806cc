//! `p2v approve`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use p2v_policy::approvals::Word;

use super::Session;
use crate::approve;

#[derive(Debug, Args)]
pub struct Approve {
    /// The MAC address that it boots from, or its name
    #[arg(value_name = "NAME|MAC")]
    pub machine: Option<String>,
    /// For one boot only: until it has fetched the whole initial RAM disk
    #[arg(long, requires = "machine")]
    pub once: bool,
    /// Withdraw the approval: it boots its own disk from its next start on, unless its server runs here
    #[arg(long, requires = "machine", conflicts_with = "once")]
    pub revoke: bool,
}

impl Approve {
    pub fn run(&self, session: &Session<'_>) -> Result<ExitCode> {
        let (settings, json) = (session.settings, session.json);
        let Some(machine) = &self.machine else {
            return approve::list(settings, json);
        };
        let word = match (self.once, self.revoke) {
            (_, true) => Word::Revoked,
            (true, false) => Word::Once,
            (false, false) => Word::Always,
        };
        approve::run(&session.host.store, settings, machine, word, json)
    }
}
