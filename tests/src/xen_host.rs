//! The Xen host: Xen 4.17 and a Debian dom0 under software emulation.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::artifacts::{Artifacts, checked};
use crate::console::Console;
use crate::control::{Control, Outcome};
use crate::machine::Machine;

/// The MAC address of its bridge: what the old machines' agents answer.
pub const MAC: &str = "52:54:00:aa:00:01";
/// Generous: two emulated machines on two busy cores.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// Silence of a command after which it counts as stuck.
const SILENCE_LIMIT: Duration = Duration::from_secs(400);

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

/// A running Xen host.
pub struct XenHost {
    // Before the machine, so that it is closed first.
    control: Control,
    machine: Machine,
    console: Console,
    work: PathBuf,
    echo: bool,
    started: Instant,
}

impl XenHost {
    /// Makes its disks in `work` and starts it.
    pub fn start(artifacts: &Artifacts, work: &Path, settings: &str) -> Result<XenHost> {
        artifacts.payload(work, settings)?;
        checked(
            Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
                .arg(artifacts.xen_host.join("dom0.img"))
                .arg(work.join("dom0.qcow2")),
        )?;
        checked(
            Command::new("truncate")
                .args(["-s", "2G"])
                .arg(work.join("volumes.img")),
        )?;
        let mut host = Self::boot(artifacts, work, "xen-host")?;
        host.run("pvcreate -q /dev/disk/by-id/virtio-volumes && vgcreate -q vg0 /dev/disk/by-id/virtio-volumes")?
            .success()?;
        Ok(host)
    }

    fn boot(artifacts: &Artifacts, work: &Path, name: &str) -> Result<XenHost> {
        let console = Console::new(work.join(format!("{name}.log")));
        let socket = work.join("control.sock");
        let _ = std::fs::remove_file(&socket);
        let files = &artifacts.xen_host;
        let drive = |file: &str, format: &str, serial: &str, options: &str| {
            [
                "-drive".to_owned(),
                format!(
                    "file={},format={format},if=none,id={serial}{options}",
                    work.join(file).display()
                ),
                "-device".to_owned(),
                format!("virtio-blk-pci,drive={serial},serial={serial}"),
            ]
        };
        let mut arguments: Vec<String> = [
            "-M",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "qemu64,+svm,+npt,+x2apic,+ssse3,+sse4.1,+sse4.2,+popcnt",
            "-smp",
            "2",
            "-m",
            "4096",
            "-display",
            "none",
            "-no-reboot",
            "-monitor",
            "none",
            "-append",
            "com1=115200,8n1 console=com1 dom0_mem=1536M,max:1536M",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.extend([
            "-kernel".to_owned(),
            files.join("xen").display().to_string(),
        ]);
        arguments.extend([
            "-initrd".to_owned(),
            format!(
                "{} root=/dev/vda rw console=hvc0 net.ifnames=0 init=/lab-init,{}",
                files.join("vmlinuz").display(),
                files.join("initrd").display()
            ),
        ]);
        arguments.extend(drive("dom0.qcow2", "qcow2", "dom0", ",cache=unsafe"));
        arguments.extend(drive("payload.img", "raw", "payload", ",readonly=on"));
        arguments.extend(drive("volumes.img", "raw", "volumes", ""));
        let wire = work.join("wire.sock");
        let _ = std::fs::remove_file(&wire);
        arguments.extend([
            "-netdev".to_owned(),
            format!(
                "stream,id=wire,server=on,addr.type=unix,addr.path={}",
                wire.display()
            ),
            "-device".to_owned(),
            "virtio-net-pci,netdev=wire,mac=52:54:00:aa:00:02".to_owned(),
            "-chardev".to_owned(),
            format!(
                "socket,id=control,path={},server=on,wait=off",
                socket.display()
            ),
            "-device".to_owned(),
            "virtio-serial-pci".to_owned(),
            "-device".to_owned(),
            "virtserialport,chardev=control,name=p2v.lab".to_owned(),
            "-serial".to_owned(),
            format!("file:{}", console.path().display()),
        ]);
        let machine = Machine::start(name, work, &arguments)?;
        let control = Control::connect(&socket, Duration::from_secs(30))
            .with_context(|| machine.complaints())?;
        let mut host = XenHost {
            control,
            machine,
            console,
            work: work.to_owned(),
            echo: false,
            started: Instant::now(),
        };
        let machine = &mut host.machine;
        host.console
            .wait_for("lab: xen host ready", BOOT_LIMIT, || machine.is_running())?;
        host.control.wait_ready(BOOT_LIMIT)?;
        Ok(host)
    }

    /// Ends it in order and starts it again with the same disks.
    pub fn restart(mut self, artifacts: &Artifacts) -> Result<XenHost> {
        self.run(
            "vgchange -an vg0 >/dev/null 2>&1; sync; mount -o remount,ro / 2>/dev/null; sync",
        )?;
        let work = self.work.clone();
        drop(self);
        Self::boot(artifacts, &work, "xen-host-again")
    }

    /// Shows commands and their output as they come.
    pub fn echo(&mut self, on: bool) {
        self.echo = on;
    }

    /// Runs a shell command.
    pub fn run(&mut self, command: &str) -> Result<Outcome> {
        let echo = self.echo;
        if echo {
            println!("xenhost# {command}");
        }
        let began = Instant::now();
        let outcome = self.control.run(command, SILENCE_LIMIT, &mut |_, line| {
            if echo {
                println!("  {line}");
            }
        });
        self.log(command, began, &outcome);
        outcome
    }

    /// Keeps what was asked for and what came of it with the run's logs.
    fn log(&self, command: &str, began: Instant, outcome: &Result<Outcome>) {
        let told = match outcome {
            Ok(outcome) => format!("status {}\n{}{}", outcome.status, outcome.out, outcome.err),
            Err(error) => format!("{error:#}\n"),
        };
        let seconds = self.started.elapsed().as_secs_f32();
        let line = format!(
            "[{seconds:.1} s] # {command}\n[took {:.1} s] {told}",
            began.elapsed().as_secs_f32()
        );
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.work.join("commands.log"));
        if let Ok(mut log) = log {
            let _ = log.write_all(line.as_bytes());
        }
    }

