//! The real command, as a person in a hurry types it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn p2v(state: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_p2v"))
        .arg("--state")
        .arg(state)
        .args(arguments)
        .output()
        .unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn help_tells_the_story_and_the_exit_codes() {
    let state = tempfile::tempdir().unwrap();
    let help = p2v(state.path(), &["help"]);
    assert_eq!(help.status.code(), Some(0));
    for wanted in [
        "p2v copy NAME --to VG",
        "seen -> exported -> running",
        "Exit codes",
        "p2v show NAME",
        "--iface",
        "doctor",
    ] {
        assert!(
            out(&help).contains(wanted),
            "{wanted:?} is not in:\n{}",
            out(&help)
        );
    }
    assert_eq!(p2v(state.path(), &["copy", "e1"]).status.code(), Some(2));
    assert_eq!(p2v(state.path(), &["frobnicate"]).status.code(), Some(2));
}

#[test]
fn mistakes_are_named_with_what_to_do() {
    let state = tempfile::tempdir().unwrap();
    let settings = state.path().join("p2v.toml");
    std::fs::write(&settings, "ifcae = \"xenbr0\"\n").unwrap();
    let config = ["--config", settings.to_str().unwrap(), "list"];
    let output = p2v(state.path(), &config);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("ifcae") && err(&output).contains("p2v.toml"),
        "{}",
        err(&output)
    );

    let output = p2v(state.path(), &["--config", "/nowhere/p2v.toml", "list"]);
    assert!(
        err(&output).contains("/nowhere/p2v.toml"),
        "{}",
        err(&output)
    );

    std::fs::write(&settings, "").unwrap();
    let with = |more: &[&str]| {
        let mut arguments = vec!["--config", settings.to_str().unwrap()];
        arguments.extend(more);
        p2v(state.path(), &arguments)
    };
    let output = with(&["--iface", "nope0", "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("nope0") && err(&output).contains("ip link"),
        "{}",
        err(&output)
    );

    let output = with(&["config", "e1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("e1") && err(&output).contains("p2v list"),
        "{}",
        err(&output)
    );

    let output = with(&["config", "../../etc/passwd"]);
    assert_eq!(output.status.code(), Some(1));

    let output = with(&["--iface", "nope0", "serve"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("nope0"), "{}", err(&output));
}

#[test]
fn trust_takes_a_name_or_a_mac_address_and_names_what_there_is() {
    let state = tempfile::tempdir().unwrap();
    let store = p2v_dom0::Store::open(state.path()).unwrap();
    let mac = p2v_contract::MacAddr::new(0x52, 0x54, 0, 0, 0, 1);
    let now = p2v_dom0::Timestamp::now();
    store.menu(mac, None, now).unwrap();
    let copied = |record: &mut p2v_dom0::Record| {
        let disk = serde_json::json!({
            "sectors": 9, "model": "m", "serial": "s",
            "copy": {
                "destination": {"kind": "volume", "vg": "vg0", "lv": "e1-disk0", "uuid": "u"},
                "begun": "2026-11-20T22:16:40Z", "stage": {"begun": {}},
            },
        });
        record
            .disks
            .insert(0, serde_json::from_value(disk).unwrap());
        Ok::<_, p2v_dom0::store::StoreError>(())
    };
    store.update(&"e1".parse().unwrap(), copied).unwrap();
    // Put back from a backup, and not as root knows it.
    let path = store.path(&"e1".parse().unwrap());
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("e1-disk0", "other")).unwrap();

    let unknown = p2v(state.path(), &["trust", "mail"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        err(&unknown).contains("no machine is called `mail`: there is e1"),
        "{}",
        err(&unknown)
    );
    let stranger = p2v(state.path(), &["trust", "52:54:00:00:00:02"]);
    assert!(err(&stranger).contains("p2v list"), "{}", err(&stranger));
    for named in ["52:54:00:00:00:01", "525400000001", "e1"] {
        let trusted = p2v(state.path(), &["trust", named]);
        assert_eq!(trusted.status.code(), Some(0), "{}", err(&trusted));
        assert!(out(&trusted).contains("vg0/other"), "{}", out(&trusted));
    }
    std::fs::remove_file(&path).unwrap();
    let lost = p2v(state.path(), &["trust", "e1"]);
    let said = err(&lost);
    assert!(
        said.contains("is lost: put it back") && said.contains("machines/e1.json"),
        "{said}"
    );
}

#[test]
fn doctor_names_what_is_missing_and_changes_nothing() {
    let state = tempfile::tempdir().unwrap();
    let output = p2v(state.path(), &["--iface", "nope0", "doctor", "--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", err(&output));
    let findings: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    let bad: Vec<_> = findings
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["severity"] == "bad")
        .collect();
    assert!(
        bad.iter()
            .any(|f| f["what"].as_str().unwrap().contains("nope0")),
        "{findings:#}"
    );
    assert!(
        bad.iter().all(|f| !f["todo"].as_str().unwrap().is_empty()),
        "{findings:#}"
    );
}

#[test]
fn a_host_without_machines_says_how_to_get_one() {
    let state = tempfile::tempdir().unwrap();
    let output = p2v(state.path(), &["devices", "up"]);
    assert_eq!(
        (output.status.code(), out(&output)),
        (Some(0), String::new())
    );
    // Loopback carries no AoE: nobody answers, and the records are empty.
    let output = p2v(state.path(), &["--iface", "lo", "list"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).contains("p2v-serve"), "{}", out(&output));
    let output = p2v(state.path(), &["--iface", "lo", "list", "--json"]);
    assert_eq!(out(&output).trim(), "[]");
}

#[test]
fn a_machine_is_approved_by_its_address_or_name_unless_the_settings_leave_it_out() {
    let dir = tempfile::tempdir().unwrap();
    let settings = dir.path().join("p2v.toml");
    let text =
        "[serve]\ndeny = ['52:54:00:00:00:09']\n[machines.'52:54:00:00:00:01']\nname = 'web'\n";
    std::fs::write(&settings, text).unwrap();
    let approve = |more: &[&str]| {
        let mut arguments = vec!["--config", settings.to_str().unwrap(), "approve"];
        arguments.extend(more);
        p2v(dir.path(), &arguments)
    };
    let said =
        || -> serde_json::Value { serde_json::from_str(&out(&approve(&["--json"]))).unwrap() };
    assert!(out(&approve(&[])).contains("p2v list"));
    for arguments in [&["web"][..], &["52-54-00-00-00-02", "--once"]] {
        let output = approve(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        assert!(out(&output).contains("is approved"), "{}", out(&output));
    }
    assert_eq!(said()["52:54:00:00:00:01"]["word"], "always");
    assert_eq!(said()["52:54:00:00:00:02"]["word"], "once");
    let output = approve(&["web", "--revoke"]);
    assert!(out(&output).contains("own disk"), "{}", out(&output));
    assert_eq!(said()["52:54:00:00:00:01"]["word"], "revoked");
    for (machine, why) in [
        ("52:54:00:00:00:09", "`deny`"),
        ("nobody", "MAC address"),
        ("52:54", "no whole MAC"),
    ] {
        let output = approve(&[machine]);
        assert_eq!(output.status.code(), Some(1));
        assert!(err(&output).contains(why), "{}", err(&output));
    }
    assert_eq!(approve(&["--once"]).status.code(), Some(2));
    assert_eq!(
        approve(&["web", "--once", "--revoke"]).status.code(),
        Some(2)
    );
    assert_eq!(said().as_object().unwrap().len(), 2);
}

#[test]
fn a_config_is_printed_and_written() {
    let state = tempfile::tempdir().unwrap();
    let store = p2v_dom0::Store::open(state.path()).unwrap();
    let mac = "52:54:00:12:34:56".parse().unwrap();
    let menu = store.menu(mac, None, p2v_dom0::Timestamp::now()).unwrap();
    let inventory: p2v_contract::inventory::Inventory = serde_json::from_value(serde_json::json!({
        "memory_bytes": 500 << 20,
        "nics": [{"name": "eth0", "mac": mac, "driver": "e1000", "boot": true}],
        "disks": [{"address": "e1.0", "sectors": 9001, "controller": "ata_piix"}],
    }))
    .unwrap();
    store
        .update(&menu.name, |record| {
            record.take_inventory(inventory, p2v_dom0::Timestamp::now());
            Ok::<_, p2v_dom0::store::StoreError>(())
        })
        .unwrap();
    let settings = state.path().join("p2v.toml");
    let xen = state.path().join("xen");
    std::fs::write(&settings, format!("[xen]\nxen_dir = {xen:?}\n")).unwrap();
    let with = |more: &[&str]| {
        let mut arguments = vec!["--config", settings.to_str().unwrap(), "config", "e1"];
        arguments.extend(more);
        p2v(state.path(), &arguments)
    };
    let printed = with(&[]);
    assert!(out(&printed).contains("name = \"e1\""), "{}", err(&printed));
    assert!(!xen.exists());
    let written = with(&["--write"]);
    assert_eq!(written.status.code(), Some(0), "{}", err(&written));
    let path = xen.join("e1.cfg");
    assert_eq!(out(&written).trim(), path.to_str().unwrap());
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .contains("name = \"e1\"")
    );

    // One that was edited is kept, which is said once.
    std::fs::write(&path, "name = \"mine\"\n").unwrap();
    let written = with(&["--write"]);
    assert_eq!(written.status.code(), Some(0), "{}", err(&written));
    assert_eq!(
        err(&written).matches("kept as").count(),
        1,
        "{}",
        err(&written)
    );
}

#[test]
fn an_image_is_laid_out_only_where_it_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let settings = dir.path().join("p2v.toml");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (kernel, initrd) = (file("k", "kernel"), file("i", "initrd"));
    std::fs::write(
        &settings,
        format!("[serve]\nkernel = {kernel:?}\ninitrd = {initrd:?}\n"),
    )
    .unwrap();
    let tree = dir.path().join("tree");
    let image = |more: &[&str]| {
        let mut arguments = vec!["--config", settings.to_str().unwrap(), "image"];
        arguments.extend(more);
        p2v(&state, &arguments)
    };
    let (at, host) = (tree.to_str().unwrap(), "00:16:3e:00:00:01");
    let install = |more: &[&str]| image(&[&["install", at, "--host", host], more].concat());
    let refused = |output: Output, why: &str| {
        assert_eq!(output.status.code(), Some(1));
        assert!(err(&output).contains(why), "{why:?}: {}", err(&output));
    };
    refused(install(&[]), "--machine MAC");
    let one = ["--machine", "52:54:00:12:34:56"];
    refused(
        image(&["install", at, one[0], one[1], "--iface", "nope0"]),
        "--host MAC",
    );
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(tree.join("initrd"), "the site's").unwrap();
    refused(install(&one), "initrd");
    assert_eq!(std::fs::read_dir(&tree).unwrap().count(), 1);
    std::fs::remove_file(tree.join("initrd")).unwrap();

    let menu = tree.join("pxelinux.cfg/01-52-54-00-12-34-56");
    let output = install(&one);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(err(&output).contains("run this again after"));
    let text = std::fs::read_to_string(&menu).unwrap();
    assert!(text.contains("p2v.shelf=1 ") && !text.contains("p2v.key"));
    assert!(err(&output).contains("no orders"), "{}", err(&output));
    let key = std::fs::read_to_string(state.join("host.pub")).unwrap();
    let output = install(&["--key", key.trim()]);
    assert!(!err(&output).contains("no orders"), "{}", err(&output));
    let again = std::fs::read_to_string(&menu).unwrap();
    assert!(again.contains(&format!(" p2v.key={} ", key.trim())));
    // The files are made anew, and stay those of the medium or tree that was made before.
    let id = |text: &str| text.split_once("p2v.boot=").unwrap().1[..32].to_owned();
    assert_eq!(id(&again), id(&text));
    // Its record is gone, so its shelf may be given away. Another's settings leave it out: no record is made.
    let record = state.join("machines/e1.json");
    let kept = std::fs::read(&record).unwrap();
    std::fs::remove_file(&record).unwrap();
    let plain = std::fs::read_to_string(&settings).unwrap();
    let other = "[machines.'52:54:00:00:00:09']\nboot = 'ignore'\n";
    std::fs::write(&settings, format!("{plain}\n{other}")).unwrap();
    let output = install(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(err(&output).contains("52:54:00:00:00:09 has no menu"));
    assert!(!tree.join("pxelinux.cfg/01-52-54-00-00-00-09").exists());
    let output = install(&["--machine", "52:54:00:00:00:09"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("take one of the two away"));
    for file in [&menu, &tree.join("grub/grub.cfg"), &tree.join("boot.ipxe")] {
        let text = std::fs::read_to_string(file).unwrap();
        // (Screens break lines.)
        assert!(text.contains("--machine"), "{text}");
        assert!(!text.contains("p2v.shelf"), "{text}");
    }
    // Known again, and meant to start its own disk.
    std::fs::write(&record, kept).unwrap();
    let local = "[machines.'52:54:00:12:34:56']\nboot = 'local'\n";
    std::fs::write(&settings, format!("{plain}\n{local}")).unwrap();
    assert_eq!(install(&[]).status.code(), Some(0));
    assert!(
        std::fs::read_to_string(&menu)
            .unwrap()
            .contains("LOCALBOOT")
    );
    std::fs::write(&settings, plain).unwrap();
    // A machine that cannot be told apart would get no menu, and start its own disk.
    std::fs::write(state.join("machines/e2.json"), "{").unwrap();
    refused(install(&one), "e2.json");
    std::fs::remove_file(state.join("machines/e2.json")).unwrap();

    let iso = |to: &str| image(&["iso", to, "--machine", "e1", "--host", host]);
    refused(iso(kernel.to_str().unwrap()), "no image of p2v's");
    refused(iso("/dev/null"), "is no file");
    assert_eq!(std::fs::read_to_string(&kernel).unwrap(), "kernel");
    // Without an image nobody gets a record and a shelf.
    std::fs::remove_file(&kernel).unwrap();
    let to = dir.path().join("medium.iso");
    let new = "52:54:00:00:00:77";
    let missing = [
        "iso",
        to.to_str().unwrap(),
        "--machine",
        new,
        "--host",
        host,
    ];
    refused(image(&missing), "`make image`");
    assert!(!state.join("machines/e2.json").exists());
}

/// `journalctl -p warning` shows them.
#[test]
fn warnings_are_warnings_in_the_journal_too() {
    let state = tempfile::tempdir().unwrap();
    std::fs::create_dir(state.path().join("machines")).unwrap();
    std::fs::write(state.path().join("machines/e2.json"), "{").unwrap();
    let path = state.path().join("stderr");
    let warned = |offset: u64| {
        let stderr = std::fs::File::create(&path).unwrap();
        let of = stderr.metadata().unwrap();
        let stream = format!("{}:{}", of.dev(), of.ino() + offset);
        let mut list = Command::new(env!("CARGO_BIN_EXE_p2v"));
        list.args(["--iface", "lo", "--state"])
            .args([state.path(), Path::new("list")])
            .env("JOURNAL_STREAM", stream)
            .stderr(stderr)
            .output()
            .unwrap();
        std::fs::read_to_string(&path).unwrap()
    };
    let said = warned(0);
    assert!(
        said.starts_with("<4>! ") && said.contains("e2.json"),
        "{said}"
    );
    // Somebody else's standard error is the journal.
    let said = warned(1);
    assert!(said.starts_with("! "), "{said}");
}

/// In the middle of a cutover it would be worse.
#[test]
fn an_output_that_is_full_or_that_nobody_reads_is_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let list = |stdout: Stdio, stderr: Stdio| {
        Command::new(env!("CARGO_BIN_EXE_p2v"))
            .args(["--iface", "lo", "--state"])
            .args([dir.path(), Path::new("list")])
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .output()
            .unwrap()
    };
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = list(full.try_clone().unwrap().into(), Stdio::piped());
    assert_eq!(output.status.code(), Some(1));
    let said = err(&output);
    assert!(said.contains("cannot write to standard output"), "{said}");
    assert_eq!(
        list(full.try_clone().unwrap().into(), full.into())
            .status
            .code(),
        Some(1)
    );
    let closed = || Stdio::from(std::io::pipe().unwrap().1);
    assert_eq!(list(closed(), closed()).status.code(), Some(0));
}

#[test]
fn every_command_has_a_page_that_man_reads_and_a_shell_completes_it() {
    let dir = tempfile::tempdir().unwrap();
    let made = p2v(dir.path(), &["docs", dir.path().to_str().unwrap()]);
    assert!(made.status.success(), "{}", err(&made));
    let help = out(&p2v(dir.path(), &["help"]));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.contains(&"cutover"), "{commands:?}");
    for command in &commands {
        let page = dir.path().join(format!("man8/p2v-{command}.8"));
        let read = Command::new("man")
            .args(["--warnings", "-l"])
            .arg(&page)
            .output()
            .unwrap();
        assert!(
            read.status.success() && read.stderr.is_empty(),
            "{page:?}: {read:?}"
        );
        assert!(out(&read).contains(&format!("p2v-{command}")), "{page:?}");
    }
    let completed = Command::new("bash")
        .args(["--norc", "-c"])
        .arg(
            "source completions/bash/p2v.bash; COMP_WORDS=(p2v cuto) COMP_CWORD=1; _p2v p2v cuto p2v; \
             echo \"${COMPREPLY[@]}\"",
        )
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(out(&completed).trim(), "cutover", "{completed:?}");
}

#[test]
fn a_program_is_told_the_code_of_what_failed() {
    let state = tempfile::tempdir().unwrap();
    let failed = p2v(
        state.path(),
        &["--json", "--iface", "lo", "config", "nobody"],
    );
    assert_eq!(failed.status.code(), Some(1));
    let said: serde_json::Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!(said["error"]["code"], "records", "{said}");
    let message = said["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("nobody") && err(&failed).contains(message),
        "{said}"
    );
}
