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
    /// Name of the machine, or the MAC address it boots from
    pub name: String,
    /// Start although a copy is finished: what the domain writes is not in it, and it is to be made again
    #[arg(long)]
    pub discard_copy: bool,
    /// Start on the old disk of a machine that is moved: it goes back to where it was before the cutover, and what
    /// the moved one wrote since is not there
    #[arg(long)]
    pub discard_moved: bool,
    /// A disk (its number in e7.N) that the machine once had, and that was removed on purpose
    #[arg(long, value_name = "N", value_parser = slot)]
    pub without_disk: Vec<u8>,
    /// A machine that shares a network card with this one: you know that they are two, and the card was moved from one
    /// to the other
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
