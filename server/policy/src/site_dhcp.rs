//! `p2v serve --print`: what the site's own DHCP server is told, so that p2v leaves DHCP to it.

use std::fmt::Write;
use std::net::Ipv4Addr;

use anyhow::Result;
use p2v_netboot::loader::{FIRMWARES, Firmware, http_host};
use p2v_netboot::{Loader, MacPattern};
use serde_json::json;

use crate::boot_policy::Wish;
use crate::settings::Settings;

/// A DHCP server that can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DhcpServer {
    /// dnsmasq, also in its proxy mode.
    Dnsmasq,
    /// ISC dhcpd.
    IscDhcpd,
    /// ISC Kea.
    Kea,
}

/// MAC addresses: six octets, each of which may be any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pattern([Option<u8>; 6]);

impl From<MacPattern> for Pattern {
    fn from(pattern: MacPattern) -> Pattern {
        Pattern(pattern.bytes())
    }
}

impl Pattern {
    /// Runs of octets that are given: the first one's place, and their values.
    fn runs(&self) -> Vec<(usize, Vec<u8>)> {
        let mut runs: Vec<(usize, Vec<u8>)> = Vec::new();
        for (place, octet) in self.0.iter().enumerate() {
            let Some(octet) = octet else { continue };
            match runs.last_mut() {
                Some((start, values)) if *start + values.len() == place => values.push(*octet),
                _ => runs.push((place, vec![*octet])),
            }
        }
        runs
    }

    fn dnsmasq(&self) -> String {
        let octets = self.0.map(|octet| match octet {
            Some(octet) => format!("{octet:02x}"),
            None => "*".to_owned(),
        });
        octets.join(":")
    }

    /// `hardware` holds the hardware type and then the address (`dhcp-eval(5)`), and
    /// `binary-to-ascii` writes no leading zeros.
    fn isc(&self) -> String {
        let tests = self.runs().into_iter().map(|(place, values)| {
            let text: Vec<String> = values.iter().map(|value| format!("{value:x}")).collect();
            format!(
                "binary-to-ascii(16, 8, \":\", substring(hardware, {}, {})) = \"{}\"",
                place + 1,
                values.len(),
                text.join(":")
            )
        });
        all_of(tests.collect(), "hardware = hardware")
    }

    fn kea(&self) -> String {
        let tests = self.runs().into_iter().map(|(place, values)| {
            let text: String = values.iter().map(|value| format!("{value:02x}")).collect();
            format!("substring(pkt4.mac, {place}, {}) == 0x{text}", values.len())
        });
        all_of(tests.collect(), "pkt4.mac == pkt4.mac")
    }
}

/// All of `tests`, or what is always true where there is none.
fn all_of(tests: Vec<String>, always: &str) -> String {
    match tests.is_empty() {
        true => always.to_owned(),
        false => format!("({})", tests.join(" and ")),
    }
}

/// What the configuration is made of.
#[derive(Clone, Debug)]
struct Site {
    /// This host, as machines reach it.
    server: Ipv4Addr,
    /// What stands in URLs; none: UEFI HTTP boot is not served.
    http: Option<String>,
    /// The machines that are meant; empty: all that boot from the network.
    only: Vec<Pattern>,
    /// What BIOS machines load.
    bios_loader: Loader,
}

impl Site {
    /// What can be booted, and the file that it is told.
    fn firmwares(&self) -> Vec<(Firmware, String)> {
        let told = |firmware: Firmware| match (firmware.http, &self.http) {
            (false, _) if firmware.loader == Loader::Pxelinux => {
                Some((firmware, self.bios_loader.to_string()))
            }
            (false, _) => Some((firmware, firmware.loader.to_string())),
            (true, Some(host)) => Some((firmware, format!("http://{host}/{}", firmware.loader))),
            (true, None) => None,
        };
        FIRMWARES.into_iter().filter_map(told).collect()
    }
}

/// What UEFI HTTP boot asks as, and must be answered as (UEFI specification 2.10, 24.7.3).
const HTTP_CLASS: &str = "HTTPClient";
/// What all others ask as.
const PXE_CLASS: &str = "PXEClient";

/// The configuration for the settings as they are.
///
/// # Errors
/// The interface has no address that machines could be told.
pub fn print(server: DhcpServer, settings: &Settings) -> Result<String> {
    let allow = settings.serve.allow.iter().copied();
    let only = allow.map(Pattern::from).collect();
    let address = p2v_netboot::server_address(&settings.serve)?;
    let has_http = !settings.serve.signed_grub();
    let site = Site {
        server: address,
        http: http_host(address, settings.serve.http_port).filter(|_| has_http),
        only,
        bios_loader: settings.serve.bios_loader,
    };
    let comment = if server == DhcpServer::Kea { "//" } else { "#" };
    let mut text = String::new();
    for line in about(server, &site).into_iter().chain(left_out(settings)) {
        let _ = writeln!(text, "{comment} {line}");
    }
    text += &match server {
        DhcpServer::Dnsmasq => dnsmasq(&site),
        DhcpServer::IscDhcpd => isc(&site),
        DhcpServer::Kea => kea(&site)?,
    };
    Ok(text)
}

