//! The Xen host: Xen 4.17 and a Debian dom0 under software emulation.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::artifacts::Artifacts;
use crate::debian::{self, Drive, Parts};
use crate::machine::Machine;
use crate::saved_host;
use crate::shell::Shell;

/// The MAC address of its bridge: what the old machines' agents answer.
pub const MAC: &str = "52:54:00:aa:00:01";

/// The name of its files.
const NAME: &str = "xen-host";
/// The disk that its volume group `vg0` is on.
pub(crate) const VOLUMES: &str = "volumes.img";

/// What only some stories use: a second network card, to QEMU's user network, and a place for one more disk.
const SPARE: &[&str] = &[
    "-netdev",
    "user,id=spare",
    "-device",
    "virtio-net-pci,netdev=spare,mac=52:54:00:aa:00:03",
    "-device",
    "pcie-root-port,id=spare-slot,chassis=9",
];

/// Settings that fit the lab: what an operator would write in `/etc/p2v/p2v.toml`.
pub const SETTINGS: &str = r#"
iface = "xenbr0"

[serve]
mode = "dhcp"
allow = ["*"]
pool = { start = "192.168.7.200", end = "192.168.7.250" }

[xen]
bridge = "xenbr0"
serial = "/var/log/xen"
discovery_seconds = 1
"#;

/// A running Xen host; its commands are those of [`Shell`].
pub struct XenHost {
    // Before the machine, so that it is closed first.
    shell: Shell,
    machine: Machine,
    work: PathBuf,
}

impl XenHost {
    /// Starts it where the saved one stopped (see [`saved_host`]), with disks of its own in `work`.
    ///
    /// # Errors
    /// There is no saved one and none can be made, or it does not go on.
    pub fn start(artifacts: &Artifacts, work: &Path) -> Result<XenHost> {
        let saved = saved_host::find(artifacts)?;
        saved.disks(work)?;
        let running = with_parts(artifacts, work, NAME, |parts| {
            debian::resume(work, parts, &saved.state())
        })?;
        Ok(Self::new(running, work))
    }

    /// Makes its disks in `work` and boots it.
    ///
    /// # Errors
    /// Its disks cannot be made, or it is not ready in time.
    pub fn boot(artifacts: &Artifacts, work: &Path) -> Result<XenHost> {
        artifacts.payload(work, SETTINGS)?;
        debian::fresh_root(artifacts, work)?;
        File::create(work.join(VOLUMES))?.set_len(2 << 30)?;
        let running = with_parts(artifacts, work, NAME, |parts| debian::boot(work, parts))?;
        let mut host = Self::new(running, work);
        host.ok("pvcreate -q /dev/disk/by-id/virtio-volumes && vgcreate -q vg0 /dev/disk/by-id/virtio-volumes")?;
        Ok(host)
    }

    /// Ends it in order and starts it again with the same disks.
    ///
    /// # Errors
    /// It takes no command, or is not ready again in time.
    pub fn restart(mut self, artifacts: &Artifacts) -> Result<XenHost> {
        self.run(
            "vgchange -an vg0 >/dev/null 2>&1; sync; mount -o remount,ro / 2>/dev/null; sync",
        )?;
        self.start_again(artifacts)
    }

    /// Takes its power away, and starts it again with the same disks.
    ///
    /// # Errors
    /// QEMU does not end, or it is not ready again in time.
    pub fn power_cut(mut self, artifacts: &Artifacts) -> Result<XenHost> {
        // Killed, QEMU takes tables of the root file system's image with it.
        debian::quit(&self.work, NAME, &mut self.machine)?;
        self.start_again(artifacts)
    }

    fn start_again(self, artifacts: &Artifacts) -> Result<XenHost> {
        let work = self.work.clone();
        drop(self);
        let running = with_parts(artifacts, &work, "xen-host-again", |parts| {
            debian::boot(&work, parts)
        })?;
        Ok(Self::new(running, &work))
    }

    /// Stops it and writes it to `state`; its disks in its directory are as it needs them.
    pub(crate) fn save(&mut self, state: &Path) -> Result<()> {
        debian::save(&self.work, NAME, &mut self.shell, &mut self.machine, state)
    }

    fn new((shell, machine): (Shell, Machine), work: &Path) -> XenHost {
        XenHost {
            shell,
            machine,
            work: work.to_owned(),
        }
    }
}

/// QEMU's arguments for it, with its files in `work`.
pub(crate) fn arguments(artifacts: &Artifacts, work: &Path) -> Vec<String> {
    with_parts(artifacts, work, NAME, |parts| {
        debian::arguments(work, parts)
    })
}

fn with_parts<T>(
    artifacts: &Artifacts,
    work: &Path,
    name: &str,
    then: impl FnOnce(&Parts<'_>) -> T,
) -> T {
    let file = |name: &str| artifacts.xen_host.join(name).display().to_string();
    then(&Parts {
        name,
        prompt: "xenhost",
        processor: "qemu64,+svm,+npt,+x2apic,+ssse3,+sse4.1,+sse4.2,+popcnt",
        memory: 4096,
        kernel: [
            file("xen"),
            "com1=115200,8n1 console=com1 dom0_mem=1536M,max:1536M".to_owned(),
            format!(
                // On a busy machine its kernel would call the emulated time stamp counter unstable, go over to Xen's clock,
                // and never wake who sleeps.
                "{} root=/dev/vda rw console=hvc0 net.ifnames=0 tsc=reliable init=/lab-init,{}",
                file("vmlinuz"),
                file("initrd")
            ),
        ],
        ready: "lab: xen host ready",
        drives: &[Drive::new(&work.join(VOLUMES), "volumes")],
        more: SPARE,
    })
}

impl Deref for XenHost {
    type Target = Shell;

    fn deref(&self) -> &Shell {
        &self.shell
    }
}

impl DerefMut for XenHost {
    fn deref_mut(&mut self) -> &mut Shell {
        &mut self.shell
    }
}

impl Drop for XenHost {
    fn drop(&mut self) {
        // What the product's service and the domains said is kept with the run's logs.
        if self.machine.is_running() {
            self.shell.echo(false);
            for (file, log) in [
                ("cat /var/log/p2v-serve.log", "p2v-serve.log"),
                ("cat /var/log/p2v-watch.log", "p2v-watch.log"),
                ("tail -n +1 /var/log/xen/*", "xen-logs.log"),
                ("tail -n +1 /var/lib/p2v/machines/*", "records.log"),
                ("tail -n +1 /etc/xen/*.cfg", "domain-configs.log"),
            ] {
                if let Ok(outcome) = self.shell.run_within(file, Duration::from_secs(20)) {
                    let _ = std::fs::write(self.work.join(log), outcome.out + &outcome.err);
                }
            }
        }
    }
}
