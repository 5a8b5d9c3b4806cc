//! The initiator engine: finds targets, and reads and writes them with many requests in flight.
//!
//! Its tags have bit 31 set: the kernel's driver on the same host ignores replies to them
//! (`aoecmd_ata_rsp`), and we ignore replies to its own. Each [`Session`] has a socket of its own,
//! so sessions do not take each other's replies.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pnet::util::MacAddr;

use crate::config::QueryConfig;
use crate::frame::{self, Header, command};
use crate::wire::{PacketSocket, Wire};

mod error;
mod exchange;
mod link;
mod path;
mod probe;
mod session;

use link::Link;
use p2v_contract::address::Address;

pub use error::Error;
pub use exchange::Counters;
pub use session::{Digest, Session};

/// Bit 31 of every tag of ours.
const TAG_OURS: u32 = 0x8000_0000;
/// How long one round of asking for an address waits for answers. All answers of a round are
/// taken, because a second one is a second machine.
const ATTACH_WAIT: Duration = Duration::from_millis(300);
/// Rounds of asking before an address counts as not there.
const ATTACH_TRIES: u32 = 6;

/// One answer to discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Shelf and slot.
    pub address: Address,
    /// Who answered.
    pub mac: MacAddr,
    /// Requests the target can hold.
    pub buffer_count: u16,
    /// Sectors it takes in one frame.
    pub sectors_per_frame: u8,
}

/// A target that says nothing, for whoever waits with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It has said nothing for this long, and is waited for.
    Lasts(Duration),
    /// It has not answered for this long, but says that it is there: its disk takes long.
    OfDisk(Duration),
    /// It speaks again, after this long.
    Ended(Duration),
}

/// Gives a wire of its own to each session.
pub(crate) type Opener = dyn Fn() -> Result<Arc<dyn Wire>, Error> + Send + Sync;

/// An interface of this host.
struct Interface {
    name: String,
    open: Arc<Opener>,
}

/// Interfaces of this host over which targets are reached.
pub struct Initiator {
    interfaces: Vec<Interface>,
    mac: MacAddr,
}

impl Initiator {
    /// Uses the interface called `iface`.
    ///
    /// # Errors
    /// The interface cannot be used.
    pub fn open(iface: &str) -> Result<Initiator, Error> {
        let name = iface.to_owned();
        let opener = {
            let name = name.clone();
            move || Ok(Arc::new(PacketSocket::open(&name)?) as Arc<dyn Wire>)
        };
        Self::over(name, opener)
    }

    /// Uses the interfaces of `other` as well: a target that is reached over several of them is read
    /// and written over all.
    pub fn and(mut self, other: Initiator) -> Initiator {
        self.interfaces.extend(other.interfaces);
        self
    }

    /// Uses wires made by `open`, for one that is not an interface of this host.
    ///
    /// # Errors
    /// `open` fails.
    pub fn over(
        name: String,
        open: impl Fn() -> Result<Arc<dyn Wire>, Error> + Send + Sync + 'static,
    ) -> Result<Initiator, Error> {
        let mac = open()?.mac();
        let interface = Interface {
            name,
            open: Arc::new(open),
        };
        Ok(Initiator {
            interfaces: vec![interface],
            mac,
        })
    }

    fn links(&self) -> Result<Vec<Link>, Error> {
        let link = |interface: &Interface| {
            Ok(Link {
                wire: (interface.open)()?,
                iface: interface.name.clone(),
                open: interface.open.clone(),
            })
        };
        self.interfaces.iter().map(link).collect()
    }

    /// The interfaces' names, for messages.
    fn names(&self) -> String {
        let names: Vec<&str> = self.interfaces.iter().map(|i| &i.name[..]).collect();
        names.join("`, `")
    }

    /// Our own address, on the first interface: what must be on a target's list.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Asks every target on the wire to say what it is, and takes answers for `wait`. Sorted by
    /// address; two stations that answer for one address are two entries.
    ///
    /// # Errors
    /// An interface cannot be used, or fails.
    pub fn discover(&self, wait: Duration) -> Result<Vec<Found>, Error> {
        let links = self.links()?;
        // Asked twice: a frame can be lost.
        let mut found = ask_all(&links, Address::ALL, wait / 2)?;
        found.extend(ask_all(&links, Address::ALL, wait / 2)?);
        let found: BTreeSet<Found> = found.into_iter().map(|(_, found)| found).collect();
        Ok(found.into_iter().collect())
    }

    /// Opens a session with the one target at `address`. No answer is an error, and so are answers
    /// of two stations, unless they prove to be one machine: they could be two different disks.
    ///
    /// # Errors
    /// Nobody answers, or more than one machine may; the target answers nothing but discovery, refuses, or answers
    /// nonsense; an interface cannot be used, or fails.
    pub fn attach(&self, address: Address) -> Result<Session, Error> {
        let links = self.links()?;
        for _ in 0..ATTACH_TRIES {
            let mut found = ask_all(&links, address, ATTACH_WAIT)?;
            if !found.is_empty() {
                // Asked twice: the one answer that was lost may be that of a second machine.
                found.extend(ask_all(&links, address, ATTACH_WAIT)?);
                return Session::start(links, &found);
            }
        }
        Err(Error::NoAnswer {
            address,
            iface: self.names(),
            waited: ATTACH_WAIT * ATTACH_TRIES,
        })
    }
}

/// Broadcasts one query on all links and takes all answers for `wait`, each with the index of the
/// link on which it came.
fn ask_all(
    links: &[Link],
    address: Address,
    wait: Duration,
) -> Result<BTreeSet<(usize, Found)>, Error> {
    for link in links {
        let request = Header::request(
            link.wire.mac(),
            MacAddr::broadcast(),
            address,
            command::CONFIG,
            TAG_OURS,
        );
        link.wire
            .send(&[request.frame(&[&QueryConfig::default().to_bytes()])])
            .map_err(|e| link.failed("send to", e))?;
    }
    let mut found = BTreeSet::new();
    let all: Vec<(usize, &Link)> = links.iter().enumerate().collect();
    let until = Instant::now() + wait;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(found);
        }
        link::receive(&all, left, &mut |link, bytes| {
            found.extend(answer(bytes, address).map(|found| (link, found)));
        })
        .map_err(|(link, error)| links[link].failed("receive from", error))?;
    }
}

/// The answer in a frame, if it is one from a target that `asked` covers.
fn answer(bytes: &[u8], asked: Address) -> Option<Found> {
    let (header, body) = frame::parse(bytes).ok()?;
    if !header.response || header.error.is_some() || header.command != command::CONFIG {
        return None;
    }
    let config = QueryConfig::parse(body).ok()?;
    // A target has an address of its own: "all" in a reply is nonsense.
    let own = header.address.shelf != 0xFFFF && header.address.slot != 0xFF;
    (own && asked.covers(header.address)).then_some(Found {
        address: header.address,
        mac: header.source,
        buffer_count: config.buffer_count,
        sectors_per_frame: config.sectors,
    })
}
