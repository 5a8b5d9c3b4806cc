//! What the administrator sets, and what it means on the interface that is there.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use pnet::util::MacAddr;
use serde::Deserialize;

use crate::image::{ImageFiles, ImageName};
use crate::lease::Range;
use crate::loader::Loader;
use crate::mac_pattern::MacPattern;
use crate::subnet::Subnet;

/// How much of DHCP is done here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Addresses and boot file, for network-boot clients only.
    Dhcp,
    /// The boot file only, beside the site's own DHCP server (PXE specification 2.1, "proxy DHCP").
    #[default]
    Proxy,
    /// TFTP and HTTP only: the site's own DHCP server names this host and `pxelinux.0`.
    Off,
}

/// The addresses that may be given away, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// First address.
    pub start: Ipv4Addr,
    /// Last address.
    pub end: Ipv4Addr,
}

/// Settings of the netboot service, as they stand in the configuration file.
///
/// ```toml
/// mode = "dhcp"
/// iface = "xenbr0"
/// pool = { start = "192.168.7.200", end = "192.168.7.220" }
/// fixed = { "52:54:00:12:34:56" = "192.168.7.10" }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `dhcp`, `proxy` or `off`; default `proxy`: addresses are given only if told to.
    pub mode: Mode,
    /// The interface served, and no other; default `xenbr0`.
    pub iface: String,
    /// Address of this host that clients are told; default: the first IPv4 address of `iface`.
    pub server: Option<Ipv4Addr>,
    /// Addresses to give away (mode `dhcp`); without one only machines in `fixed` get an address.
    pub pool: Option<Pool>,
    /// Default: that of the server's address on `iface`.
    pub netmask: Option<Ipv4Addr>,
    /// Default gateway told to clients; default none (booting needs none).
    pub router: Option<Ipv4Addr>,
    /// Name servers told to clients; default none.
    pub dns: Vec<Ipv4Addr>,
    /// Domain name told to clients; default none.
    pub domain: Option<String>,
    /// Give addresses to machines that do not boot from the network, too (mode `dhcp`); default no.
    pub serve_all: bool,
    /// Seconds an address is given for; default 3600, at least 120.
    pub lease_seconds: u32,
    /// Addresses that belong to one machine each, by MAC; they may lie inside or outside `pool`.
    #[serde(deserialize_with = "crate::mac::by_mac")]
    pub fixed: BTreeMap<MacAddr, Ipv4Addr>,
    /// Machines that are booted. The caller may approve others ([`crate::Machines::boot_unlisted`]); default none.
    pub allow: Vec<MacPattern>,
    /// Machines that are not booted, also when `allow` names them.
    pub deny: Vec<MacPattern>,
    /// TCP port of the HTTP service; default 80; 0: there is none.
    pub http_port: u16,
    /// The kernel of the netboot image; default `/usr/share/p2v/vmlinuz`.
    pub kernel: PathBuf,
    /// The initial RAM disk of the netboot image; default `/usr/share/p2v/initrd`.
    pub initrd: PathBuf,
    /// More netboot images, for machines that the usual one does not suit.
    pub images: BTreeMap<ImageName, ImageFiles>,
    /// The boot loader for BIOS machines; default Debian's `/usr/lib/PXELINUX/pxelinux.0`.
    pub pxelinux: PathBuf,
    /// Its core module, of the same version; default Debian's
    /// `/usr/lib/syslinux/modules/bios/ldlinux.c32`.
    pub ldlinux: PathBuf,
    /// The same that speaks HTTP; default Debian's `/usr/lib/PXELINUX/lpxelinux.0`.
    pub lpxelinux: PathBuf,
    /// What UEFI machines start first; default Debian's `/usr/lib/shim/shimx64.efi.signed`.
    pub shim_x64: PathBuf,
    /// What shim starts if `secure_boot`; default Debian's
    /// `/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed`.
    pub grub_x64: PathBuf,
    /// What shim starts otherwise; default `/usr/share/p2v/grubx64.efi`.
    pub grub_x64_unsigned: PathBuf,
    /// Whether UEFI machines get the signed GRUB; default yes, but in mode `proxy`: it looks for its files
    /// on the `next-server` of the site's DHCP server.
    pub secure_boot: Option<bool>,
    /// The boot loader for 32-bit UEFI; default `/usr/share/p2v/grubia32.efi`.
    pub grub_ia32: PathBuf,
    /// `pxelinux.0` (default) or `lpxelinux.0` for all BIOS machines. The first uses the ROM's own network
    /// functions, which every ROM must have to get that far; the second drives the card by the ROM's UNDI
    /// with a TCP of its own, and is quicker where that works.
    pub bios_loader: Loader,
    /// Boot loaders of some machines, whatever they are taken for.
    #[serde(skip)]
    pub loaders: BTreeMap<MacAddr, Loader>,
    /// The shelves that the caller gives to new machines, which other such services on the segment are told; default: all.
    #[serde(skip)]
    pub shelves: RangeInclusive<u16>,
    /// Where `leases.json` is kept; default `/var/lib/p2v`.
    pub state_dir: PathBuf,
    /// Machines at most that were seen and never heard of again, for whoever remembers them: nothing here
    /// counts them. Default 256.
    pub seen_max: u16,
    /// The user that a service started by root goes on as, for whoever starts it: nothing here
    /// changes users. Default: `p2v` if there is one.
    pub user: Option<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            mode: Mode::default(),
            iface: "xenbr0".to_owned(),
            server: None,
            pool: None,
            netmask: None,
            router: None,
            dns: Vec::new(),
            domain: None,
            serve_all: false,
            lease_seconds: 3600,
            fixed: BTreeMap::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            http_port: 80,
            kernel: "/usr/share/p2v/vmlinuz".into(),
            initrd: "/usr/share/p2v/initrd".into(),
            images: BTreeMap::new(),
            pxelinux: "/usr/lib/PXELINUX/pxelinux.0".into(),
            ldlinux: "/usr/lib/syslinux/modules/bios/ldlinux.c32".into(),
            lpxelinux: "/usr/lib/PXELINUX/lpxelinux.0".into(),
            shim_x64: "/usr/lib/shim/shimx64.efi.signed".into(),
            grub_x64: "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed".into(),
            grub_x64_unsigned: "/usr/share/p2v/grubx64.efi".into(),
            secure_boot: None,
            grub_ia32: "/usr/share/p2v/grubia32.efi".into(),
            bios_loader: Loader::Pxelinux,
            loaders: BTreeMap::new(),
            shelves: 1..=4094,
            state_dir: "/var/lib/p2v".into(),
            seen_max: 256,
            user: None,
        }
    }
}

