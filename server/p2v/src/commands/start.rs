//! `p2v start`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use p2v_dom0::workflow::{self, StartOptions};
use serde_json::json;

use super::Session;
use crate::arguments::slot;

#[derive(Debug, Args)]
pub struct Start {
    /// The machine: its name, or the MAC address it boots from
    pub name: String,
    /// Start although a copy is finished. What the domain writes is not in that copy, which must be made again
    #[arg(long)]
    pub discard_copy: bool,
    /// Go back to the old disk of a moved machine. What the domain wrote since the cutover is not on it
    #[arg(long)]
    pub discard_moved: bool,
    /// A disk that was removed on purpose: its number, as in e7.N
    #[arg(long, value_name = "N", value_parser = slot)]
    pub without_disk: Vec<u8>,
    /// A machine that shares a network card with this one but is not the same: the card was moved between them
    #[arg(long, value_name = "NAME")]
    pub another_machine: Vec<String>,
}

impl Start {
    pub fn run(&self, session: &Session<'_>) -> Result<ExitCode> {
        session.with_wire(|context| {
            let name = session.name_of(&self.name)?;
            let options = StartOptions {
                discard_copy: self.discard_copy,
                discard_moved: self.discard_moved,
                without: self.without_disk.clone(),
                another_machine: session.names_of(&self.another_machine)?,
            };
            let config = workflow::start(context, &name, options)?;
            session.done(
                json!({ "machine": name, "config": config }),
                &format!(
                    "{name} runs as a domain on its old disks ({}). Its screen: `xl vncviewer {name}`. \
                     Next, when it suits: `p2v stop {name}`, then `p2v copy {name} --to VG`",
                    config.display()
                ),
            )
        })
    }
}
