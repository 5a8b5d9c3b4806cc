//! The old server: a PC that boots from the network by its ROM.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::console::Console;
use crate::debian::WIRES;
use crate::disk::{Disk, SECTOR};
use crate::machine::Machine;
use crate::monitor::Monitor;

/// The MAC address of its network card.
pub const MAC: &str = "52:54:00:12:34:56";
/// The tap that its wire may end in.
pub const TAP: &str = "wire0";

/// Which machine it is.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// For file names.
    name: &'static str,
    mac: &'static str,
    wire: Wire,
}

/// What its wire ends in.
#[derive(Clone, Copy, Debug)]
enum Wire {
    /// Another QEMU's socket of this name.
    Socket(&'static str),
    /// [`TAP`].
    Tap,
}

/// The old server that most stories have.
const FIRST: Place = Place {
    name: "old-server",
    mac: MAC,
    wire: Wire::Socket(WIRES[0]),
};

/// Another one on the same wire.
const SECOND: Place = Place {
    name: "second-server",
    mac: "52:54:00:12:34:57",
    wire: Wire::Socket(WIRES[1]),
};

/// What the old server is built of: QEMU's names for parts that such machines have.
#[derive(Clone, Copy, Debug)]
pub struct Hardware {
    /// `-M`: the board.
    pub board: &'static str,
    /// The network card.
    pub network_card: &'static str,
    /// How the disk is connected: devices as for `-device`, the last of which gets `drive=`.
    pub disk_devices: &'static [&'static str],
}

/// A PC of about 2000: IDE, an Intel network card.
pub const IDE_PC: Hardware = Hardware {
    board: "pc",
    network_card: "e1000",
    disk_devices: &["ide-hd"],
};

/// A PC of about 2008: AHCI, a Realtek network card.
pub const AHCI_PC: Hardware = Hardware {
    board: "pc",
    network_card: "rtl8139",
    disk_devices: &["ich9-ahci,id=ahci", "ide-hd,bus=ahci.0"],
};

/// A PC of about 2010: AHCI, an Intel network card.
pub const SATA_PC: Hardware = Hardware {
    network_card: "e1000",
    ..AHCI_PC
};

/// A server of about 2008: a RAID controller that shows its disks as they are.
pub const SAS_SERVER: Hardware = Hardware {
    board: "pc",
    network_card: "e1000",
    disk_devices: &["megasas", "scsi-hd"],
};

/// A running old server.
pub struct OldServer {
    machine: Machine,
    console: Console,
    monitor: PathBuf,
}

impl OldServer {
    /// Switches the machine on. Its wire goes to the host's socket in `work`.
    ///
    /// # Errors
    /// QEMU cannot be started, or the hardware has no place for a disk.
    pub fn power_on(work: &Path, disk: &Disk, hardware: Hardware) -> Result<OldServer> {
        let file = disk.path.display().to_string();
        Self::power_on_with(work, &file, ",cache=writethrough", hardware)
    }

    /// The same, with a disk that QEMU finds by `file` (a name or a URI); `options`: QEMU's for it,
    /// each after a comma.
    ///
    /// # Errors
    /// As [`OldServer::power_on`].
    pub fn power_on_with(
        work: &Path,
        file: &str,
        options: &str,
        hardware: Hardware,
    ) -> Result<OldServer> {
        let disk = disk_arguments(file, options, hardware)?;
        Self::start(work, hardware, FIRST, &disk)
    }

    /// Switches a second machine on.
    ///
    /// # Errors
    /// As [`OldServer::power_on`].
    pub fn power_on_second(work: &Path, disk: &Disk, hardware: Hardware) -> Result<OldServer> {
        let file = disk.path.display().to_string();
        let disk = disk_arguments(&file, ",cache=writethrough", hardware)?;
        Self::start(work, hardware, SECOND, &disk)
    }

    /// The same, with its wire in the tap that [`crate::local_host`] makes.
    ///
    /// # Errors
    /// As [`OldServer::power_on`].
    pub fn power_on_at_tap(
        work: &Path,
        file: &str,
        options: &str,
        hardware: Hardware,
    ) -> Result<OldServer> {
        let disk = disk_arguments(file, options, hardware)?;
        let place = Place {
            wire: Wire::Tap,
            ..FIRST
        };
        Self::start(work, hardware, place, &disk)
    }

    /// The same as [`OldServer::power_on`], with its disk first in the boot order, and the network next.
    ///
    /// # Errors
    /// As [`OldServer::power_on`].
    pub fn power_on_its_own_system(
        work: &Path,
        disk: &Disk,
        hardware: Hardware,
    ) -> Result<OldServer> {
        let file = disk.path.display().to_string();
        let mut arguments = disk_arguments(&file, ",cache=writethrough", hardware)?;
        arguments.extend(["-boot", "cn"].map(str::to_owned));
        Self::start(work, hardware, FIRST, &arguments)
    }

