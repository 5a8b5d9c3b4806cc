//! `p2v doctor`, this host's part: what is missing and what to do about it. (The boot service's part
//! is the `p2v` command's.)

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::host::Host;
use crate::record::Record;
use crate::tool::aoe_driver::AoeDriver;
use crate::tool::{ToolError, dmsetup, lvm, nft, xl};
use crate::workflow::guests_bridges;

mod guests_disks;
mod outages;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Good,
    /// Works, but may surprise.
    Warning,
    /// Something will not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What was looked at: `xl`, `bridge xenbr0`.
    pub what: String,
    /// What was found.
    pub found: String,
    /// What to do; empty if nothing.
    pub todo: String,
}

fn finding(severity: Severity, what: &str, found: impl ToString, todo: &str) -> Finding {
    Finding {
        severity,
        what: what.to_owned(),
        found: found.to_string(),
        todo: todo.to_owned(),
    }
}

/// Looks at everything dom0's workflows need; changes nothing.
pub fn examine(host: &Host) -> Vec<Finding> {
    let mut findings = xen(host);
    findings.push(aoe(host));
    findings.extend(outages::examine(host));
    findings.push(match dmsetup::list(&host.tools) {
        Ok(_) => finding(Severity::Good, "device-mapper", "dmsetup works", ""),
        Err(e) => finding(
            Severity::Bad,
            "device-mapper",
            e,
            "run p2v as root; `modprobe dm-mod` loads the kernel's part",
        ),
    });
    findings.push(volumes(host));
    if host.settings.bridge != host.iface {
        findings.extend(interface(host, &host.iface, "interface"));
    }
    // What is not there, or no bridge, is told of once.
    let bridge_dir = host.paths.sys_net.join(&host.settings.bridge);
    if bridge_dir.join("bridge").exists() {
        findings.extend(interface(host, &host.settings.bridge, "bridge"));
    }
    findings.push(bridge(host));
    findings.extend(guests(host));
    findings.extend(guests_disks::examine(host));
    findings.push(lookers(host));
    findings.push(records(host));
    findings.extend(saved(host));
    findings
}

fn xen(host: &Host) -> Vec<Finding> {
    if !host.is_xen() {
        return vec![finding(
            Severity::Bad,
            "Xen",
            format!(
                "{} does not say that this is dom0",
                host.paths.xen_capabilities.display()
            ),
            "install xen-system-amd64, reboot and choose the Xen entry (and mount xenfs on /proc/xen)",
        )];
    }
    let info = match xl::info(&host.tools) {
        Ok(info) => info,
        Err(error) => {
            return vec![finding(
                Severity::Bad,
                "xl",
                error,
                "start xenstored and xenconsoled (on Debian: systemctl start xen xenconsoled), run p2v as root",
            )];
        }
    };
    let value = |key: &str| {
        info.iter()
            .find(|(k, _)| k == key)
            .map_or("", |(_, v)| v.as_str())
    };
    let mut findings = vec![finding(
        Severity::Good,
        "xl",
        format!(
            "Xen {}.{}, {} MiB free",
            value("xen_major"),
            value("xen_minor"),
            value("free_memory")
        ),
        "",
    )];
    let caps = value("virt_caps");
    if caps.split_whitespace().any(|c| c == "hvm") {
        findings.push(finding(
            Severity::Good,
            "processor",
            format!("can do full virtualisation ({caps})"),
            "",
        ));
    } else {
        findings.push(finding(
            Severity::Bad,
            "processor",
            format!("cannot do full virtualisation ({caps})"),
            "enable VT-x or AMD-V in the firmware's set-up: an old system needs it",
        ));
    }
    findings
}

fn aoe(host: &Host) -> Finding {
    let driver = AoeDriver::new(&host.tools, &host.paths);
    if driver.is_loaded() {
        return match driver.interfaces() {
            Ok(list) if list.is_empty() => finding(
                Severity::Warning,
                "aoe driver",
                "loaded, and speaks on every interface",
                &format!(
                    "to have it speak on {0} only: echo {0} > /dev/etherd/interfaces",
                    host.iface
                ),
            ),
            Ok(list) => finding(
                Severity::Good,
                "aoe driver",
                format!("loaded, speaks on {}", list.join(", ")),
                "",
            ),
            Err(e) => finding(Severity::Warning, "aoe driver", e, "run p2v as root"),
        };
    }
    match host.tools.run("modprobe", ["--dry-run", "aoe"]) {
        Ok(_) => finding(
            Severity::Good,
            "aoe driver",
            "there, loaded when it is needed",
            "",
        ),
        Err(ToolError::Missing { .. }) => finding(
            Severity::Bad,
            "aoe driver",
            "modprobe is not installed",
            "apt install kmod",
        ),
        Err(e) => finding(
            Severity::Bad,
            "aoe driver",
            e,
            "run Debian's linux-image-amd64 in dom0: the cloud kernels lack the aoe module. (`p2v copy` works without it)",
        ),
    }
}

