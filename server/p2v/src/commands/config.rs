//! `p2v config`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use p2v_dom0::workflow;

use super::Session;

#[derive(Debug, Args)]
pub struct Config {
    /// The machine: its name, or the MAC address it boots from
    pub name: String,
    /// Write it to /etc/xen/NAME.cfg; one that was edited is kept beside it
    #[arg(long)]
    pub write: bool,
}

impl Config {
    pub fn run(&self, session: &Session<'_>) -> Result<ExitCode> {
        let (host, name) = (session.host, session.name_of(&self.name)?);
        match self.write {
            false => print!("{}", workflow::config(host, &name)?),
            true => {
                let written = workflow::write_config(host, &name, session.reporter)?;
                println!("{}", written.path.display());
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
