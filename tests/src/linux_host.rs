//! A host of plain Linux: Debian's kernel without Xen, for what needs the kernel's `aoe` driver or
//! `netem` and no domain. It is up in a fraction of the time that the Xen host takes.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use crate::artifacts::Artifacts;
use crate::debian::{self, Drive, Parts};
use crate::machine::Machine;
use crate::monitor::Monitor;
use crate::shell::Shell;
use crate::xen_host::SETTINGS;

const NAME: &str = "linux-host";

/// Two network cards with a cable from the one to the other: `eth1` and `eth2`. Unlike a `veth` pair
/// it copies frames as real cards do. That matters: the `aoe` driver sends the pages of the request
/// itself, and what is still queued when a request ends (a doubled frame, say) would change under way.
const LOOP: &[&str] = &[
    "-netdev",
    "hubport,id=near,hubid=1",
    "-device",
    "virtio-net-pci,netdev=near,mac=52:54:00:aa:01:01",
    "-netdev",
    "hubport,id=far,hubid=1",
    "-device",
    "virtio-net-pci,netdev=far,mac=52:54:00:aa:01:02",
];

/// A running host; its commands are those of [`Shell`].
pub struct LinuxHost {
    // Before the machine, so that it is closed first.
    shell: Shell,
    _machine: Machine,
    work: PathBuf,
}

impl LinuxHost {
    /// Starts it with `drives`. Its first network card is the wire at `wire.sock` in `work`.
    ///
    /// # Errors
    /// Its disks cannot be made, or it is not ready in time.
    pub fn start(artifacts: &Artifacts, work: &Path, drives: &[Drive]) -> Result<LinuxHost> {
        artifacts.payload(work, SETTINGS)?;
        debian::fresh_root(artifacts, work)?;
        let file = |name: &str| artifacts.xen_host.join(name).display().to_string();
        let parts = Parts {
            name: NAME,
            prompt: "linux",
            processor: "qemu64,+x2apic,+ssse3,+sse4.1,+sse4.2,+popcnt",
            memory: 1024,
            kernel: [
                file("vmlinuz"),
                "root=/dev/vda rw console=ttyS0 net.ifnames=0 init=/lab-init".to_owned(),
                file("initrd"),
            ],
            ready: "lab: linux host ready",
            drives,
            more: LOOP,
        };
        let (shell, machine) = debian::boot(work, &parts)?;
        Ok(LinuxHost {
            shell,
            _machine: machine,
            work: work.to_owned(),
        })
    }

    /// Connects its wire with another machine's, at that one's `socket`. Its card has the Xen host's address until it is given
    /// another.
    ///
    /// # Errors
    /// QEMU cannot be reached, or refuses.
    pub fn join(&self, socket: &Path) -> Result<()> {
        let mut monitor = Monitor::open(&debian::monitor(&self.work, NAME))?;
        let address = json!({ "type": "unix", "path": socket });
        let stream = json!({ "type": "stream", "id": "other", "server": false, "addr": address });
        monitor.execute("netdev_add", &stream)?;
        let port = json!({ "type": "hubport", "id": "port-other", "hubid": 0, "netdev": "other" });
        monitor.execute("netdev_add", &port)?;
        Ok(())
    }
}

impl Deref for LinuxHost {
    type Target = Shell;

    fn deref(&self) -> &Shell {
        &self.shell
    }
}

impl DerefMut for LinuxHost {
    fn deref_mut(&mut self) -> &mut Shell {
        &mut self.shell
    }
}
