//! A machine with the lab's Debian root file system: the Xen host, or plain Linux.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::json;

use crate::artifacts::{Artifacts, checked};
use crate::console::Console;
use crate::control::Control;
use crate::machine::Machine;
use crate::monitor::Monitor;
use crate::shell::{Shell, quoted};

/// Generous: two emulated machines on two busy cores.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// The sockets that its wire goes to.
pub(crate) const WIRES: [&str; 2] = ["wire.sock", "second-wire.sock"];

/// A disk beside the root file system and the payload.
pub struct Drive {
    /// What QEMU finds it by: a file name, or a URI.
    pub file: String,
    /// Its serial number: `/dev/disk/by-id/virtio-SERIAL`.
    pub serial: &'static str,
    /// QEMU's options, each after a comma.
    pub options: &'static str,
}

impl Drive {
    /// A disk that is kept in order.
    pub fn new(file: &Path, serial: &'static str) -> Drive {
        Drive {
            file: file.display().to_string(),
            serial,
            options: "",
        }
    }

    /// A disk whose flushes cost nothing, and put nothing on this machine's disk.
    pub fn quick(file: &Path, serial: &'static str) -> Drive {
        Drive {
            options: ",cache=unsafe",
            ..Drive::new(file, serial)
        }
    }
}

/// What the machines with this root file system differ in.
pub struct Parts<'a> {
    /// For file names.
    pub name: &'a str,
    /// What its commands are shown behind.
    pub prompt: &'static str,
    /// The processor, as for `-cpu`.
    pub processor: &'a str,
    /// Memory in MiB.
    pub memory: u32,
    /// `-kernel`, `-append` and `-initrd`.
    pub kernel: [String; 3],
    /// What its init says at last.
    pub ready: &'a str,
    /// More disks.
    pub drives: &'a [Drive],
    /// More options for QEMU.
    pub more: &'a [&'a str],
}

/// A fresh root file system in `work`, over the one that `make lab` has made.
///
/// # Errors
/// As [`root_over`].
pub fn fresh_root(artifacts: &Artifacts, work: &Path) -> Result<()> {
    root_over(&artifacts.xen_host.join("dom0.img"), "raw", work)
}

/// A root file system in `work` over another one, which is not written to.
///
/// # Errors
/// `qemu-img` fails.
pub fn root_over(base: &Path, format: &str, work: &Path) -> Result<()> {
    checked(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", format, "-b"])
            .arg(base)
            .arg(work.join("dom0.qcow2")),
    )
}

/// Starts the machine on `dom0.qcow2` and `payload.img` in `work`, with its wire at the sockets
/// [`WIRES`] there, and waits until it takes commands.
///
/// # Errors
/// QEMU cannot be started, or the machine is not ready in time.
pub fn boot(work: &Path, parts: &Parts<'_>) -> Result<(Shell, Machine)> {
    let (mut shell, mut machine) = start(work, parts, &[])?;
    let mut console = Console::new(work.join(format!("{}.log", parts.name)));
    console.wait_for(parts.ready, BOOT_LIMIT, || machine.is_running())?;
    shell.wait_ready(BOOT_LIMIT)?;
    Ok((shell, machine))
}

/// Starts the machine as [`boot`] does, where the one that was saved in `state` stopped. Its disks
/// must be as that one's were.
///
/// # Errors
/// QEMU cannot be started, or does not take up the state; the machine's clock cannot be set.
pub fn resume(work: &Path, parts: &Parts<'_>, state: &Path) -> Result<(Shell, Machine)> {
    let incoming = format!("exec:cat {}", quoted(&state.display().to_string()));
    let (mut shell, machine) = start(work, parts, &["-incoming".to_owned(), incoming])?;
    let mut monitor = Monitor::open(&monitor(work, parts.name))?;
    monitor.wait_until("query-status", "status", "paused")?;
    monitor.execute("cont", &json!({}))?;
    // Its clock stands where it stopped.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    shell.ok(&format!("date -s @{now}"))?;
    Ok((shell, machine))
}

