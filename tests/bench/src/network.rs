//! Two network namespaces, joined by a veth pair.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The address of the target's end, where it has one.
pub const TARGET_IP: &str = "10.89.0.1";
/// The same of the load's.
const LOAD_IP: &str = "10.89.0.2";

/// Removes the namespaces of a run that was interrupted.
pub fn clear_up() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output() else {
        return;
    };
    for name in String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().next())
    {
        let pid = name
            .strip_prefix("p2v-bench-")
            .and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// Two namespaces, joined by a veth pair.
pub struct Network {
    pub target: String,
    pub load: String,
}

impl Network {
    /// The interfaces are `target0` and `load0`.
    pub fn new(mtu: u32) -> Result<Network> {
        let pid = std::process::id();
        let network = Network {
            target: format!("p2v-bench-{pid}-target"),
            load: format!("p2v-bench-{pid}-load"),
        };
        let (target, load) = (&network.target, &network.load);
        ip(&format!("netns add {target}"))?;
        ip(&format!("netns add {load}"))?;
        ip(&format!(
            "link add target0 netns {target} mtu {mtu} type veth peer name load0 netns {load} mtu {mtu}"
        ))?;
        ip(&format!("-n {target} link set target0 up"))?;
        ip(&format!("-n {load} link set load0 up"))?;
        Ok(network)
    }

    /// Gives both ends an IPv4 address, for who cannot do without.
    pub fn with_addresses(&self) -> Result<()> {
        ip(&format!(
            "-n {} address add {TARGET_IP}/24 dev target0",
            self.target
        ))?;
        ip(&format!(
            "-n {} address add {LOAD_IP}/24 dev load0",
            self.load
        ))
    }

    /// So many addresses at the load's end, its own among them.
    pub fn with_more_load_addresses(&self, count: u8) -> Result<Vec<String>> {
        let mut addresses = vec![LOAD_IP.to_owned()];
        for number in 1..count {
            let address = format!("10.89.0.{}", 100 + number);
            ip(&format!(
                "-n {} address add {address}/24 dev load0",
                self.load
            ))?;
            addresses.push(address);
        }
        Ok(addresses)
    }

    /// Has TCP cut its data into frames of the MTU itself, as AoE does: a veth would hand it over in
    /// pieces of 64 KiB that no wire carries.
    pub fn without_offloads(&self) -> Result<()> {
        for (namespace, iface) in self.ends() {
            let words = format!(
                "netns exec {namespace} ethtool -K {iface} tso off gso off gro off tx-udp-segmentation off"
            );
            ip(&words)?;
        }
        Ok(())
    }

    /// Makes it a wire of so many bits a second in each direction. Every frame counts with the 24 bytes
    /// that it takes on a real wire beside those that the kernel counts (preamble 8, check sequence 4,
    /// gap 12; IEEE 802.3); TCP must not queue several as one for that. The queue takes a thousand frames, as that of an Ethernet interface does, and
    /// what was not sent is made up for by half a millisecond's worth at the most, or two frames.
    pub fn slow_down(&self, bits: u64, mtu: u32) -> Result<()> {
        // A frame that is longer than the burst would never be sent.
        let burst = (bits / 8 / 2000).max(2 * u64::from(mtu + 38));
        let limit = 1000 * (mtu + 14);
        for (namespace, iface) in self.ends() {
            ip(&format!(
                "-n {namespace} link set dev {iface} gso_max_segs 1"
            ))?;
            run(
                "tc",
                &format!(
                    "-n {namespace} qdisc add dev {iface} root stab overhead 24 linklayer ethernet \
                     tbf rate {bits}bit burst {burst} limit {limit}"
                ),
            )?;
        }
        Ok(())
    }

    /// Whether somebody in the target's namespace listens on this TCP port.
    pub fn listens(&self, port: u16) -> Result<bool> {
        self.has_socket("-Hltn", port)
    }

    /// The same of a UDP port.
    pub fn hears(&self, port: u16) -> Result<bool> {
        self.has_socket("-Hlun", port)
    }

    fn has_socket(&self, kind: &str, port: u16) -> Result<bool> {
        let words = ["netns", "exec", &self.target, "ss", kind];
        let output = Command::new("ip").args(words).output()?;
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        let end = format!(":{port}");
        Ok(table
            .split_whitespace()
            .any(|address| address.ends_with(&end)))
    }

    fn ends(&self) -> [(&str, &str); 2] {
        [(&self.target, "target0"), (&self.load, "load0")]
    }

    /// A command in a namespace, wherever the kernel puts it.
    pub fn command_anywhere(&self, namespace: &str, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).args(words);
        command
    }

    /// A command in a namespace, on a processor of its own: whether the two ends happen to share one
    /// would otherwise decide the figures with one request in flight.
    pub fn command(&self, namespace: &str, processor: usize, words: &[&str]) -> Command {
        let mut command = self.command_anywhere(namespace, &[]);
        if std::thread::available_parallelism().is_ok_and(|n| n.get() > processor) {
            command.args(["taskset", "-c", &processor.to_string()]);
        }
        command.args(words);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.target, &self.load] {
            let _ = ip(&format!("netns del {namespace}"));
        }
    }
}

fn ip(arguments: &str) -> Result<()> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &str) -> Result<()> {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .context("iproute2 is not installed")?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {arguments}: {} (root is needed)", error.trim());
    }
    Ok(())
}
