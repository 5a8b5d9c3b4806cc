//! Copies to qcow2 images.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::old_machine::{Lab, err, events, with_lab};
use crate::{SECTORS, number, out_of_room};

fn run(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output();
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(done.status.success(), "{program} {arguments:?}: {done:?}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// The image is whole, and of the old disk.
fn assert_equal(lab: &Lab, image: &Path) {
    let (image, disk) = (image.to_str().unwrap(), lab.disk.to_str().unwrap());
    run("qemu-img", &["check", "-q", "-f", "qcow2", image]);
    let compared = run(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "qcow2", disk, image],
    );
    assert!(compared.contains("identical"), "{compared}");
    let raw = lab.path("converted");
    let arguments = [
        "convert",
        "-f",
        "qcow2",
        "-O",
        "raw",
        image,
        raw.to_str().unwrap(),
    ];
    run("qemu-img", &arguments);
    assert!(fs::read(&raw).unwrap() == lab.data);
}

/// No raw disk is shown any more, and nothing of it is left.
fn assert_nothing_shown(lab: &Lab) {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let dir = lab.path("state");
    assert!(!mounts.contains(dir.to_str().unwrap()), "{mounts}");
    assert!(!shown(lab).exists());
}

fn shown(lab: &Lab) -> std::path::PathBuf {
    lab.path("state/copies/e1-disk0.raw")
}

/// Starts a slow copy and reads what it prints until some of it is noted.
fn begun(lab: &Lab, image: &Path) -> Child {
    let address = lab.address.to_string();
    let to = image.to_str().unwrap();
    let slow = [
        "--json", "copy", &address, "--to", to, "--limit", "30M", "--memory", "28M",
    ];
    let mut child = lab.start(&slow);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let noted = |line: std::io::Result<String>| {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        event["event"] == "progress" && number(&event, "checked") > 20 << 20
    };
    assert!(lines.any(noted), "it ended too soon");
    // What it prints from here on is not read: it must not end by that.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

/// The daemon that shows the image, by its command line.
fn daemon(lab: &Lab) -> Option<Pid> {
    let at = shown(lab);
    let at = at.to_str().unwrap();
    fs::read_dir("/proc").unwrap().find_map(|entry| {
        let dir = entry.ok()?.path();
        let line = fs::read_to_string(dir.join("cmdline")).ok()?;
        let is = line.starts_with("qemu-storage-daemon\0") && line.contains(at);
        let id = dir.file_name()?.to_str()?.parse().ok()?;
        is.then(|| Pid::from_raw(id))
    })
}

#[test]
fn an_image_is_gone_on_with_after_kills_and_is_the_old_disk() {
    with_lab(SECTORS, |lab| {
        let image = lab.path("copy.qcow2");
        for _ in 0..2 {
            let mut child = begun(lab, &image);
            assert_eq!(fs::metadata(&image).unwrap().mode() & 0o777, 0o600);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let done = lab.copy(&image, &[]);
        assert_eq!(done.status.code(), Some(0));
        let last = events(&done).pop().unwrap();
        eprintln!("{last}");
        assert!(number(&last, "before") > 20 << 20, "{last}");
        assert_eq!(last["destination"]["kind"], "qcow2");
        assert_nothing_shown(lab);
        assert_equal(lab, &image);
        // Twelve MiB of the disk are zeros and take no room.
        assert!(fs::metadata(&image).unwrap().blocks() * 512 < 152 << 20);
        // Run again on a finished copy, it compares all and moves nothing.
        let last = events(&lab.copy(&image, &[])).pop().unwrap();
        assert_eq!(number(&last, "equal"), SECTORS * 512);

        for arguments in [
            &["verify", "e1"][..],
            &["verify", "e1", "--from-certificate"],
        ] {
            assert_eq!(lab.p2v(arguments).status.code(), Some(0));
        }
        let to = image.to_str().unwrap();
        run("qemu-io", &["-f", "qcow2", "-c", "write -P 4 100M 512", to]);
        let found = lab.p2v(&["--json", "verify", "e1"]);
        assert_eq!(found.status.code(), Some(3));
        let last = events(&found).pop().unwrap();
        assert_eq!(last["differ"], serde_json::json!([[204_800, 8192]]));
        assert_nothing_shown(lab);
        // And copied over it.
        let last = events(&lab.copy(&image, &[])).pop().unwrap();
        assert_eq!(number(&last, "moved"), 4 << 20, "{last}");
        assert_equal(lab, &image);
    });
}

#[test]
fn zeros_of_the_old_disk_are_zeros_in_an_image_that_held_something() {
    with_lab(SECTORS, |lab| {
        let image = lab.path("copy.qcow2");
        assert_eq!(lab.copy(&image, &[]).status.code(), Some(0));
        // Also where a piece ends in the middle of a cluster: at the end of the disk.
        lab.data[156 << 20..].fill(0);
        fs::write(&lab.disk, &lab.data).unwrap();
        lab.serve_as("2", p2v_contract::operation::Access::ReadOnly);
        let done = lab.copy(&image, &[]);
        assert_eq!(done.status.code(), Some(0));
        let last = events(&done).pop().unwrap();
        assert!(number(&last, "zeroed") >= 4 << 20, "{last}");
        assert_equal(lab, &image);
    });
}

#[test]
fn a_strangers_image_is_named_and_kept_and_other_formats_are_refused() {
    with_lab(SECTORS, |lab| {
        let image = lab.path("other.qcow2");
        let path = image.to_str().unwrap();
        run("qemu-img", &["create", "-q", "-f", "qcow2", path, "160M"]);
        run("qemu-io", &["-f", "qcow2", "-c", "write -P 4 1M 512", path]);
        let before = fs::read(&image).unwrap();
        for more in [&[][..], &["--overwrite"], &["--overwrite=other.qcow2"]] {
            let refused = lab.copy(&image, more);
            assert_eq!(refused.status.code(), Some(1));
            let text = err(&refused);
            assert!(
                text.contains(path) && text.contains("a qcow2 image of a disk of 167772160 bytes"),
                "{text}"
            );
            assert!(fs::read(&image).unwrap() == before);
        }
        let named = format!("--overwrite={path}");
        assert_eq!(lab.copy(&image, &[&named]).status.code(), Some(0));
        assert_equal(lab, &image);
        let other = lab.path("copy.vmdk");
        let refused = lab.copy(&other, &[]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(err(&refused).contains("qemu-img convert -O vmdk"));
        assert!(!other.exists());
    });
}

#[test]
fn a_full_file_system_is_told_of_and_the_image_goes_on_when_there_is_room() {
    with_lab(SECTORS, |lab| {
        let image = out_of_room(lab, "copy.qcow2", assert_nothing_shown);
        assert_equal(lab, &image);
    });
}

#[test]
fn a_daemon_that_dies_is_told_of_and_an_interrupt_leaves_nothing_behind() {
    with_lab(SECTORS, |lab| {
        let image = lab.path("copy.qcow2");
        let address = lab.address.to_string();
        let (said, to) = (lab.path("said"), image.to_str().unwrap());
        // By a shell, for what it says on standard error.
        let p2v = env!("CARGO_BIN_EXE_p2v");
        let state = lab.path("state");
        let mut child = Command::new(p2v)
            .args(["--iface", "host0", "--state", state.to_str().unwrap()])
            .args(["--json", "copy", &address, "--to", to, "--limit", "30M"])
            .stdout(std::process::Stdio::piped())
            .stderr(fs::File::create(&said).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let progress = |line: std::io::Result<String>| line.unwrap().contains("progress");
        assert!(lines.any(progress));
        kill(daemon(lab).expect("it is there"), Signal::SIGKILL).unwrap();
        lines.for_each(drop);
        assert_eq!(child.wait().unwrap().code(), Some(1));
        let text = fs::read_to_string(&said).unwrap();
        eprintln!("{text}");
        assert!(
            text.contains("qemu-storage-daemon") && text.contains("signal: 9"),
            "{text}"
        );
        assert_nothing_shown(lab);

        let mut child = begun(lab, &image);
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1));
        assert_eq!(daemon(lab), None);
        assert_nothing_shown(lab);
        run("qemu-img", &["check", "-q", "-f", "qcow2", to]);
        let last = events(&lab.copy(&image, &[])).pop().unwrap();
        assert!(number(&last, "before") > 20 << 20, "{last}");
        assert_equal(lab, &image);
    });
}
