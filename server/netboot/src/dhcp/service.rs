//! Ports 67 and 4011: reading questions, asking for the decision, sending answers.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pnet::util::MacAddr;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;

use super::announcement::{ANNOUNCED_EVERY, Announcement, common};
use super::conflict::{self, Conflicts, Waiting};
use super::decide::{self, Action, Port};
use super::reply::{Reply, ReplyKind};
use super::request::{MessageType, Request, parse};
use super::server::Server;
use crate::boot_decision::BootDecision;
use crate::client::ClientKind;
use crate::datagram::{self, Ends};
use crate::event::{BootEvent, Notice};
use crate::lease::Leases;
use crate::lease_file::LeaseFile;
use crate::machine_id::MachineId;
use crate::machines::Machines;
use crate::peers::Peers;
use crate::settings::Settings;
use crate::socket::FrameSocket;

/// Everything a question is answered with.
pub(crate) struct Dhcp {
    pub server: Server,
    pub settings: Arc<Settings>,
    pub machines: Arc<dyn Machines>,
    pub peers: Arc<Peers>,
    pub leases: Leases,
    pub file: LeaseFile,
    pub frames: FrameSocket,
    /// Hears and sends ARP, in mode `dhcp`.
    pub arp: Option<AsyncFd<FrameSocket>>,
    /// Our hardware address.
    pub own: MacAddr,
    pub conflicts: Conflicts,
    /// What may be told when the leases are on disk.
    pub unwritten: Vec<Answer>,
    /// Machines that are left out, and when that was told.
    pub told_of: HashMap<MacAddr, Instant>,
    /// Other services of this kind that were told of.
    pub others: BTreeSet<Ipv4Addr>,
}

/// That a machine is left out is told once in this time.
const TOLD_FOR: Duration = Duration::from_secs(60);
/// Of so many machines at most.
const TOLD_MAX: usize = 100;
/// Other services that are told of at most: anybody can make up some.
const OTHERS_MAX: usize = 16;

/// An answer, or what else came of a request.
pub(crate) struct Answer {
    request: Request,
    port: Port,
    from: Option<SocketAddr>,
    reply: Option<Reply>,
    event: Option<BootEvent>,
}

/// Questions that are taken before leases are written: a disk that takes its time for a write takes it once for all who
/// asked meanwhile, and a hundred machines do not wait for a hundred writes.
const BATCH: usize = 128;
/// For how long they are.
const BATCH_TIME: Duration = Duration::from_millis(20);

impl Dhcp {
    /// Answers until a socket fails. One question after the other: each takes far less time than
    /// a ROM's patience, and leases have one owner.
    pub async fn serve(mut self, dhcp: UdpSocket, proxy: Option<UdpSocket>) -> io::Result<()> {
        let (mut one, mut other) = ([0; 2048], [0; 2048]);
        let mut announced = tokio::time::interval(ANNOUNCED_EVERY);
        loop {
            let due = self.conflicts.next();
            tokio::select! {
                claim = claimed(self.arp.as_ref()) => {
                    let (address, by) = claim?;
                    if let Some(waiting) = self.conflicts.heard(address, by) {
                        self.in_use(address, by, &waiting);
                        self.answer(waiting.request, waiting.port, None, &proxy).await;
                    }
                }
                _ = announced.tick() => self.announce(),
                () = until(due) => {
                    for waiting in self.conflicts.due(Instant::now()) {
                        self.answer(waiting.request, waiting.port, None, &proxy).await;
                    }
                }
                got = dhcp.recv_from(&mut one) => {
                    self.take(Port::Dhcp, got, &one, &proxy).await?;
                }
                got = receive(proxy.as_ref(), &mut other) => {
                    self.take(Port::Proxy, got, &other, &proxy).await?;
                }
            }
            let taken = self.take_who_waits(&dhcp, &mut one, &proxy).await;
            self.write_leases(&proxy).await;
            taken?;
        }
    }

