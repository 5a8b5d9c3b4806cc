//! `p2v image`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use p2v_contract::MacAddr;
use p2v_contract::key::PublicKey;
use p2v_netboot::parse_mac;
use p2v_policy::boot_tree;

use super::Session;
use crate::image;

#[derive(Debug, Subcommand)]
pub enum Image {
    /// Lay out DIR, the root of a TFTP server: boot loaders, the image, and a menu for each machine
    ///
    /// For the machines with a record, those that the settings name (under [machines], or in `allow`), and those of
    /// --machine. The tree does not
    /// follow what happens to them: run this again after each change.
    Install {
        /// The TFTP server's root
        dir: PathBuf,
        /// One more machine, by the MAC address it boots from
        #[arg(long, value_name = "MAC", value_parser = parse_mac)]
        machine: Vec<MacAddr>,
        /// What a machine does that is none of these
        #[arg(long, value_enum, default_value_t = Unlisted::Local)]
        unlisted: Unlisted,
        /// What the agents get
        #[command(flatten)]
        orders: Orders,
    },
    /// Write FILE, an image for a CD or a USB stick that starts the agent on one machine, by BIOS or UEFI
    Iso {
        /// The image
        file: PathBuf,
        /// The machine, by name or by the MAC address of the network card that reaches the Xen host
        #[arg(long, value_name = "NAME|MAC")]
        machine: String,
        /// What the agent gets
        #[command(flatten)]
        orders: Orders,
    },
}

/// What a machine does that has no menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Unlisted {
    /// It boots its own disk
    Local,
    /// It waits at its screen
    Wait,
}

impl From<Unlisted> for boot_tree::Unlisted {
    fn from(unlisted: Unlisted) -> boot_tree::Unlisted {
        match unlisted {
            Unlisted::Local => boot_tree::Unlisted::Local,
            Unlisted::Wait => boot_tree::Unlisted::Wait,
        }
    }
}

/// What agents are told without p2v serve.
#[derive(Args, Debug)]
pub struct Orders {
    /// MAC address of a Xen host that the agents answer [default: those of the interfaces and `hosts` in the settings]
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    pub host: Vec<MacAddr>,
    /// Key of a Xen host whose orders the agents take, as `p2v key` prints it there [default: without --host, that of this
    /// host and `host_keys` in the settings]
    #[arg(long, value_name = "KEY")]
    pub key: Vec<PublicKey>,
}

impl Image {
    pub fn run(&self, session: &Session<'_>) -> Result<ExitCode> {
        let host = session.host;
        image::run(
            &host.store,
            host.key.public(),
            session.settings,
            self,
            session.json,
        )
    }
}
