//! TFTP as a boot loader of an old machine does it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Longer than anything takes on a loaded machine; nothing waits for it to pass.
const LIMIT: Duration = Duration::from_secs(400);

/// A file as PXELINUX fetches it: its options, one block at a time, and again when nothing comes.
pub fn fetch(socket: &UdpSocket, server: Ipv4Addr, name: &str) -> Result<Vec<u8>, u8> {
    let request = [
        b"\0\x01",
        name.as_bytes(),
        b"\0octet\0tsize\x000\0blksize\x001408\0",
    ]
    .concat();
    let (mut last, mut to) = (request, SocketAddr::from((server, 69)));
    let (mut file, mut next) = (Vec::new(), 1_u16);
    let until = Instant::now() + LIMIT;
    let mut send = true;
    loop {
        assert!(Instant::now() < until, "{name} does not come");
        if std::mem::replace(&mut send, false) {
            socket.send_to(&last, to).unwrap();
        }
        let mut buffer = [0; 2048];
        let Ok((len, from)) = socket.recv_from(&mut buffer) else {
            println!("{name}: nothing comes from {to}, block {next}: asked again");
            send = true;
            continue;
        };
        let block = u16::from_be_bytes([buffer[2], buffer[3]]);
        match buffer[1] {
            5 => return Err(buffer[3]),
            6 if to.port() == 69 => (to, last) = (from, vec![0, 4, 0, 0]),
            3 if from == to && block == next => {
                file.extend(&buffer[4..len]);
                last = [&[0, 4], &block.to_be_bytes()[..]].concat();
                next = next.wrapping_add(1);
                if len < 1412 {
                    socket.send_to(&last, to).unwrap();
                    return Ok(file);
                }
            }
            // Of a transfer before, or twice.
            _ => continue,
        }
        send = true;
    }
}
