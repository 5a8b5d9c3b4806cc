//! `p2v verify`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use p2v_dom0::workflow;

use super::{Session, stop_on_signal};
use crate::copying;

#[derive(Debug, Args)]
pub struct Verify {
    /// The machine: its name, or the MAC address it boots from. All its finished copies are compared
    pub name: String,
    /// Compare with the certificate instead of the old disk, which spares a failing disk. Refused where sectors could not
    /// be read
    #[arg(long)]
    pub from_certificate: bool,
}

impl Verify {
    pub fn run(&self, session: &Session<'_>) -> Result<ExitCode> {
        session.with_wire(|context| {
            let name = session.name_of(&self.name)?;
            let stop = stop_on_signal()?;
            let done = workflow::verify(context, &name, self.from_certificate, stop)?;
            Ok(copying::verified(&done, session.json))
        })
    }
}
