//! DHCP with addresses.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use p2v_netboot::{BootDecision, Mode, Pool, Settings};
use pnet::util::MacAddr;

use crate::lab::{CLIENT_END, LIMIT, Lab, MAC, Running, SERVER, SERVER_END, contents, quiet};
use crate::site;

const BIOS_CLASS: &str = "PXEClient:Arch:00000:UNDI:002001";

/// A script for udhcpc or dhclient that writes its environment to a file.
fn script(lab: &Lab) -> (PathBuf, PathBuf) {
    let (script, seen) = (lab.path("script"), lab.path("seen"));
    let text = format!(
        "#!/bin/sh\necho \"event=$1\" >> {0}\nenv >> {0}\n",
        seen.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    (script, seen)
}

/// One run of udhcpc: asks three times, a second apart, then gives up. What it was given.
fn udhcpc(lab: &Lab, class: &str, more: &[&str]) -> (Output, String) {
    let (script, seen) = script(lab);
    let _ = std::fs::remove_file(&seen);
    let output = lab
        .client
        .command("udhcpc")
        .args([
            "-f", "-n", "-q", "-t", "3", "-T", "1", "-i", CLIENT_END, "-V", class,
        ])
        .args(["-O", "66", "-O", "67", "-s"])
        .arg(script)
        .args(more)
        .output()
        .unwrap();
    (output, contents(&seen))
}

/// A client's message with these options, as bytes.
pub fn message(kind: u8, mac: MacAddr, flags: u8, ciaddr: Ipv4Addr, options: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[4..8].copy_from_slice(b"xid!");
    bytes[10] = flags;
    bytes[12..16].copy_from_slice(&ciaddr.octets());
    bytes[28..34].copy_from_slice(&mac.octets());
    bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
    bytes.extend([53, 1, kind]);
    for option in options {
        bytes.extend(*option);
    }
    bytes.push(255);
    bytes
}

/// Options 60 and 93.
pub fn pxe(class: &str, architecture: u8) -> Vec<u8> {
    let mut options = vec![60, class.len() as u8];
    options.extend(class.as_bytes());
    options.extend([93, 2, 0, architecture]);
    options
}

/// A client's port 68; the wire's end has an address only so that the kernel lets it send.
pub fn client_port(lab: &Lab, patience: Duration) -> UdpSocket {
    let socket = lab
        .client
        .udp(SocketAddr::from(([0, 0, 0, 0], 68)), patience);
    let name = CLIENT_END.to_owned().into();
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::BindToDevice, &name).unwrap();
    socket
}

pub fn broadcast(socket: &UdpSocket, bytes: &[u8]) {
    socket.send_to(bytes, (Ipv4Addr::BROADCAST, 67)).unwrap();
}

/// Sends a question until it is answered (the first ones may be lost to a veth coming up).
pub fn ask(socket: &UdpSocket, question: &[u8]) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    for _ in 0..10 {
        broadcast(socket, question);
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            return (buffer[..len].to_vec(), from);
        }
    }
    panic!("no answer");
}

/// The next message; receiving is interrupted, if a child of another test's ends meanwhile (signal(7)).
pub fn hear(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    loop {
        match socket.recv_from(&mut buffer) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            received => {
                let (len, from) = received.unwrap();
                return (buffer[..len].to_vec(), from);
            }
        }
    }
}

pub fn option(reply: &[u8], code: u8) -> Option<Vec<u8>> {
    let mut rest = &reply[240..];
    while let [found, len, tail @ ..] = rest {
        if *found == 255 {
            return None;
        }
        let (value, tail) = tail.split_at(usize::from(*len));
        if *found == code {
            return Some(value.to_vec());
        }
        rest = tail;
    }
    None
}

