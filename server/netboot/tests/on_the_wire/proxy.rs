//! ProxyDHCP: boot file without addresses.

use std::net::{Ipv4Addr, SocketAddr};

use p2v_netboot::{Mode, Settings};

use crate::dhcp::{ask, broadcast, client_port, hear, message, option, pxe};
use crate::lab::{CLIENT, CLIENT_END, LIMIT, Lab, MAC, SERVER};

const CLASS: &str = "PXEClient:Arch:00000:UNDI:002001";

#[test]
fn a_rom_is_told_the_boot_file_and_no_address() {
    let lab = Lab::with_address();
    let _service = lab.serve(lab.settings(Mode::Proxy));
    let socket = client_port(&lab, LIMIT);
    let discover = message(1, MAC, 0x80, Ipv4Addr::UNSPECIFIED, &[&pxe(CLASS, 0)]);
    let (reply, from) = ask(&socket, &discover);
    assert_eq!(from, SocketAddr::from((SERVER, 67)));
    assert_eq!(reply[16..20], [0; 4], "no address");
    assert_eq!(reply[20..24], SERVER.octets());
    assert_eq!(reply[108..119], *b"pxelinux.0\0");
    assert_eq!(option(&reply, 53), Some(vec![2]));
    assert_eq!(option(&reply, 60), Some(b"PXEClient".to_vec()));
    assert_eq!((option(&reply, 1), option(&reply, 51)), (None, None));
    lab.recorder
        .wait_for("52:54:00:12:34:56: BIOS, asks for boot, told to boot from here");
}

#[test]
fn two_services_on_one_wire_find_each_other() {
    let lab = Lab::with_address();
    let _one = lab.serve(Settings {
        shelves: 1..=2047,
        ..lab.settings(Mode::Dhcp)
    });
    let settings = Settings {
        iface: CLIENT_END.to_owned(),
        state_dir: lab.path("other"),
        shelves: 1000..=3000,
        ..lab.settings(Mode::Proxy)
    };
    let _other = lab.start_in(&lab.client, settings);
    for address in [SERVER, CLIENT] {
        let line = lab
            .recorder
            .wait_for(&format!("another p2v serve, {address},"));
        let both = "Both give shelves 1000 to 2047 to new machines";
        assert!(line.contains(both), "{line}");
    }
}

#[test]
fn requests_on_port_67_are_left_to_the_other_server_and_those_on_4011_answered() {
    let lab = Lab::with_address();
    let _service = lab.serve(lab.settings(Mode::Proxy));
    let socket = client_port(&lab, LIMIT);
    let requested = [50, 4, 192, 168, 7, 2];
    let request = message(
        3,
        MAC,
        0x80,
        Ipv4Addr::UNSPECIFIED,
        &[&pxe(CLASS, 0), &requested],
    );
    broadcast(&socket, &request);

    let proxied = message(3, MAC, 0, CLIENT, &[&pxe(CLASS, 0)]);
    socket.send_to(&proxied, (SERVER, 4011)).unwrap();
    let (reply, from) = hear(&socket);
    assert_eq!(
        from,
        SocketAddr::from((SERVER, 4011)),
        "and nothing from port 67 before it"
    );
    assert_eq!(option(&reply, 53), Some(vec![5]));
    assert_eq!(reply[108..119], *b"pxelinux.0\0");
    lab.recorder.wait_for("told to boot from here (port 4011)");
}
