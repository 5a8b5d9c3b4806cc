//! The old server: a PC that boots from the network by its ROM.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::console::Console;
use crate::disk::Disk;
use crate::machine::Machine;

/// The MAC address of its network card.
pub const MAC: &str = "52:54:00:12:34:56";

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

/// A running old server.
pub struct OldServer {
    machine: Machine,
    console: Console,
}

impl OldServer {
    /// Switches the machine on. Its wire goes to the host's socket in `work`.
    pub fn power_on(work: &Path, disk: &Disk, hardware: Hardware) -> Result<OldServer> {
        let file = disk.path.display().to_string();
        Self::power_on_with(work, &file, ",cache=writethrough", hardware)
    }

    /// The same, with a disk that QEMU finds by `file` (a name or a URI); `options`: QEMU's for it,
    /// each after a comma.
    pub fn power_on_with(
        work: &Path,
        file: &str,
        options: &str,
        hardware: Hardware,
    ) -> Result<OldServer> {
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
        Self::start(work, hardware, &arguments)
    }

    /// A machine of the same kind without a disk.
    pub fn diskless(work: &Path, hardware: Hardware) -> Result<OldServer> {
        Self::start(work, hardware, &[])
    }

    fn start(work: &Path, hardware: Hardware, disk: &[String]) -> Result<OldServer> {
        let console = Console::new(work.join("old-server.log"));
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
            format!(
                "stream,id=wire,server=off,addr.type=unix,addr.path={}",
                work.join("wire.sock").display()
            ),
        );
        add(
            "-device",
            format!("{},netdev=wire,mac={MAC}", hardware.network_card),
        );
        add("-serial", format!("file:{}", console.path().display()));
        arguments.push("-no-reboot".to_owned());
        arguments.extend_from_slice(disk);
        Ok(OldServer {
            machine: Machine::start("old-server", work, &arguments)?,
            console,
        })
    }

    /// Waits until it says `wanted` on its serial port.
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
    pub fn wait_until_off(&mut self, limit: Duration) -> Result<()> {
        self.machine.wait_until_off(limit).map(|_| ())
    }

    /// Whether it is on.
    pub fn is_on(&mut self) -> bool {
        self.machine.is_running()
    }
}
