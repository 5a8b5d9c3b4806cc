//! What the boot menu tells the agent: the `p2v.*` arguments on the kernel command line.
//!
//! `p2v.shelf=7 p2v.host=00:16:3e:00:00:01,00:16:3e:00:00:02 p2v.at=xen1 p2v.key=HEX,HEX p2v.boot=HEX
//! p2v.access=ro|wait BOOTIF=01-52-54-00-12-34-56`
//!
//! There is no secret in it: who reads a menu learns nothing that lets him do anything.

use std::fmt;

use pnet::util::MacAddr;

use crate::address::SHELF_MAX;
use crate::key::{BadKey, PublicKey};

/// Hex digits of the id of a boot menu.
pub const MENU_ID_LEN: usize = 32;

/// The Xen host, as its machines are given it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Its MAC addresses, and those of hosts that may take its place: the only ones that are answered for data.
    pub macs: Vec<MacAddr>,
    /// Its name, for people; empty: not known.
    pub name: String,
    /// Its public key, and those of hosts that may take its place: whose orders are taken; none: nobody's.
    pub keys: Vec<PublicKey>,
}

impl Hosts {
    /// These addresses, and what can be a word on a command line of this name.
    pub fn new(macs: Vec<MacAddr>, name: &str, keys: Vec<PublicKey>) -> Hosts {
        let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        Hosts {
            macs,
            // HOST_NAME_MAX of Linux.
            name: name.chars().filter(plain).take(64).collect(),
            keys,
        }
    }
}

/// Its name and addresses: `xen1 (00:16:3e:00:00:01)`.
impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let macs: Vec<String> = self.macs.iter().map(MacAddr::to_string).collect();
        let macs = macs.join(", ");
        match self.name.as_str() {
            "" => f.write_str(&macs),
            name => write!(f, "{name} ({macs})"),
        }
    }
}

/// The agent's orders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootArgs {
    /// AoE shelf of this machine.
    pub shelf: Option<u16>,
    /// The Xen host.
    pub hosts: Hosts,
    /// The id of the menu that it was started by; empty: none.
    pub menu_id: String,
    /// A domain runs on the disks: their exports are silent until an order.
    pub waits: bool,
    /// The MAC of the interface the ROM booted from (PXELINUX's `BOOTIF`).
    pub boot_mac: Option<MacAddr>,
    /// Arguments that start with `p2v.` and were not understood: shown on the console.
    pub unknown: Vec<String>,
}

impl BootArgs {
    /// Reads the arguments out of a kernel command line. What is malformed is left out and named
    /// in [`BootArgs::unknown`]: the agent must come up and say so rather than stop.
    pub fn parse(cmdline: &str) -> BootArgs {
        let mut args = BootArgs::default();
        for word in cmdline.split_whitespace() {
            let Some((key, value)) = word.split_once('=') else {
                if word.starts_with("p2v.") {
                    args.unknown.push(word.to_owned());
                }
                continue;
            };
            let understood = match key {
                "p2v.shelf" => match value.parse() {
                    Ok(shelf) if shelf <= SHELF_MAX => {
                        args.shelf = Some(shelf);
                        true
                    }
                    _ => false,
                },
                "p2v.host" => match value
                    .split(',')
                    .map(str::parse)
                    .collect::<Result<Vec<MacAddr>, _>>()
                {
                    Ok(hosts) => {
                        args.hosts.macs = hosts;
                        true
                    }
                    Err(_) => false,
                },
                "p2v.at" => {
                    let known = std::mem::take(&mut args.hosts);
                    args.hosts = Hosts::new(known.macs, value, known.keys);
                    true
                }
                "p2v.key" => match value.split(',').map(str::parse).collect() {
                    Ok(keys) => {
                        args.hosts.keys = keys;
                        true
                    }
                    Err(BadKey) => false,
                },
                "p2v.boot" => {
                    args.menu_id = value.to_owned();
                    value.len() == MENU_ID_LEN && value.bytes().all(|b| b.is_ascii_hexdigit())
                }
                // An export never starts read-write.
                "p2v.access" => {
                    args.waits = value == "wait";
                    args.waits || value == "ro"
                }
                "BOOTIF" => {
                    // PXELINUX: hardware type 01, then the MAC with dashes.
                    args.boot_mac = value
                        .strip_prefix("01-")
                        .and_then(|mac| mac.replace('-', ":").parse().ok());
                    args.boot_mac.is_some()
                }
                _ => !key.starts_with("p2v."),
            };
            if !understood {
                args.unknown.push(word.to_owned());
            }
        }
        args
    }

    /// The arguments as text for a kernel command line (without `BOOTIF`, which PXELINUX adds).
    /// `waits`: a domain runs on the disks.
    pub fn render(shelf: u16, hosts: &Hosts, menu_id: &str, waits: bool) -> String {
        let access = if waits { "wait" } else { "ro" };
        let keys: Vec<String> = hosts.keys.iter().map(PublicKey::to_string).collect();
        let keys = match keys.is_empty() {
            true => String::new(),
            false => format!(" p2v.key={}", keys.join(",")),
        };
        let macs: Vec<String> = hosts.macs.iter().map(MacAddr::to_string).collect();
        let at = match hosts.name.as_str() {
            "" => String::new(),
            name => format!(" p2v.at={name}"),
        };
        format!(
            "p2v.shelf={shelf} p2v.host={}{at}{keys} p2v.boot={menu_id} p2v.access={access}",
            macs.join(",")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::SecretKey;

    #[test]
    fn rendered_arguments_are_understood() {
        let key = |byte| SecretKey::from_bytes(&[byte; 32]).public();
        let macs = vec![MacAddr::new(0, 0x16, 0x3e, 0, 0, 1)];
        let host = Hosts::new(macs, "xen 1\n", vec![key(1), key(2)]);
        assert_eq!(host.to_string(), "xen1 (00:16:3e:00:00:01)");
        let id = "0123456789abcdef".repeat(2);
        let line = BootArgs::render(7, &host, &id, true);
        let args = BootArgs::parse(&format!(
            "quiet {line} BOOTIF=01-52-54-00-12-34-56 console=ttyS0"
        ));
        assert_eq!(args.shelf, Some(7));
        assert_eq!(
            (args.hosts, args.menu_id, args.waits),
            (host.clone(), id, true)
        );
        assert_eq!(
            args.boot_mac,
            Some(MacAddr::new(0x52, 0x54, 0, 0x12, 0x34, 0x56))
        );
        assert!(args.unknown.is_empty(), "{:?}", args.unknown);
        assert!(!BootArgs::parse(&BootArgs::render(7, &host, "", false)).waits);
    }

    #[test]
    fn what_is_malformed_is_named() {
        let line = "p2v.shelf=70000 p2v.host=nonsense p2v.key=abc p2v.boot=1 p2v.access=rw p2v.colour=red BOOTIF=x";
        let args = BootArgs::parse(line);
        assert_eq!((args.shelf, args.hosts), (None, Hosts::default()));
        assert_eq!(args.unknown.join(" "), line);
    }
}
