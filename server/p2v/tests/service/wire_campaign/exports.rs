//! The old machines' disks, each exported by a real `p2v-agent`, and all that must stay as it is of them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use p2v_aoe::acl::{MacMask, Reserve};
use p2v_aoe::frame::{self, Header, command};
use p2v_aoe::initiator::Initiator;
use p2v_aoe::wire::{PacketSocket, Wire as _};
use p2v_contract::key::SecretKey;
use p2v_contract::operation::{Access, Order, Reply, Request, Reservation, op};
use p2v_contract::{Address, MacAddr};

use super::cast::{EXPORTS, HOST};
use super::network::{BRIDGE, Network};
use super::recorded::Recorded;
use crate::wire::{LIMIT, Service};

/// Sectors of each disk.
pub const SECTORS: u64 = 2051;
/// Bytes that the host writes at the start, where it may.
const WRITTEN: usize = 7 * 512;

/// An agent that has not answered the host for so long has been made not to.
const SILENCE: Duration = Duration::from_secs(100);

/// What is exported, in the order of [`EXPORTS`]: three take orders, and are read-only and reserved, read-write, and waiting.
pub const KINDS: [Kind; 4] = [Kind::Reserved, Kind::ReadWrite, Kind::Waiting, Kind::Plain];
pub const READ_WRITE: usize = 1;
/// Takes no orders: read-only, and with a list.
pub const PLAIN: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Reserved,
    ReadWrite,
    Waiting,
    Plain,
}

impl Kind {
    /// As its counters tell it.
    fn access(self) -> u64 {
        match self {
            Kind::Reserved | Kind::Plain => 0,
            Kind::ReadWrite => 1,
            Kind::Waiting => 2,
        }
    }

    fn holders(self) -> Vec<MacAddr> {
        match self {
            Kind::Reserved => vec![HOST],
            _ => Vec::new(),
        }
    }
}

struct Export {
    kind: Kind,
    address: Address,
    mac: MacAddr,
    boot_id: String,
    disk: PathBuf,
    content: blake3::Hash,
    /// Sectors that were written before anybody else came: a write that was sent twice counts twice.
    written: Option<u64>,
    agent: Service,
}

/// All of them, and the host's end: to be used on the host.
pub struct Exports {
    all: Vec<Export>,
    key: SecretKey,
    /// Of the last order.
    counter: u64,
    wire: PacketSocket,
    tag: u32,
}

fn agent(network: &Network, dir: &Path, number: usize, key: &SecretKey) -> Service {
    let program = Path::new(env!("CARGO_BIN_EXE_p2v")).with_file_name("p2v-agent");
    assert!(
        program.exists(),
        "{} is not there: cargo build -p p2v-agent",
        program.display()
    );
    let (address, _) = EXPORTS[number];
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", &network.old.0])
        .arg(program)
        .arg("export")
        .args(["--shelf", &address.shelf.to_string(), "--slot", "0"])
        .args(["--iface", &format!("old{number}")])
        .args(["--allow", &HOST.to_string()]);
    match KINDS[number] {
        Kind::Plain => command.arg("--read-only"),
        _ => command.args(["--waiting", "--key", &key.public().to_string()]),
    };
    command.arg(dir.join(format!("disk{number}")));
    let log = File::create(log(dir, number)).unwrap();
    Service(
        command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap(),
    )
}

fn log(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("agent{number}.log"))
}

/// Bytes of each agent's log.
pub fn log_bytes(dir: &Path) -> Vec<u64> {
    let bytes = |number| fs::metadata(log(dir, number)).unwrap().len();
    (0..EXPORTS.len()).map(bytes).collect()
}

/// Starts the agents.
pub fn start(network: &Network, dir: &Path, key: &SecretKey) -> Vec<Service> {
    let start = |number: usize| {
        let sector = |at: u64| vec![(at % 251) as u8 ^ number as u8; 512];
        let data: Vec<u8> = (0..SECTORS).flat_map(sector).collect();
        fs::write(dir.join(format!("disk{number}")), data).unwrap();
        agent(network, dir, number, key)
    };
    (0..EXPORTS.len()).map(start).collect()
}

impl Exports {
    /// Meets the agents, and orders what they shall be; the frames of these orders go to `orders`.
    pub fn meet(
        agents: Vec<Service>,
        dir: &Path,
        key: SecretKey,
        orders: &Arc<Mutex<Vec<Vec<u8>>>>,
    ) -> Exports {
        let kept = Arc::clone(orders);
        let open =
            move || Ok(Arc::new(Recorded::open(BRIDGE, &kept)?) as Arc<dyn p2v_aoe::wire::Wire>);
        let initiator = Initiator::over(BRIDGE.into(), open).unwrap();
        assert_eq!(initiator.mac(), HOST);
        let mut counter = 1 << 40;
        let mut all = Vec::new();
        for (number, agent) in agents.into_iter().enumerate() {
            let (kind, (address, mac)) = (KINDS[number], EXPORTS[number]);
            let until = Instant::now() + LIMIT;
            let mut session = loop {
                match initiator.attach(address) {
                    Ok(session) => break session,
                    Err(error) => assert!(Instant::now() < until, "{error}"),
                }
            };
            assert_eq!(session.mac(), mac);
            let boot_id = session.inventory().unwrap().boot_id;
            let mut access = |session: &mut p2v_aoe::initiator::Session, access| {
                counter += 1;
                session.access(&key, counter, access).unwrap();
            };
            if matches!(kind, Kind::Reserved | Kind::ReadWrite) {
                access(&mut session, Access::ReadWrite);
                session.write(0, &[0x77; WRITTEN]).unwrap();
            }
            if kind == Kind::Reserved {
                access(&mut session, Access::ReadOnly);
                for reservation in [Reservation::Take, Reservation::End, Reservation::Take] {
                    counter += 1;
                    session
                        .reserve_by_order(&key, counter, reservation)
                        .unwrap();
                }
            }
            let disk = dir.join(format!("disk{number}"));
            let content = blake3::hash(&fs::read(&disk).unwrap());
            all.push(Export {
                kind,
                address,
                mac,
                boot_id,
                disk,
                content,
                written: None,
                agent,
            });
        }
        Exports {
            all,
            key,
            counter,
            wire: PacketSocket::open(BRIDGE).unwrap(),
            tag: 0x8000_0000,
        }
    }

