//! What the boot menu tells the agent: the `p2v.*` arguments on the kernel command line.
//!
//! `p2v.shelf=7 p2v.host=00:16:3e:00:00:01,00:16:3e:00:00:02 p2v.at=xen1 p2v.token=HEX p2v.access=ro|wait
//! BOOTIF=01-52-54-00-12-34-56`

use std::fmt;

use pnet::util::MacAddr;

use crate::address::SHELF_MAX;
use crate::token::Token;

/// The Xen host, as its machines are given it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Its MAC addresses, and those of hosts that may take its place: the only ones that are answered for data.
    pub macs: Vec<MacAddr>,
    /// Its name, for people; empty: not known.
    pub name: String,
}

impl Hosts {
    /// These addresses, and what can be a word on a command line of this name.
    pub fn new(macs: Vec<MacAddr>, name: &str) -> Hosts {
        let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        Hosts {
            macs,
            // HOST_NAME_MAX of Linux.
            name: name.chars().filter(plain).take(64).collect(),
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
    /// The secret of this boot, for control requests.
    pub token: Option<Token>,
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
                    args.hosts = Hosts::new(std::mem::take(&mut args.hosts.macs), value);
                    true
                }
                "p2v.token" => match value.parse() {
                    Ok(token) => {
                        args.token = Some(token);
                        true
                    }
                    Err(_) => false,
                },
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
                let shown = if key == "p2v.token" {
                    "p2v.token=(malformed)"
                } else {
                    word
                };
                args.unknown.push(shown.to_owned());
            }
        }
        args
    }

    /// The arguments as text for a kernel command line (without `BOOTIF`, which PXELINUX adds).
    /// `waits`: a domain runs on the disks.
    pub fn render(shelf: u16, hosts: &Hosts, token: &Token, waits: bool) -> String {
        let access = if waits { "wait" } else { "ro" };
        let orders = BootArgs::orders(shelf, hosts, access);
        format!("{orders} p2v.token={}", token.to_hex())
    }

    /// The same without a token: an agent that takes no orders, and stays read-only.
    pub fn render_read_only(shelf: u16, hosts: &Hosts) -> String {
        BootArgs::orders(shelf, hosts, "ro")
    }

    fn orders(shelf: u16, hosts: &Hosts, access: &str) -> String {
        let macs: Vec<String> = hosts.macs.iter().map(MacAddr::to_string).collect();
        let at = match hosts.name.as_str() {
            "" => String::new(),
            name => format!(" p2v.at={name}"),
        };
        format!(
            "p2v.shelf={shelf} p2v.host={}{at} p2v.access={access}",
            macs.join(",")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendered_arguments_are_understood() {
        let host = Hosts::new(vec![MacAddr::new(0, 0x16, 0x3e, 0, 0, 1)], "xen 1\n");
        assert_eq!(host.to_string(), "xen1 (00:16:3e:00:00:01)");
        let token = Token::from_bytes([7; 32]);
        let line = BootArgs::render(7, &host, &token, true);
        let args = BootArgs::parse(&format!(
            "quiet {line} BOOTIF=01-52-54-00-12-34-56 console=ttyS0"
        ));
        assert_eq!(args.shelf, Some(7));
        assert_eq!(args.hosts, host);
        assert_eq!((args.token, args.waits), (Some(token.clone()), true));
        assert!(!BootArgs::parse(&BootArgs::render(7, &host, &token, false)).waits);
        assert_eq!(
            args.boot_mac,
            Some(MacAddr::new(0x52, 0x54, 0, 0x12, 0x34, 0x56))
        );
        assert!(args.unknown.is_empty(), "{:?}", args.unknown);
        let args = BootArgs::parse(&BootArgs::render_read_only(7, &host));
        assert_eq!((args.shelf, args.token), (Some(7), None));
    }

    #[test]
    fn what_is_malformed_is_named_and_the_secret_is_not_shown() {
        let args = BootArgs::parse(
            "p2v.shelf=70000 p2v.host=nonsense p2v.token=abc p2v.access=rw p2v.colour=red BOOTIF=x",
        );
        assert_eq!(args.shelf, None);
        assert_eq!(
            args.unknown,
            [
                "p2v.shelf=70000",
                "p2v.host=nonsense",
                "p2v.token=(malformed)",
                "p2v.access=rw",
                "p2v.colour=red",
                "BOOTIF=x"
            ]
        );
    }
}