impl Settings {
    /// Whether the lists let this machine be booted. `deny` wins.
    pub fn allows(&self, mac: MacAddr) -> bool {
        !self.denies(mac) && self.allow.iter().any(|entry| entry.matches(mac))
    }

    /// Whether `allow` names this machine by its whole address.
    pub fn names(&self, mac: MacAddr) -> bool {
        self.allow.iter().any(|entry| entry.is(mac))
    }

    /// Whether UEFI machines get Debian's signed GRUB.
    pub fn signed_grub(&self) -> bool {
        self.secure_boot.unwrap_or(self.mode != Mode::Proxy)
    }

    /// Whether this machine is named as one that is left alone.
    pub fn denies(&self, mac: MacAddr) -> bool {
        self.deny.iter().any(|entry| entry.matches(mac))
    }
}

/// Settings that contradict themselves or the network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// An address that cannot be reached on this segment.
    #[error("`{what}` {address} is not in the network {subnet} of the served interface")]
    OutsideSubnet {
        /// Name of the setting.
        what: &'static str,
        /// The address.
        address: Ipv4Addr,
        /// The interface's network.
        subnet: Subnet,
    },
    /// The pool is empty.
    #[error("`pool` ends at {end}, before it starts at {start}")]
    PoolBackwards {
        /// First address.
        start: Ipv4Addr,
        /// Last address.
        end: Ipv4Addr,
    },
    /// Nothing to give.
    #[error(
        "mode \"dhcp\" needs addresses to give: set `pool = {{ start = ..., end = ... }}` or \
         `fixed`, or use mode \"proxy\" beside the site's own DHCP server"
    )]
    NothingToGive,
    /// One address for two.
    #[error("`fixed` gives {address} to both {one} and {other}")]
    FixedTwice {
        /// The address.
        address: Ipv4Addr,
        /// A machine.
        one: MacAddr,
        /// Another.
        other: MacAddr,
    },
    /// An address that is taken.
    #[error("`fixed` gives {mac} the address {address}, which is the {holder}'s")]
    FixedTaken {
        /// The machine.
        mac: MacAddr,
        /// The address.
        address: Ipv4Addr,
        /// Who has it.
        holder: &'static str,
    },
    /// Not a netmask.
    #[error("`netmask` {0} is not a netmask")]
    Netmask(Ipv4Addr),
    /// Too short to boot in.
    #[error("`lease_seconds` is {0}: a machine needs at least 120 to boot")]
    LeaseTooShort(u32),
}

