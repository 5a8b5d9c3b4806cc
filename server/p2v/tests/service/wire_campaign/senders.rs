//! Who sends: a stranger on the segment, a guest by its interface, and a station of another network.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use p2v_aoe::config::QueryConfig;
use p2v_aoe::frame::{self, Header, command};
use p2v_aoe::wire::{PacketSocket, Wire};
use p2v_contract::{Address, MacAddr};

use super::aoe::{self, Known};
use super::cast::{BOOTING, EXPORTS, FAR_ROUTER, HOST, SERVER, anybody};
use super::network::inside;
use super::random::Random;
use super::{dhcp, http, tftp, udp};
use crate::wire::LIMIT;

/// Frames that are sent before it is looked whether they were taken.
const BATCH: u64 = 64;
/// Of a thousand frames, requests by HTTP.
const HTTP: u64 = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Segment,
    Guest,
    OtherNetwork,
}

/// Frames sent, by protocol.
#[derive(Default)]
pub struct Sent {
    pub aoe: AtomicU64,
    pub dhcp: AtomicU64,
    pub tftp: AtomicU64,
    pub http: AtomicU64,
}

impl Sent {
    pub fn all(&self) -> [u64; 4] {
        [&self.aoe, &self.dhcp, &self.tftp, &self.http].map(|count| count.load(Ordering::Relaxed))
    }
}

/// One of the three.
pub struct Sender {
    pub from: From,
    pub namespace: String,
    pub known: Known,
    /// Its own address.
    pub address: Ipv4Addr,
    pub seed: u64,
    /// Of the service.
    pub process: u32,
    /// So many frames, by all protocols.
    pub frames: u64,
    pub sent: Arc<Sent>,
    /// Something was found: nobody need send more.
    pub over: Arc<AtomicBool>,
}

impl Sender {
    /// Starts its two threads.
    pub fn start(self) -> [JoinHandle<()>; 2] {
        let sender = Arc::new(self);
        let (other, namespace) = (Arc::clone(&sender), sender.namespace.clone());
        [
            inside(&namespace, move || sender.send_frames()),
            inside(&namespace, move || other.send_requests()),
        ]
    }

    fn send_requests(&self) {
        let mut random = Random::new(self.seed, 10 + self.from as u64);
        let all = self.frames * HTTP / 1000;
        let mut done = 0;
        while done < all && !self.over.load(Ordering::Relaxed) {
            done += http::connection(&mut random, self.known.own);
            self.sent.http.store(done, Ordering::Relaxed);
        }
    }

    fn send_frames(&self) {
        let mut random = Random::new(self.seed, self.from as u64);
        let wire = PacketSocket::open("eth0").unwrap();
        let all = self.frames - self.frames * HTTP / 1000;
        let mut done = 0;
        while done < all && !self.over.load(Ordering::Relaxed) {
            let many = BATCH.min(all - done);
            let frames: Vec<Vec<u8>> = (0..many).map(|_| self.frame(&mut random)).collect();
            wire.send(&frames).unwrap();
            if self.from == From::Segment {
                self.until_the_agents_have_them(&wire);
            }
            self.until_the_service_has_them();
            done += many;
        }
    }

    fn frame(&self, random: &mut Random) -> Vec<u8> {
        let own = self.known.own;
        let is_far = self.from == From::OtherNetwork;
        let of_aoe = match self.from {
            From::OtherNetwork => 2,
            From::Segment | From::Guest => 10,
        };
        let (port, (to, payload), count) = match random.below(20) {
            kind if kind < of_aoe => {
                self.sent.aoe.fetch_add(1, Ordering::Relaxed);
                let mut frame = aoe::frame(random, &self.known);
                if is_far && random.one_in(2) {
                    // To the router itself, which leads no such frames on.
                    frame[..6].copy_from_slice(&FAR_ROUTER.octets());
                }
                return frame;
            }
            kind if kind % 2 == 0 => {
                let to = random.pick(&[67, 67, 67, 4011, 68]);
                let port = random.pick(&[68, 68, 67, 4011]);
                (port, (to, dhcp::message(random, own)), &self.sent.dhcp)
            }
            _ => {
                let port = 1024 + random.below(4096) as u16;
                (port, tftp::datagram(random, own), &self.sent.tftp)
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
        let source = self.source(random);
        let mac = match is_far {
            true => own,
            false => anybody(random, own),
        };
        let (hardware, address) = match (is_far, to) {
            (true, _) => (FAR_ROUTER, SERVER),
            // Not to port 68: whoever is first to answer a machine is its DHCP server, and p2v is not asked.
            (false, 67) if random.one_in(2) => (MacAddr::broadcast(), Ipv4Addr::BROADCAST),
            (false, _) => (HOST, SERVER),
        };
        udp::frame((mac, source, port), (hardware, address, to), &payload)
    }

    /// Its own address, or another's.
    fn source(&self, random: &mut Random) -> Ipv4Addr {
        let last = random.byte();
        let others = [
            SERVER,
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::BROADCAST,
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::new(192, 168, 7, last),
            Ipv4Addr::new(10, 9, 0, last),
            Ipv4Addr::new(10, 9, last, 2),
        ];
        match random.below(4) {
            0 => random.pick(&others),
            1 => random.pick(&BOOTING).1,
            _ => self.address,
        }
    }

    /// Asks all of them who they are: they answer when they have come to it.
    fn until_the_agents_have_them(&self, wire: &PacketSocket) {
        let tag = 0x5700_0000 | self.sent.aoe.load(Ordering::Relaxed) as u32 & 0xff_ffff;
        let header = Header::request(
            self.known.own,
            MacAddr::broadcast(),
            Address::ALL,
            command::CONFIG,
            tag,
        );
        let question = [header.frame(&[&QueryConfig::default().to_bytes()])];
        let until = Instant::now() + LIMIT;
        let mut heard = Vec::new();
        while heard.len() < EXPORTS.len() && !self.over.load(Ordering::Relaxed) {
            assert!(Instant::now() < until, "only {heard:?} answer");
            wire.send(&question).unwrap();
            let asked = Instant::now();
            while heard.len() < EXPORTS.len() && asked.elapsed() < Duration::from_millis(500) {
                let mut each = |bytes: &[u8]| {
                    if let Ok((header, _)) = frame::parse(bytes)
                        && header.response
                        && header.tag == tag
                        && !heard.contains(&header.address)
                    {
                        heard.push(header.address);
                    }
                };
                wire.receive(Duration::from_millis(100), &mut each).unwrap();
            }
        }
    }

    /// Its queues are what the kernel tells of its ports.
    fn until_the_service_has_them(&self) {
        while queues(self.process)
            .iter()
            .any(|queue| queue.bytes > 48 << 10)
            && !self.over.load(Ordering::Relaxed)
        {
            std::thread::yield_now();
        }
    }
}

/// What waits at the service's port 67, and at 69, and what found no room there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Queue {
    bytes: u64,
    pub dropped: u64,
}

/// `/proc/PID/net/udp`: the local address is the second column, the queues are the fifth, the last is what was dropped.
pub fn queues(process: u32) -> [Queue; 2] {
    let table = std::fs::read_to_string(format!("/proc/{process}/net/udp")).unwrap_or_default();
    ["0043", "0045"].map(|port| {
        let mut rows = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| {
            row.get(1)
                .is_some_and(|local| local.ends_with(&format!(":{port}")))
        });
        row.map_or_else(Queue::default, |row| Queue {
            bytes: u64::from_str_radix(row[4].split_once(':').unwrap().1, 16).unwrap(),
            dropped: row.last().unwrap().parse().unwrap(),
        })
    })
}
