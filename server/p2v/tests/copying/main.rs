//! `p2v copy` and `p2v verify` as they are run, over real packet sockets: killed, cut off, out of room,
//! run again. Needs root and iproute2.

mod failing_disk;
mod images;
mod old_machine;

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use old_machine::{Lab, err, events, ip, with_lab};
use p2v_aoe::initiator::Initiator;
use p2v_contract::operation::Access;
use serde_json::Value;

/// 160 MiB and three sectors.
const SECTORS: u64 = (160 << 11) + 3;

fn number(event: &Value, key: &str) -> u64 {
    event[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} in {event}"))
}

/// A copy that takes its time, so many events after its start.
fn begun(lab: &Lab, image: &Path, events: u32) -> (Child, Lines<BufReader<ChildStdout>>) {
    let address = lab.address.to_string();
    let to = image.to_str().unwrap();
    let copy = [
        "--json", "copy", &address, "--to", to, "--limit", "40M", "--memory", "28M",
    ];
    let mut child = lab.start(&copy);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..events {
        lines.next().unwrap().unwrap();
    }
    (child, lines)
}

/// Copies to a file system that is full before the end, and again when there is room; where to.
fn out_of_room(lab: &Lab, file: &str, when_full: impl FnOnce(&Lab)) -> PathBuf {
    let small = lab.path("small");
    fs::create_dir(&small).unwrap();
    let tmpfs = |flags, size: &str| {
        mount(Some("none"), &small, Some("tmpfs"), flags, Some(size)).unwrap();
    };
    tmpfs(MsFlags::empty(), "size=48m");
    let image = small.join(file);
    let full = lab.copy(&image, &[]);
    assert_eq!(full.status.code(), Some(1));
    let text = err(&full);
    assert!(
        text.contains("No space left") && text.contains("again"),
        "{text}"
    );
    when_full(lab);
    tmpfs(MsFlags::MS_REMOUNT, "size=400m");
    assert_eq!(lab.copy(&image, &[]).status.code(), Some(0));
    image
}

#[test]
fn killed_at_any_moment_it_goes_on_where_it_was() {
    with_lab(SECTORS, |lab| {
        let image = lab.path("copy.img");
        let address = lab.address.to_string();
        let to = image.to_str().unwrap().to_owned();
        let copy = [
            "--json", "copy", &address, "--to", &to, "--limit", "30M", "--memory", "28M",
        ];
        let rate = 30u64 << 20;
        let mut random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        let mut reached = 0u64;
        let mut kills = 0;
        let mut compares = false;
        let done = loop {
            let mut child = lab.start(&copy);
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            // After so many events, and not when it is at its end anyway.
            let mut left = 1 + random % 3;
            random /= 3;
            let mut last = None;
            let mut first_before = None;
            for line in lines.by_ref() {
                let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
                if event["event"] == "progress" {
                    first_before.get_or_insert(number(&event, "before"));
                }
                last = Some(event);
                left = left.saturating_sub(1);
                if left == 0 && kills < 6 {
                    child.kill().unwrap();
                    kills += 1;
                    break;
                }
            }
            child.wait().unwrap();
            let last = last.expect("it said something");
            if last["event"] == "copied" {
                break last;
            }
            // One that was killed just after its end is compared as a whole.
            compares = number(&last, "checked") == number(&last, "total");
            reached = reached.max(number(&last, "checked"));
        };
        eprintln!("{kills} kills, at last {done}");
        assert!(kills > 1);
        // What was checked before counts, but for some seconds' work.
        let lost = reached.saturating_sub(number(&done, "before"));
        assert!(compares || lost <= 3 * rate, "{lost} bytes were done again");
        let all = ["before", "moved", "equal", "zeroed"].map(|key| number(&done, key));
        assert_eq!(all.iter().sum::<u64>(), SECTORS * 512);
        assert!(fs::read(&image).unwrap() == lab.data);
        assert!(fs::read(&lab.disk).unwrap() == lab.data);
        assert_eq!(done["certificate"]["root"].as_str().unwrap().len(), 64);
        // Run again on a finished copy, it compares all and moves nothing.
        let again = lab.copy(&image, &[]);
        let last = events(&again).pop().unwrap();
        assert_eq!(number(&last, "equal"), SECTORS * 512);
        assert_eq!(last["certificate"]["root"], done["certificate"]["root"]);
    });
}

