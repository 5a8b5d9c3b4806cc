//! From power-on to a disk on the wire: `p2v serve` and our image, beside the least that anybody would
//! put together by hand for the same machine, the same kernel and the same disk.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use p2v_aoe::initiator::Initiator;
use p2v_lab::artifacts::Artifacts;
use p2v_lab::disk::Disk;
use p2v_lab::local_host::{self, LocalHost, with_own_network};
use p2v_lab::old_server::{IDE_PC, OldServer, TAP};
use serde::Serialize;

mod minimal;

const NAME: &str = "power-on to exported, PC with an Intel card";
const DISK_BYTES: u64 = 64 << 20;
/// How long one look for a target takes: no figure is finer than this.
const LOOK: Duration = Duration::from_millis(40);
/// A machine whose disk is not on the wire by then does not start.
const LIMIT: Duration = Duration::from_secs(240);

/// What the machine boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum SetUp {
    P2v,
    Minimal,
}

/// The only row.
pub struct Row;

impl Row {
    pub fn name(&self) -> String {
        NAME.to_owned()
    }
}

pub fn all() -> Vec<Row> {
    vec![Row]
}

/// One start.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Taken {
    /// From power-on until a session with the exported disk stood.
    pub seconds: f64,
    /// What the machine's processor, emulated by QEMU, had to do for it.
    pub cpu_seconds: f64,
}

/// The median start of each.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    name: &'static str,
    p2v: Taken,
    minimal: Taken,
}

/// Measures so many starts of each, by turns.
pub fn measure(directory: &Path, rounds: usize) -> Result<Measured> {
    let artifacts = Artifacts::without_xen()?;
    let work = directory.join("power-on");
    fs::create_dir_all(&work)?;
    let work = work.canonicalize()?;
    let minimal = minimal::make(&artifacts, &work)?;
    let mut taken = [(SetUp::P2v, vec![]), (SetUp::Minimal, vec![])];
    for _ in 0..rounds {
        for (set_up, list) in &mut taken {
            let one = in_own_network(*set_up, &artifacts, &minimal, &work);
            list.push(one.with_context(|| format!("{NAME}, {set_up:?}"))?);
        }
    }
    let [p2v, minimal] = taken.map(|(_, mut list)| {
        list.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        list[list.len() / 2]
    });
    Ok(Measured {
        name: NAME,
        p2v,
        minimal,
    })
}

fn in_own_network(
    set_up: SetUp,
    artifacts: &Artifacts,
    minimal: &Path,
    work: &Path,
) -> Result<Taken> {
    let (artifacts, minimal, work) = (artifacts.clone(), minimal.to_owned(), work.to_owned());
    let (send, taken) = std::sync::mpsc::channel();
    with_own_network(move || {
        // Nobody listens any more only if this thread's caller is gone.
        let _ = send.send(once(set_up, &artifacts, &minimal, &work));
    });
    taken.recv()?
}

fn once(set_up: SetUp, artifacts: &Artifacts, minimal: &Path, work: &Path) -> Result<Taken> {
    let state = work.join("state");
    if state.exists() {
        fs::remove_dir_all(state)?;
    }
    let disk = Disk::with_pattern(&work.join("old.disk"), DISK_BYTES)?;
    let _host: Box<dyn std::any::Any> = match set_up {
        SetUp::P2v => Box::new(LocalHost::start(artifacts, work)?),
        SetUp::Minimal => Box::new(Dnsmasq::start(minimal, work)?),
    };
    wait_until_served()?;
    let before = children_seconds()?;
    let begun = Instant::now();
    let file = disk.path.display().to_string();
    let mut old = OldServer::power_on_at_tap(work, &file, ",cache=writethrough", IDE_PC)?;
    let initiator = Initiator::open(TAP)?;
    let seconds = loop {
        if let Some(found) = initiator.discover(LOOK)?.first() {
            let mut session = initiator.attach(found.address)?;
            let mut sector = [0; 512];
            session.read(0, &mut sector)?;
            break begun.elapsed().as_secs_f64();
        }
        if !old.is_on() || begun.elapsed() > LIMIT {
            bail!(
                "the machine's disk is not on the wire:\n{}",
                old.console_text()
            );
        }
    };
    drop(old);
    Ok(Taken {
        seconds,
        cpu_seconds: children_seconds()? - before,
    })
}

/// Processor seconds of the programs that have ended: of the old machine, when it is off.
fn children_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// Until the server asks for DHCP requests.
fn wait_until_served() -> Result<()> {
    let until = Instant::now() + LIMIT;
    // The port, as the kernel's table of this network writes it.
    while !fs::read_to_string("/proc/thread-self/net/udp")?.contains(":0043 ") {
        if Instant::now() > until {
            bail!("nobody serves DHCP: the logs are beside the disk");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// DHCP and TFTP as anybody would set it up.
struct Dnsmasq(Child);

impl Dnsmasq {
    fn start(root: &Path, work: &Path) -> Result<Dnsmasq> {
        local_host::make_tap()?;
        let log = File::create(work.join("dnsmasq.log"))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "dnsmasq", "--keep-in-foreground"])
            .args([
                "--conf-file=/dev/null",
                "--pid-file",
                "--port=0",
                "--user=root",
            ])
            .arg(format!("--interface={TAP}"))
            .args([
                "--bind-interfaces",
                "--dhcp-range=192.168.7.200,192.168.7.250",
            ])
            .arg(format!(
                "--dhcp-leasefile={}",
                work.join("leases").display()
            ))
            .args(["--dhcp-boot=pxelinux.0", "--enable-tftp"])
            .arg(format!("--tftp-root={}", root.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run dnsmasq (`make setup` installs it)")?;
        Ok(Dnsmasq(child))
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Measured {
    pub fn print(&self) {
        println!("{}", self.name);
        for (name, taken) in [("p2v", self.p2v), ("minimal", self.minimal)] {
            println!(
                "  {name:10} {:>6.2} s  {:>6.2} s of the old machine's processor",
                taken.seconds, taken.cpu_seconds
            );
        }
        let ratio = self.p2v.seconds / self.minimal.seconds;
        let verdict = if ratio <= 1.2 {
            "reached    "
        } else {
            "NOT reached"
        };
        println!(
            "  {verdict} {ratio:6.2} (at most 1.2) of dnsmasq, pxelinux.0, busybox and vblade"
        );
    }
}