    /// Who asked meanwhile has a part in the same write; those who are told by it do not wait long.
    async fn take_who_waits(
        &mut self,
        dhcp: &UdpSocket,
        buffer: &mut [u8],
        proxy: &Option<UdpSocket>,
    ) -> io::Result<()> {
        let begun = Instant::now();
        for _ in 0..BATCH {
            if self.unwritten.is_empty() || begun.elapsed() > BATCH_TIME {
                break;
            }
            let got = dhcp.try_recv_from(buffer);
            if matches!(&got, Err(e) if e.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
            self.take(Port::Dhcp, got, buffer, proxy).await?;
        }
        Ok(())
    }

    async fn take(
        &mut self,
        port: Port,
        got: io::Result<(usize, SocketAddr)>,
        buffer: &[u8],
        proxy: &Option<UdpSocket>,
    ) -> io::Result<()> {
        let (len, from) = match got {
            Ok(got) => got,
            // The interface went down: it may come back.
            Err(e) if e.raw_os_error() == Some(libc::ENETDOWN) => return Ok(()),
            Err(e) => return Err(e),
        };
        // What cannot be read is not for us, and there is nobody to tell: a LAN is full of it.
        if let Ok(request) = parse(&buffer[..len]) {
            self.answer(request, port, Some(from), proxy).await;
        } else if let Some(other) = Announcement::decode(&buffer[..len]) {
            self.heard(&other);
        }
        Ok(())
    }

    /// Tells other services on the segment of this one. A frame that cannot be sent now is sent the next time.
    fn announce(&self) {
        let announcement = Announcement {
            server: self.server.address,
            shelves: self.settings.shelves.clone(),
        };
        let ends = Ends {
            source: (self.server.address, 67),
            destination: (Ipv4Addr::BROADCAST, 67),
        };
        let payload = announcement.encode().ok();
        if let Some(packet) = payload.and_then(|payload| datagram::build(ends, &payload)) {
            let _ = self.frames.send(MacAddr::broadcast(), &packet);
        }
    }

    /// Logs another service once, and announces this one to it at once.
    fn heard(&mut self, other: &Announcement) {
        let is_new = other.server != self.server.address
            && self.others.len() < OTHERS_MAX
            && self.others.insert(other.server);
        if is_new {
            self.announce();
            self.machines.noticed(&Notice::OtherService {
                address: other.server,
                both: common(&self.settings.shelves, &other.shelves),
            });
        }
    }

    /// Answers, or leaves the answer for when the leases are written.
    async fn answer(
        &mut self,
        request: Request,
        port: Port,
        from: Option<SocketAddr>,
        proxy: &Option<UdpSocket>,
    ) {
        let Some((answer, lasts)) = self.decide(request, port, from).await else {
            return;
        };
        if lasts {
            self.unwritten.push(answer);
        } else {
            self.tell(answer, proxy).await;
        }
    }

    /// What waits for the leases is on disk before anybody acts on it, if it can be.
    async fn write_leases(&mut self, proxy: &Option<UdpSocket>) {
        if self.unwritten.is_empty() {
            return;
        }
        let (file, leases) = (self.file.clone(), self.leases.clone());
        let result = tokio::task::spawn_blocking(move || file.write(&leases)).await;
        let failed = match result {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(e.to_string()),
            Err(e) => Some(e.to_string()),
        };
        for answer in std::mem::take(&mut self.unwritten) {
            if let Some(why) = &failed {
                // A machine without an address would go on with its own disk: worse than an address
                // that may be given again.
                let why = format!(
                    "{}: its lease is not on disk, and its address may be given again after a restart of p2v \
                     serve: {why}",
                    answer.request.mac
                );
                self.machines.noticed(&Notice::Failed { why });
            }
            self.tell(answer, proxy).await;
        }
    }

    async fn tell(&self, answer: Answer, proxy: &Option<UdpSocket>) {
        let Answer {
            request,
            port,
            from,
            reply,
            event,
        } = answer;
        let mac = request.mac;
        if let Some(BootEvent::Given { address }) = event {
            self.peers.learn(address, mac);
        }
        if port == Port::Proxy && !request.ciaddr.is_unspecified() {
            self.peers.learn(request.ciaddr, mac);
        }
        if let Some(event) = event {
            self.machines.seen(mac, &event);
        }
        let Some(reply) = reply else { return };
        let sent = match (port, proxy, from) {
            (Port::Proxy, Some(proxy), Some(from)) => {
                self.send_back(proxy, &request, &reply, from).await
            }
            _ => self.send_frame(&request, &reply),
        };
        if let Err(e) = sent {
            let why = format!("{mac}: cannot send the DHCP answer: {e}");
            self.machines.noticed(&Notice::Failed { why });
        }
    }

    /// Before an address is offered, it is asked for by ARP; whether it must be waited for.
    fn is_to_be_asked_for(&mut self, request: &Request, port: Port, action: &Action) -> bool {
        let Action::Answer(Reply {
            kind: ReplyKind::Offer,
            yours: Some(address),
            ..
        }) = action
        else {
            return false;
        };
        let (address, now) = (*address, Instant::now());
        let Some(arp) = &self.arp else { return false };
        if self.conflicts.is_free(address, now) {
            return false;
        }
        let question = conflict::probe(self.own, address);
        if self.conflicts.wait(address, request.clone(), port, now)
            && let Err(e) = arp.get_ref().send(MacAddr::broadcast(), &question)
        {
            // Offered unasked, as in a network where nobody answers.
            let why = format!("{}: cannot ask by ARP who has {address}: {e}", request.mac);
            self.machines.noticed(&Notice::Failed { why });
        }
        true
    }

    fn in_use(&mut self, address: Ipv4Addr, by: MacAddr, waiting: &Waiting) {
        let mac = waiting.request.mac;
        let Some(range) = &self.server.range else {
            return;
        };
        // Without an address the machine would start its own disk, which may be a second server.
        let offered = range.pool.is_none() && range.fixed.get(&mac) == Some(&address);
        if offered {
            self.conflicts.assume_free(address, Instant::now());
        } else {
            self.leases.found_in_use(address, seconds_since_1970());
        }
        let event = BootEvent::InUse {
            address,
            by,
            offered,
        };
        self.machines.seen(mac, &event);
    }

    /// What is answered, and whether only when the leases are on disk.
    async fn decide(
        &mut self,
        request: Request,
        port: Port,
        from: Option<SocketAddr>,
    ) -> Option<(Answer, bool)> {
        let mac = request.mac;
        let asks = matches!(
            request.message_type,
            MessageType::Discover | MessageType::Request
        );
        let wanted = match request.client {
            // The lists are of machines to boot, but what is denied is left alone altogether.
            ClientKind::Other => !self.settings.denies(mac),
            _ if asks => self.is_to_be_booted(&request).await,
            // What it says of an address counts only for one that it was given here.
            _ => !self.settings.denies(mac),
        };
        if !wanted {
            return None;
        }

        let mut leases = self.leases.clone();
        let action = decide::decide(
            &request,
            port,
            &self.server,
            &mut leases,
            seconds_since_1970(),
        );
        if self.is_to_be_asked_for(&request, port, &action) {
            // Held for it meanwhile.
            self.leases = leases;
            return None;
        }
        let (reply, event) = match action {
            Action::Answer(reply) => {
                let event = answered(&request, port, &reply);
                (Some(reply), event)
            }
            Action::NotForUs => (None, None),
            Action::NotServed(why) => (
                None,
                Some(BootEvent::NotServed {
                    client: request.client,
                    why,
                }),
            ),
            Action::NoAddress(why) => (None, Some(BootEvent::NoAddress { why })),
            Action::Declined(address) => (None, Some(BootEvent::Declined { address })),
            Action::Released => (None, Some(BootEvent::Released)),
            Action::Relayed => (None, Some(BootEvent::Relayed)),
        };
        // Offers are promises of two minutes and need not outlive us.
        let lasting = matches!(
            event,
            Some(BootEvent::Given { .. } | BootEvent::Declined { .. } | BootEvent::Released)
        );
        // What another said may be what changed them, and is not written yet; and nobody's answers overtake each
        // other.
        let waits = |answer: &Answer| answer.request.mac == mac;
        let lasts = lasting && (leases != self.leases || !self.unwritten.is_empty())
            || self.unwritten.iter().any(waits);
        self.leases = leases;
        let answer = Answer {
            request,
            port,
            from,
            reply,
            event,
        };
        Some((answer, lasts))
    }

    /// Whether a client that boots from the network is answered, as far as the caller decides it.
    async fn is_to_be_booted(&mut self, request: &Request) -> bool {
        let (mac, listed) = (request.mac, self.settings.allows(request.mac));
        let machines = Arc::clone(&self.machines);
        let id = request.machine_id.as_deref();
        if let Some(id) = id.and_then(MachineId::from_option) {
            machines.identified(mac, id);
        }
        let decided = tokio::task::spawn_blocking(move || machines.boot_at_first(mac, listed));
        match decided.await {
            Ok(None) => {
                let why = match self.settings.denies(mac) {
                    true => "`deny` in the settings leaves it out".to_owned(),
                    false => format!("nobody has approved it (`p2v approve {mac}`)"),
                };
                if self.is_told_of(mac) {
                    return false;
                }
                self.ignored(request, why)
            }
            Ok(Some(BootDecision::Ignore { why })) => self.ignored(request, why),
            Ok(Some(_)) => {
                self.told_of.remove(&mac);
                true
            }
            Err(e) => {
                // Answered all the same, so that it fetches its menu, which holds it: without an
                // answer it would go on with its own disk.
                let why = format!("{mac}: no decision: {e}");
                self.machines.noticed(&Notice::Failed { why });
                true
            }
        }
    }

    /// Whether it was told lately that this machine is left out: others' machines ask as often as they like, and
    /// anybody can make up addresses.
    fn is_told_of(&mut self, mac: MacAddr) -> bool {
        let told = &mut self.told_of;
        told.retain(|_, when| when.elapsed() < TOLD_FOR);
        if told.len() >= TOLD_MAX || told.contains_key(&mac) {
            return true;
        }
        told.insert(mac, Instant::now());
        false
    }

    /// It is not answered.
    fn ignored(&self, request: &Request, why: String) -> bool {
        if request.message_type == MessageType::Discover {
            let client = request.client;
            self.machines
                .seen(request.mac, &BootEvent::Ignored { client, why });
        }
        false
    }

    /// To a client on port 67: in a frame of our own making, always. One without an address
    /// answers no ARP, so the kernel could not reach it by unicast; one with an address is reached
    /// as well; and the source is the address clients know us by, whatever the routes are.
    fn send_frame(&self, request: &Request, reply: &Reply) -> io::Result<()> {
        let payload = reply
            .encode(request, &self.server)
            .map_err(io::Error::other)?;
        let ends = Ends {
            source: (self.server.address, 67),
            destination: (reply.to, 68),
        };
        let packet = datagram::build(ends, &payload).ok_or(io::ErrorKind::InvalidData)?;
        let to = if reply.to_hardware {
            request.mac
        } else {
            MacAddr::broadcast()
        };
        self.frames.send(to, &packet)
    }

    /// To a client on port 4011, which has an address: where it came from.
    async fn send_back(
        &self,
        socket: &UdpSocket,
        request: &Request,
        reply: &Reply,
        to: SocketAddr,
    ) -> io::Result<()> {
        let payload = reply
            .encode(request, &self.server)
            .map_err(io::Error::other)?;
        socket.send_to(&payload, to).await.map(|_| ())
    }
}

fn answered(request: &Request, port: Port, reply: &Reply) -> Option<BootEvent> {
    Some(match (port, reply.kind, reply.yours) {
        (Port::Proxy, _, _) => BootEvent::ProxyAnswered,
        (_, ReplyKind::Offer, offered) => BootEvent::Asked {
            client: request.client,
            xid: request.xid,
            offered,
            loader: reply.boot.as_ref().map(|boot| boot.file.clone()),
        },
        (_, ReplyKind::Ack, Some(address)) => BootEvent::Given { address },
        (_, ReplyKind::Ack, None) => return None,
        (_, ReplyKind::Nak, _) => {
            let wanted = request.requested.unwrap_or(Ipv4Addr::UNSPECIFIED);
            BootEvent::Refused { wanted }
        }
    })
}

/// The next claim of an address that is heard.
async fn claimed(arp: Option<&AsyncFd<FrameSocket>>) -> io::Result<(Ipv4Addr, MacAddr)> {
    let Some(arp) = arp else {
        return std::future::pending().await;
    };
    let mut buffer = [0; 64];
    loop {
        let mut ready = arp.readable().await?;
        match ready.get_inner().receive(&mut buffer) {
            Ok(Some(len)) => {
                if let Some(claim) = conflict::claim(buffer.get(..len).unwrap_or_default()) {
                    return Ok(claim);
                }
            }
            Ok(None) => ready.clear_ready(),
            // The interface went down: it may come back.
            Err(e) if e.raw_os_error() == Some(libc::ENETDOWN) => ready.clear_ready(),
            Err(e) => return Err(e),
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}

fn seconds_since_1970() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
