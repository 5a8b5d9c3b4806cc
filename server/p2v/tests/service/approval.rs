//! A machine that nobody approved is left to its disk, as if p2v were not there, until the operator lets it in.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::confinement::{Manager, USER, fetched, open_directory, started_by_root};
use crate::site_dhcp::{as_a_machine, ask, discover};
use crate::wire::{LIMIT, Wire, ip, run};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const NAME: &str = "52:54:00:12:34:56";
const MENU: &str = "pxelinux.cfg/01-52-54-00-12-34-56";

/// Settings that say nothing of who may be booted.
fn settings(dir: &Path) -> PathBuf {
    for file in ["vmlinuz", "initrd"] {
        fs::write(dir.join(file), file).unwrap();
    }
    let text = format!(
        "iface = \"p2vs\"\nstate = {:?}\n[serve]\nuser = {USER:?}\nkernel = {:?}\ninitrd = {:?}\n[xen]\ndiscovery_seconds = 1\n",
        dir.join("state"),
        dir.join("vmlinuz"),
        dir.join("initrd"),
    );
    let path = dir.join("p2v.toml");
    fs::write(&path, text).unwrap();
    path
}

/// What the command prints on the host.
fn p2v(host: &str, config: &Path, arguments: &[&str]) -> String {
    run(Command::new("ip")
        .args(["netns", "exec", host, env!("CARGO_BIN_EXE_p2v")])
        .arg("--config")
        .arg(config)
        .args(arguments))
}

/// Waits until `p2v list` has the machine in that state.
fn listed_as(host: &str, config: &Path, state: &str) -> Value {
    asks_until_listed_as(host, config, state, || ())
}

/// The same, while it asks: the first questions may be lost to a wire that comes up.
fn asks_until_listed_as(host: &str, config: &Path, state: &str, asks: impl Fn()) -> Value {
    let until = Instant::now() + LIMIT;
    loop {
        asks();
        let list: Value = serde_json::from_str(&p2v(host, config, &["list", "--json"])).unwrap();
        let mut rows = list.as_array().unwrap().iter();
        if let Some(row) = rows.find(|row| row["boot_mac"] == NAME && row["state"] == state) {
            return row.clone();
        }
        assert!(Instant::now() < until, "not {state}: {list:#}");
    }
}

fn send(socket: &UdpSocket, question: &[u8]) {
    socket.send_to(question, "255.255.255.255:67").unwrap();
}

#[test]
fn a_machine_that_asks_boots_as_soon_as_it_is_approved_and_not_before() {
    let (dir, wire) = (open_directory(), Wire::new());
    // Whose files they are is told by the address that they are sent to.
    ip(&format!("-n {} link set p2vc address {NAME}", wire.machine));
    let config = settings(dir.path());
    let manager = Manager::new(&dir.path().join("notify"));
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let mut service = started_by_root(&wire, dir.path(), &config, Stdio::from(log));
    manager.wait_for("READY=1");

    let (host, settings) = (wire.host.clone(), config.clone());
    let told = as_a_machine(&wire, move |socket| {
        // One boot: firmware repeats its question with the same transaction number.
        let question = discover(MAC, Some(0), false);
        let asks = || send(socket, &question);
        let asks = asks_until_listed_as(&host, &settings, "asks", asks);
        assert_eq!(
            (&asks["client"], &asks["name"]),
            (&"BIOS".into(), &Value::Null)
        );
        // It was heard, and nothing came back.
        assert!(socket.recv(&mut [0; 1500]).is_err());
        p2v(&host, &settings, &["approve", NAME]);
        listed_as(&host, &settings, "approved");
        ask(socket, &question).1
    });
    assert_eq!(told.unwrap(), "pxelinux.0");
    let machines = dir.path().join("state/machines");
    assert!(!machines.join("e1.json").exists());
    assert!(fetched(&wire, MENU).contains("p2v.shelf=1 "));
    // What root said cannot be changed by the service's user.
    let approved = dir.path().join("state/approved");
    for path in [approved.join("52-54-00-12-34-56.json"), approved] {
        let file = fs::metadata(path).unwrap();
        assert_eq!((file.uid(), file.mode() & 0o022), (0, 0));
    }

    // By its name, too. What was met is in the list already.
    let revoked = p2v(&wire.host, &config, &["approve", "e1", "--revoke"]);
    assert!(revoked.contains("not approved any more"), "{revoked}");
    assert!(fetched(&wire, MENU).contains("LOCALBOOT"));
    let (host, settings) = (wire.host.clone(), config.clone());
    as_a_machine(&wire, move |socket| {
        let question = discover(MAC, Some(0), false);
        let asks = || send(socket, &question);
        asks_until_listed_as(&host, &settings, "asks", asks);
        assert!(socket.recv(&mut [0; 1500]).is_err());
    })
    .unwrap();
    let text = p2v(&wire.host, &config, &["list"]);
    assert!(
        text.contains("seen, asks") && text.contains("p2v approve MAC"),
        "{text}"
    );

    // One boot, to its last file.
    p2v(&wire.host, &config, &["approve", "e1", "--once"]);
    for file in [MENU, "vmlinuz", "initrd"] {
        assert!(!fetched(&wire, file).contains("LOCALBOOT"), "{file}");
    }
    let until = Instant::now() + LIMIT;
    while !fetched(&wire, MENU).contains("LOCALBOOT") {
        assert!(Instant::now() < until, "it boots again");
    }

    run(Command::new("kill").arg(service.0.id().to_string()));
    assert!(service.0.wait().unwrap().success());
    let said = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(
        said.contains("`p2v approve NAME|MAC` lets one in"),
        "{said}"
    );
}
