//! Whether a domain on an old disk outlives an outage of its old machine on this host.

use std::fs;

use super::{Finding, Severity, finding};
use crate::host::Host;
use crate::record::Record;
use crate::tool::aoe_driver::AoeDriver;
use crate::workflow::is_watched;

const WHAT: &str = "outages of old machines";

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let version = fs::read_to_string(&host.paths.proc_version).unwrap_or_default();
    let mut findings = Vec::new();
    if kernel(&version).is_some_and(|version| !has_fix(version)) {
        findings.push(finding(
            Severity::Warning,
            WHAT,
            "this kernel's aoe driver may hang when a disk fails for good while a domain has it",
            "install the current linux-image-amd64 (6.1.144 and 6.12.37 have the correction) and restart when it suits",
        ));
    }
    findings.extend(dead_seconds(host));
    findings.push(watched(host));
    findings
}

/// Whether anything looks after the domains whose old machines fall silent.
fn watched(host: &Host) -> Finding {
    const WATCH: &str = "p2v watch";
    let todo = "systemctl enable --now p2v-watch";
    let records = host.store.list().map(|listing| listing.records);
    let is_needed = records.is_ok_and(|all| all.iter().any(Record::has_domain_on_old_disks));
    match (is_watched(host), is_needed) {
        (true, _) => finding(Severity::Good, WATCH, "running", ""),
        (false, true) => finding(
            Severity::Bad,
            WATCH,
            "not running: a domain whose old machine falls silent is not paused, and gets disk errors of its own",
            todo,
        ),
        (false, false) => finding(
            Severity::Warning,
            WATCH,
            "not running: needed as soon as a domain runs on an old machine's disks",
            todo,
        ),
    }
}

/// While a domain is on an old disk, the driver must wait as long as the settings say.
fn dead_seconds(host: &Host) -> Option<Finding> {
    let records = host.store.list().ok()?.records;
    records
        .iter()
        .find(|record| record.has_domain_on_old_disks())?;
    let wanted = host.settings.domain_waits_seconds;
    let driver = AoeDriver::new(&host.tools, &host.paths);
    Some(match driver.kept_seconds() {
        // The driver's 0 is for ever.
        Ok(seconds) if seconds == 0 || seconds >= wanted => finding(
            Severity::Good,
            WHAT,
            format!("a domain waits {seconds} s for its old machine"),
            "",
        ),
        Ok(seconds) => finding(
            Severity::Bad,
            WHAT,
            format!(
                "after {seconds} s of silence the disks of running domains fail (aoe_deadsecs)"
            ),
            &format!("echo {wanted} >/sys/module/aoe/parameters/aoe_deadsecs"),
        ),
        Err(error) => finding(Severity::Warning, WHAT, error, "run p2v as root"),
    })
}

/// The version in `/proc/version`: Debian's own text has that of the sources, the first word only the ABI's.
fn kernel(text: &str) -> Option<(u32, u32, u32)> {
    // The compiler's stands before the build's number, and is Debian's too.
    let debian = text
        .split_once(" #")
        .and_then(|(_, build)| triple(build.split_once("Debian ")?.1));
    debian.or_else(|| triple(text.strip_prefix("Linux version ")?))
}

fn triple(text: &str) -> Option<(u32, u32, u32)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let mut numbers = text[..end].split('.').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some((next()?, next()?, next()?))
}

/// "aoe: clean device rq_list in aoedev_downdev()" came with 6.1.142, "aoe: defer rexmit timer downdev work to
/// workqueue" with 6.1.144 (Debian's changelog of linux 6.1.147); 6.12.37 and 6.16 by their dates. Of other lines of
/// the kernel it is not known.
fn has_fix(version: (u32, u32, u32)) -> bool {
    match version {
        (6, 1, patch) => patch >= 144,
        (6, 12, patch) => patch >= 37,
        (major, minor, _) => (major, minor) >= (6, 16),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::State;

    #[test]
    fn the_kernel_s_version_is_read_and_judged() {
        let debian = "Linux version 6.1.0-57-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14+deb12u1) \
                      12.2.0) #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-3 (2026-10-01)";
        for (text, version, fixed) in [
            (
                "Linux version 6.1.140 (x) #1 SMP Debian 6.1.140-1 (d)",
                (6, 1, 140),
                false,
            ),
            (
                "Linux version 6.1.0-37-amd64 (x) #1 SMP Debian 6.1.144-1",
                (6, 1, 144),
                true,
            ),
            ("Linux version 6.12.30 (x)", (6, 12, 30), false),
            ("Linux version 6.17.1 (x)", (6, 17, 1), true),
            ("Linux version 5.10.200 (x)", (5, 10, 200), false),
        ] {
            assert_eq!(
                (kernel(text), has_fix(version)),
                (Some(version), fixed),
                "{text}"
            );
        }
        assert_eq!(kernel(debian), Some((6, 1, 192)));
        assert_eq!(kernel("Linux version 6.x"), None);
    }

    #[test]
    fn a_driver_that_gives_up_too_early_is_told_of_while_a_domain_may_wait() {
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::open(
            crate::Settings::default(),
            "eth9",
            &dir.path().join("state"),
        )
        .unwrap();
        host.paths = crate::Paths::under(dir.path());
        let parameters = host.paths.sys_module.join("aoe/parameters");
        fs::create_dir_all(&parameters).unwrap();
        let mac = p2v_contract::MacAddr::new(2, 0, 0, 0, 0, 1);
        let made = host.store.menu(mac, None, crate::Timestamp::now()).unwrap();
        let watched = |host: &Host| examine(host).pop().unwrap().severity;
        assert_eq!(examine(&host).len(), 1);
        assert_eq!(watched(&host), Severity::Warning);
        let running = host.store.update(&made.name, |record| {
            record.state = State::Running;
            Ok::<_, crate::store::StoreError>(())
        });
        running.unwrap();
        for (seconds, severity) in [("180\n", Severity::Bad), ("3600\n", Severity::Good)] {
            fs::write(parameters.join("aoe_deadsecs"), seconds).unwrap();
            assert_eq!(examine(&host)[0].severity, severity);
        }
        assert_eq!(watched(&host), Severity::Bad);
        fs::create_dir_all(&host.paths.run).unwrap();
        let lock = fs::File::create(host.paths.run.join("watch.lock")).unwrap();
        lock.lock().unwrap();
        assert_eq!(watched(&host), Severity::Good);
    }
}