#[test]
fn udhcpc_as_a_bios_rom_gets_address_and_boot_file_by_unicast_and_by_broadcast() {
    let lab = Lab::new();
    let _service = lab.serve(lab.settings(Mode::Dhcp));
    for more in [&["-x", "0x5d:0000"][..], &["-x", "0x5d:0000", "-B"]] {
        let (output, seen) = udhcpc(&lab, BIOS_CLASS, more);
        assert!(output.status.success(), "{output:?}");
        for line in [
            "ip=192.168.7.200",
            "siaddr=192.168.7.1",
            "boot_file=pxelinux.0",
            "lease=3600",
            "mask=24",
            "serverid=192.168.7.1",
        ] {
            assert!(seen.lines().any(|l| l == line), "{line}: {seen}");
        }
        assert!(!seen.contains("router="), "{seen}");
    }
    lab.recorder
        .wait_for("52:54:00:12:34:56: BIOS, asks for boot, offered 192.168.7.200");
    lab.recorder
        .wait_for("52:54:00:12:34:56: given 192.168.7.200");
}

#[test]
fn dhclient_as_a_bios_rom_gets_its_fixed_address() {
    let lab = Lab::new();
    let mut settings = lab.settings(Mode::Dhcp);
    settings.fixed.insert(MAC, Ipv4Addr::new(192, 168, 7, 77));
    settings.router = Some(Ipv4Addr::new(192, 168, 7, 254));
    let _service = lab.serve(settings);
    let (script, seen) = script(&lab);
    let config = lab.path("dhclient.conf");
    let text = format!(
        "option arch code 93 = unsigned integer 16;\nsend arch 0;\nsend vendor-class-identifier \"{BIOS_CLASS}\";\ntimeout 20;\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = lab.client.command("dhclient");
    command.args(["-1", "-d", "-cf"]).arg(&config);
    command.arg("-lf").arg(lab.path("dhclient.leases"));
    command.arg("-pf").arg(lab.path("dhclient.pid"));
    command.arg("-sf").arg(&script).arg(CLIENT_END);
    let _running = Running(quiet(&mut command).spawn().unwrap());
    lab.recorder.wait_for("given 192.168.7.77");
    let deadline = Instant::now() + LIMIT;
    loop {
        let seen = std::fs::read_to_string(&seen).unwrap_or_default();
        let has = |line: &str| seen.lines().any(|l| l == line);
        if has("new_ip_address=192.168.7.77") && has("new_routers=192.168.7.254") {
            assert!(
                has("new_tftp_server_name=192.168.7.1") || has("new_bootfile_name=pxelinux.0"),
                "{seen}"
            );
            break;
        }
        assert!(Instant::now() < deadline, "{seen}");
        std::thread::yield_now();
    }
}

#[test]
fn machines_that_do_not_boot_from_the_network_are_not_answered() {
    for mode in [Mode::Dhcp, Mode::Proxy] {
        let lab = Lab::new();
        let _service = lab.serve(lab.settings(mode));
        let (output, seen) = udhcpc(&lab, "udhcp 1.35", &[]);
        assert!(!output.status.success(), "{output:?}");
        assert!(
            seen.contains("event=leasefail") && !seen.contains("event=bound"),
            "{seen}"
        );
        assert!(
            !lab.recorder
                .lines()
                .iter()
                .any(|line| line.contains("52:54"))
        );
    }
}

#[test]
fn an_address_survives_a_restart_of_the_service() {
    let lab = Lab::with_address();
    let one = Ipv4Addr::new(192, 168, 7, 200);
    let settings = Settings {
        pool: Some(Pool {
            start: one,
            end: one,
        }),
        ..lab.settings(Mode::Dhcp)
    };
    let service = lab.serve(settings.clone());
    let (output, _) = udhcpc(&lab, BIOS_CLASS, &[]);
    assert!(output.status.success(), "{output:?}");
    service.end().unwrap();

    let _service = lab.serve(settings);
    let other = MacAddr::new(0x52, 0x54, 0, 0, 0, 9);
    let socket = client_port(&lab, LIMIT);
    let discover = message(
        1,
        other,
        0x80,
        Ipv4Addr::UNSPECIFIED,
        &[&pxe(BIOS_CLASS, 0)],
    );
    broadcast(&socket, &discover);
    lab.recorder
        .wait_for("52:54:00:00:00:09: asks for boot: not answered, no address: every address");
    let discover = message(1, MAC, 0x80, Ipv4Addr::UNSPECIFIED, &[&pxe(BIOS_CLASS, 0)]);
    let (reply, _) = ask(&socket, &discover);
    assert_eq!(reply[16..20], one.octets());
}

#[test]
fn an_address_that_somebody_has_is_not_offered() {
    let lab = Lab::with_address();
    let mut settings = lab.settings(Mode::Dhcp);
    // The wire's other end has the first address of the pool, and another machine's own.
    settings.pool = Some(Pool {
        start: crate::lab::CLIENT,
        end: Ipv4Addr::new(192, 168, 7, 3),
    });
    let _service = lab.serve(settings);
    let other = MacAddr::new(0x52, 0x54, 0, 0, 0, 9);
    let socket = client_port(&lab, Duration::from_secs(3));
    let discover = message(
        1,
        other,
        0x80,
        Ipv4Addr::UNSPECIFIED,
        &[&pxe(BIOS_CLASS, 0)],
    );
    let (reply, _) = ask(&socket, &discover);
    assert_eq!(reply[16..20], [192, 168, 7, 3]);
    lab.recorder.wait_for(
        "52:54:00:00:00:09: not offered 192.168.7.2, which 52:54:00:12:34:56 has; not given for an hour",
    );
    // Nobody has this one: it is not asked for again.
    let asked = Instant::now();
    ask(&socket, &discover);
    assert!(asked.elapsed() < Duration::from_millis(400));
}

#[test]
fn while_one_clients_address_is_asked_for_others_are_answered() {
    let lab = Lab::with_address();
    let _service = lab.serve(lab.settings(Mode::Dhcp));
    let socket = client_port(&lab, LIMIT);
    let discover = |mac| {
        let options = pxe(BIOS_CLASS, 0);
        message(1, mac, 0x80, Ipv4Addr::UNSPECIFIED, &[&options])
    };
    let [known, new] = [8, 9].map(|n| MacAddr::new(0x52, 0x54, 0, 0, 0, n));
    // Nobody has its address: it is not asked for again.
    ask(&socket, &discover(known));
    broadcast(&socket, &discover(new));
    broadcast(&socket, &discover(known));
    for mac in [known, new] {
        let (reply, _) = hear(&socket);
        assert_eq!(reply[28..34], mac.octets());
    }
}

#[test]
fn with_serve_all_an_ordinary_client_gets_an_address_and_nothing_to_boot() {
    let lab = Lab::new();
    let mut settings = lab.settings(Mode::Dhcp);
    settings.serve_all = true;
    settings.domain = Some("example.org".into());
    // The list is of machines to boot.
    settings.allow = vec!["00:*".parse().unwrap()];
    let _service = lab.serve(settings);
    let (output, seen) = udhcpc(&lab, "udhcp 1.35", &[]);
    assert!(output.status.success(), "{output:?}");
    for line in ["ip=192.168.7.200", "domain=example.org"] {
        assert!(seen.lines().any(|l| l == line), "{line}: {seen}");
    }
    assert!(
        !seen.contains("boot_file=") && !seen.contains("siaddr="),
        "{seen}"
    );
    lab.recorder.wait_for("given 192.168.7.200");
}

#[test]
fn lists_decisions_and_machines_there_is_no_loader_for() {
    let lab = Lab::with_address();
    let mut settings = lab.settings(Mode::Dhcp);
    settings.allow = vec![MAC.into()];
    let _service = lab.serve(settings);
    let socket = client_port(&lab, LIMIT);
    let ask_as = |mac, class: &str, architecture| {
        message(
            1,
            mac,
            0x80,
            Ipv4Addr::UNSPECIFIED,
            &[&pxe(class, architecture)],
        )
    };
    let stranger = MacAddr::new(0x52, 0x54, 0, 0, 0, 9);
    broadcast(&socket, &ask_as(stranger, BIOS_CLASS, 0));
    lab.recorder
        .wait_for("52:54:00:00:00:09: asks for boot: not answered, nobody has approved it");
    broadcast(
        &socket,
        &ask_as(MAC, "PXEClient:Arch:00011:UNDI:003016", 11),
    );
    lab.recorder.wait_for(
        "UEFI ARM 64-bit, asks for boot: not answered, there is no boot loader for such machines",
    );
    *lab.recorder.decision.lock().unwrap() = BootDecision::Ignore {
        why: "it is the mail server".into(),
    };
    broadcast(&socket, &ask_as(MAC, BIOS_CLASS, 0));
    lab.recorder.wait_for("not answered, it is the mail server");
    // The first answer on this socket is the one to the last question.
    *lab.recorder.decision.lock().unwrap() = BootDecision::LocalDisk {
        why: "as you like".into(),
    };
    let mut question = ask_as(MAC, BIOS_CLASS, 0);
    question[4..8].copy_from_slice(b"last");
    let (reply, from) = ask(&socket, &question);
    assert_eq!(reply[4..8], *b"last");
    assert_eq!(from, SocketAddr::from((SERVER, 67)));
}

#[test]
fn one_that_is_approved_between_two_questions_is_answered_and_listened_to() {
    let lab = Lab::with_address();
    let mut settings = lab.settings(Mode::Dhcp);
    settings.allow.clear();
    let _service = lab.serve(settings);
    let socket = client_port(&lab, LIMIT);
    let options = pxe(BIOS_CLASS, 0);
    let discover = message(1, MAC, 0x80, Ipv4Addr::UNSPECIFIED, &[&options]);
    let not_approved = "not answered, nobody has approved it";
    broadcast(&socket, &discover);
    lab.recorder.wait_for(not_approved);
    let agent = lab.recorder.decision.lock().unwrap().clone();
    *lab.recorder.unlisted.lock().unwrap() = Some(agent);
    let (reply, _) = ask(&socket, &discover);
    assert_eq!(reply[16..20], [192, 168, 7, 200]);
    let address = [50, 4, 192, 168, 7, 200];
    let server = [&[54, 4][..], &SERVER.octets()].concat();
    let options: [&[u8]; 3] = [&options, &address, &server];
    broadcast(
        &socket,
        &message(4, MAC, 0x80, Ipv4Addr::UNSPECIFIED, &options),
    );
    lab.recorder.wait_for("found 192.168.7.200 in use");
    // No longer approved: that is reported at once, too.
    *lab.recorder.unlisted.lock().unwrap() = None;
    broadcast(&socket, &discover);
    lab.recorder.wait_for_lines(not_approved, 2);
}

#[test]
fn a_client_that_names_itself_in_latin1_and_one_that_sends_rubbish() {
    let lab = Lab::with_address();
    let _service = lab.serve(lab.settings(Mode::Dhcp));
    let socket = client_port(&lab, Duration::from_secs(3));
    for rubbish in [&b""[..], &[1; 100], &[1; 1400], &[0xFF; 300]] {
        broadcast(&socket, rubbish);
    }
    let mut long_hlen = message(1, MAC, 0x80, Ipv4Addr::UNSPECIFIED, &[&pxe(BIOS_CLASS, 0)]);
    long_hlen[2] = 200;
    broadcast(&socket, &long_hlen);
    let id = [&[97, 17, 0][..], &[7; 16]].concat();
    let options: [&[u8]; 4] = [
        &[12, 3, b'M', 0xFC, b'l'],
        &[94, 1, 1],
        &pxe(BIOS_CLASS, 0),
        &id,
    ];
    let (reply, _) = ask(
        &socket,
        &message(1, MAC, 0x80, Ipv4Addr::UNSPECIFIED, &options),
    );
    assert!(reply.len() >= 300);
    assert_eq!(option(&reply, 97).unwrap(), id[2..]);
    assert_eq!(option(&reply, 43).unwrap(), [6, 1, 8, 255]);
    assert_eq!(option(&reply, 67).unwrap(), b"pxelinux.0\0");
}

#[test]
fn another_dhcp_server_is_found_and_we_are_not_taken_for_one() {
    let lab = Lab::with_address();
    let service = lab.serve(lab.settings(Mode::Proxy));
    lab.recorder
        .wait_for("no DHCP server answers on this network");
    service.end().unwrap();

    let _site = site::start(&lab, CLIENT_END, &[]);
    let _service = lab.serve(lab.settings(Mode::Dhcp));
    lab.recorder
        .wait_for("another DHCP server, 192.168.7.2, answers on this network");
    let mut others = lab
        .server
        .enter(|| p2v_netboot::probe(SERVER_END, Duration::from_secs(3)).unwrap())
        .join()
        .unwrap();
    assert_eq!(others.len(), 1, "{others:?}");
    assert_eq!(others.remove(0).address, Ipv4Addr::new(192, 168, 7, 2));
}

#[test]
fn what_cannot_be_bound_or_read_is_named() {
    let lab = Lab::new();
    let taken = lab.server.udp(SocketAddr::from(([0, 0, 0, 0], 67)), LIMIT);
    let error = lab.start(lab.settings(Mode::Dhcp)).failure().to_string();
    let pid = std::process::id();
    assert!(
        error.starts_with("cannot listen on UDP port 67 (DHCP) of `p2vs`"),
        "{error}"
    );
    assert!(error.contains(&format!("(pid {pid})")), "{error}");
    drop(taken);

    let settings = Settings {
        kernel: lab.path("none"),
        ..lab.settings(Mode::Dhcp)
    };
    let error = lab.start(settings).failure().to_string();
    assert!(
        error.contains("none") && error.contains("p2v-image"),
        "{error}"
    );
    let settings = Settings {
        iface: "nope0".into(),
        ..lab.settings(Mode::Dhcp)
    };
    let error = lab.start(settings).failure().to_string();
    assert!(
        error.contains("nope0") && error.contains(SERVER_END),
        "{error}"
    );
    let settings = Settings {
        server: Some(Ipv4Addr::new(10, 9, 9, 9)),
        ..lab.settings(Mode::Dhcp)
    };
    let error = lab.start(settings).failure().to_string();
    assert!(
        error.contains("10.9.9.9") && error.contains("192.168.7.1"),
        "{error}"
    );
    let _service = lab.serve(lab.settings(Mode::Dhcp));
}

#[test]
fn trouble_of_ours_does_not_leave_a_machine_to_its_own_disk() {
    let lab = Lab::with_address();
    let service = lab.serve(lab.settings(Mode::Dhcp));
    // The lease file cannot be written.
    std::fs::create_dir_all(lab.path("state").join("leases.json/full")).unwrap();
    let (output, seen) = udhcpc(&lab, BIOS_CLASS, &[]);
    assert!(seen.contains("event=bound"), "{output:?}");
    lab.recorder.wait_for("its lease is not on disk");

    // No decision is to be had: it is answered, and held by its menu.
    let recorder = lab.recorder.clone();
    let poisoned = std::thread::spawn(move || {
        let _decision = recorder.decision.lock().unwrap();
        panic!("as the test wants it");
    });
    poisoned.join().unwrap_err();
    let socket = client_port(&lab, LIMIT);
    let question = message(1, MAC, 0x80, Ipv4Addr::UNSPECIFIED, &[&pxe(BIOS_CLASS, 0)]);
    let (reply, _) = ask(&socket, &question);
    assert_eq!(option(&reply, 67).unwrap(), b"pxelinux.0\0");
    lab.recorder.wait_for("no decision");
    drop(service);
}