fn about(server: DhcpServer, site: &Site) -> Vec<String> {
    let put = match server {
        DhcpServer::Dnsmasq => "a file in /etc/dnsmasq.d",
        DhcpServer::IscDhcpd => "/etc/dhcp/dhcpd.conf",
        DhcpServer::Kea => "the \"Dhcp4\" part of /etc/kea/kea-dhcp4.conf",
    };
    let mut lines = vec![
        format!("Made by `p2v serve --print`, for {put}."),
        format!(
            "Machines that boot from the network are sent to {}, where p2v serve runs with mode = \"off\".",
            site.server
        ),
    ];
    if site.http.is_none() {
        lines.push(
            "UEFI HTTP boot is left out: it needs `secure_boot = false` under [serve] (Debian's signed GRUB speaks no HTTP), \
             and an `http_port`."
                .into(),
        );
    }
    if site.only.is_empty() {
        lines.push(
            "`allow` under [serve] is empty: EVERY machine that boots from the network is sent here. p2v serve sends on to its \
             own disk each that is not approved (`p2v approve`)."
                .into(),
        );
    }
    lines
}

/// What the settings say of single machines, which is not in the text.
fn left_out(settings: &Settings) -> Vec<String> {
    let mut lines = Vec::new();
    let machines = || settings.machines.iter();
    for (mac, machine) in machines() {
        if let Some(loader) = machine.loader {
            lines.push(format!(
                "FOR YOU TO ADD: {mac} shall be given {loader} (`loader` under [machines])."
            ));
        }
    }
    // Who is not sent here at all needs no word.
    let allow = &settings.serve.allow;
    let is_sent = |mac| allow.is_empty() || allow.iter().any(|entry| entry.matches(mac));
    let deny = settings.serve.deny.iter();
    let deny = deny
        .filter(|entry| entry.only().is_none_or(is_sent))
        .map(|entry| format!("{entry} (`deny`)"));
    let ignored = machines()
        .filter(|(mac, machine)| machine.boot == Some(Wish::Ignore) && is_sent(**mac))
        .map(|(mac, _)| format!("{mac} (boot = \"ignore\")"));
    let alone: Vec<String> = deny.chain(ignored).collect();
    if !alone.is_empty() {
        lines.push(format!(
            "SENT TO P2V ALL THE SAME: {}. p2v serve sends such a machine on to its own disk, unless its server is on \
             the Xen host: one that p2v runs or has moved must come to it, and is held there.",
            alone.join(", ")
        ));
    }
    lines
}

fn dnsmasq(site: &Site) -> String {
    let mut text = String::new();
    for pattern in &site.only {
        let _ = writeln!(text, "dhcp-mac=set:p2v,{}", pattern.dnsmasq());
    }
    for (firmware, _) in site.firmwares() {
        for architecture in firmware.architectures {
            let _ = writeln!(
                text,
                "dhcp-match=set:p2v-{},option:client-arch,{architecture}",
                firmware.tag
            );
        }
    }
    // Option 175 is iPXE's own; its user class may be switched off.
    text += "dhcp-match=set:p2v-ipxe,175\ndhcp-userclass=set:p2v-ipxe,iPXE\n";
    let listed = if site.only.is_empty() { "" } else { "tag:p2v," };
    let server = site.server;
    for (firmware, file) in site.firmwares() {
        let tag = firmware.tag;
        if firmware.http {
            // Sent unasked: the firmware takes no other answer.
            let _ = writeln!(
                text,
                "dhcp-option-force={listed}tag:p2v-{tag},60,{HTTP_CLASS}\ndhcp-boot={listed}tag:p2v-{tag},{file}"
            );
        } else {
            let _ = writeln!(
                text,
                "dhcp-boot={listed}tag:p2v-{tag},tag:!p2v-ipxe,{file},,{server}"
            );
        }
    }
    let script = Loader::Ipxe;
    let _ = writeln!(text, "dhcp-boot={listed}tag:p2v-ipxe,{script},,{server}");
    text
}

