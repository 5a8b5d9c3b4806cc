//! What `p2v serve --print` says, in the servers it is for: they must understand it, and answer by it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::wire::{LIMIT, Service, Wire, run};

const LISTED: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x0a];
const OTHER: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x0b];

/// What is printed on the host, UEFI HTTP boot and all.
fn printed(dir: &Path, wire: &Wire, server: &str) -> String {
    let secure = printed_with(dir, wire, server, "");
    assert!(secure.contains("UEFI HTTP boot is left out"), "{secure}");
    assert!(!secure.contains("http://"), "{secure}");
    printed_with(dir, wire, server, "secure_boot = false\nhttp_port = 8080\n")
}

fn printed_with(dir: &Path, wire: &Wire, server: &str, more: &str) -> String {
    let settings = dir.join("p2v.toml");
    let text = "iface = \"p2vs\"\n[serve]\nmode = \"off\"\nallow = [\"52:54:00:12:34:0a\", \"52:54:00:12:34:aa\"]\n";
    fs::write(&settings, format!("{text}{more}")).unwrap();
    run(wire
        .on_host(env!("CARGO_BIN_EXE_p2v"))
        .arg("--config")
        .arg(settings)
        .args(["serve", "--print", server]))
}

/// A DHCPDISCOVER (RFC 2131) of a machine's firmware; `architecture`: none, if it does not boot from
/// the network.
pub fn discover(mac: [u8; 6], architecture: Option<u16>, ipxe: bool) -> Vec<u8> {
    let mut packet = vec![1, 1, 6, 0];
    packet.extend(mac[2..].iter().chain(&[0, 0, 0x80, 0]));
    packet.resize(28, 0);
    packet.extend(mac);
    packet.resize(236, 0);
    packet.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 55, 5, 1, 3, 60, 66, 67]);
    if let Some(architecture) = architecture {
        let name = if architecture == 16 {
            "HTTPClient"
        } else {
            "PXEClient"
        };
        let class = format!("{name}:Arch:{architecture:05}:UNDI:002001");
        packet.extend([60, class.len() as u8]);
        packet.extend(class.bytes());
        packet.extend([93, 2]);
        packet.extend(architecture.to_be_bytes());
        packet.extend([94, 3, 1, 2, 1]);
    }
    if ipxe {
        // As iPXE sends them: its user class has no length of its own (RFC 3004 asks for one).
        packet.extend([175, 6, 177, 4, 0x80, 0x86, 0x10, 0x0e]);
        packet.extend([77, 4]);
        packet.extend(b"iPXE");
    }
    packet.push(255);
    packet.resize(packet.len().max(300), 0);
    packet
}

/// The server, the boot file and the class (option 60) in an answer, from its fields or its options.
fn told(answer: &[u8]) -> (Ipv4Addr, String, String) {
    let text = |bytes: &[u8]| {
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    let server: [u8; 4] = answer[20..24].try_into().unwrap();
    let mut file = text(&answer[108..236]);
    let mut class = String::new();
    let mut options = &answer[240..];
    while let [code, length, rest @ ..] = options {
        if *code == 255 {
            break;
        }
        let (value, after) = rest.split_at(usize::from(*length));
        if *code == 67 {
            file = text(value);
        } else if *code == 60 {
            class = text(value);
        }
        options = after;
    }
    (server.into(), file, class)
}

/// What a machine is told. Asks again until there is an answer: the server may just be starting.
pub fn ask(socket: &UdpSocket, question: &[u8]) -> (Ipv4Addr, String, String) {
    let until = Instant::now() + LIMIT;
    let mut answer = [0; 1500];
    while Instant::now() < until {
        socket.send_to(question, "255.255.255.255:67").unwrap();
        while let Ok(length) = socket.recv(&mut answer) {
            // An answer to this machine, and not a late one to another.
            if answer[0] == 2
                && answer[28..34] == question[28..34]
                && answer[4..8] == question[4..8]
            {
                return told(&answer[..length]);
            }
        }
    }
    panic!("no DHCP answer");
}

/// Runs `f` on the wire's other end, with a socket for DHCP.
pub fn as_a_machine<T: Send + 'static>(
    wire: &Wire,
    f: impl FnOnce(&UdpSocket) -> T + Send + 'static,
) -> std::thread::Result<T> {
    let namespace = File::open(format!("/run/netns/{}", wire.machine)).unwrap();
    let asked = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let socket = UdpSocket::bind("0.0.0.0:68").unwrap();
        socket.set_broadcast(true).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        f(&socket)
    });
    asked.join()
}

/// What a BIOS machine is told.
pub fn boot_file_by_dhcp(wire: &Wire) -> String {
    as_a_machine(wire, |socket| {
        ask(socket, &discover(LISTED, Some(0), false)).1
    })
    .unwrap()
}