#[test]
fn after_a_restart_of_the_old_machine_nothing_noted_is_believed() {
    with_lab(SECTORS, |lab| {
        let image = lab.path("copy.img");
        let (mut child, _) = begun(lab, &image, 2);
        child.kill().unwrap();
        child.wait().unwrap();
        // Its own system ran meanwhile.
        lab.data[5000] ^= 1;
        fs::write(&lab.disk, &lab.data).unwrap();
        lab.serve_as("2", Access::ReadOnly);
        let done = lab.copy(&image, &[]);
        assert_eq!(done.status.code(), Some(0));
        let last = events(&done).pop().unwrap();
        assert_eq!(number(&last, "before"), 0);
        assert!(number(&last, "equal") > 0);
        assert!(fs::read(&image).unwrap() == lab.data);
    });
}

#[test]
fn a_cut_wire_costs_time_and_nothing_else() {
    with_lab(SECTORS, |lab| {
        let image = lab.path("copy.img");
        let (mut child, lines) = begun(lab, &image, 1);
        ip("link set old0 down");
        // How long the cable is out, not a wait for anything.
        std::thread::sleep(Duration::from_secs(12));
        ip("link set old0 up");
        let last: Value = serde_json::from_str(&lines.last().unwrap().unwrap()).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(last["complete"], true);
        assert!(fs::read(&image).unwrap() == lab.data);
    });
}

#[test]
fn a_full_destination_is_told_of_and_goes_on_when_there_is_room() {
    with_lab(SECTORS, |lab| {
        let image = out_of_room(lab, "copy.img", |lab| {
            let shown = lab.p2v(&["--json", "list"]);
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            assert!(shown.contains("copying"), "{shown}");
            assert!(!lab.path("state/copies/e1-disk0.certificate.json").exists());
        });
        assert!(fs::read(&image).unwrap() == lab.data);
    });
}

#[test]
fn verify_finds_a_changed_bit_with_and_without_the_old_machine() {
    with_lab(SECTORS, |lab| {
        let image = lab.path("copy.img");
        let name = "e1";
        assert_eq!(lab.p2v(&["verify", name]).status.code(), Some(1));
        assert_eq!(lab.copy(&image, &[]).status.code(), Some(0));
        assert_eq!(lab.p2v(&["verify", name]).status.code(), Some(0));
        assert_eq!(
            lab.p2v(&["verify", name, "--from-certificate"])
                .status
                .code(),
            Some(0)
        );
        let text = fs::read_to_string(lab.path("state/copies/e1-disk0.certificate.txt")).unwrap();
        assert!(
            text.contains("BLAKE3") && text.contains("163841536 bytes") || text.contains("sectors"),
            "{text}"
        );
        eprintln!("{text}");
        let mut copied = fs::read(&image).unwrap();
        copied[100 << 20] ^= 4;
        fs::write(&image, &copied).unwrap();
        let against_disk = lab.p2v(&["--json", "verify", name]);
        assert_eq!(against_disk.status.code(), Some(3));
        let last = events(&against_disk).pop().unwrap();
        assert_eq!(
            (&last["against"], &last["differ"]),
            (&"disk".into(), &serde_json::json!([[204_800, 8192]]))
        );
        lab.go_silent();
        let noted = lab.p2v(&["--json", "verify", name]);
        assert_eq!(noted.status.code(), Some(3));
        let last = events(&noted).pop().unwrap();
        assert_eq!(
            (&last["against"], &last["differ"]),
            (&"certificate".into(), &serde_json::json!([[204_800, 8192]]))
        );
    });
}

#[test]
fn a_file_that_holds_something_is_named_before_it_is_overwritten() {
    with_lab(SECTORS, |lab| {
        let image = lab.path("other.img");
        fs::write(&image, vec![0; 4 << 20]).unwrap();
        let made = std::process::Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-L", "payroll"])
            .arg(&image)
            .status();
        assert!(made.unwrap().success());
        let before = fs::read(&image).unwrap();
        for more in [&[][..], &["--overwrite"], &["--overwrite=other"]] {
            let refused = lab.copy(&image, more);
            assert_eq!(refused.status.code(), Some(1));
            let text = err(&refused);
            assert!(text.contains("ext4 file system `payroll`"), "{text}");
            assert!(fs::read(&image).unwrap() == before);
        }
        let named = format!("--overwrite={}", image.display());
        assert_eq!(lab.copy(&image, &[&named]).status.code(), Some(0));
        assert!(fs::read(&image).unwrap() == lab.data);
    });
}

