//! `p2v serve`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use p2v_netboot::Mode;

use crate::settings::Settings;
use crate::site_dhcp::DhcpServer;
use crate::{serve, site_dhcp};

#[derive(Debug, Args)]
pub struct Serve {
    /// Boot each machine once, across restarts of this service too; after that it boots its own disk, unless its server
    /// runs on this host
    #[arg(long)]
    pub once: bool,
    /// Print the settings for the site's own DHCP server, which then sends machines here, and exit; p2v then runs with
    /// mode = "off"
    #[arg(long, value_name = "SERVER", value_enum)]
    pub print: Option<DhcpServer>,
}

impl Serve {
    pub fn run(&self, mut settings: Settings) -> Result<ExitCode> {
        let Some(server) = self.print else {
            return serve::run(settings, self.once);
        };
        let mode = std::mem::replace(&mut settings.serve.mode, Mode::Off);
        print!("{}", site_dhcp::print(server, &settings)?);
        if mode != Mode::Off {
            eprintln!(
                "p2v: this is for mode = \"off\" under [serve]; the settings say otherwise, and p2v serve \
                 would answer beside that server"
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
