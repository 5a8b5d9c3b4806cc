//! The load: a closed loop with so many requests in flight, the same for every target.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use p2v_aoe::ata::{Registers, STATUS_READY};
use p2v_aoe::config::QueryConfig;
use p2v_aoe::frame::{self, FRAME_MIN, Header, command};
use p2v_aoe::wire::{PacketSocket, Wire};
use p2v_contract::{Address, MacAddr};
use serde::{Deserialize, Serialize};

use crate::scene::{SHELF, SLOT};

/// A request without an answer for so long was lost.
const LOST: Duration = Duration::from_millis(500);
/// Time before the measurement begins.
const WARM_UP: Duration = Duration::from_millis(300);
/// A target that does not answer for so long does not run.
const READY: Duration = Duration::from_secs(20);

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Answered requests a second.
    pub iops: f64,
    /// Data a second, in units of 10^6 bytes.
    pub megabytes: f64,
    /// Microseconds from a request to its answer: the median.
    pub p50: f64,
    /// And what 99 of 100 did not exceed.
    pub p99: f64,
    /// Requests sent again because no answer came.
    pub lost: u64,
    /// Answers with an error.
    pub errors: u64,
    /// Bytes moved in all, the warm-up included.
    pub bytes: u64,
}

/// A request in flight.
struct Slot {
    frame: Vec<u8>,
    tag: u32,
    sent: Instant,
}

struct Load {
    wire: PacketSocket,
    target: MacAddr,
    write: bool,
    random: bool,
    sectors: u64,
    blocks: u64,
    place: u64,
    number: u32,
    data: Vec<u8>,
}

impl Load {
    fn block(&mut self) -> u64 {
        if self.random {
            // xorshift64 (Marsaglia).
            self.place ^= self.place << 13;
            self.place ^= self.place >> 7;
            self.place ^= self.place << 17;
        } else {
            self.place += 1;
        }
        self.place % self.blocks
    }

    /// Makes the next request in `slot`.
    fn next(&mut self, index: usize, slot: &mut Slot) {
        self.number = self.number.wrapping_add(1) & 0xff_ffff;
        // Bit 31 as for every initiator that is not the Linux driver.
        slot.tag = 0x8000_0000 | (index as u32) << 24 | self.number;
        let lba = self.block() * self.sectors;
        let registers = Registers::transfer(self.write, lba, self.sectors as u8).to_bytes();
        let address = Address::new(SHELF, SLOT);
        let header = Header::request(
            self.wire.mac(),
            self.target,
            address,
            command::ATA,
            slot.tag,
        );
        let length = frame::HEADER_LEN + registers.len() + self.data.len();
        slot.frame.resize(length.max(FRAME_MIN), 0);
        header.write(&mut slot.frame);
        slot.frame[frame::HEADER_LEN..][..registers.len()].copy_from_slice(&registers);
        slot.frame[frame::HEADER_LEN + registers.len()..][..self.data.len()]
            .copy_from_slice(&self.data);
    }
}

/// Asks until the target answers, and returns who does.
fn wait_for_target(wire: &PacketSocket) -> Result<MacAddr> {
    let query = Header::request(
        wire.mac(),
        MacAddr::broadcast(),
        Address::new(SHELF, SLOT),
        command::CONFIG,
        0x8000_0000,
    );
    let query = query.frame(&[&QueryConfig::default().to_bytes()]);
    let until = Instant::now() + READY;
    while Instant::now() < until {
        wire.send(std::slice::from_ref(&query))?;
        let mut found = None;
        wire.receive(Duration::from_millis(50), &mut |bytes| {
            if let Ok((header, _)) = frame::parse(bytes)
                && header.response
            {
                found = Some(header.source);
            }
        })?;
        if let Some(mac) = found {
            return Ok(mac);
        }
    }
    bail!("the target does not answer")
}

