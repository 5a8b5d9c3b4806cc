//! `p2v devices`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use p2v_dom0::workflow;

use super::Session;
use crate::arguments::exit;

#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Devices {
    /// Create those that are missing
    Up,
    /// Remove those that are not in use
    Down,
}

impl Devices {
    pub fn run(self, session: &Session<'_>) -> Result<ExitCode> {
        let results = match self {
            Devices::Up => workflow::devices_up(session.host, session.reporter)?,
            Devices::Down => workflow::devices_down(session.host, session.reporter)?,
        };
        let mut code = ExitCode::SUCCESS;
        for result in results {
            match result.result {
                Ok(what) => println!("{}: {what}", result.device),
                Err(error) => {
                    eprintln!("p2v: {} of {}: {error}", result.device, result.name);
                    code = ExitCode::from(exit::FAILED);
                }
            }
        }
        Ok(code)
    }
}
