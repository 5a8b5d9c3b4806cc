//! The Xen host's part of `p2v.toml`.

use std::path::PathBuf;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// Where a domain's first serial port (COM1) goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Serial {
    /// A pseudo-terminal: `xl console NAME` shows it.
    #[default]
    Pty,
    /// A file in this directory, `NAME.serial`.
    Directory(PathBuf),
    /// None.
    Off,
}

impl TryFrom<String> for Serial {
    type Error = String;

    fn try_from(text: String) -> Result<Serial, String> {
        match text.as_str() {
            "pty" => Ok(Serial::Pty),
            "off" => Ok(Serial::Off),
            path if path.starts_with('/') => Ok(Serial::Directory(path.into())),
            _ => Err(format!(
                "serial = {text:?}: write \"pty\", \"off\", or the absolute path of a directory for log files"
            )),
        }
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> String {
        match serial {
            Serial::Pty => "pty".into(),
            Serial::Off => "off".into(),
            Serial::Directory(path) => path.to_string_lossy().into_owned(),
        }
    }
}

/// Settings of the Xen host; every one has a default that fits a Debian host with a bridge `xenbr0`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where domain configs are. Default `/etc/xen`.
    pub xen_dir: PathBuf,
    /// Where links to configs of domains that start with the host are. Default `/etc/xen/auto`.
    pub auto_dir: PathBuf,
    /// The bridge domains are put on. Default `xenbr0`.
    pub bridge: String,
    /// The volume group that `p2v doctor` looks for and `p2v migrate` copies to. Default: none.
    pub volume_group: Option<String>,
    /// COM1 of domains: `"pty"` (default), `"off"`, or a directory for log files.
    pub serial: Serial,
    /// Memory in MiB that a new domain must leave free on the host. Default 256.
    pub memory_reserve_mib: u64,
    /// Whether the old systems keep their clock in local time (most Windows do). Default `false`.
    pub localtime: bool,
    /// Whether domains get the Xen platform device. Default `false`: with it a Linux kernel unplugs
    /// the emulated disks and then needs xen-blkfront in an initramfs that was made without it.
    pub xen_platform_pci: bool,
    /// Seconds to wait for an AoE device of the kernel, and for a shut-down domain. Default 60.
    pub wait_seconds: u64,
    /// Seconds to listen for answers to a discovery. Default 2.
    pub discovery_seconds: u64,
    /// Seconds that a copy waits for an old machine that has fallen silent: while it restarts, or its
    /// cable is out. Default 600.
    pub silence_seconds: u64,
    /// Seconds that a domain on an old disk waits for an old machine that has fallen silent, before its disk fails:
    /// the kernel's `aoe_deadsecs` while such a domain runs. 60 to 604800 (a week). Default 3600.
    #[serde(deserialize_with = "a_minute_to_a_week")]
    pub domain_waits_seconds: u32,
    /// Seconds from the last sign of an old machine to the end of its network boot within which it cannot have run its own
    /// system: then its domain gets its disks back without being asked for. Default 120; 0: never.
    pub unseen_seconds: u32,
}

fn a_minute_to_a_week<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let seconds = u32::deserialize(deserializer)?;
    match seconds {
        // Less is a lost frame or two; and the driver counts in 32 bits.
        60..=604_800 => Ok(seconds),
        _ => Err(D::Error::custom(format!(
            "domain_waits_seconds = {seconds}: write 60 (a minute) to 604800 (a week)"
        ))),
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            xen_dir: "/etc/xen".into(),
            auto_dir: "/etc/xen/auto".into(),
            bridge: "xenbr0".into(),
            volume_group: None,
            serial: Serial::Pty,
            memory_reserve_mib: 256,
            localtime: false,
            xen_platform_pci: false,
            wait_seconds: 60,
            discovery_seconds: 2,
            silence_seconds: 600,
            domain_waits_seconds: 3600,
            unseen_seconds: 120,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_with_defaults_and_no_typos() {
        assert_eq!(toml::from_str::<Settings>("").unwrap(), Settings::default());
        let s: Settings = toml::from_str("bridge = \"br1\"\nserial = \"/var/log/p2v\"").unwrap();
        assert_eq!(s.bridge, "br1");
        assert_eq!(s.serial, Serial::Directory("/var/log/p2v".into()));
        assert!(toml::from_str::<Settings>("brigde = \"x\"").is_err());
        assert!(toml::from_str::<Settings>("serial = \"tty\"").is_err());
        for (seconds, good) in [(0, false), (59, false), (60, true), (604_801, false)] {
            let text = format!("domain_waits_seconds = {seconds}");
            assert_eq!(toml::from_str::<Settings>(&text).is_ok(), good, "{text}");
        }
        let text = toml::to_string(&Settings::default()).unwrap();
        assert_eq!(
            toml::from_str::<Settings>(&text).unwrap(),
            Settings::default()
        );
    }
}