#[test]
fn a_copy_of_a_running_disk_is_to_begin_with_and_the_last_pass_is_short() {
    with_lab(SECTORS, |lab| {
        let image = lab.path("copy.img");
        lab.serve_as("1", Access::ReadWrite);
        let before = lab.copy(&image, &["--precopy"]);
        assert_eq!(before.status.code(), Some(0));
        let done = events(&before).pop().unwrap();
        assert_eq!(
            (&done["precopy"], &done["certificate"]),
            (&true.into(), &Value::Null)
        );
        assert!(err(&before).contains("no domain is switched"));
        // The domain writes on, and is shut down.
        let mut session = Initiator::open("host0")
            .unwrap()
            .attach(lab.address)
            .unwrap();
        session.write(30_000, &[9; 1024]).unwrap();
        drop(session);
        lab.data[30_000 * 512..30_002 * 512].fill(9);
        let state = |lab: &Lab| {
            let list = lab.p2v(&["--json", "show", "e1"]);
            String::from_utf8_lossy(&list.stdout).into_owned()
        };
        assert!(!state(lab).contains("\"copied\""));
        let last = lab.copy(&image, &[]);
        assert_eq!(last.status.code(), Some(0));
        let done = events(&last).pop().unwrap();
        assert_eq!(number(&done, "moved"), 4 << 20, "{done}");
        assert!(fs::read(&image).unwrap() == lab.data);
        assert!(state(lab).contains("copied"));
    });
}

#[test]
fn a_failing_disk_gives_all_it_can_and_what_is_missing_is_named() {
    with_lab(SECTORS, |lab| {
        // An ext4 partition with a file, on which bad sectors lie, and one that reads at the third try.
        let first = 2048;
        let root = lab.path("root");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("ledger.db"), vec![0x5a; 6 << 20]).unwrap();
        let (partition, image) = (lab.path("partition"), lab.path("copy.img"));
        let run = |program: &str, arguments: &[&str]| {
            let done = std::process::Command::new(program).args(arguments).output();
            let done = done.unwrap_or_else(|error| panic!("{program}: {error}"));
            assert!(done.status.success(), "{program}: {done:?}");
            String::from_utf8_lossy(&done.stdout).into_owned()
        };
        let path = partition.to_str().unwrap();
        run("truncate", &["-s", "64M", path]);
        run(
            "mke2fs",
            &["-q", "-t", "ext4", "-d", root.to_str().unwrap(), path],
        );
        let blocks = run("debugfs", &["-R", "blocks /ledger.db", path]);
        let block: u64 = blocks.split_whitespace().nth(100).unwrap().parse().unwrap();
        let size: u64 = run("dumpe2fs", &["-h", path])
            .lines()
            .find_map(|line| line.strip_prefix("Block size:")?.trim().parse().ok())
            .unwrap();
        let in_file = first + block * size / 512;
        let content = fs::read(&partition).unwrap();
        lab.data[first as usize * 512..][..content.len()].copy_from_slice(&content);
        fs::write(&lab.disk, &lab.data).unwrap();
        let mut table = std::process::Command::new("sfdisk");
        table
            .args(["-q", lab.disk.to_str().unwrap()])
            .stdin(std::process::Stdio::piped());
        let mut table = table.spawn().unwrap();
        let line = format!("start={first}, size=131072, type=83\n");
        std::io::Write::write_all(&mut table.stdin.take().unwrap(), line.as_bytes()).unwrap();
        assert!(table.wait().unwrap().success());
        lab.data = fs::read(&lab.disk).unwrap();

        let bad = vec![in_file, in_file + 1, 200_000, 250_001];
        let mount = lab.path("failing");
        let failing = failing_disk::mount(&mount, lab.data.clone(), &bad, &[(300_000, 9)]);
        lab.go_silent();
        lab.disk = mount.join("disk");
        lab.serve_as("3", Access::ReadOnly);
        let done = lab.copy(&image, &["--fill", "pattern"]);
        assert_eq!(done.status.code(), Some(3));
        let last = events(&done).pop().unwrap();
        assert_eq!(last["complete"], false);
        assert_eq!(
            last["unreadable"],
            serde_json::json!([[in_file, 2], [200_000, 1], [250_001, 1]])
        );
        let copied = fs::read(&image).unwrap();
        for lba in 0..SECTORS {
            let at = lba as usize * 512;
            let have = &copied[at..at + 512];
            if bad.contains(&lba) {
                let text = format!("p2v: unreadable sector LBA {lba}\n");
                assert!(have.starts_with(text.as_bytes()), "{lba}");
            } else {
                assert!(have == &lab.data[at..at + 512], "{lba}");
            }
        }
        let hits = last["files"].to_string();
        assert!(hits.contains("/ledger.db"), "{last}");
        // ddrescue's own tool reads the map: four sectors are missing.
        let map = lab.path("state/copies/e1-disk0.map");
        let listed = run("ddrescuelog", &["-b512", "-l-", map.to_str().unwrap()]);
        let listed: Vec<u64> = listed.lines().map(|l| l.trim().parse().unwrap()).collect();
        assert_eq!(listed, bad);
        // The disk has cooled down: the next run asks for these four and nothing else.
        failing.heal();
        let before = failing.reads();
        let done = lab.copy(&image, &[]);
        assert_eq!(done.status.code(), Some(0));
        let last = events(&done).pop().unwrap();
        assert!(number(&last, "moved") < 8192, "{last}");
        eprintln!("{} reads of the disk", failing.reads() - before);
        assert!(failing.reads() - before < 64);
        assert!(fs::read(&image).unwrap() == lab.data);
    });
}

