//! What comes to the TFTP port, and to the ports of transfers of others.

use p2v_contract::MacAddr;
use p2v_netboot::boot_menu::{MenuFormat, menu_name};

use super::cast::{KNOWN, anybody, uuid};
use super::random::Random;

/// A name that is asked for, by TFTP or HTTP: a file, the menu of any machine, or nothing.
pub fn name(random: &mut Random, own: MacAddr) -> String {
    let mac = match random.below(2) {
        0 => random.pick(&KNOWN),
        _ => anybody(random, own),
    };
    let dashes = mac.to_string().replace(':', "-");
    match random.below(14) {
        0..4 => menu_name(random.pick(&MenuFormat::ALL), mac),
        4 => format!("grub/grub.cfg-01-{dashes}"),
        5 => format!("pxelinux.cfg/{}", uuid(mac)),
        6 => random
            .pick(&[
                "pxelinux.cfg/default",
                "pxelinux.cfg/C0A8070B",
                "boot.ipxe",
                "grub/grub.cfg",
            ])
            .to_owned(),
        7 | 8 => random
            .pick(&[
                "pxelinux.0",
                "ldlinux.c32",
                "shimx64.efi",
                "grubx64.efi",
                "vmlinuz",
                "initrd",
                "image/none/vmlinuz",
            ])
            .to_owned(),
        9 => {
            "../".repeat(1 + random.below(9) as usize)
                + random.pick(&["etc/shadow", "host.key", "machines/e1.json"])
        }
        10 => random
            .pick(&[
                "..\\..\\host.key",
                "/etc/passwd",
                "image/../../host.key",
                "pxelinux.cfg/../host.key",
                "%2e%2e/host.key",
                "//",
                "",
            ])
            .to_owned(),
        11 => "x".repeat(random.below(1400) as usize),
        12 => format!("pxelinux.cfg/01-{dashes}/..").to_uppercase(),
        _ => {
            let length = random.below(60);
            String::from_utf8_lossy(&random.bytes(length)).into_owned()
        }
    }
}

/// A datagram, and the port at the server that it goes to.
pub fn datagram(random: &mut Random, own: MacAddr) -> (u16, Vec<u8>) {
    let any = random.byte();
    // A transfer has a port that the kernel gave it.
    let of_a_transfer = 32768 + random.below(28_000) as u16;
    match random.below(10) {
        0..6 => (69, request(random, own, 1)),
        6 => (69, request(random, own, 2)),
        7 => {
            let block = (random.below(300) as u16).to_be_bytes();
            let port = random.pick(&[69, of_a_transfer, of_a_transfer]);
            (
                port,
                [&[0, random.pick(&[3, 4, 4, 6])], &block[..]].concat(),
            )
        }
        8 => {
            let port = random.pick(&[69, of_a_transfer, of_a_transfer]);
            (port, [&[0, 5, 0, any % 9], &b"gone\0"[..]].concat())
        }
        _ => {
            let length = random.below(60);
            (69, [&[0, any][..], &random.bytes(length)].concat())
        }
    }
}

fn request(random: &mut Random, own: MacAddr, opcode: u8) -> Vec<u8> {
    let mut bytes = vec![0, opcode];
    bytes.extend(name(random, own).bytes());
    bytes.push(0);
    let mode = random.pick(&[
        &b"octet\0"[..],
        b"octet\0",
        b"OCTET\0",
        b"netascii\0",
        b"mail\0",
        b"",
    ]);
    bytes.extend(mode);
    for _ in 0..random.below(4) {
        let option = random.pick(&[
            "blksize",
            "tsize",
            "timeout",
            "windowsize",
            "multicast",
            "x",
        ]);
        let any = random.next().to_string();
        let value = random.pick(&[
            "0", "1", "8", "512", "1408", "1456", "65464", "-1", "", &any,
        ]);
        bytes.extend(format!("{option}\0{value}\0").bytes());
    }
    if random.one_in(12) {
        bytes.truncate(random.below(bytes.len() as u64) as usize);
    }
    bytes
}