fn volumes(host: &Host) -> Finding {
    let what = "volume group";
    let groups = match lvm::groups(&host.tools) {
        Ok(groups) => groups,
        Err(e) => {
            return finding(
                Severity::Bad,
                what,
                e,
                "apt install lvm2, or copy to files or block devices",
            );
        }
    };
    let all: Vec<String> = groups
        .iter()
        .map(|g| format!("{} ({} MiB free)", g.name, g.free >> 20))
        .collect();
    match &host.settings.volume_group {
        Some(vg) if !groups.iter().any(|g| g.name == *vg) => finding(
            Severity::Bad,
            what,
            format!("there is no `{vg}`; there are: {}", all.join(", ")),
            "correct volume_group in the settings, or make it: pvcreate and vgcreate",
        ),
        _ if groups.is_empty() => finding(
            Severity::Warning,
            what,
            "there is none",
            "make one for the copies (pvcreate, vgcreate), or copy to files or block devices",
        ),
        _ => finding(Severity::Good, what, all.join(", "), ""),
    }
}

fn interface(host: &Host, name: &str, what: &str) -> Vec<Finding> {
    let dir = host.paths.sys_net.join(name);
    let what = format!("{what} {name}");
    let read = |file: &str| fs::read_to_string(dir.join(file)).map(|t| t.trim().to_owned());
    if name.is_empty() || !dir.exists() {
        return vec![finding(
            Severity::Bad,
            &what,
            "there is no such interface",
            "correct `iface` in the settings (`ip link` shows those there are)",
        )];
    }
    match read("operstate").as_deref() {
        Ok("up" | "unknown") => vec![finding(Severity::Good, &what, "there and up", "")],
        Ok(state) => vec![finding(
            Severity::Bad,
            &what,
            format!("its state is `{state}`"),
            &format!("ip link set {name} up, and look at the cable"),
        )],
        Err(e) => vec![finding(
            Severity::Warning,
            &what,
            format!("its state cannot be read: {e}"),
            "",
        )],
    }
}

fn bridge(host: &Host) -> Finding {
    let name = &host.settings.bridge;
    let what = format!("bridge {name}");
    let dir = host.paths.sys_net.join(name);
    if !dir.exists() {
        return finding(
            Severity::Bad,
            &what,
            "domains have no network without it",
            &format!(
                "make it in /etc/network/interfaces (apt install bridge-utils; `man bridge-utils-interfaces`): auto {name}, \
                 iface {name} inet dhcp, bridge_ports eth0; or correct `bridge` in the settings"
            ),
        );
    }
    if !dir.join("bridge").exists() {
        return finding(
            Severity::Bad,
            &what,
            "it is not a bridge",
            "name a bridge in `bridge`",
        );
    }
    // net/core: addr_assign_type 3 is NET_ADDR_SET, an address that was set and stays.
    match fs::read_to_string(dir.join("addr_assign_type")) {
        Ok(kind) if kind.trim() == "3" => {
            finding(Severity::Good, &what, "its MAC address is fixed", "")
        }
        _ => finding(
            Severity::Warning,
            &what,
            "its MAC address is not set: it takes the lowest of its ports', and changes when one comes or goes; old \
             machines answer only the address they were booted with",
            &format!(
                "set it once: bridge_hw in /etc/network/interfaces, or: ip link set {name} address \
                 $(cat /sys/class/net/{name}/address)"
            ),
        ),
    }
}

/// Whether guests on the old machines' bridge are kept off their disks.
fn guests(host: &Host) -> Option<Finding> {
    const WHAT: &str = "guests' AoE frames";
    let bridges = guests_bridges(host);
    let name = bridges.first()?;
    let records = host.store.list().map(|listing| listing.records);
    let is_needed = records.is_ok_and(|all| all.iter().any(Record::has_domain_on_old_disks));
    Some(
        match (nft::keeps_guests_off(&host.tools, &bridges), is_needed) {
            (Err(error), _) => finding(Severity::Bad, WHAT, error, "apt install nftables"),
            (Ok(true), _) => finding(
                Severity::Good,
                WHAT,
                format!("kept off the old machines on {name}"),
                "",
            ),
            (Ok(false), false) => finding(
                Severity::Good,
                WHAT,
                format!("kept off the old machines on {name} while a domain runs on one's disks"),
                "",
            ),
            (Ok(false), true) => finding(
                Severity::Bad,
                WHAT,
                format!("a guest on {name} can write to a running domain's old disk"),
                "systemctl enable --now p2v-watch, which keeps them off it",
            ),
        },
    )
}

