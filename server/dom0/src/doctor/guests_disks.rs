//! Whether this host leaves the guests' RAID members and volume groups alone.

use std::fs;

use super::{Finding, Severity, finding};
use crate::host::Host;

const WHAT: &str = "guests' RAID and LVM";

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Ok(text) = fs::read_to_string(&host.paths.mdadm_conf)
        && !assembles_named_only(&text)
    {
        findings.push(finding(
            Severity::Warning,
            WHAT,
            format!(
                "mdadm assembles any RAID member that it finds, also one on a copy, whose domain cannot start then ({})",
                host.paths.mdadm_conf.display()
            ),
            "end arrays that are not this host's (mdadm --stop), put an ARRAY line for each of its own there (mdadm --detail \
             --scan), then AUTO -all, then update-initramfs -u",
        ));
    }
    let filters = ["devices/filter", "devices/global_filter"];
    let filters = filters.map(|name| host.tools.run("lvmconfig", [name]).unwrap_or_default());
    if host.tools.run("lvmconfig", ["--version"]).is_ok()
        && !filters.iter().any(|filter| filter.contains("etherd"))
    {
        findings.push(finding(
            Severity::Warning,
            WHAT,
            "this host's LVM commands read old machines' disks (p2v's own do not): they wait while one is away, and see its \
             volume groups",
            r#"in the section devices of /etc/lvm/lvm.conf: global_filter = [ "r|^/dev/etherd/|", "r|^/dev/mapper/p2v-|" ]"#,
        ));
    }
    if findings.is_empty() {
        findings.push(finding(Severity::Good, WHAT, "left alone by this host", ""));
    }
    findings
}

/// Whether a `mdadm.conf` has only arrays assembled that it names (mdadm.conf(5), AUTO).
fn assembles_named_only(text: &str) -> bool {
    let words = |line: &str| line.to_ascii_lowercase();
    text.lines()
        .map(words)
        .filter(|line| line.split_whitespace().next() == Some("auto"))
        .any(|line| line.split_whitespace().any(|word| word == "-all"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

    #[test]
    fn a_host_that_takes_guests_disks_for_its_own_is_told_how_not_to() {
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::open(Settings::default(), "eth9", &dir.path().join("state")).unwrap();
        host.paths = crate::Paths::under(dir.path());
        host.tools = crate::tool::Tools::in_dir(dir.path());
        assert_eq!(examine(&host)[0].severity, Severity::Good);
        let conf = host.paths.mdadm_conf.clone();
        fs::create_dir_all(conf.parent().unwrap()).unwrap();
        for (text, severity) in [
            ("HOMEHOST <system>\n# AUTO -all\n", Severity::Warning),
            ("AUTO +imsm +1.x\n", Severity::Warning),
            ("ARRAY /dev/md0 UUID=1\nauto -all\n", Severity::Good),
            ("AUTO homehost -all\n", Severity::Good),
        ] {
            fs::write(&conf, text).unwrap();
            assert_eq!(examine(&host)[0].severity, severity, "{text}");
        }
        let lvmconfig = dir.path().join("lvmconfig");
        for (answer, severity) in [
            ("echo 'global_filter=[\"a|.*|\"]'", Severity::Warning),
            ("echo 'filter=[\"r|^/dev/etherd/|\"]'", Severity::Good),
        ] {
            fs::write(&lvmconfig, format!("#!/bin/sh\n{answer}\n")).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&lvmconfig, mode).unwrap();
            assert_eq!(examine(&host)[0].severity, severity, "{answer}");
        }
    }
}
