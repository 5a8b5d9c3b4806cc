//! Requests to the HTTP port: whole, in a row, half, and no requests at all.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use p2v_contract::MacAddr;

use super::cast::SERVER;
use super::random::Random;
use super::tftp::name;

/// For an answer; who is not answered goes on.
const PATIENCE: Duration = Duration::from_secs(1);

/// One connection; how many requests went over it.
pub fn connection(random: &mut Random, own: MacAddr) -> u64 {
    let many = 1 + random.below(8);
    let mut bytes = Vec::new();
    for _ in 0..many {
        bytes.extend(request(random, own));
    }
    if random.one_in(4) {
        bytes.truncate(random.below(bytes.len() as u64) as usize);
    }
    let address = SocketAddr::from((SERVER, 80));
    // Refused where this address has all the connections that it may have.
    if let Ok(mut stream) = TcpStream::connect_timeout(&address, PATIENCE) {
        let _ = stream.set_write_timeout(Some(PATIENCE));
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.write_all(&bytes);
        let mut answer = vec![0; 64 << 10];
        match random.below(4) {
            // Gone without a word.
            0 => {}
            1 => drop(stream.read(&mut answer)),
            _ => {
                let _ = stream.shutdown(Shutdown::Write);
                while stream.read(&mut answer).is_ok_and(|length| length > 0) {}
            }
        }
    }
    many
}

fn request(random: &mut Random, own: MacAddr) -> Vec<u8> {
    if random.one_in(10) {
        let length = random.below(300);
        return random.bytes(length);
    }
    let method = random.pick(&[
        "GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "get",
        "G\0T",
    ]);
    let version = random.pick(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", ""]);
    let name = name(random, own);
    let name = name.trim_start_matches('/');
    let mut text = format!("{method} /{name} {version}\r\nHost: {SERVER}\r\n");
    let (first, last) = (
        random.next() >> random.below(64),
        random.next() >> random.below(64),
    );
    match random.below(6) {
        0 => text += &format!("Range: bytes={first}-{last}\r\n"),
        1 => text += &format!("Range: bytes=-{last}\r\n"),
        2 => text += &format!("Range: bytes={first}-,0-1,5-\r\n"),
        3 => text += "Content-Length: 2\r\n\r\n{}",
        4 => text += "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        _ => {}
    }
    if random.one_in(12) {
        let header = format!("X-{}: {}\r\n", random.next(), "y".repeat(200));
        text += &header.repeat(random.below(80) as usize);
    }
    text += "\r\n";
    text.into_bytes()
}
