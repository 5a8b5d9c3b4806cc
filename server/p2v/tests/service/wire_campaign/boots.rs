//! Machines that boot all the while: an address, a loader, the menu, the kernel and the initial RAM disk, each byte right.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use p2v_contract::MacAddr;
use p2v_netboot::boot_menu::{MenuFormat, menu_name};

use super::cast::{SERVER, uuid};
use super::fetch::fetch;
use super::network::inside;
use crate::site_dhcp::{ask, discover};
use crate::wire::LIMIT;

/// Before a machine asks again: a ROM waits longer, and its boot takes longer when a question is lost.
const PATIENCE: Duration = Duration::from_millis(500);

/// The files that there are, and what is in each.
pub type Files = Arc<Vec<(&'static str, Vec<u8>)>>;

/// How long each boot took.
pub type Boots = Vec<Duration>;

/// Boots one machine again and again until `over` is set.
pub fn again_and_again(
    namespace: &str,
    (mac, address): (MacAddr, Ipv4Addr),
    files: &Files,
    over: &Arc<AtomicBool>,
) -> JoinHandle<Boots> {
    let (files, over) = (Arc::clone(files), Arc::clone(over));
    inside(namespace, move || {
        let mut boots = Boots::new();
        while !over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            boot(mac, address, &files, boots.len().is_multiple_of(2));
            boots.push(begun.elapsed());
        }
        boots
    })
}

/// One boot; kernel and initial RAM disk come by HTTP every other time.
fn boot(mac: MacAddr, address: Ipv4Addr, files: &Files, by_http: bool) {
    let port = UdpSocket::bind("0.0.0.0:68").unwrap();
    port.set_broadcast(true).unwrap();
    port.set_read_timeout(Some(PATIENCE)).unwrap();
    let question = discover(mac.octets(), Some(0), false);
    let offered = ask(&port, &question);
    assert_eq!((offered.0, &offered.1[..]), (SERVER, "pxelinux.0"));
    let taken = ask(&port, &request(question, address));
    assert_eq!(
        (taken.0, &taken.1[..]),
        (SERVER, "pxelinux.0"),
        "it was refused its address"
    );

    // Each file to a port of its own, as PXELINUX does: what comes late of another is not taken for it.
    let by_tftp = |name: &str| {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        fetch(&socket, SERVER, name)
    };
    assert_eq!(by_tftp(&format!("pxelinux.cfg/{}", uuid(mac))), Err(1));
    let menu = by_tftp(&menu_name(MenuFormat::Pxelinux, mac)).unwrap();
    let menu = String::from_utf8(menu).unwrap();
    assert!(
        menu.contains(" p2v.boot=") && menu.contains(" p2v.key="),
        "{mac}: {menu}"
    );
    for (name, bytes) in files.iter() {
        let got = match by_http && !name.contains("linux.") {
            true => http(name),
            false => by_tftp(name).unwrap(),
        };
        assert!(got == *bytes, "{mac}: {name}: {} bytes", got.len());
    }
}

/// The DHCPREQUEST that takes the address after this DHCPDISCOVER, under a number of its own.
fn request(mut discover: Vec<u8>, address: Ipv4Addr) -> Vec<u8> {
    discover[7] ^= 0x80;
    discover[242] = 3;
    let options = [&[50, 4], &address.octets()[..], &[54, 4], &SERVER.octets()].concat();
    discover.splice(243..243, options);
    discover
}

/// A file as lpxelinux fetches it; from the start, if the connection is lost.
fn http(name: &str) -> Vec<u8> {
    let until = Instant::now() + LIMIT;
    let get = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((SERVER, 80)), LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(stream, "GET /{name} HTTP/1.0\r\nHost: {SERVER}\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = loop {
        match get() {
            Ok(answer) => break answer,
            Err(error) => assert!(Instant::now() < until, "{name}: {error}"),
        }
    };
    let head = answer
        .windows(4)
        .position(|end| end == b"\r\n\r\n")
        .unwrap();
    assert!(answer.starts_with(b"HTTP/1.0 200"), "{name}");
    answer[head + 4..].to_vec()
}
