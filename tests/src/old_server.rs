//! The old server: a PC that boots from the network by its ROM.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::console::Console;
use crate::disk::Disk;
use crate::machine::Machine;

/// The MAC address of its network card.
pub const MAC: &str = "52:54:00:12:34:56";

/// A running old server.
pub struct OldServer {
    machine: Machine,
    console: Console,
}

impl OldServer {
    /// Switches the machine on. Its wire goes to the Xen host's socket in `work`.
    pub fn power_on(work: &Path, disk: &Disk) -> Result<OldServer> {
        Self::power_on_as(work, disk, "old-server")
    }

    /// The same, with console and logs under another name: for a second boot in one story.
    pub fn power_on_as(work: &Path, disk: &Disk, name: &str) -> Result<OldServer> {
        let console = Console::new(work.join(format!("{name}.log")));
        let arguments = [
            "-M",
            "pc",
            "-accel",
            "tcg",
            "-m",
            "512",
            "-boot",
            "n",
            "-display",
            "none",
            "-no-reboot",
            "-netdev",
            &format!(
                "stream,id=wire,server=off,addr.type=unix,addr.path={}",
                work.join("wire.sock").display()
            ),
            "-device",
            &format!("e1000,netdev=wire,mac={MAC}"),
            "-drive",
            &format!(
                "file={},format=raw,if=ide,cache=writethrough",
                disk.path.display()
            ),
            "-serial",
            &format!("file:{}", console.path().display()),
        ]
        .map(str::to_owned);
        Ok(OldServer {
            machine: Machine::start(name, work, &arguments)?,
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
