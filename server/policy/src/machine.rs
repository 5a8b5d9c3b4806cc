//! What the settings say of machines.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use p2v_contract::MacAddr;
use p2v_dom0::MachineName;
use p2v_netboot::{Image, ImageName, Loader, MachineId};
use serde::Deserialize;

use crate::boot_policy::Wish;

/// All of it.
#[derive(Clone, Copy, Debug)]
pub struct Lists<'a> {
    /// `allow` and `deny`.
    pub serve: &'a p2v_netboot::Settings,
    /// What is known beforehand of some machines, by the MAC address they boot from.
    pub machines: &'a BTreeMap<MacAddr, Machine>,
    /// SMBIOS UUIDs that several machines have.
    pub shared_uuids: &'a [MachineId],
}

/// What is known beforehand of a machine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Machine {
    /// Its name; default `e` and its shelf.
    pub name: Option<MachineName>,
    /// The address it is given (mode `dhcp`).
    pub address: Option<Ipv4Addr>,
    /// What it does when it boots from the network; by itself the agent, if it is approved. `Agent` approves it.
    pub boot: Option<Wish>,
    /// The boot loader it is given, whatever it is taken for.
    pub loader: Option<Loader>,
    /// The netboot image that it is started with, one of those under [serve.images]; by itself the usual one.
    pub image: Option<ImageName>,
    /// Consoles of the agent's kernel, as in `console=`; by itself the screen and the first serial port.
    pub console: Vec<String>,
    /// More arguments for the agent's kernel.
    pub append: String,
}

impl Machine {
    /// The image that a machine's agent is started with.
    pub fn image(machine: Option<&Machine>) -> Image {
        let named = machine.and_then(|machine| machine.image);
        named.map_or(Image::Usual, Image::Named)
    }

    /// What the agent's kernel is told beside p2v's own arguments.
    pub fn kernel_arguments(&self) -> String {
        let consoles = self.console.iter().map(|c| format!("console={c}"));
        let mut arguments: Vec<String> = consoles.collect();
        if !self.append.is_empty() {
            arguments.push(self.append.clone());
        }
        arguments.join(" ")
    }

    /// The same, and p2v's own after it.
    pub fn with_kernel_arguments(machine: Option<&Machine>, ours: String) -> String {
        match machine.map(Machine::kernel_arguments) {
            Some(theirs) if !theirs.is_empty() => format!("{theirs} {ours}"),
            _ => ours,
        }
    }
}
