//! `p2v trust`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::{Session, name_of};

#[derive(Debug, Args)]
pub struct Trust {
    /// The machine
    pub name: String,
}

impl Trust {
    pub fn run(&self, session: &Session<'_>) -> Result<ExitCode> {
        let store = &session.host.store;
        // A record that is not believed yet has the name and the address that it says.
        let name = name_of(&store.as_written(), session.settings, &self.name)?;
        let record = store.trust(&name)?;
        let copies = record.disks.iter().filter_map(|(slot, disk)| {
            let copy = disk.copy.as_ref()?;
            Some(format!("disk {slot} is copied to {}", copy.destination))
        });
        let copies: Vec<String> = copies.collect();
        session.done(
            json!({ "machine": record.name, "state": record.state, "copies": copies }),
            &format!(
                "the record of {} is believed: {}, MAC {}, shelf e{}{}{}",
                record.name,
                record.state,
                record.boot_mac,
                record.shelf,
                if copies.is_empty() { "" } else { "; " },
                copies.join(", ")
            ),
        )
    }
}
