//! The Xen host: Xen 4.17 and a Debian dom0 under software emulation.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::artifacts::{Artifacts, checked};
use crate::debian::{self, Drive, Parts};
use crate::machine::Machine;
use crate::shell::Shell;

/// The MAC address of its bridge: what the old machines' agents answer.
pub const MAC: &str = "52:54:00:aa:00:01";

/// Settings that fit the lab: what an operator would write in `/etc/p2v/p2v.toml`.
pub const SETTINGS: &str = r#"
iface = "xenbr0"

[serve]
mode = "dhcp"
pool = { start = "192.168.7.200", end = "192.168.7.250" }

[xen]
bridge = "xenbr0"
serial = "/var/log/xen"
"#;

/// A running Xen host; its commands are those of [`Shell`].
pub struct XenHost {
    // Before the machine, so that it is closed first.
    shell: Shell,
    machine: Machine,
    work: PathBuf,
    more: &'static [&'static str],
}

impl XenHost {
    /// Makes its disks in `work` and starts it.
    pub fn start(artifacts: &Artifacts, work: &Path, settings: &str) -> Result<XenHost> {
        Self::start_with(artifacts, work, settings, &[])
    }

    /// The same with more options for QEMU.
    pub fn start_with(
        artifacts: &Artifacts,
        work: &Path,
        settings: &str,
        more: &'static [&'static str],
    ) -> Result<XenHost> {
        artifacts.payload(work, settings)?;
        debian::fresh_root(artifacts, work)?;
        checked(
            Command::new("truncate")
                .args(["-s", "2G"])
                .arg(work.join("volumes.img")),
        )?;
        let mut host = Self::boot(artifacts, work, "xen-host", more)?;
        host.run("pvcreate -q /dev/disk/by-id/virtio-volumes && vgcreate -q vg0 /dev/disk/by-id/virtio-volumes")?
            .success()?;
        Ok(host)
    }

    fn boot(
        artifacts: &Artifacts,
        work: &Path,
        name: &str,
        more: &'static [&'static str],
    ) -> Result<XenHost> {
        let file = |name: &str| artifacts.xen_host.join(name).display().to_string();
        let parts = Parts {
            name,
            prompt: "xenhost",
            processor: "qemu64,+svm,+npt,+x2apic,+ssse3,+sse4.1,+sse4.2,+popcnt",
            memory: 4096,
            kernel: [
                file("xen"),
                "com1=115200,8n1 console=com1 dom0_mem=1536M,max:1536M".to_owned(),
                format!(
                    "{} root=/dev/vda rw console=hvc0 net.ifnames=0 init=/lab-init,{}",
                    file("vmlinuz"),
                    file("initrd")
                ),
            ],
            ready: "lab: xen host ready",
            drives: &[Drive::new(&work.join("volumes.img"), "volumes")],
            more,
        };
        let (shell, machine) = debian::boot(work, &parts)?;
        Ok(XenHost {
            shell,
            machine,
            work: work.to_owned(),
            more,
        })
    }

    /// Ends it in order and starts it again with the same disks.
    pub fn restart(mut self, artifacts: &Artifacts) -> Result<XenHost> {
        self.run(
            "vgchange -an vg0 >/dev/null 2>&1; sync; mount -o remount,ro / 2>/dev/null; sync",
        )?;
        let (work, more) = (self.work.clone(), self.more);
        drop(self);
        Self::boot(artifacts, &work, "xen-host-again", more)
    }
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