/// Starts the server and asks it as each kind of machine.
fn answers(wire: &Wire, mut server: Command) {
    let mut service = Service(server.stdin(Stdio::null()).spawn().unwrap());
    let asked = as_a_machine(wire, |socket| {
        let here = Ipv4Addr::new(192, 168, 7, 1);
        // Each with a transaction of its own, by its address.
        for (architecture, ipxe, file) in [
            (0, false, "pxelinux.0"),
            (7, false, "shimx64.efi"),
            (9, false, "shimx64.efi"),
            (6, false, "grubia32.efi"),
            (0, true, "boot.ipxe"),
            (7, true, "boot.ipxe"),
        ] {
            let (server, told, class) = ask(socket, &discover(LISTED, Some(architecture), ipxe));
            assert_eq!((server, &*told), (here, file), "{architecture} {ipxe}");
            assert_ne!(class, "HTTPClient");
        }
        // UEFI HTTP boot takes a URL, and only from who answers in its own name.
        let (_, url, class) = ask(socket, &discover(LISTED, Some(16), false));
        assert_eq!(url, "http://192.168.7.1:8080/shimx64.efi");
        assert_eq!(class, "HTTPClient");
        for question in [
            discover(OTHER, Some(0), false),
            discover(OTHER, Some(16), false),
            discover(LISTED, None, false),
        ] {
            assert_eq!(ask(socket, &question).1, "");
        }
    });
    assert!(
        service.0.try_wait().unwrap().is_none(),
        "the server has ended"
    );
    asked.unwrap();
}

#[test]
fn dnsmasq_sends_machines_here() {
    let (dir, wire) = (tempfile::tempdir().unwrap(), Wire::new());
    let config = dir.path().join("dnsmasq.conf");
    fs::write(&config, printed(dir.path(), &wire, "dnsmasq")).unwrap();
    run(Command::new("dnsmasq").arg("--test").arg("-C").arg(&config));
    let mut server = wire.on_host("dnsmasq");
    server
        .args(["--no-daemon", "--port=0", "--no-ping", "--user=root"])
        .args([
            "--interface=p2vs",
            "--dhcp-range=192.168.7.100,192.168.7.120",
        ])
        .arg(format!("--conf-file={}", config.display()))
        .arg(format!(
            "--dhcp-leasefile={}",
            dir.path().join("leases").display()
        ))
        .arg("--pid-file");
    answers(&wire, server);
}

#[test]
fn isc_dhcpd_sends_machines_here() {
    let (dir, wire) = (tempfile::tempdir().unwrap(), Wire::new());
    let config = dir.path().join("dhcpd.conf");
    let text = printed(dir.path(), &wire, "isc-dhcpd")
        + "ping-check false;\nsubnet 192.168.7.0 netmask 255.255.255.0 { range 192.168.7.100 192.168.7.120; }\n";
    fs::write(&config, text).unwrap();
    run(Command::new("dhcpd").arg("-t").arg("-cf").arg(&config));
    let leases = dir.path().join("leases");
    fs::write(&leases, "").unwrap();
    let mut server = wire.on_host("dhcpd");
    server.args(["-4", "-f", "-q", "-cf"]).arg(&config);
    server.arg("-lf").arg(leases);
    server.arg("-pf").arg(dir.path().join("pid")).arg("p2vs");
    answers(&wire, server);
}

#[test]
fn kea_sends_machines_here() {
    let (dir, wire) = (tempfile::tempdir().unwrap(), Wire::new());
    let text = printed(dir.path(), &wire, "kea");
    let kea = |command: &mut Command, how: &str, config: &Path| {
        command
            .env("KEA_LOCKFILE_DIR", "none")
            .env("KEA_PIDFILE_DIR", dir.path())
            .arg(how)
            .arg(config);
    };
    let config = dir.path().join("kea.json");
    fs::write(&config, &text).unwrap();
    let mut check = Command::new("kea-dhcp4");
    kea(&mut check, "-t", &config);
    run(&mut check);

    let bare: String = text
        .lines()
        .filter(|line| !line.starts_with("//"))
        .collect();
    let mut all: serde_json::Value = serde_json::from_str(&bare).unwrap();
    let part = all["Dhcp4"].as_object_mut().unwrap();
    let site = serde_json::json!({
        "interfaces-config": { "interfaces": ["p2vs"] },
        "lease-database": { "type": "memfile", "persist": false },
        "subnet4": [{ "subnet": "192.168.7.0/24", "pools": [{ "pool": "192.168.7.100-192.168.7.120" }] }],
    });
    part.extend(site.as_object().unwrap().clone());
    fs::write(&config, all.to_string()).unwrap();
    let mut server = wire.on_host("kea-dhcp4");
    kea(&mut server, "-c", &config);
    answers(&wire, server);
}