fn isc(site: &Site) -> String {
    let class = |name: &str| {
        let length = name.len();
        format!("substring(option vendor-class-identifier, 0, {length}) = \"{name}\"")
    };
    let mut condition = class(PXE_CLASS);
    if site.http.is_some() {
        condition = format!("({condition}\n    or {})", class(HTTP_CLASS));
    }
    if !site.only.is_empty() {
        let any: Vec<String> = site.only.iter().map(Pattern::isc).collect();
        let _ = write!(condition, "\n    and ({})", any.join("\n      or "));
    }
    let mut text = format!(
        "option p2v-architecture code 93 = unsigned integer 16;\noption p2v-ipxe code 175 = string;\n\
         class \"p2v\" {{\n  match if {condition};\n  next-server {};\n  \
         if exists p2v-ipxe or option user-class = \"iPXE\" {{\n    filename \"{}\";\n  }}",
        site.server,
        Loader::Ipxe
    );
    for (firmware, file) in site.firmwares() {
        let any: Vec<String> = firmware
            .architectures
            .iter()
            .map(|number| {
                let [high, low] = number.to_be_bytes();
                format!("option p2v-architecture = {high:02x}:{low:02x}")
            })
            .collect();
        let answered_as = match firmware.http {
            true => format!("    option vendor-class-identifier \"{HTTP_CLASS}\";\n"),
            false => String::new(),
        };
        let _ = write!(
            text,
            " elsif {} {{\n{answered_as}    filename \"{file}\";\n  }}",
            any.join(" or "),
        );
    }
    text += "\n}\n";
    text
}

fn kea(site: &Site) -> Result<String> {
    let asks_as = |name: &str| format!("substring(option[60].hex, 0, {}) == '{name}'", name.len());
    let mut meant = asks_as(PXE_CLASS);
    if site.http.is_some() {
        meant = format!("({meant} or {})", asks_as(HTTP_CLASS));
    }
    if !site.only.is_empty() {
        let any: Vec<String> = site.only.iter().map(Pattern::kea).collect();
        let _ = write!(meant, " and ({})", any.join(" or "));
    }
    let class = |name: &str, test: String, file: &str| {
        json!({
            "name": name,
            "test": test,
            "next-server": site.server.to_string(),
            "boot-file-name": file,
        })
    };
    let ipxe = "(option[175].exists or substring(option[77].hex, 0, 4) == 'iPXE')";
    let mut classes = vec![
        json!({ "name": "p2v", "test": meant }),
        class(
            "p2v-ipxe",
            format!("member('p2v') and {ipxe}"),
            &Loader::Ipxe.name(),
        ),
    ];
    for (firmware, file) in site.firmwares() {
        let any: Vec<String> = firmware
            .architectures
            .iter()
            .map(|number| format!("option[93].hex == 0x{number:04x}"))
            .collect();
        let mut class = class(
            &format!("p2v-{}", firmware.tag),
            format!(
                "member('p2v') and not member('p2v-ipxe') and ({})",
                any.join(" or ")
            ),
            &file,
        );
        if firmware.http {
            class["option-data"] = json!([
                { "name": "vendor-class-identifier", "data": HTTP_CLASS, "always-send": true },
            ]);
        }
        classes.push(class);
    }
    let all = json!({ "Dhcp4": { "client-classes": classes } });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_in_each_servers_words() {
        let pattern = |text: &str| Pattern::from(text.parse::<MacPattern>().unwrap());
        let whole = pattern("52:54:00:0a:34:56");
        assert_eq!(whole.dnsmasq(), "52:54:00:0a:34:56");
        assert!(
            whole
                .isc()
                .ends_with("hardware, 1, 6)) = \"52:54:0:a:34:56\")")
        );
        assert_eq!(whole.kea(), "(substring(pkt4.mac, 0, 6) == 0x5254000a3456)");
        let some = pattern("52:54:00:*");
        assert_eq!(some, pattern("52:54:00:*:*:*"));
        assert_eq!(some.dnsmasq(), "52:54:00:*:*:*");
        let holes = pattern("52:*:00:*:34:56");
        assert_eq!(
            holes.runs(),
            [(0, vec![0x52]), (2, vec![0]), (4, vec![0x34, 0x56])]
        );
        assert!(pattern("*").runs().is_empty());
    }

    #[test]
    fn what_single_machines_shall_have_is_said_where_it_is_left_out() {
        let mut settings = Settings::default();
        assert!(left_out(&settings).is_empty());
        settings.serve.deny = vec!["52:54:00:*".parse().unwrap()];
        let machine = |text| toml::from_str(text).unwrap();
        let mac = |n| p2v_contract::MacAddr::new(2, 0, 0, 0, 0, n);
        settings.machines.insert(mac(1), machine("boot = 'ignore'"));
        settings
            .machines
            .insert(mac(2), machine("loader = 'lpxelinux.0'"));
        settings.machines.insert(mac(3), machine("boot = 'agent'"));
        let lines = left_out(&settings);
        for (line, parts) in lines.iter().zip([
            ["02:00:00:00:00:02", "lpxelinux.0"],
            ["52:54:00:*:*:* (`deny`)", "02:00:00:00:00:01 (boot"],
        ]) {
            assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        }
        assert_eq!(lines.len(), 2);
        settings.serve.allow = vec![mac(3).into()];
        settings.serve.deny = vec![mac(4).into()];
        assert_eq!(left_out(&settings).len(), 1);
    }
}