/// Stops the machine called `name` in `work`, writes it to `state`, and ends it.
///
/// # Errors
/// QEMU refuses, or does not end in time; the machine takes no command.
pub fn save(
    work: &Path,
    name: &str,
    shell: &mut Shell,
    machine: &mut Machine,
    state: &Path,
) -> Result<()> {
    shell.ok("sync")?;
    let mut monitor = Monitor::open(&monitor(work, name))?;
    monitor.execute("stop", &json!({}))?;
    // Bytes a second, where the default is for a network.
    monitor.execute(
        "migrate-set-parameters",
        &json!({ "max-bandwidth": 1_u64 << 40 }),
    )?;
    let to = format!("exec:cat >{}", quoted(&state.display().to_string()));
    monitor.execute("migrate", &json!({ "uri": to }))?;
    monitor.wait_until("query-migrate", "status", "completed")?;
    monitor.execute("quit", &json!({}))?;
    machine.wait_until_off(BOOT_LIMIT)?;
    Ok(())
}

/// Ends QEMU in order, with all of its images written; for the machine called `name` it is a power cut.
///
/// # Errors
/// QEMU cannot be reached, or does not end in time.
pub fn quit(work: &Path, name: &str, machine: &mut Machine) -> Result<()> {
    Monitor::open(&monitor(work, name))?.execute("quit", &json!({}))?;
    machine.wait_until_off(BOOT_LIMIT)?;
    Ok(())
}

/// QEMU's control socket of the machine called `name`.
pub(crate) fn monitor(work: &Path, name: &str) -> PathBuf {
    work.join(format!("{name}.qmp"))
}

fn start(work: &Path, parts: &Parts<'_>, more: &[String]) -> Result<(Shell, Machine)> {
    let sockets = [
        work.join("control.sock"),
        monitor(work, parts.name),
        work.join(WIRES[0]),
        work.join(WIRES[1]),
    ];
    for socket in &sockets {
        let _ = std::fs::remove_file(socket);
    }
    let machine = Machine::start(parts.name, work, &[&arguments(work, parts), more].concat())?;
    let control = Control::connect(&sockets[0], Duration::from_secs(30))
        .with_context(|| machine.complaints())?;
    let shell = Shell::new(control, parts.prompt, work.join("commands.log"));
    Ok((shell, machine))
}

/// QEMU's arguments for the machine, with its files in `work`.
pub fn arguments(work: &Path, parts: &Parts<'_>) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "-M",
        "q35",
        "-accel",
        "tcg,thread=multi",
        "-smp",
        "1",
        "-display",
        "none",
        "-no-reboot",
        "-monitor",
        "none",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    add("-cpu", parts.processor.to_owned());
    add("-m", parts.memory.to_string());
    for (option, value) in ["-kernel", "-append", "-initrd"].iter().zip(&parts.kernel) {
        add(option, value.clone());
    }
    let file = |name: &str| work.join(name).display().to_string();
    let mut drive = |file: &str, format: &str, serial: &str, options: &str| {
        add(
            "-drive",
            format!("file={file},format={format},if=none,id={serial}{options}"),
        );
        add(
            "-device",
            format!("virtio-blk-pci,drive={serial},serial={serial}"),
        );
    };
    drive(&file("dom0.qcow2"), "qcow2", "dom0", ",cache=unsafe");
    drive(&file("payload.img"), "raw", "payload", ",readonly=on");
    for more in parts.drives {
        drive(&more.file, "raw", more.serial, more.options);
    }
    // A hub, so that two old machines can be on the wire.
    for socket in WIRES {
        let id = socket.replace('.', "-");
        let path = file(socket);
        add(
            "-netdev",
            format!("stream,id={id},server=on,addr.type=unix,addr.path={path}"),
        );
        add(
            "-netdev",
            format!("hubport,id=port-{id},hubid=0,netdev={id}"),
        );
    }
    add("-netdev", "hubport,id=wire,hubid=0".to_owned());
    add(
        "-device",
        "virtio-net-pci,netdev=wire,mac=52:54:00:aa:00:02".to_owned(),
    );
    // Before the control channel: who can connect to that finds this too.
    let monitor = monitor(work, parts.name);
    add(
        "-qmp",
        format!("unix:{},server=on,wait=off", monitor.display()),
    );
    add(
        "-chardev",
        format!(
            "socket,id=control,path={},server=on,wait=off",
            file("control.sock")
        ),
    );
    add("-device", "virtio-serial-pci".to_owned());
    add(
        "-device",
        "virtserialport,chardev=control,name=p2v.lab".to_owned(),
    );
    add(
        "-serial",
        format!("file:{}", file(&format!("{}.log", parts.name))),
    );
    arguments.extend(parts.more.iter().map(|&option| option.to_owned()));
    arguments
}
