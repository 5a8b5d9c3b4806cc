//! Which boot file a client is told: a pure function of what it is and what is set.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv4Addr;

use serde::Deserialize;

use crate::boot_menu::{BootFile, MenuFormat, menu_name};
use crate::client::ClientKind;
use pnet::util::MacAddr;

/// A first program for a machine, by the name it has in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Loader {
    /// PXELINUX for BIOS machines.
    #[serde(rename = "pxelinux.0")]
    Pxelinux,
    /// PXELINUX for BIOS machines that fetches by HTTP.
    #[serde(rename = "lpxelinux.0")]
    Lpxelinux,
    /// shim for UEFI, which starts GRUB: for Secure Boot.
    #[serde(rename = "shimx64.efi")]
    ShimX64,
    /// GRUB for UEFI without shim.
    #[serde(rename = "grubx64.efi")]
    GrubX64,
    /// GRUB for 32-bit UEFI.
    #[serde(rename = "grubia32.efi")]
    GrubIa32,
    /// The script for iPXE.
    #[serde(rename = "boot.ipxe")]
    Ipxe,
}

impl Loader {
    /// Its file; `None`: the script, which is always there.
    pub fn file(self) -> Option<BootFile> {
        match self {
            Loader::Pxelinux => Some(BootFile::Pxelinux),
            Loader::Lpxelinux => Some(BootFile::Lpxelinux),
            Loader::ShimX64 => Some(BootFile::ShimX64),
            Loader::GrubX64 => Some(BootFile::GrubX64),
            Loader::GrubIa32 => Some(BootFile::GrubIa32),
            Loader::Ipxe => None,
        }
    }

    /// The name it is fetched by.
    pub fn name(self) -> Cow<'static, str> {
        let file = self.file();
        file.map_or(Cow::Borrowed("boot.ipxe"), BootFile::name)
    }
}

impl fmt::Display for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// One kind of firmware that boots over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// For names of classes and tags.
    pub tag: &'static str,
    /// DHCP option 93 (RFC 4578, and IANA's "Processor Architecture Types").
    pub architectures: &'static [u16],
    /// Its loader, unless the settings name another.
    pub loader: Loader,
    /// UEFI HTTP boot: it is told a URL.
    pub http: bool,
}

/// What is booted. iPXE says one of these architectures too, and gets [`Loader::Ipxe`].
pub const FIRMWARES: [Firmware; 5] = [
    Firmware {
        tag: "bios",
        architectures: &[0],
        loader: Loader::Pxelinux,
        http: false,
    },
    Firmware {
        tag: "x64",
        // 7 by the RFC's registry; 9 by the RFC's text, which some firmware follows.
        architectures: &[7, 9],
        loader: Loader::ShimX64,
        http: false,
    },
    Firmware {
        tag: "ia32",
        architectures: &[6],
        loader: Loader::GrubIa32,
        http: false,
    },
    Firmware {
        tag: "x64-http",
        architectures: &[0x10],
        loader: Loader::ShimX64,
        http: true,
    },
    Firmware {
        tag: "ia32-http",
        architectures: &[0x0F],
        loader: Loader::GrubIa32,
        http: true,
    },
];

/// The loader for a client; `None`: its kind is not served. `wish`: what the settings name for this
/// machine. `bios`: what they name for BIOS machines.
pub fn choose(
    client: ClientKind,
    wish: Option<Loader>,
    bios: Loader,
    has_http: bool,
) -> Option<Loader> {
    let (architecture, http, ipxe) = match client {
        ClientKind::Other => return None,
        ClientKind::Bios { ipxe } => (0, false, ipxe),
        ClientKind::Uefi { architecture, ipxe } => (architecture, false, ipxe),
        ClientKind::HttpBoot(architecture) => (architecture, true, false),
    };
    let firmware = FIRMWARES
        .iter()
        .find(|known| known.http == http && known.architectures.contains(&architecture))
        .filter(|_| has_http || !http)?;
    let usual = match firmware.loader {
        // Given its script at once: given its own file again it would load itself for ever.
        _ if ipxe => Loader::Ipxe,
        Loader::Pxelinux => bios,
        other => other,
    };
    Some(wish.unwrap_or(usual))
}

