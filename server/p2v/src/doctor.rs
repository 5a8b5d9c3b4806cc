//! `p2v doctor`: this host's findings and the netboot service's, in one list.

use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::Result;
use p2v_dom0::Host;
use p2v_dom0::doctor::{Finding, Severity, examine};
use p2v_netboot::{
    Missing, Mode, Need, PROBE_WAIT, missing_files, port_holders, probe, tcp_port_holders,
    try_tcp_port, try_udp_port,
};
use p2v_policy::approvals::{Approvals, Word};
use p2v_policy::settings::{SETTINGS_FILE, Settings};

use crate::arguments::exit;
use crate::privileges;

mod images;

/// Looks at everything and changes nothing.
pub fn run(host: &Host, settings: &Settings, json: bool) -> Result<ExitCode> {
    let mut findings = examine(host);
    findings.extend(files(settings));
    let missing = missing_files(&settings.serve);
    let (of_images, of_some): (Vec<Missing>, Vec<Missing>) =
        missing.into_iter().partition(|m| m.need == Need::Image);
    findings.extend(loaders_of_some(of_some));
    findings.extend(images::findings(settings, of_images));
    findings.push(netboot(settings));
    findings.extend(ports(settings));
    findings.push(allowed(settings));
    findings.push(service_user(settings));
    findings.push(other_dhcp(settings));
    if json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let mark = match finding.severity {
                Severity::Good => "ok     ",
                Severity::Warning => "WARNING",
                Severity::Bad => "ERROR  ",
            };
            println!("{mark}  {}: {}", finding.what, finding.found);
            if !finding.todo.is_empty() {
                println!("         -> {}", finding.todo);
            }
        }
    }
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    if !json {
        let file = match &settings.file {
            Some(file) => file.display().to_string(),
            None => format!("all as they are by default (no {SETTINGS_FILE})"),
        };
        println!(
            "{} errors, {} warnings; settings: {file}",
            count(Severity::Bad),
            count(Severity::Warning)
        );
    }
    let bad = findings.iter().any(|f| f.severity == Severity::Bad);
    Ok(if bad {
        ExitCode::from(exit::INCOMPLETE)
    } else {
        ExitCode::SUCCESS
    })
}

fn finding(
    severity: Severity,
    what: impl Into<String>,
    found: impl Into<String>,
    todo: impl Into<String>,
) -> Finding {
    Finding {
        severity,
        what: what.into(),
        found: found.into(),
        todo: todo.into(),
    }
}

/// The files that machines are booted with.
fn files(settings: &Settings) -> Vec<Finding> {
    let serve = &settings.serve;
    let image = "run `make image` and `make install`, or set the path under [serve]";
    let loaders = "apt-get install pxelinux syslinux-common";
    [
        ("kernel", &serve.kernel, image),
        ("initrd", &serve.initrd, image),
        ("boot loader", &serve.pxelinux, loaders),
        ("boot loader's module", &serve.ldlinux, loaders),
    ]
    .into_iter()
    .map(|(what, path, todo)| match std::fs::metadata(path) {
        Ok(file) => finding(
            Severity::Good,
            what,
            format!("{}, {} kB", path.display(), file.len() / 1000),
            "",
        ),
        Err(error) => finding(
            Severity::Bad,
            what,
            format!("{}: {error}", path.display()),
            todo,
        ),
    })
    .collect()
}

/// The loaders that only some machines need.
fn loaders_of_some(missing: Vec<Missing>) -> Vec<Finding> {
    if missing.is_empty() {
        let what = "boot loaders for UEFI";
        return vec![finding(Severity::Good, what, "all are there", "")];
    }
    missing
        .into_iter()
        .map(|Missing { error, need }| {
            let found = format!("{}: {}", error.path.display(), error.source);
            match need {
                Need::NamedLoader => finding(
                    Severity::Bad,
                    error.what,
                    format!("the settings name it, and its machines get the usual one, if that is there: {found}"),
                    error.advice,
                ),
                _ => finding(
                    Severity::Warning,
                    error.what,
                    format!("machines that need it cannot be booted: {found}"),
                    error.advice,
                ),
            }
        })
        .collect()
}

/// Whether the settings suit the interface.
fn netboot(settings: &Settings) -> Finding {
    let what = format!("[serve] on {}", settings.iface);
    match p2v_netboot::check(&settings.serve) {
        Ok(()) => finding(Severity::Good, what, "its settings suit the interface", ""),
        Err(error) => finding(
            Severity::Bad,
            what,
            error.to_string(),
            "p2v serve does not start with that: correct the settings or the interface",
        ),
    }
}

