//! `p2v serve`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use p2v_netboot::Mode;
use p2v_policy::settings::Settings;
use p2v_policy::site_dhcp;

use crate::serve;

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

/// A DHCP server of the site's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DhcpServer {
    /// dnsmasq, also in its proxy mode
    Dnsmasq,
    /// ISC dhcpd
    IscDhcpd,
    /// ISC Kea
    Kea,
}

impl From<DhcpServer> for site_dhcp::DhcpServer {
    fn from(server: DhcpServer) -> site_dhcp::DhcpServer {
        match server {
            DhcpServer::Dnsmasq => site_dhcp::DhcpServer::Dnsmasq,
            DhcpServer::IscDhcpd => site_dhcp::DhcpServer::IscDhcpd,
            DhcpServer::Kea => site_dhcp::DhcpServer::Kea,
        }
    }
}

impl Serve {
    pub fn run(&self, mut settings: Settings) -> Result<ExitCode> {
        let Some(server) = self.print else {
            return serve::run(settings, self.once);
        };
        let mode = std::mem::replace(&mut settings.serve.mode, Mode::Off);
        print!("{}", site_dhcp::print(server.into(), &settings)?);
        if mode != Mode::Off {
            eprintln!(
                "p2v: this is for mode = \"off\" under [serve]; the settings say otherwise, and p2v serve \
                 would answer beside that server"
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