/// Checks the settings for mode `dhcp` against the server's address and network, and returns the
/// addresses that may be given away.
///
/// # Errors
/// The first contradiction found.
pub fn plan_addresses(
    settings: &Settings,
    server: Ipv4Addr,
    subnet: Subnet,
) -> Result<Range, SettingsError> {
    let inside = |what, address| {
        if subnet.has_host(address) {
            Ok(())
        } else {
            Err(SettingsError::OutsideSubnet {
                what,
                address,
                subnet,
            })
        }
    };
    if settings.lease_seconds < 120 {
        return Err(SettingsError::LeaseTooShort(settings.lease_seconds));
    }
    if settings.pool.is_none() && settings.fixed.is_empty() {
        return Err(SettingsError::NothingToGive);
    }
    let mut reserved = vec![server];
    if let Some(router) = settings.router {
        inside("router", router)?;
        reserved.push(router);
    }
    reserved.extend(&settings.dns);

    let mut holders = BTreeMap::new();
    for (&mac, &address) in &settings.fixed {
        inside("fixed", address)?;
        if address == server {
            return Err(SettingsError::FixedTaken {
                mac,
                address,
                holder: "server",
            });
        }
        if settings.router == Some(address) {
            return Err(SettingsError::FixedTaken {
                mac,
                address,
                holder: "router",
            });
        }
        if let Some(one) = holders.insert(address, mac) {
            return Err(SettingsError::FixedTwice {
                address,
                one,
                other: mac,
            });
        }
    }
    if let Some(Pool { start, end }) = settings.pool {
        inside("pool.start", start)?;
        inside("pool.end", end)?;
        if end < start {
            return Err(SettingsError::PoolBackwards { start, end });
        }
    }
    Ok(Range {
        pool: settings.pool.map(|pool| (pool.start, pool.end)),
        reserved: reserved.into_iter().collect(),
        fixed: settings.fixed.clone(),
        lease_seconds: settings.lease_seconds.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<Range, SettingsError> {
        let settings: Settings = toml::from_str(text).unwrap();
        let server = Ipv4Addr::new(192, 168, 7, 1);
        let subnet = Subnet::new(server, Ipv4Addr::new(255, 255, 255, 0)).unwrap();
        plan_addresses(&settings, server, subnet)
    }

    #[test]
    fn an_empty_file_is_the_defaults_and_gives_no_addresses() {
        let settings: Settings = toml::from_str("").unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.mode, Mode::Proxy);
        assert_eq!(plan(""), Err(SettingsError::NothingToGive));
    }

    #[test]
    fn a_misspelt_setting_is_refused() {
        assert!(toml::from_str::<Settings>("ifcae = 'eth0'").is_err());
    }

    #[test]
    fn contradictions_are_named() {
        let error = |text| plan(text).unwrap_err().to_string();
        assert!(error("pool={start='10.0.0.1',end='10.0.0.9'}").contains("pool.start"));
        assert!(error("pool={start='192.168.7.9',end='192.168.7.2'}").contains("before"));
        assert!(error("lease_seconds=5").contains("120"));
        let twice = "[fixed]\n'52:54:00:00:00:01'='192.168.7.9'\n'52:54:00:00:00:02'='192.168.7.9'";
        assert!(error(twice).contains("both"));
        assert!(error("[fixed]\n'52:54:00:00:00:01'='192.168.7.1'").contains("server"));
        assert!(error("[fixed]\n'52:54:00:00:00:01'='192.168.7.255'").contains("192.168.7.0/24"));
    }

    #[test]
    fn deny_wins() {
        let settings = |text| toml::from_str::<Settings>(text).unwrap();
        let mac: MacAddr = "52:54:00:12:34:56".parse().unwrap();
        for (text, allows) in [
            ("", false),
            ("allow=['*']", true),
            ("allow=['52:54:00:*']", true),
            ("allow=['52:54:01:*']", false),
            ("allow=['52:54:00:12:34:56']\ndeny=['52:*']", false),
            ("allow=['*']\ndeny=['*']", false),
            ("allow=['*']\ndeny=['52:54:01:*']", true),
        ] {
            assert_eq!(settings(text).allows(mac), allows, "{text}");
        }
        assert!(toml::from_str::<Settings>("allow=['52:54']").is_err());
    }

    #[test]
    fn a_pool_and_fixed_addresses_are_taken_over() {
        let range =
            plan("pool={start='192.168.7.200',end='192.168.7.201'}\nrouter='192.168.7.254'")
                .unwrap();
        assert!(range.reserved.contains(&Ipv4Addr::new(192, 168, 7, 254)));
        assert!(range.reserved.contains(&Ipv4Addr::new(192, 168, 7, 1)));
    }
}