/// The ports that `p2v serve` needs.
fn ports(settings: &Settings) -> Vec<Finding> {
    let mut ports = vec![(69, "TFTP")];
    if settings.serve.mode != Mode::Off {
        ports.push((67, "DHCP"));
    }
    if settings.serve.mode == Mode::Proxy {
        ports.push((4011, "ProxyDHCP"));
    }
    ports
        .into_iter()
        .map(|(port, name)| {
            let tried = try_udp_port(&settings.serve, port);
            let todo = match port {
                69 => "keep that program off this interface: p2v's own TFTP is needed in every mode",
                _ => "keep that program off this interface; or set [serve] mode = \"off\" and have it name this \
                      host as boot server (see `p2v serve --print`)",
            };
            port_finding(format!("UDP port {port} ({name})"), tried, || port_holders(port), todo)
        })
        .chain(http_port(settings))
        .collect()
}

/// The one for HTTP, if there shall be one.
fn http_port(settings: &Settings) -> Option<Finding> {
    let port = settings.serve.http_port;
    if port == 0 {
        return None;
    }
    let tried = try_tcp_port(&settings.serve, port);
    let todo = "stop that program on this interface; or set another [serve] http_port, or 0";
    let what = format!("TCP port {port} (HTTP)");
    Some(port_finding(what, tried, || tcp_port_holders(port), todo))
}

fn port_finding(
    what: String,
    tried: std::io::Result<()>,
    holders: impl FnOnce() -> Vec<String>,
    todo: &'static str,
) -> Finding {
    let Err(error) = tried else {
        return finding(Severity::Good, what, "free", "");
    };
    if error.kind() != ErrorKind::AddrInUse {
        let todo = match error.kind() {
            ErrorKind::PermissionDenied => "run `p2v doctor` as root",
            // More is said of it beside this.
            _ => "correct the interface first, then run `p2v doctor` again",
        };
        let found = format!("cannot be tried: {error}");
        return finding(Severity::Warning, what, found, todo);
    }
    let holders = holders();
    if holders.iter().any(|holder| holder.contains("p2v")) {
        return finding(Severity::Good, what, "used by p2v serve", "");
    }
    let by = if holders.is_empty() {
        error.to_string()
    } else {
        format!("used by {}", holders.join(", "))
    };
    finding(Severity::Bad, what, by, todo)
}

/// Who is booted.
fn allowed(settings: &Settings) -> Finding {
    let what = "machines to boot";
    let allow = &settings.serve.allow;
    if allow.iter().any(|entry| entry.bytes() == [None; 6]) {
        return finding(
            Severity::Warning,
            what,
            "`allow` names \"*\": with p2v-serve, every machine that boots from the network gets the agent",
            "leave `allow` under [serve] empty, and let the old machines in by `p2v approve`; or name them there",
        );
    }
    match Approvals::of(&settings.state).all() {
        Ok(approvals) => {
            let words = approvals.values().map(|approval| approval.word);
            let by_hand = words.filter(|word| *word != Word::Revoked).count();
            finding(
                Severity::Good,
                what,
                format!(
                    "those that are approved: {} by `allow`, {by_hand} by `p2v approve`",
                    allow.len()
                ),
                "",
            )
        }
        Err(error) => finding(
            Severity::Bad,
            what,
            format!("{error:#}"),
            "a machine whose approval cannot be read is left to its own disk: approve it again",
        ),
    }
}

/// The user of p2v serve.
fn user_of(settings: &Settings) -> &str {
    settings.serve.user.as_deref().unwrap_or(privileges::USUAL)
}

/// Whom p2v serve runs as.
fn service_user(settings: &Settings) -> Finding {
    let name = user_of(settings);
    let what = "user of p2v serve";
    match nix::unistd::User::from_name(name) {
        Ok(Some(user)) if user.uid.is_root() => finding(
            Severity::Warning,
            what,
            "root, by `user` under [serve]: it reads what strangers send",
            "leave `user` out, and make the user p2v: systemd-sysusers",
        ),
        Ok(Some(_)) => finding(Severity::Good, what, name, ""),
        Ok(None) | Err(_) => finding(
            Severity::Warning,
            what,
            format!("there is no user {name}: the unit p2v-serve does not start"),
            "`systemd-sysusers` makes p2v after `make install`; or set `user` under [serve] and User= in the unit",
        ),
    }
}

/// Programs of this host that may give addresses.
fn on_this_host() -> Vec<String> {
    let mut programs = port_holders(67);
    programs.retain(|program| !program.contains("p2v"));
    programs
}