    /// A machine of the same kind without a disk.
    ///
    /// # Errors
    /// QEMU cannot be started.
    pub fn diskless(work: &Path, hardware: Hardware) -> Result<OldServer> {
        Self::start(work, hardware, FIRST, &[])
    }

    fn start(work: &Path, hardware: Hardware, place: Place, disk: &[String]) -> Result<OldServer> {
        let console = Console::new(work.join(format!("{}.log", place.name)));
        // What it said before it was switched off: QEMU makes the file anew, but later.
        let _ = std::fs::remove_file(console.path());
        let mut arguments: Vec<String> = ["-accel", "tcg", "-m", "512", "-boot", "n"]
            .map(str::to_owned)
            .to_vec();
        let mut add = |option: &str, value: String| {
            arguments.extend([option.to_owned(), value]);
        };
        add("-M", hardware.board.to_owned());
        add("-display", "none".to_owned());
        add(
            "-netdev",
            match place.wire {
                Wire::Socket(name) => format!(
                    "stream,id=wire,server=off,addr.type=unix,addr.path={}",
                    work.join(name).display()
                ),
                Wire::Tap => format!("tap,id=wire,ifname={TAP},script=no,downscript=no"),
            },
        );
        add(
            "-device",
            format!("{},netdev=wire,mac={}", hardware.network_card, place.mac),
        );
        add("-serial", format!("file:{}", console.path().display()));
        let monitor = work.join(format!("{}.qmp", place.name));
        add(
            "-qmp",
            format!("unix:{},server=on,wait=off", monitor.display()),
        );
        arguments.push("-no-reboot".to_owned());
        arguments.extend_from_slice(disk);
        Ok(OldServer {
            machine: Machine::start(place.name, work, &arguments)?,
            console,
            monitor,
        })
    }

    /// Takes its network cable out, or puts it in again.
    ///
    /// # Errors
    /// QEMU cannot be reached, or refuses.
    pub fn set_cable(&self, plugged: bool) -> Result<()> {
        let arguments = json!({ "name": "wire", "up": plugged });
        Monitor::open(&self.monitor)?.execute("set_link", &arguments)?;
        Ok(())
    }

    /// Presses its reset button.
    ///
    /// # Errors
    /// As [`OldServer::set_cable`].
    pub fn reset(&self) -> Result<()> {
        let mut monitor = Monitor::open(&self.monitor)?;
        // A restart that it orders itself ends QEMU (`-no-reboot`).
        monitor.execute("set-action", &json!({ "reboot": "reset" }))?;
        monitor.execute("system_reset", &json!({}))?;
        Ok(())
    }

    /// Has its kernel kill all but the first process, by the keyboard; it must have been started with
    /// `sysrq_always_enabled`.
    ///
    /// # Errors
    /// As [`OldServer::set_cable`].
    pub fn kill_all_processes(&self) -> Result<()> {
        Monitor::open(&self.monitor)?.execute_silent("sendkey alt-sysrq-i")
    }

    /// Writes `byte` all over a sector of its disk, past its own system.
    ///
    /// # Errors
    /// As [`OldServer::set_cable`].
    pub fn overwrite_sector(&self, lba: u64, byte: u8) -> Result<()> {
        let line = format!("qemu-io disk \"write -P {byte} {} {SECTOR}\"", lba * SECTOR);
        Monitor::open(&self.monitor)?.execute_silent(&line)
    }

    /// Waits until it says `wanted` on its serial port.
    ///
    /// # Errors
    /// It does not say so within `limit`, or before it is gone.
    pub fn wait_for(&mut self, wanted: &str, limit: Duration) -> Result<String> {
        let machine = &mut self.machine;
        self.console
            .wait_for(wanted, limit, || machine.is_running())
    }

    /// Everything said on its serial port.
    pub fn console_text(&self) -> String {
        self.console.text()
    }

    /// Waits until it has switched itself off.
    ///
    /// # Errors
    /// It is still on after `limit`.
    pub fn wait_until_off(&mut self, limit: Duration) -> Result<()> {
        self.machine.wait_until_off(limit).map(|_| ())
    }

    /// Whether it is on.
    pub fn is_on(&mut self) -> bool {
        self.machine.is_running()
    }
}

/// QEMU's arguments for a disk at the hardware's controller.
fn disk_arguments(file: &str, options: &str, hardware: Hardware) -> Result<Vec<String>> {
    let (last, others) = hardware
        .disk_devices
        .split_last()
        .context("a machine with no disk")?;
    let mut arguments = vec![
        "-drive".to_owned(),
        format!("file={file},format=raw,if=none,id=disk{options}"),
    ];
    for device in others {
        arguments.extend(["-device".to_owned(), (*device).to_owned()]);
    }
    arguments.extend(["-device".to_owned(), format!("{last},drive=disk")]);
    Ok(arguments)
}
