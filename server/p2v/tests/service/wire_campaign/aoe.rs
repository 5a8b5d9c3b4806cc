//! AoE frames with any sender: every command, sub-command and length, and orders that nobody signed, or for something else.

use std::sync::{Arc, Mutex};

use p2v_aoe::acl::{Directive, MacMask, Reserve};
use p2v_aoe::ata::opcode;
use p2v_aoe::config::QueryConfig;
use p2v_aoe::frame::{FRAME_MIN, HEADER_LEN, Header, command};
use p2v_contract::key::SecretKey;
use p2v_contract::operation::{Control, Order, Probe, Request, op};
use p2v_contract::{Address, MacAddr};

use super::cast::{EXPORTS, HOST, anybody};
use super::exports::{PLAIN, READ_WRITE, SECTORS};
use super::random::Random;

/// What a stranger has to make frames of.
#[derive(Clone)]
pub struct Known {
    pub own: MacAddr,
    /// Frames with orders, as the host sent them.
    pub orders: Arc<Mutex<Vec<Vec<u8>>>>,
    /// The starts of the agents, in the order of the exports: everybody whom they answer can read them.
    pub boot_ids: Vec<String>,
    /// Guests' frames have another tag, and none of them arrives: they need not keep to what AoE cannot refuse.
    pub tag: Option<u16>,
    pub kept_off: bool,
}

/// The first two bytes of the tag.
const TAG: std::ops::Range<usize> = 20..22;

/// One frame.
pub fn frame(random: &mut Random, known: &Known) -> Vec<u8> {
    let mut frame = match random.below(8) {
        0 => replayed(random, known),
        _ => made(random, known),
    };
    if random.one_in(12) {
        let kept = 14 + random.below(frame.len() as u64 - 13);
        frame.truncate(kept as usize);
    }
    if let Some(tag) = known.tag
        && frame.len() >= TAG.end
    {
        frame[TAG].copy_from_slice(&tag.to_be_bytes());
    }
    if !known.kept_off {
        keep_to_what_is_refused(&mut frame, known.own);
    }
    if random.one_in(20) {
        // A priority tag (VLAN 0), and now and then two.
        let tags: &[u8] = random.pick(&[
            &[0x81, 0, 0, 0][..],
            &[0x88, 0xa8, 0, 0, 0x81, 0, 0, 0],
            &[0x81, 0, 0, 7],
        ]);
        frame.splice(12..12, tags.iter().copied());
    }
    frame
}

/// AoE knows a host by its MAC address alone, and so do the agents: with the host's, anybody writes to an export that is
/// read-write, and reserves one that takes no orders. The README says so, and it is not tested here.
fn keep_to_what_is_refused(frame: &mut [u8], own: MacAddr) {
    let Some(header) = frame.first_chunk::<HEADER_LEN>() else {
        return;
    };
    let address = Address::new(u16::from_be_bytes([header[16], header[17]]), header[18]);
    let writes = || matches!(frame.get(27), Some(&(opcode::WRITE | opcode::WRITE_EXT)));
    let allowed = match header[19] {
        command::ATA => address == EXPORTS[READ_WRITE].0 && writes(),
        command::RESERVE => address == EXPORTS[PLAIN].0,
        _ => false,
    };
    if header[6..12] == HOST.octets() && allowed {
        frame[6..12].copy_from_slice(&own.octets());
    }
}

/// What the host sent once, as it was or with a change.
fn replayed(random: &mut Random, known: &Known) -> Vec<u8> {
    let mut frame = {
        let orders = known.orders.lock().unwrap();
        orders[random.below(orders.len() as u64) as usize].clone()
    };
    match random.below(6) {
        0 => {}
        1 => frame[6..12].copy_from_slice(&anybody(random, known.own).octets()),
        2 => {
            let (address, mac) = random.pick(&EXPORTS);
            frame[..6].copy_from_slice(&mac.octets());
            frame[16..18].copy_from_slice(&address.shelf.to_be_bytes());
            frame[18] = address.slot;
        }
        // A bit of the order: operation, argument, counter, signature, stations.
        3 | 4 => {
            let at = HEADER_LEN as u64 + random.below((frame.len() - HEADER_LEN) as u64);
            frame[at as usize] ^= 1 << random.below(8);
        }
        // A counter far ahead.
        _ => frame[HEADER_LEN + 12..HEADER_LEN + 20].fill(0xff),
    }
    frame
}

fn made(random: &mut Random, known: &Known) -> Vec<u8> {
    let export = random.below(EXPORTS.len() as u64) as usize;
    let (own, mac) = EXPORTS[export];
    let destination = match random.below(12) {
        0 => MacAddr::broadcast(),
        1 => anybody(random, known.own),
        _ => mac,
    };
    let address = match random.below(16) {
        0 => Address::ALL,
        1 => Address::new(own.shelf, 0xff),
        2 => Address::new(0xffff, own.slot),
        3 => Address::new(random.next() as u16, random.byte()),
        _ => own,
    };
    // What the host may do is asked with its address most of the time, or there would be little to refuse.
    let source = match random.below(3) {
        0 => anybody(random, known.own),
        _ => HOST,
    };
    let command = match random.below(16) {
        0..3 => command::ATA,
        3 => command::CONFIG,
        4..7 => command::MAC_MASK,
        7..10 => command::RESERVE,
        10..15 => command::P2V,
        _ => random.byte(),
    };
    let body = match command {
        command::ATA => ata(random),
        command::CONFIG => config(random),
        command::MAC_MASK => list(random, known.own),
        command::RESERVE => reserve(random, known.own),
        command::P2V => vendor(random, known, export),
        _ => {
            let count = random.below(200);
            random.bytes(count)
        }
    };
    let tag = random.next() as u32;
    let mut frame = Header::request(source, destination, address, command, tag).frame(&[&body]);
    if random.one_in(16) {
        // Version, and the flags of a response and of an error.
        frame[14] = random.byte();
    }
    frame
}

