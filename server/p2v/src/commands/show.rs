//! `p2v show`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use p2v_dom0::workflow;

use super::Session;
use crate::show;

#[derive(Debug, Args)]
pub struct Show {
    /// Name of the machine, or the MAC address it boots from, as `p2v list` shows them
    pub name: String,
}

impl Show {
    pub fn run(&self, session: &Session<'_>) -> Result<ExitCode> {
        let host = session.host;
        session.with_wire(|context| {
            let wanted = session.name_of(&self.name)?;
            let machines = workflow::discover(context)?;
            let machine = machines.iter().find(|m| m.name.as_ref() == Some(&wanted));
            let machine = machine.ok_or_else(|| host.store.unknown(&wanted))?;
            let statistics = workflow::statistics(context, machine);
            let code = host.key.public().code();
            let iface = &session.settings.iface;
            show::one(machine, &statistics, session.json, iface, &code)
        })
    }
}
