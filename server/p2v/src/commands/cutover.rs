//! `p2v cutover`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use p2v_dom0::workflow::{self, CutoverOptions};
use serde_json::json;

use super::{Session, listed};
use crate::arguments::slot;

#[derive(Debug, Args)]
pub struct Cutover {
    /// The machine: its name, or the MAC address it boots from
    pub name: String,
    /// Start the domain with this host from now on: a link in /etc/xen/auto
    #[arg(long)]
    pub autostart: bool,
    /// Continue although sectors of the old disk could not be read. Check the file systems in the domain afterwards (fsck,
    /// chkdsk)
    #[arg(long)]
    pub accept_unreadable: bool,
    /// Continue although this host could not make the old disks read-only (--not-booted-by-this-host): confirm that nothing
    /// wrote to them since the copy
    #[arg(long)]
    pub accept_unguarded: bool,
    /// Continue without the old machine: confirm that it is off and did not boot its own system since the copy. Refused
    /// while it answers
    #[arg(long)]
    pub old_machine_gone: bool,
    /// Also make the old disks unbootable, as `p2v disarm` does: the old machine cannot come up beside its domain after a
    /// power cut, whatever its boot order
    #[arg(long, conflicts_with = "old_machine_gone")]
    pub disarm_old_disk: bool,
    /// A disk that was removed on purpose: its number, as in e7.N
    #[arg(long, value_name = "N", value_parser = slot)]
    pub without_disk: Vec<u8>,
    /// A machine that shares a network card with this one but is not the same: the card was moved between them
    #[arg(long, value_name = "NAME")]
    pub another_machine: Vec<String>,
}

impl Cutover {
    pub fn run(&self, session: &Session<'_>) -> Result<ExitCode> {
        session.with_wire(|context| {
            let name = session.name_of(&self.name)?;
            let options = CutoverOptions {
                autostart: self.autostart,
                accept_unreadable: self.accept_unreadable,
                accept_unguarded: self.accept_unguarded,
                old_machine_gone: self.old_machine_gone,
                will_disarm: self.disarm_old_disk,
                without: self.without_disk.clone(),
                another_machine: session.names_of(&self.another_machine)?,
            };
            let config = workflow::cutover(context, &name, options)?;
            let disarmed = match self.disarm_old_disk {
                false => Vec::new(),
                true => workflow::disarm(context, &name, &self.without_disk).with_context(|| {
                    format!(
                        "{name} runs from its volume ({}), but its old disk can still start; `p2v disarm {name}` tries again",
                        config.display()
                    )
                })?,
            };
            let starts = if self.autostart {
                "It starts with this host, if the unit p2v-devices is enabled.".to_owned()
            } else {
                format!(
                    "It does not start automatically with this host. To have it started: `ln -s {} {}/`, and the unit p2v-devices must \
                     be enabled (systemctl enable p2v-devices).",
                    config.display(),
                    session.settings.xen.auto_dir.display()
                )
            };
            session.done(
                json!({ "machine": name, "config": config, "disarmed": disarmed }),
                &format!(
                    "{name} runs from its volume ({}). {starts} {}When you are content with it: `p2v release {name}` \
                     switches the old machine off",
                    config.display(),
                    match disarmed.is_empty() {
                        true => String::new(),
                        false => format!("Nothing starts from {} any more. ", listed(&disarmed)),
                    }
                ),
            )
        })
    }
}