fn ata(random: &mut Random) -> Vec<u8> {
    let lba = match random.below(7) {
        0 => 0,
        1 => SECTORS - 1,
        2 => SECTORS,
        3 => (1 << 28) - 1,
        4 => (1 << 48) - 1,
        5 => random.next(),
        _ => random.below(SECTORS),
    };
    let opcode = match random.below(4) {
        0 => random.byte(),
        _ => random.pick(&[
            opcode::READ,
            opcode::READ_EXT,
            opcode::WRITE,
            opcode::WRITE_EXT,
            opcode::WRITE_EXT,
            opcode::FLUSH,
            opcode::FLUSH_EXT,
            opcode::IDENTIFY,
            opcode::CHECK_POWER_MODE,
        ]),
    };
    let (any, count) = (random.byte(), random.byte());
    let mut body = vec![
        random.pick(&[0, 0x40, 0x41, 0x01, 0x43, any]),
        random.pick(&[0, 0, any]),
        random.pick(&[1, 1, 2, 2, 0, 3, 17, count]),
        opcode,
    ];
    body.extend(&lba.to_le_bytes()[..6]);
    body.extend([0, 0]);
    let data = random.pick(&[0, 512, 512, 1024, 1024, 511, 1400]);
    body.resize(body.len() + data, random.byte());
    body
}

fn config(random: &mut Random) -> Vec<u8> {
    let length = random.pick(&[0, 0, 1, 7, 1024, 1025]);
    let string = random.bytes(length);
    let mut body = QueryConfig {
        sub: random.below(7) as u8,
        string,
        ..QueryConfig::default()
    }
    .to_bytes();
    if random.one_in(8) {
        body[6..8].copy_from_slice(&(random.next() as u16).to_be_bytes());
    }
    body
}

/// Addresses of a list: the host's among them, mostly.
fn stations(random: &mut Random, own: MacAddr) -> Vec<MacAddr> {
    let count = random.pick(&[0, 1, 1, 1, 2, 16, 17, 180]);
    (0..count).map(|_| anybody(random, own)).collect()
}

fn list(random: &mut Random, own: MacAddr) -> Vec<u8> {
    let sub = random.pick(&[0, 1, 1, 1, 1, 2, 0xff]);
    let directives = stations(random, own).into_iter().map(|mac| Directive {
        directive: random.pick(&[0, 1, 1, 2, 2, 3]),
        mac,
    });
    let mut body = MacMask {
        sub,
        error: 0,
        directives: directives.collect(),
    }
    .to_bytes();
    if random.one_in(8) {
        body[3] = random.byte();
    }
    body
}

fn reserve(random: &mut Random, own: MacAddr) -> Vec<u8> {
    let mut body = Reserve {
        sub: random.pick(&[0, 1, 1, 2, 2, 3, 0xff]),
        macs: stations(random, own),
    }
    .to_bytes();
    if random.one_in(8) {
        body[1] = random.byte();
    }
    body
}

fn vendor(random: &mut Random, known: &Known, export: usize) -> Vec<u8> {
    let lba = match random.below(4) {
        0 => random.next(),
        1 => SECTORS - 1,
        _ => random.below(SECTORS),
    };
    let request = match random.below(12) {
        0 => Request::Inventory {
            offset: random.next() as u32 >> random.below(32),
        },
        1 => Request::Digest {
            lba,
            sectors: random.next() as u32 >> random.below(32),
        },
        2 => Request::ZeroMap {
            lba,
            sectors_per_bit: random.next() as u32 >> random.below(32),
            bits: random.next() as u16 >> random.below(16),
        },
        3 => Request::Stats,
        4 => Request::Probe(Probe {
            confirm: random.one_in(2),
            length: random.below(1500) as u16,
            word: random.next(),
        }),
        5..8 => Request::Access(control(random, known, export, op::ACCESS, &[])),
        8 | 9 => Request::Finish(control(random, known, export, op::FINISH, &[])),
        _ => {
            let mut stations = stations(random, known.own);
            stations.truncate(17);
            let control = control(random, known, export, op::RESERVE, &stations);
            Request::Reserve { control, stations }
        }
    };
    let mut body = request.to_bytes();
    if random.one_in(12) {
        body[0] = random.byte();
    }
    if random.one_in(12) {
        let at = random.below(body.len() as u64) as usize;
        body[at] = random.byte();
    }
    body.resize(body.len().max(FRAME_MIN - HEADER_LEN), 0);
    body
}

/// An order as the host would give it, in all but the key.
fn control(
    random: &mut Random,
    known: &Known,
    export: usize,
    operation: u8,
    stations: &[MacAddr],
) -> Control {
    let order = Order {
        boot_id: &known.boot_ids[export],
        sender: HOST,
        target: EXPORTS[export].0,
        operation,
        argument: random.pick(&[1, 2, 2, 3, 0, 0xff]),
        counter: match random.below(3) {
            0 => u64::MAX,
            1 => random.below(1 << 50),
            _ => random.next(),
        },
        stations,
    };
    // To sign takes longer than all else.
    if random.one_in(8) {
        let key = SecretKey::from_bytes(&[random.pick(&[0, 1, 7]); 32]);
        return order.signed(&key);
    }
    let mut signature = [0; 64];
    if !random.one_in(4) {
        signature.copy_from_slice(&random.bytes(64));
    }
    Control {
        argument: order.argument,
        counter: order.counter,
        signature,
    }
}