#[test]
fn what_file_systems_do_not_use_stays_where_it_is() {
    with_lab(SECTORS, |lab| {
        let root = lab.path("root");
        fs::create_dir(&root).unwrap();
        let content: Vec<u8> = (0..5u32 << 20).map(|i| ((i * 31) >> 7) as u8).collect();
        fs::write(root.join("used"), &content).unwrap();
        // The free space holds what was deleted.
        let first = 2048u64;
        let partition = lab.path("partition");
        let garbage = &lab.data[first as usize * 512..][..128 << 20];
        fs::write(&partition, garbage).unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let done = std::process::Command::new(program).args(arguments).output();
            let done = done.unwrap_or_else(|error| panic!("{program}: {error}"));
            assert!(done.status.success(), "{program}: {done:?}");
        };
        let path = partition.to_str().unwrap();
        let root = root.to_str().unwrap();
        run(
            "mke2fs",
            &[
                "-q",
                "-F",
                "-t",
                "ext4",
                "-E",
                "nodiscard",
                "-d",
                root,
                path,
            ],
        );
        let made = fs::read(&partition).unwrap();
        lab.data[first as usize * 512..][..made.len()].copy_from_slice(&made);
        fs::write(&lab.disk, &lab.data).unwrap();
        let script = format!(
            "echo start={first}, size=262144, type=83 | sfdisk -q {}",
            lab.disk.display()
        );
        run("sh", &["-c", &script]);
        lab.data = fs::read(&lab.disk).unwrap();
        lab.serve_as("2", Access::ReadOnly);

        let image = lab.path("copy.img");
        let plan = lab.copy(&image, &["--used-only", "--dry-run"]);
        assert_eq!(plan.status.code(), Some(0));
        let plan = events(&plan).pop().unwrap();
        assert!(number(&plan, "bytes") < 80 << 20, "{plan}");
        assert!(
            plan["to"].as_str().unwrap().starts_with("a new file"),
            "{plan}"
        );
        assert!(!image.exists());
        let done = lab.copy(&image, &["--used-only"]);
        assert_eq!(done.status.code(), Some(0));
        assert!(err(&done).contains("ext4"), "{}", err(&done));
        let last = events(&done).pop().unwrap();
        let unused = number(&last["certificate"], "unused");
        assert!(unused > 80 << 20, "{last}");
        let copied = fs::read(&image).unwrap();
        let outside = first as usize * 512;
        assert!(copied[..outside] == lab.data[..outside]);
        assert!(copied[outside + made.len()..] == lab.data[outside + made.len()..]);
        let back = lab.path("back");
        fs::write(&back, &copied[outside..outside + made.len()]).unwrap();
        let back = back.to_str().unwrap();
        run("e2fsck", &["-fn", back]);
        let out = lab.path("out");
        run(
            "debugfs",
            &["-R", &format!("dump /used {}", out.display()), back],
        );
        assert!(fs::read(&out).unwrap() == content);
        assert_eq!(lab.p2v(&["verify", "e1"]).status.code(), Some(0));
    });
}