/// What a client is told to fetch, and the options its kind needs beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootTarget {
    /// The file's name, or its URL for [`BootTarget::http_client`].
    pub file: String,
    /// UEFI HTTP boot: option 60 is `HTTPClient`, and nothing of TFTP is said.
    pub http_client: bool,
    /// A BIOS ROM: it is told by option 43 not to look for boot servers. UEFI clients that see that
    /// option take the message for one of boot servers.
    pub no_discovery: bool,
    /// Option 209 (RFC 5071): the configuration file, for loaders that have their own.
    pub config_file: Option<String>,
}

impl BootTarget {
    /// For a client with this loader. `http`: `192.168.7.1:8080`.
    pub fn new(client: ClientKind, loader: Loader, mac: MacAddr, http: Option<&str>) -> BootTarget {
        let http_client = matches!(client, ClientKind::HttpBoot(_));
        let file = match http {
            Some(host) if http_client => format!("http://{host}/{loader}"),
            _ => loader.to_string(),
        };
        BootTarget {
            file,
            http_client,
            no_discovery: matches!(client, ClientKind::Bios { .. }),
            config_file: (loader == Loader::Lpxelinux && http.is_some())
                .then(|| menu_name(MenuFormat::Lpxelinux, mac)),
        }
    }
}

/// `192.168.7.1`, or `192.168.7.1:8080`: what stands in URLs. `None` without HTTP.
pub fn http_host(server: Ipv4Addr, port: u16) -> Option<String> {
    match port {
        0 => None,
        80 => Some(server.to_string()),
        port => Some(format!("{server}:{port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_gets_its_loader() {
        let bios = |ipxe| ClientKind::Bios { ipxe };
        let uefi = |architecture, ipxe| ClientKind::Uefi { architecture, ipxe };
        let usual = Loader::Pxelinux;
        for (client, without_http, with_http) in [
            (bios(false), Some(Loader::Pxelinux), Some(Loader::Pxelinux)),
            (bios(true), Some(Loader::Ipxe), Some(Loader::Ipxe)),
            (uefi(7, false), Some(Loader::ShimX64), Some(Loader::ShimX64)),
            (uefi(9, false), Some(Loader::ShimX64), Some(Loader::ShimX64)),
            (uefi(9, true), Some(Loader::Ipxe), Some(Loader::Ipxe)),
            (
                uefi(6, false),
                Some(Loader::GrubIa32),
                Some(Loader::GrubIa32),
            ),
            (uefi(0x0B, false), None, None),
            (uefi(0x0B, true), None, None),
            (ClientKind::HttpBoot(0x10), None, Some(Loader::ShimX64)),
            (ClientKind::HttpBoot(0x0F), None, Some(Loader::GrubIa32)),
            (ClientKind::HttpBoot(0x13), None, None),
            (ClientKind::Other, None, None),
        ] {
            assert_eq!(choose(client, None, usual, false), without_http, "{client}");
            assert_eq!(choose(client, None, usual, true), with_http, "{client}");
            // A wish does not make a client of what is none.
            let wish = Some(Loader::GrubX64);
            assert_eq!(
                choose(client, wish, usual, true),
                with_http.and(wish),
                "{client}"
            );
        }
        let other = Loader::Lpxelinux;
        assert_eq!(choose(bios(false), None, other, true), Some(other));
        assert_eq!(
            choose(uefi(7, false), None, other, true),
            Some(Loader::ShimX64)
        );
    }

    #[test]
    fn what_each_kind_is_told() {
        let mac = MacAddr(0x52, 0x54, 0, 0x12, 0x34, 0x56);
        let host = http_host(Ipv4Addr::new(192, 168, 7, 1), 8080);
        let bios = ClientKind::Bios { ipxe: false };
        let told = BootTarget::new(bios, Loader::Lpxelinux, mac, host.as_deref());
        assert_eq!(told.file, "lpxelinux.0");
        assert_eq!(
            told.config_file.as_deref(),
            Some("lpxelinux.cfg/01-52-54-00-12-34-56")
        );
        assert!(told.no_discovery && !told.http_client);
        let http = ClientKind::HttpBoot(0x10);
        let told = BootTarget::new(http, Loader::ShimX64, mac, host.as_deref());
        assert_eq!(told.file, "http://192.168.7.1:8080/shimx64.efi");
        assert!(told.http_client && !told.no_discovery && told.config_file.is_none());
        let uefi = ClientKind::Uefi {
            architecture: 7,
            ipxe: false,
        };
        let told = BootTarget::new(uefi, Loader::ShimX64, mac, host.as_deref());
        assert_eq!(told.file, "shimx64.efi");
        assert!(!told.no_discovery && !told.http_client);
    }
}