/// Who else gives addresses here.
fn other_dhcp(settings: &Settings) -> Finding {
    let what = format!("DHCP on {}", settings.iface);
    match (probe(&settings.iface, PROBE_WAIT), settings.serve.mode) {
        (Err(error), _) => finding(
            Severity::Bad,
            what,
            error.to_string(),
            "name the right interface with --iface, and run as root",
        ),
        // One on this host does not hear what this host asks; in the other modes it has the port we need.
        (Ok(servers), Mode::Off) if servers.is_empty() && !on_this_host().is_empty() => finding(
            Severity::Warning,
            what,
            format!(
                "no DHCP server answers; {} on this host has the port, and does not hear what this host asks",
                on_this_host().join(", ")
            ),
            format!(
                "see that it serves {}: machines need an address to boot",
                settings.iface
            ),
        ),
        (Ok(servers), Mode::Proxy | Mode::Off) if servers.is_empty() => finding(
            Severity::Warning,
            what,
            "no DHCP server answers",
            "machines need an address to boot: set [serve] mode = \"dhcp\" and a pool, or start the site's DHCP server",
        ),
        (Ok(servers), _) if servers.is_empty() => {
            finding(Severity::Good, what, "no other DHCP server answers", "")
        }
        (Ok(servers), mode) => {
            let list: Vec<String> = servers.iter().map(|s| s.address.to_string()).collect();
            let found = format!("{} answers", list.join(", "));
            if mode == Mode::Dhcp {
                let todo =
                    "a machine may take its answer instead of ours: set [serve] mode = \"proxy\"";
                finding(Severity::Warning, what, found, todo)
            } else {
                finding(Severity::Good, what, found, "")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_netboot::Loader;

    #[test]
    fn that_every_machine_is_booted_is_to_be_known_of_and_that_none_is_is_right() {
        let state = tempfile::tempdir().unwrap();
        let mut settings = Settings {
            state: state.path().to_owned(),
            ..Settings::default()
        };
        let found = |settings: &Settings| {
            let finding = allowed(settings);
            (finding.severity, finding.found)
        };
        let (severity, text) = found(&settings);
        assert_eq!(severity, Severity::Good);
        assert!(text.contains("0 by `allow`, 0 by `p2v approve`"), "{text}");
        for (n, word) in [(1, Word::Always), (2, Word::Once), (3, Word::Revoked)] {
            let mac = p2v_contract::MacAddr::new(2, 0, 0, 0, 0, n);
            let at = p2v_dom0::Timestamp::now();
            let said = p2v_policy::approvals::Approval { word, at };
            Approvals::of(state.path()).set(mac, said).unwrap();
        }
        settings.serve.allow = vec!["52:54:00:*".parse().unwrap()];
        let (severity, text) = found(&settings);
        assert_eq!(severity, Severity::Good);
        assert!(text.contains("1 by `allow`, 2 by `p2v approve`"), "{text}");
        for all in ["*", "*:*:*:*:*:*"] {
            settings.serve.allow = vec![all.parse().unwrap()];
            assert_eq!(found(&settings).0, Severity::Warning);
        }
        settings.serve.allow.clear();
        std::fs::write(state.path().join("approved/02-00-00-00-00-01.json"), "").unwrap();
        assert_eq!(found(&settings).0, Severity::Bad);
    }

    #[test]
    fn a_missing_loader_that_is_named_is_bad_and_another_is_to_be_known_of() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        std::fs::write(&there, "x").unwrap();
        let mut settings = p2v_netboot::Settings {
            shim_x64: there.clone(),
            grub_x64: there.clone(),
            grub_x64_unsigned: there,
            grub_ia32: dir.path().join("missing"),
            lpxelinux: dir.path().join("missing"),
            ..Default::default()
        };
        let found = |settings: &p2v_netboot::Settings| {
            let findings = loaders_of_some(missing_files(settings));
            let severities: Vec<Severity> = findings.iter().map(|f| f.severity).collect();
            (severities, findings[0].todo.clone())
        };
        let (severities, todo) = found(&settings);
        assert_eq!(severities, [Severity::Warning]);
        assert!(todo.contains("make install"), "{todo}");
        settings.bios_loader = Loader::Lpxelinux;
        let (severities, todo) = found(&settings);
        assert_eq!(severities, [Severity::Bad, Severity::Warning]);
        assert!(todo.contains("pxelinux"), "{todo}");
        settings.bios_loader = Loader::Pxelinux;
        settings.grub_ia32 = settings.shim_x64.clone();
        assert_eq!(found(&settings).0, [Severity::Good]);
    }
}