/// Begins a copy and kills it when something is checked.
fn begin_and_kill(lab: &Lab, image: &Path) {
    let (mut child, _) = begun(lab, image, 3);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_was_written_to_an_unfinished_copy_is_found_though_it_was_noted() {
    with_lab(SECTORS, |lab| {
        let image = lab.path("copy.img");
        begin_and_kill(lab, &image);
        // Somebody puts something into it.
        let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 512], 5 << 20).unwrap();
        drop(file);
        let done = lab.copy(&image, &[]);
        assert_eq!(done.status.code(), Some(0));
        assert!(number(&events(&done).pop().unwrap(), "before") > 0);
        assert!(fs::read(&image).unwrap() == lab.data);
        // Emptied, it is begun anew.
        let image = lab.path("other.img");
        begin_and_kill(lab, &image);
        fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&image)
            .unwrap();
        assert_eq!(lab.copy(&image, &[]).status.code(), Some(0));
        assert!(fs::read(&image).unwrap() == lab.data);
    });
}

#[test]
fn a_destination_that_another_machine_has_is_asked_for_and_a_moved_one_refused() {
    with_lab(SECTORS, |lab| {
        let image = lab.path("copy.img");
        assert_eq!(lab.copy(&image, &[]).status.code(), Some(0));
        // The record is another machine's now, and this one is new.
        let records = lab.path("state/machines");
        let record = fs::read_to_string(records.join("e1.json")).unwrap();
        let theirs = record
            .replace("\"e1\"", "\"e9\"")
            .replace("\"shelf\": 1,", "\"shelf\": 9,")
            .replace("00:00:00:00:00:07", "00:00:00:00:00:99");
        assert_ne!(theirs, record);
        let put_back = |text: &str| {
            fs::write(records.join("e9.json"), text).unwrap();
            let store = p2v_dom0::Store::open(&lab.path("state")).unwrap();
            store.trust(&"e9".parse().unwrap()).unwrap();
        };
        put_back(&theirs);
        let before = fs::read(&image).unwrap();
        let refused = lab.copy(&image, &[]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            err(&refused).contains("the copy of e9.0 of e9"),
            "{}",
            err(&refused)
        );
        let named = format!("--overwrite={}", image.display());
        assert_eq!(lab.copy(&image, &[&named]).status.code(), Some(0));
        let now = fs::read_to_string(records.join("e9.json")).unwrap();
        let parsed: Value = serde_json::from_str(&now).unwrap();
        assert_eq!(parsed["disks"]["0"]["copy"], Value::Null, "{now}");
        assert!(now.contains("was given up"), "{now}");
        // One that a domain was switched to is not given up at all.
        let mut moved: Value = serde_json::from_str(&theirs).unwrap();
        moved["disks"]["0"]["copy"]["stage"] =
            serde_json::json!({"used": {"since": "2026-01-01T00:00:00Z"}});
        put_back(&moved.to_string());
        let refused = lab.copy(&image, &[&named]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            err(&refused).contains("moved system e9"),
            "{}",
            err(&refused)
        );
        assert!(fs::read(&image).unwrap() == before);
    });
}

/// Figures, not a test: `cargo test --release -p p2v --test copying -- --ignored --nocapture`.
#[test]
#[ignore = "takes a minute and 5 GB"]
fn how_long_a_domain_is_down_with_and_without_a_precopy() {
    with_lab(4 << 20, |lab| {
        let mut random = blake3::Hasher::new().finalize_xof();
        random.fill(&mut lab.data);
        fs::write(&lab.disk, &lab.data).unwrap();
        lab.serve_as("1", Access::ReadOnly);
        let timed = |what: &str, image: &std::path::Path, more: &[&str]| {
            let begun = std::time::Instant::now();
            assert_eq!(lab.copy(image, more).status.code(), Some(0));
            println!("{what}: {:.1} s", begun.elapsed().as_secs_f64());
        };
        timed(
            "2 GiB with the domain down all the time",
            &lab.path("a.img"),
            &[],
        );
        fs::remove_file(lab.path("a.img")).unwrap();
        timed("2 GiB while it runs", &lab.path("b.img"), &["--precopy"]);
        // One per cent changes, here and there.
        let file = fs::OpenOptions::new().write(true).open(&lab.disk).unwrap();
        for place in 0..40u64 {
            let at = place * (50 << 20);
            std::os::unix::fs::FileExt::write_all_at(&file, &[place as u8; 512 << 10], at).unwrap();
        }
        file.sync_all().unwrap();
        timed("and the rest with it down", &lab.path("b.img"), &[]);
    });
}