    /// The agents' starts.
    pub fn boot_ids(&self) -> Vec<String> {
        self.all
            .iter()
            .map(|export| export.boot_id.clone())
            .collect()
    }

    pub fn processes(&self) -> Vec<u32> {
        self.all.iter().map(|export| export.agent.0.id()).collect()
    }

    /// The body of the answer to a request of the host's.
    fn ask(&mut self, number: usize, command: u8, body: &[u8]) -> Vec<u8> {
        let export = &self.all[number];
        self.tag += 1;
        let header = Header::request(HOST, export.mac, export.address, command, self.tag);
        let question = [header.frame(&[body])];
        let until = Instant::now() + SILENCE;
        let mut answer = None;
        while answer.is_none() {
            assert!(Instant::now() < until, "{} does not answer", export.address);
            self.wire.send(&question).unwrap();
            let sent = Instant::now();
            while answer.is_none() && sent.elapsed() < Duration::from_secs(1) {
                let mut each = |bytes: &[u8]| {
                    if let Ok((header, body)) = frame::parse(bytes)
                        && header.response
                        && (header.source, header.tag) == (export.mac, self.tag)
                    {
                        assert_eq!(header.error, None, "{}: {header:?}", export.address);
                        answer = Some(body.to_vec());
                    }
                };
                self.wire
                    .receive(Duration::from_millis(200), &mut each)
                    .unwrap();
            }
        }
        answer.unwrap()
    }

    fn vendor(&mut self, number: usize, request: &Request) -> Reply {
        let answer = self.ask(number, command::P2V, &request.to_bytes());
        Reply::parse(&answer).unwrap()
    }

    /// Gives the next order, which changes nothing. It is carried out only if nobody else's has used a counter up.
    fn order(&mut self, number: usize) {
        let kind = self.all[number].kind;
        let (operation, argument) = match kind {
            Kind::Reserved => (op::ACCESS, Access::ReadOnly as u8),
            Kind::ReadWrite => (op::ACCESS, Access::ReadWrite as u8),
            Kind::Waiting => (op::RESERVE, Reservation::End as u8),
            Kind::Plain => return,
        };
        self.counter += 1;
        let export = &self.all[number];
        let order = Order {
            boot_id: &export.boot_id,
            sender: HOST,
            target: export.address,
            operation,
            argument,
            counter: self.counter,
            stations: &[],
        };
        let control = order.signed(&self.key);
        let request = match operation {
            op::ACCESS => Request::Access(control),
            _ => Request::Reserve {
                control,
                stations: Vec::new(),
            },
        };
        let done = Reply::Done {
            operation,
            argument,
            counter: self.counter,
        };
        assert_eq!(
            self.vendor(number, &request),
            done,
            "{kind:?}: the order's counter"
        );
    }

    /// That nothing has changed; returns the frames that came to each agent, and those for which it had no room.
    pub fn check(&mut self) -> Vec<[u64; 3]> {
        let mut counts = Vec::new();
        for number in 0..self.all.len() {
            let export = &mut self.all[number];
            let (kind, address) = (export.kind, export.address);
            let ended = export.agent.0.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "the agent of {address} has ended: {ended:?}"
            );
            let content = blake3::hash(&fs::read(&export.disk).unwrap());
            assert_eq!(content, export.content, "{kind:?}: the disk of {address}");
            let list = self.ask(number, command::MAC_MASK, &MacMask::default().to_bytes());
            let list = MacMask::parse(&list).unwrap().directives;
            let list: Vec<MacAddr> = list.iter().map(|entry| entry.mac).collect();
            assert_eq!(list, [HOST], "{kind:?}: the list of {address}");
            let held = self.ask(number, command::RESERVE, &Reserve::default().to_bytes());
            let held = Reserve::parse(&held).unwrap().macs;
            assert_eq!(
                held,
                kind.holders(),
                "{kind:?}: the reservation of {address}"
            );
            self.order(number);
            let Reply::Stats(stats) = self.vendor(number, &Request::Stats) else {
                panic!("{address} gives no counters");
            };
            let of = |name| stats.get(name).unwrap();
            assert_eq!(
                of("read_write"),
                kind.access(),
                "{kind:?}: the state of {address}"
            );
            let written = *self.all[number]
                .written
                .get_or_insert(of("sectors_written"));
            assert_eq!(
                of("sectors_written"),
                written,
                "{kind:?}: what was written to {address}"
            );
            counts.push(["requests", "frames_dropped", "control_refused"].map(of));
        }
        counts
    }
}
