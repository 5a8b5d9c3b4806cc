//! DHCP messages of any kind, also in the name of machines that are known or are booting.

use std::net::Ipv4Addr;

use p2v_contract::MacAddr;

use super::cast::{BOOTING, KNOWN, SERVER, anybody};
use super::random::Random;

/// DHCPDECLINE (RFC 2132, 9.6).
const DECLINE: u8 = 4;

/// One message, from a station with this address.
///
/// DHCP has nothing by which a server could tell a message in a machine's name from the machine's own. So none declines the
/// address of a machine that boots, which would get one of the pool instead; and none asks with the number of its question,
/// or the machine would take what is answered for its own answer.
pub fn message(random: &mut Random, own: MacAddr) -> Vec<u8> {
    let chaddr = match random.below(3) {
        0 => random.pick(&KNOWN),
        _ => anybody(random, own),
    };
    let any = random.byte();
    let mut kind = random.pick(&[1, 1, 1, 3, 3, 3, DECLINE, 7, 8, 2, 5, 6, any]);
    let boots = BOOTING.iter().any(|(mac, _)| *mac == chaddr);
    if kind == DECLINE && boots {
        kind = 7;
    }
    let mut bytes = vec![0; 240];
    bytes[0] = random.pick(&[1, 1, 1, 1, 1, 1, 2, any]);
    bytes[1] = random.pick(&[1, 1, 1, 1, 1, 6, any]);
    bytes[2] = random.pick(&[6, 6, 6, 6, 6, 6, 6, 16, 17, 255, 0]);
    bytes[3] = random.pick(&[0, 0, 1, any]);
    // Firmware makes it of the address, so that it can be known.
    let xid = match random.below(2) {
        0 if !boots || !matches!(kind, 1 | 3) => chaddr.octets()[2..].try_into().unwrap(),
        _ => (random.next() as u32).to_be_bytes(),
    };
    bytes[4..8].copy_from_slice(&xid);
    bytes[8..10].copy_from_slice(&random.pick(&[[0, 0], [0, 4], [0xff, 0xff]]));
    bytes[10..12].copy_from_slice(&random.pick(&[[0, 0], [0x80, 0], [0x7f, 0xff]]));
    for field in [12, 16, 20] {
        bytes[field..field + 4].copy_from_slice(&address(random).octets());
    }
    if random.one_in(6) {
        bytes[24..28].copy_from_slice(&address(random).octets());
    }
    bytes[28..34].copy_from_slice(&chaddr.octets());
    if random.one_in(6) {
        let noise = random.bytes(192);
        bytes[44..236].copy_from_slice(&noise);
    }
    bytes[236..240].copy_from_slice(random.pick(&[
        &[0x63, 0x82, 0x53, 0x63],
        &[0x63, 0x82, 0x53, 0x63],
        &[0x63, 0x82, 0x53, 0x63],
        &[0x63, 0x82, 0x53, 0x63],
        &[0x63, 0x82, 0x53, 0x64],
    ]));
    options(random, &mut bytes, kind, chaddr);
    if random.one_in(3) {
        bytes.resize(bytes.len().max(300), 0);
    }
    if random.one_in(12) {
        bytes.truncate(random.below(bytes.len() as u64) as usize);
    }
    bytes
}

fn address(random: &mut Random) -> Ipv4Addr {
    let last = random.byte();
    random.pick(&[
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        SERVER,
        BOOTING[0].1,
        BOOTING[1].1,
        Ipv4Addr::new(192, 168, 7, last),
        Ipv4Addr::new(192, 168, 7, 100 + last % 100),
        Ipv4Addr::new(10, 9, 0, last),
        Ipv4Addr::BROADCAST,
    ])
}

fn options(random: &mut Random, bytes: &mut Vec<u8>, kind: u8, chaddr: MacAddr) {
    put(random, bytes, 53, &[kind]);
    if !random.one_in(5) {
        let class = class(random);
        put(random, bytes, 60, class);
        let any = random.byte();
        let architecture = random.pick(&[0, 0, 6, 7, 9, 0x0b, 0x0f, 0x10, 0x13, any]);
        put(random, bytes, 93, &[0, architecture]);
    }
    for _ in 0..random.below(6) {
        let code = random.pick(&[
            43, 50, 50, 54, 54, 55, 57, 61, 77, 80, 81, 82, 94, 97, 97, 175,
        ]);
        let value = match code {
            50 => address(random).octets().to_vec(),
            54 if !random.one_in(3) => SERVER.octets().to_vec(),
            54 => address(random).octets().to_vec(),
            97 => machine_id(random, chaddr),
            61 => [&[1], &chaddr.octets()[..]].concat(),
            77 => random.pick(&[&b"iPXE"[..], b"\x04iPXE", b"\xff"]).to_vec(),
            57 => random.bytes(2),
            // Options in options, with lengths that do not fit.
            _ => nested(random),
        };
        put(random, bytes, code, &value);
    }
    if random.one_in(10) {
        // A name that is no text, or pads, or an end too early, or the fields as more options (RFC 2132, 9.3).
        bytes.extend(random.pick(&[
            &[12, 3, 0xff, 0xfe, 0x80][..],
            &[0, 0, 0, 0],
            &[255],
            &[52, 1, 3],
            &[52, 1, 0xff],
        ]));
    }
    if !random.one_in(8) {
        bytes.push(255);
    }
    if random.one_in(12) {
        let length = random.below(900);
        bytes.extend(random.bytes(length));
    }
}

fn class(random: &mut Random) -> &'static [u8] {
    random.pick(&[
        &b"PXEClient:Arch:00000:UNDI:002001"[..],
        b"PXEClient:Arch:00007:UNDI:003016",
        b"PXEClient",
        b"HTTPClient:Arch:00016:UNDI:003001",
        b"MSFT 5.0",
        b"",
        b"\xff\xfe\0",
    ])
}

/// A machine's own, another's, or none.
fn machine_id(random: &mut Random, chaddr: MacAddr) -> Vec<u8> {
    let of = match random.below(2) {
        0 => chaddr,
        _ => random.pick(&KNOWN),
    };
    let mut id = vec![0];
    // The first three fields are little-endian there (RFC 4578, 2.3, after SMBIOS).
    id.extend([0x44, 0x45, 0x4c, 0x4c, 0x42, 0, 0x10, 0x35]);
    id.extend([0x80, 0x52, 0xb4, 0xc0, 0x4f, 0x4a, 0x37, of.5]);
    id.truncate(random.pick(&[17, 17, 17, 16, 1, 0]));
    id
}

fn nested(random: &mut Random) -> Vec<u8> {
    let mut value = Vec::new();
    for _ in 0..random.below(5) {
        let (code, length) = (random.byte(), random.below(12));
        value.push(random.pick(&[1, 2, 6, 9, 71, 177, code]));
        value.push(random.pick(&[length as u8, length as u8, 0, 255]));
        value.extend(random.bytes(length));
    }
    if random.one_in(3) {
        value.push(255);
    }
    value
}

fn put(random: &mut Random, bytes: &mut Vec<u8>, code: u8, value: &[u8]) {
    let length = match random.below(24) {
        0 => random.byte(),
        _ => value.len() as u8,
    };
    bytes.extend([code, length]);
    bytes.extend(value);
}