    /// Runs a shell command that must succeed and returns its standard output.
    pub fn ok(&mut self, command: &str) -> Result<String> {
        Ok(self.run(command)?.success()?.out)
    }

    /// Starts a command that goes on, with its output in `/var/log/NAME.log`, and returns when that
    /// says `ready`.
    pub fn background(&mut self, name: &str, command: &str, ready: &str) -> Result<()> {
        let quiet = std::mem::take(&mut self.echo);
        if quiet {
            println!("xenhost# {command} &");
        }
        let log = format!("/var/log/{name}.log");
        let started = self.run(&format!(
            "setsid sh -c {} >{log} 2>&1 </dev/null & echo $! >/run/{name}.pid",
            quoted(&format!("exec {command}"))
        ));
        let waited = started
            .and_then(Outcome::success)
            .and_then(|_| self.wait_for_line(&log, ready));
        self.echo = quiet;
        waited.map(|_| ())
    }

    /// Ends a command started with [`XenHost::background`].
    pub fn end_background(&mut self, name: &str) -> Result<()> {
        self.run(&format!("kill $(cat /run/{name}.pid)"))?
            .success()
            .map(|_| ())
    }

    /// Waits until a file in the Xen host has a line with `wanted`, and returns that line.
    pub fn wait_for_line(&mut self, file: &str, wanted: &str) -> Result<String> {
        let echo = std::mem::take(&mut self.echo);
        let found = self.run(&format!(
            "/lab/lab-guest wait-line {} {}",
            quoted(file),
            quoted(wanted)
        ));
        self.echo = echo;
        Ok(found?.success()?.out.trim_end().to_owned())
    }
}

impl Drop for XenHost {
    fn drop(&mut self) {
        // What the product's service and the domains said is kept with the run's logs.
        if self.machine.is_running() {
            self.echo = false;
            for (file, log) in [
                ("cat /var/log/p2v-serve.log", "p2v-serve.log"),
                ("tail -n +1 /var/log/xen/*", "xen-logs.log"),
                ("tail -n +1 /var/lib/p2v/machines/*", "records.log"),
                ("tail -n +1 /etc/xen/*.cfg", "domain-configs.log"),
            ] {
                if let Ok(outcome) = self
                    .control
                    .run(file, Duration::from_secs(20), &mut |_, _| {})
                {
                    let _ = std::fs::write(self.work.join(log), outcome.out + &outcome.err);
                }
            }
        }
    }
}

/// A word for the shell.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