/// The programs that `p2v copy --used-only` asks, one of each package.
fn lookers(host: &Host) -> Finding {
    const PROGRAMS: [(&str, &str); 6] = [
        ("partclone.extfs", "partclone"),
        ("ntfsresize", "ntfs-3g"),
        ("xfs_repair", "xfsprogs"),
        ("btrfs", "btrfs-progs"),
        ("fsck.fat", "dosfstools"),
        ("e2fsck", "e2fsprogs"),
    ];
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| {
            let there = host.tools.run(program, ["--version"]);
            matches!(there, Err(ToolError::Missing { .. }))
        })
        .map(|(_, package)| *package)
        .collect();
    let what = "file system tools";
    if missing.is_empty() {
        return finding(
            Severity::Good,
            what,
            "all there, for `p2v copy --used-only`",
            "",
        );
    }
    finding(
        Severity::Warning,
        what,
        format!(
            "`p2v copy --used-only` copies whole what these know: {}",
            missing.join(", ")
        ),
        &format!("apt install {}", missing.join(" ")),
    )
}

fn records(host: &Host) -> Finding {
    match host.store.list() {
        Err(e) => finding(Severity::Bad, "machine records", e, "run p2v as root"),
        Ok(listing) => match listing.unreadable.first() {
            Some(e) => finding(
                Severity::Bad,
                "machine records",
                e,
                "its machine, and every one that is new, is held when it boots, until this is corrected",
            ),
            None => match host.store.of_another_user().unwrap_or_default().first() {
                Some(path) => not_the_services(path),
                None => finding(
                    Severity::Good,
                    "machine records",
                    format!("{} readable", listing.records.len()),
                    "",
                ),
            },
        },
    }
}

fn not_the_services(record: &Path) -> Finding {
    let directory = record.parent().unwrap_or(record).display();
    let record = record.display();
    finding(
        Severity::Bad,
        "machine records",
        format!(
            "{record} belongs to another user than {directory}: p2v serve cannot read it, and holds its machine and \
             every one that is new"
        ),
        &format!("chown --reference={directory} {record}"),
    )
}

/// Images of machines' domains that `xendomains` would restore over disks that may have changed.
fn saved(host: &Host) -> Vec<Finding> {
    let records = host.store.list().map(|l| l.records).unwrap_or_default();
    records
        .iter()
        .filter_map(|record| {
            let image = host.saved_image(&record.name)?.display().to_string();
            Some(finding(
                Severity::Bad,
                &format!("saved domain {}", record.name),
                format!("{image} is restored by xendomains, whatever became of its disk meanwhile"),
                &format!(
                    "restore it now and shut it down (xl restore {image}), or remove it; XENDOMAINS_SAVE= in \
                     /etc/default/xendomains has domains shut down instead of saved"
                ),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_only_root_can_read_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let host = Host::open(crate::Settings::default(), "eth9", &state).unwrap();
        let mac = p2v_contract::MacAddr::new(2, 0, 0, 0, 0, 1);
        let made = host.store.menu(mac, None, crate::Timestamp::now()).unwrap();
        let record = host.store.path(&made.name);
        let give = |path: &Path| std::os::unix::fs::chown(path, Some(1234), None).unwrap();
        assert_eq!(records(&host).severity, Severity::Good);
        give(&state.join("machines"));
        let found = records(&host);
        assert_eq!(found.severity, Severity::Bad);
        assert!(found.todo.contains(record.to_str().unwrap()), "{found:?}");
        give(&record);
        assert_eq!(records(&host).severity, Severity::Good);
    }

    #[test]
    fn an_empty_host_is_told_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::open(
            crate::Settings::default(),
            "eth9",
            &dir.path().join("state"),
        )
        .unwrap();
        host.tools = crate::tool::Tools::in_dir(dir.path());
        host.paths = crate::Paths::under(dir.path());
        let findings = examine(&host);
        for what in [
            "Xen",
            "aoe driver",
            "device-mapper",
            "volume group",
            "interface eth9",
            "bridge xenbr0",
        ] {
            let f = findings.iter().find(|f| f.what == what).unwrap();
            assert_eq!(f.severity, Severity::Bad, "{f:?}");
            assert!(!f.todo.is_empty());
        }
        // A bridge with a fixed address, and then one without.
        let bridge = host.paths.sys_net.join("xenbr0");
        fs::create_dir_all(bridge.join("bridge")).unwrap();
        fs::write(bridge.join("operstate"), "up\n").unwrap();
        for (kind, severity) in [("3\n", Severity::Good), ("0\n", Severity::Warning)] {
            fs::write(bridge.join("addr_assign_type"), kind).unwrap();
            let findings = examine(&host);
            let last = findings
                .iter()
                .rfind(|f| f.what == "bridge xenbr0")
                .unwrap();
            assert_eq!(last.severity, severity);
        }
    }
}
