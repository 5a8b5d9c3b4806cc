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
    /// Name of the machine, or the MAC address it boots from
    pub name: String,
    /// Also start the domain whenever this host starts: a link in /etc/xen/auto
    #[arg(long)]
    pub autostart: bool,
    /// Go on although sectors of the old disk could not be read; then check the file systems in the domain (fsck,
    /// chkdsk)
    #[arg(long)]
    pub accept_unreadable: bool,
    /// Go on although this host could not make the old disks read-only (copied with --not-booted-by-this-host):
    /// you know that nothing wrote to them since
    #[arg(long)]
    pub accept_unguarded: bool,
    /// Go on without the old machine: you know that it is off, and that it did not run its own system since the
    /// copy. Refused while it is heard
    #[arg(long)]
    pub old_machine_gone: bool,
    /// Make the old disks unable to start, as `p2v disarm` does: after a power cut of the whole site the old machine
    /// cannot come up beside its domain, whatever its boot order is
    #[arg(long, conflicts_with = "old_machine_gone")]
    pub disarm_old_disk: bool,
    /// A disk (its number in e7.N) that the machine once had, and that was removed on purpose
    #[arg(long, value_name = "N", value_parser = slot)]
    pub without_disk: Vec<u8>,
    /// A machine that shares a network card with this one: you know that they are two, and the card was moved from one
    /// to the other
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
                    "It does not start with this host by itself: ln -s {} {}/ has it do so, and the unit p2v-devices must \
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
