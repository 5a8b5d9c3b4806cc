//! What clients are told about this server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use pnet::util::MacAddr;

use super::request::Request;
use crate::boot_menu::BootFile;
use crate::client::ClientKind;
use crate::lease::Range;
use crate::loader::{self, BootTarget, Loader};
use crate::subnet::Subnet;

/// What clients are told about this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Our address.
    pub address: Ipv4Addr,
    /// Our network.
    pub subnet: Subnet,
    /// Default gateway.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Domain name (option 15).
    pub domain: Option<String>,
    /// Seconds.
    pub lease_seconds: u32,
    /// What may be given away; `None`: a proxy, which gives no addresses.
    pub range: Option<Range>,
    /// Addresses for machines that do not boot from the network, too.
    pub serve_all: bool,
    /// What stands in URLs, where HTTP is served.
    pub http: Option<String>,
    /// UEFI machines get Debian's signed GRUB, which has no HTTP.
    pub signed_grub: bool,
    /// The loader for BIOS machines.
    pub bios_loader: Loader,
    /// Loaders for some machines.
    pub loaders: BTreeMap<MacAddr, Loader>,
    /// The files there are: a loader that is not installed cannot be told.
    pub files: BTreeSet<BootFile>,
}

impl Server {
    /// What the client boots; `None`: it does not boot from the network.
    ///
    /// # Errors
    /// Why its kind is not served.
    pub(super) fn boot_target(&self, request: &Request) -> Result<Option<BootTarget>, String> {
        if request.client == ClientKind::Other {
            return Ok(None);
        }
        // A loader that is named and not there was complained of at the start. The machine gets the
        // usual one: without an answer it would boot its own disk.
        let there = |loader: &Loader| loader.file().is_none_or(|file| self.files.contains(&file));
        let wish = self.loaders.get(&request.mac).copied().filter(there);
        let bios = Some(self.bios_loader)
            .filter(there)
            .unwrap_or(Loader::Pxelinux);
        if request.client == ClientKind::HttpBoot(0x10) && self.signed_grub {
            let why =
                "Debian's signed GRUB speaks no HTTP: boot it by PXE, or set `secure_boot = false`";
            return Err(why.to_owned());
        }
        let http = self.http.is_some();
        let Some(loader) = loader::choose(request.client, wish, bios, http) else {
            return Err(match request.client {
                ClientKind::HttpBoot(0x0F | 0x10) => {
                    "HTTP is not served (`http_port` is 0)".to_owned()
                }
                _ => "there is no boot loader for such machines".to_owned(),
            });
        };
        if !there(&loader) {
            return Err(format!("its boot loader {loader} is not installed"));
        }
        Ok(Some(BootTarget::new(
            request.client,
            loader,
            request.mac,
            self.http.as_deref(),
        )))
    }
}