/// Measures: interface, pattern, requests in flight, sectors of each, sectors of the disk, seconds.
pub fn run(arguments: &[String]) -> Result<()> {
    let [iface, pattern, in_flight, sectors, size, seconds] = arguments else {
        bail!("generate IFACE PATTERN IN-FLIGHT SECTORS SIZE SECONDS");
    };
    let (in_flight, sectors): (usize, u64) = (in_flight.parse()?, sectors.parse()?);
    if in_flight > 0x7f {
        bail!("at most 127 requests in flight");
    }
    let write = pattern == "sequential-write";
    let wire = PacketSocket::open(iface)?;
    let mut load = Load {
        target: wait_for_target(&wire)?,
        wire,
        write,
        random: pattern == "random-read",
        sectors,
        blocks: size.parse::<u64>()? / sectors,
        place: 88_172_645_463_325_252,
        number: 0,
        data: if write {
            vec![0x5a; (sectors * p2v_contract::SECTOR) as usize]
        } else {
            Vec::new()
        },
    };
    if !load.random {
        load.place = 0;
    }
    let figures = measure(
        &mut load,
        in_flight,
        Duration::from_secs_f64(seconds.parse()?),
    )?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

fn measure(load: &mut Load, in_flight: usize, length: Duration) -> Result<Figures> {
    // From a nanosecond to a minute, to three digits.
    let mut times: Histogram<u64> =
        Histogram::new_with_bounds(1, 60_000_000_000, 3).context("a histogram")?;
    let mut slots: Vec<Slot> = Vec::new();
    for index in 0..in_flight {
        let mut slot = Slot {
            frame: Vec::new(),
            tag: 0,
            sent: Instant::now(),
        };
        load.next(index, &mut slot);
        slots.push(slot);
    }
    let mut outgoing: Vec<usize> = (0..in_flight).collect();
    let (mut done, mut all, mut lost, mut errors) = (0u64, 0u64, 0u64, 0u64);
    let mut looked = Instant::now();
    let start = looked + WARM_UP;
    let end = start + length;
    loop {
        let now = Instant::now();
        if now >= end {
            break;
        }
        for index in &outgoing {
            slots[*index].sent = now;
        }
        if !outgoing.is_empty() {
            let frames: Vec<[&[u8]; 2]> = outgoing
                .iter()
                .map(|index| -> [&[u8]; 2] { [&slots[*index].frame, &[]] })
                .collect();
            load.wire.send_parts(&frames)?;
            outgoing.clear();
        }
        let mut arrived = None;
        load.wire.receive(LOST, &mut |bytes| {
            let Ok((header, body)) = frame::parse(bytes) else {
                return;
            };
            let index = (header.tag >> 24 & 0x7f) as usize;
            let Some(slot) = slots.get_mut(index).filter(|s| s.tag == header.tag) else {
                return;
            };
            if !header.response || header.command != command::ATA {
                return;
            }
            let now = *arrived.get_or_insert_with(Instant::now);
            let good = header.error.is_none()
                && Registers::parse(body).is_ok_and(|(r, _)| r.command == STATUS_READY);
            errors += u64::from(!good);
            all += 1;
            if now >= start {
                done += 1;
                let took = now.saturating_duration_since(slot.sent);
                times.saturating_record(took.as_nanos() as u64);
            }
            slot.tag = 0;
            outgoing.push(index);
        })?;
        for index in &outgoing {
            load.next(*index, &mut slots[*index]);
        }
        if now.duration_since(looked) > LOST / 5 {
            looked = now;
            for (index, slot) in slots.iter().enumerate() {
                if slot.sent.elapsed() >= LOST && !outgoing.contains(&index) {
                    lost += 1;
                    outgoing.push(index);
                }
            }
        }
    }
    let bytes = load.sectors * p2v_contract::SECTOR;
    Ok(Figures {
        iops: done as f64 / length.as_secs_f64(),
        megabytes: (done * bytes) as f64 / length.as_secs_f64() / 1e6,
        p50: times.value_at_quantile(0.5) as f64 / 1e3,
        p99: times.value_at_quantile(0.99) as f64 / 1e3,
        lost,
        errors,
        bytes: all * bytes,
    })
}
