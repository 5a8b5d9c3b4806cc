//! Who is on the wire, and what strangers know of them.

use std::net::Ipv4Addr;

use p2v_contract::{Address, MacAddr};

use super::random::Random;

/// The Xen host: whom the agents answer.
pub const HOST: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
/// The way to the other network.
pub const ROUTER: MacAddr = MacAddr(2, 0, 0, 0, 0, 0xfe);
pub const FAR_ROUTER: MacAddr = MacAddr(2, 0, 0, 0, 9, 0xfe);
/// Any station on the segment, and a guest.
pub const STRANGER: MacAddr = MacAddr(2, 0, 0, 0, 0, 0x66);
pub const GUEST: MacAddr = MacAddr(0, 0x16, 0x3e, 0, 0, 3);

/// The exports, in the order of [`super::exports::KINDS`].
pub const EXPORTS: [(Address, MacAddr); 4] = [
    (Address::new(21, 0), MacAddr(2, 0, 0, 0, 1, 1)),
    (Address::new(22, 0), MacAddr(2, 0, 0, 0, 1, 2)),
    (Address::new(23, 0), MacAddr(2, 0, 0, 0, 1, 3)),
    (Address::new(24, 0), MacAddr(2, 0, 0, 0, 1, 4)),
];

/// Machines that boot all the time, and their addresses.
pub const BOOTING: [(MacAddr, Ipv4Addr); 2] = [
    (
        MacAddr(0x52, 0x54, 0, 0x12, 0x34, 1),
        Ipv4Addr::new(192, 168, 7, 11),
    ),
    (
        MacAddr(0x52, 0x54, 0, 0x12, 0x34, 2),
        Ipv4Addr::new(192, 168, 7, 12),
    ),
];
/// A domain runs on its disks.
pub const RUNNING: MacAddr = MacAddr(0x52, 0x54, 0, 0x12, 0x34, 3);
/// Its server was moved to the host.
pub const MOVED: MacAddr = MacAddr(0x52, 0x54, 0, 0x12, 0x34, 4);
/// It was switched off.
pub const RELEASED: MacAddr = MacAddr(0x52, 0x54, 0, 0x12, 0x34, 5);
/// It was exported, and is left alone now.
pub const EXPORTED: MacAddr = MacAddr(0x52, 0x54, 0, 0x12, 0x34, 6);

/// All machines with a record.
pub const KNOWN: [MacAddr; 6] = [
    BOOTING[0].0,
    BOOTING[1].0,
    RUNNING,
    MOVED,
    RELEASED,
    EXPORTED,
];

/// The SMBIOS UUID of a machine.
pub fn uuid(mac: MacAddr) -> String {
    format!("4c4c4544-0042-3510-8052-b4c04f4a37{:02x}", mac.5)
}

/// A station that was never there: one of 64 that `allow` lets in, or one of 1024 others.
fn made_up(random: &mut Random) -> MacAddr {
    match random.below(3) {
        0 => MacAddr(2, 0xaa, 0, 0, 0, random.below(64) as u8),
        _ => MacAddr(2, 0xbb, 0, 0, random.below(4) as u8, random.byte()),
    }
}

/// Whose address a frame has: anybody's.
pub fn anybody(random: &mut Random, own: MacAddr) -> MacAddr {
    match random.below(10) {
        0 | 1 => own,
        2 | 3 => HOST,
        4 => random.pick(&EXPORTS).1,
        5 | 6 => random.pick(&KNOWN),
        7 => random.pick(&[
            MacAddr::broadcast(),
            MacAddr::zero(),
            MacAddr(1, 0, 0x5e, 0, 0, 1),
            ROUTER,
        ]),
        _ => made_up(random),
    }
}
