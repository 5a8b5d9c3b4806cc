//! A disk that fails, and a cable that is out: what the old machine's own kernel and ours make of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use p2v_lab::artifacts::Artifacts;
use p2v_lab::disk::{Disk, SECTOR};
use p2v_lab::failing_disk::FailingDisk;
use p2v_lab::local_host::{LocalHost, with_own_network};
use p2v_lab::old_server::{OldServer, SAS_SERVER};
use p2v_lab::run::Run;
use serde_json::{Value, json};

use crate::scene::EXPORT_LIMIT;

const BYTES: u64 = 64 << 20;
/// Two side by side, one far from them, and the last.
const BAD: [u64; 4] = [20_000, 20_001, 70_007, BYTES / SECTOR - 1];
/// Longer than what a request may take unless it is a copy's.
const CABLE_OUT: Duration = Duration::from_secs(65);

fn event(line: std::io::Result<String>) -> Value {
    serde_json::from_str(&line.unwrap()).unwrap()
}

#[test]
fn a_failing_disk_is_copied_but_for_its_bad_sectors_though_the_cable_is_out_for_a_minute() {
    with_own_network(|| {
        let artifacts = Artifacts::find().unwrap();
        let run = Run::new(&artifacts.lab, "failing-disk").unwrap();
        let work = run.directory().to_owned();
        let disk = Disk::with_pattern(&work.join("old.disk"), BYTES).unwrap();
        let failing = FailingDisk::new(&work, &disk, &BAD).unwrap();
        let host = LocalHost::start(&artifacts, &work).unwrap();
        let mut old = OldServer::power_on_at_tap(&work, &failing.file(), "", SAS_SERVER).unwrap();
        old.wait_for("exporting e1.0 read-only", EXPORT_LIMIT)
            .unwrap();

        let (image, said) = (work.join("copy.img"), work.join("copy.log"));
        let to = image.display().to_string();
        let copy = |more: &[&str]| {
            let mut command = host.p2v(&[&["--json", "copy", "e1.0", "--to", &to], more].concat());
            command.stdout(Stdio::piped());
            command.stderr(fs::File::create(&said).unwrap());
            command.spawn().unwrap()
        };

        // Slow enough that the cable comes out in the middle.
        let mut copying = copy(&["--limit", "6M"]);
        let lines = BufReader::new(copying.stdout.take().unwrap()).lines();
        let mut events = lines.map(event);
        let checked = |event: &Value| event["checked"].as_u64();
        let before = events.find_map(|e| checked(&e).filter(|c| *c > 8 << 20));
        assert!(before.is_some_and(|before| before < BYTES / 2));
        old.set_cable(false).unwrap();
        old.wait_for("NO CARRIER", EXPORT_LIMIT).unwrap();
        // How long the cable is out, not a wait for anything.
        std::thread::sleep(CABLE_OUT);
        old.set_cable(true).unwrap();
        let plugged = Instant::now();
        let done = events.last().unwrap();
        eprintln!(
            "done {:.1?} after the cable was back: {done}",
            plugged.elapsed()
        );
        assert_eq!(copying.wait().unwrap().code(), Some(3));
        let text = fs::read_to_string(&said).unwrap();
        eprintln!("{text}");
        let (_, after) = text.split_once("e1.0 answers again, after ").unwrap();
        let after: u64 = after.split(' ').next().unwrap().parse().unwrap();
        let out = CABLE_OUT.as_secs();
        assert!((out..out + 20).contains(&after), "{after}");

        // All but the four sectors is there, in spite of it all.
        assert_eq!(
            done["unreadable"],
            json!([[BAD[0], 2], [BAD[2], 1], [BAD[3], 1]])
        );
        assert_eq!(done["certificate"]["unreadable"], done["unreadable"]);
        let source = fs::read(&disk.path).unwrap();
        let copied = fs::read(&image).unwrap();
        let (sectors, _) = copied.as_chunks::<{ SECTOR as usize }>();
        for (lba, (have, want)) in (0u64..).zip(sectors.iter().zip(source.as_chunks().0)) {
            match BAD.contains(&lba) {
                true => assert!(have.iter().all(|byte| *byte == 0), "sector {lba}"),
                false => assert!(have == want, "sector {lba}"),
            }
        }
        let map = work.join("state/copies/e1-disk0.map");
        let listed = Command::new("ddrescuelog")
            .args(["-b512", "-l-"])
            .arg(&map)
            .output()
            .unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let listed: Vec<u64> = listed.lines().map(|l| l.trim().parse().unwrap()).collect();
        assert_eq!(listed, BAD);

        // The drive gets over it: the next run asks for what was missing, and for nothing else.
        old.overwrite_sector(BAD[0], 0x5A).unwrap();
        let mut again = copy(&[]);
        let lines = BufReader::new(again.stdout.take().unwrap()).lines();
        let done = lines.map(event).last().unwrap();
        eprintln!("{}", fs::read_to_string(&said).unwrap());
        assert_eq!(again.wait().unwrap().code(), Some(0), "{done}");
        assert!(done["moved"].as_u64().unwrap() < 8192, "{done}");
        assert!(fs::read(&image).unwrap() == fs::read(&disk.path).unwrap());
        drop(old);
        drop(host);
        run.succeeded();
    });
}
