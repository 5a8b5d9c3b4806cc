//! `p2v copy` and `p2v verify` at the operator's end: what may be overwritten, and what came of it.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use p2v_contract::Size;
use p2v_copy::Verify;
use p2v_dom0::workflow::{Against, CopyDone, CopyPlan, VerifyDone};
use serde_json::json;

use crate::arguments::exit;

/// What the operator has typed that it may go: its name, and what was said to be on it.
pub type Typed = Mutex<Vec<(String, Option<String>)>>;

/// Whether what is called `name` may be overwritten: it was named on the command line, or is `typed` now.
/// The same question is asked once; that it holds something else as well is another one.
pub fn may_go(named: &[String], typed: &Typed, name: &str, holds: Option<&str>) -> bool {
    let mut typed = typed.lock().unwrap_or_else(PoisonError::into_inner);
    let question = (name.to_owned(), holds.map(str::to_owned));
    if named.iter().any(|given| is_named(given, name)) || typed.contains(&question) {
        return true;
    }
    // `--overwrite` alone.
    let ask = named.iter().any(String::is_empty);
    if !ask || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return false;
    }
    let holds = holds.map_or("may hold data".into(), |holds| format!("holds {holds}"));
    eprint!("{name} {holds}. To have it overwritten, type its name: ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    let agreed = std::io::stdin().read_line(&mut line).is_ok() && is_named(line.trim(), name);
    if agreed {
        typed.push(question);
    }
    agreed
}

/// Whether an operator's word names this volume (`vg/lv`) or path, by whatever link.
fn is_named(given: &str, name: &str) -> bool {
    let leads_to = |path: &str| std::fs::canonicalize(path).ok();
    let path = match name.starts_with('/') {
        true => name.to_owned(),
        false => format!("/dev/{name}"),
    };
    let is_path = given.starts_with(['/', '.']);
    given == name
        || given == path
        || is_path && leads_to(given).is_some_and(|place| leads_to(&path) == Some(place))
}

/// Tells what would be copied.
pub fn planned(plans: &[CopyPlan], json: bool) {
    for plan in plans {
        let CopyPlan {
            address,
            to,
            bytes,
            rate,
            time,
        } = plan;
        if json {
            println!(
                "{}",
                json!({
                    "event": "plan", "disk": address, "to": to, "bytes": bytes,
                    "bytes_per_second": rate,
                })
            );
            continue;
        }
        let time = time
            .as_deref()
            .unwrap_or("how long is not known: the disk could not be read just now");
        println!("{address} would be copied to {to}; {time}");
    }
    if !json {
        println!("nothing was done");
    }
}

/// Tells what was copied.
pub fn copied(copies: &[CopyDone], json: bool) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for copy in copies {
        let CopyDone {
            address,
            destination,
            summary,
            files,
            certificate,
        } = copy;
        if !summary.is_complete() {
            code = ExitCode::from(exit::INCOMPLETE);
        }
        if json {
            println!(
                "{}",
                json!({
                    "event": "copied", "disk": address, "destination": destination,
                    "complete": summary.is_complete(), "precopy": certificate.is_none(),
                    "moved": summary.moved, "equal": summary.equal, "zeroed": summary.zeroed,
                    "before": summary.before, "unreadable": summary.unreadable, "certificate": certificate,
                    "files": files.iter().map(|hit| json!({
                        "partition": hit.partition, "owner": hit.owner.to_string(), "lba": hit.lba,
                        "sectors": hit.sectors,
                    })).collect::<Vec<_>>(),
                })
            );
            continue;
        }
        let moved = format!(
            "{} came over the wire, {} were there already, {} are zeros",
            Size(summary.moved),
            Size(summary.equal + summary.before),
            Size(summary.zeroed)
        );
        let compared = match certificate {
            None => {
                "it was copied while it may have been written, and no domain is switched to this copy"
            }
            Some(certificate) => match certificate.verified {
                Verify::Both => {
                    "every range of the copy was read back and compared with the old disk"
                }
                Verify::Source => {
                    "what arrived was compared with the old disk; the copy was not read back"
                }
                Verify::Written => "the copy was read back; it was not compared with the old disk",
                Verify::None => "nothing was compared",
            },
        };
        if summary.is_complete() {
            println!("{address} is copied to {destination}: {moved}; {compared}");
        } else {
            println!(
                "{address} is NOT completely copied to {destination}: {} sectors of the old disk cannot be read ({moved})",
                summary.unreadable_sectors()
            );
            for (lba, count) in &summary.unreadable {
                println!("  unreadable: {count} from sector {lba} on");
            }
            for hit in files {
                let partition = hit
                    .partition
                    .map_or(String::new(), |n| format!("partition {n}: "));
                println!("  hit: {partition}{} ({} sectors)", hit.owner, hit.sectors);
            }
        }
        if let Some(root) = certificate.as_ref().and_then(|c| c.root.as_ref()) {
            println!("  BLAKE3 {root}");
        }
    }
    code
}

/// Tells what a comparison found.
pub fn verified(done: &[VerifyDone], json: bool) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for VerifyDone {
        address,
        destination,
        against,
        compared,
    } in done
    {
        let equal = compared.differ.is_empty() && compared.unreadable.is_empty();
        if !equal {
            code = ExitCode::from(exit::INCOMPLETE);
        }
        let with = match against {
            Against::OldDisk => "the old disk",
            Against::Certificate => "what was noted when it was made",
        };
        if json {
            println!(
                "{}",
                json!({
                    "event": "verified", "disk": address, "destination": destination, "equal": equal,
                    "against": if *against == Against::OldDisk { "disk" } else { "certificate" },
                    "bytes_equal": compared.equal, "differ": compared.differ,
                    "unreadable": compared.unreadable,
                })
            );
            continue;
        }
        if equal {
            println!(
                "{destination} is equal to {with} ({address}): {} compared",
                Size(compared.equal)
            );
            continue;
        }
        println!("{destination} is NOT equal to {with} ({address}):");
        for (what, list) in [
            ("differs", &compared.differ),
            ("the old disk cannot be read", &compared.unreadable),
        ] {
            for (lba, count) in list {
                println!("  {what}: within {count} sectors from sector {lba} on");
            }
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_may_go() {
        let named = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let vg_a = |names: &[&str]| may_go(&named(names), &Mutex::default(), "vg/a", None);
        assert!(vg_a(&["vg/a"]) && vg_a(&["x", "/dev/vg/a"]));
        assert!(!vg_a(&[]) && !vg_a(&["a"]) && !vg_a(&["vg/ab"]) && !vg_a(&["/vg/a"]));
        // What was typed once is not asked for again.
        let typed = Mutex::new(vec![("vg/a".into(), Some("a disk label".into()))]);
        let again = |holds| may_go(&named(&[""]), &typed, "vg/a", holds);
        assert!(again(Some("a disk label")) && !again(Some("the copy of e3.0")) && !again(None));
        assert!(may_go(
            &named(&["/srv/x.img"]),
            &Mutex::default(),
            "/srv/x.img",
            None
        ));
        // By another link to it.
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("drbd0"), "").unwrap();
        std::fs::write(path("drbd1"), "").unwrap();
        std::os::unix::fs::symlink(path("drbd0"), path("by-res")).unwrap();
        assert!(is_named(&path("drbd0"), &path("by-res")));
        assert!(!is_named(&path("drbd1"), &path("by-res")) && !is_named("", &path("by-res")));
        assert!(!is_named(&path("no"), &path("none")));
    }
}
