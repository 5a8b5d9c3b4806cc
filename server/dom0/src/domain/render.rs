//! The config as `xl` reads it (xl.cfg(5)), with the reason for every choice in a comment.
//!
//! The inventory comes over the wire. Its strings stand in comments only, made printable and
//! single-line; values are checked types, or paths and names that passed [`fits_in_value`].

use std::fmt::{self, Write};
use std::path::Path;

use p2v_contract::inventory::Firmware;

use super::{Controller, DomainConfig, Format};
use crate::settings::Serial;

/// Width of comments.
const WIDTH: usize = 98;
/// Longest text of the inventory that is shown.
const SHOWN: usize = 300;

/// Longest comment: our own words and a few texts of the inventory.
const COMMENT: usize = 2000;

/// A text of the inventory on one line, in printable ASCII, cut to a length that can be read.
pub(super) fn plain(text: &str) -> String {
    printable(text, SHOWN)
}

fn printable(text: &str, most: usize) -> String {
    text.chars()
        .take(most)
        .map(|c| if (' '..='~').contains(&c) { c } else { '?' })
        .collect()
}

/// Whether a path can stand in a quoted value and in a disk specification.
pub(super) fn fits_in_value(path: &Path) -> bool {
    path.to_str().is_some_and(|t| {
        t.starts_with('/')
            && t.bytes()
                .all(|b| b.is_ascii_graphic() && !b"\"'\\,`=#[]".contains(&b))
    })
}

impl fmt::Display for DomainConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Text(String::new());
        out.head(self);
        out.machine(self);
        out.disks(self);
        out.network(self);
        out.console(self);
        out.behaviour(self);
        f.write_str(&out.0)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        })
    }
}

struct Text(String);

impl Text {
    fn comment(&mut self, text: &str) {
        let mut line = String::from("#");
        for word in printable(text, COMMENT)
            .split(' ')
            .filter(|w| !w.is_empty())
        {
            if line.len() > 1 && line.len() + 1 + word.len() > WIDTH {
                self.line(&line);
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        self.line(&line);
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn set(&mut self, why: &str, key: &str, value: impl fmt::Display) {
        self.comment(why);
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "{key} = {value}\n");
    }

    fn list(&mut self, key: &str, items: &[String]) {
        self.line(&format!("{key} = ["));
        for item in items {
            self.line(&format!("    {item},"));
        }
        self.line("]\n");
    }

    fn head(&mut self, config: &DomainConfig) {
        self.comment(&format!("Domain {} on Xen, written by p2v.", config.name));
        self.comment(&format!("It stands for: {}.", config.title));
        self.comment(
            "Edit it as you like: p2v uses a file that was edited as it is, and keeps it when it writes a new one.",
        );
        self.line("");
    }

    fn machine(&mut self, c: &DomainConfig) {
        self.set(
            "The name in `xl list` and for p2v.",
            "name",
            quoted(c.name.as_str()),
        );
        self.set(
            "Full virtualisation: the old system runs unchanged, with its own kernel and boot loader.",
            "type",
            quoted("hvm"),
        );
        self.set(
            &format!("UUID: {}.", c.uuid.why),
            "uuid",
            quoted(&c.uuid.value),
        );
        let firmware = match c.firmware.value {
            Firmware::Bios => "bios",
            Firmware::Uefi => "ovmf",
        };
        self.set(
            &format!("Firmware: {}.", c.firmware.why),
            "firmware",
            quoted(firmware),
        );
        self.set(
            &format!("Memory in MiB: {}.", c.memory_mib.why),
            "memory",
            c.memory_mib.value,
        );
        self.set(
            &format!("Processors: {}.", c.vcpus.why),
            "vcpus",
            c.vcpus.value,
        );
    }

    fn disks(&mut self, c: &DomainConfig) {
        self.comment(&format!("Disk controller: {}.", c.controller.why));
        for disk in &c.disks {
            self.comment(&format!("{} is {}.", disk.path.display(), disk.underneath));
        }
        self.comment("Each device has exactly the old disk's number of sectors: a GPT keeps a copy in the last one.");
        for left_out in &c.left_out {
            self.comment(&format!("Not given to the domain: {left_out}."));
        }
        if let Controller::Ahci = c.controller.value {
            self.line("hdtype = \"ahci\"");
        }
        if let Controller::Qemu(model) = c.controller.value {
            self.comment(
                "xl has no key for this controller, so QEMU is given it directly. cache=none: what the system syncs \
                 is on the disk.",
            );
            self.list("device_model_args_hvm", &qemu_arguments(model, c));
        } else {
            let items: Vec<String> = c
                .disks
                .iter()
                .enumerate()
                .filter_map(|(i, disk)| {
                    let vdev = c.controller.value.vdev(i)?;
                    // xl-disk-configuration(5): what reads an image for a domain is QEMU.
                    let backend = match disk.format {
                        Format::Raw => "",
                        Format::Qcow2 => "backendtype=qdisk, ",
                    };
                    Some(quoted(&format!(
                        "format={}, {backend}vdev={vdev}, access=rw, target={}",
                        disk.format,
                        disk.path.display()
                    )))
                })
                .collect();
            self.list("disk", &items);
        }
        self.set(
            "From the first disk only: the network would boot the agent again.",
            "boot",
            quoted("c"),
        );
    }

    fn network(&mut self, c: &DomainConfig) {
        self.comment(
            "The old machine's own MAC addresses: the system, its DHCP server and its licences know them. (The agent \
             uses a locally administered one on the wire, so they do not meet.)",
        );
        for vif in &c.vifs {
            self.comment(&format!("{}.", vif.why));
        }
        let items: Vec<String> = c
            .vifs
            .iter()
            .map(|vif| {
                quoted(&format!(
                    "type=ioemu, mac={}, bridge={}, model={}",
                    vif.value.mac, c.bridge, vif.value.model
                ))
            })
            .collect();
        self.list("vif", &items);
    }

    fn console(&mut self, c: &DomainConfig) {
        self.set(
            "A screen that every system can drive.",
            "vga",
            quoted("stdvga"),
        );
        self.comment(
            "The screen by VNC, on this host only, because it has no password: `ssh -L 5900:127.0.0.1:5900 HOST`, \
             then a viewer; `xl vncviewer` knows the port.",
        );
        self.line("vnc = 1\nvnclisten = \"127.0.0.1\"\n");
        self.comment("A tablet: the pointer on the VNC screen is where yours is.");
        self.line("usb = 1\nusbdevice = [ \"tablet\" ]\n");
        match &c.serial {
            Serial::Pty => self.set(
                &format!("COM1: `xl console -t serial {}` shows it.", c.name),
                "serial",
                quoted("pty"),
            ),
            Serial::Directory(dir) => self.set(
                "COM1 goes to a file, as the settings say.",
                "serial",
                quoted(&format!(
                    "file:{}",
                    dir.join(format!("{}.serial", c.name)).display()
                )),
            ),
            Serial::Off => self.line("# No COM1, as the settings say.\n"),
        }
    }

    fn behaviour(&mut self, c: &DomainConfig) {
        if c.xen_platform_pci {
            self.set(
                "The Xen platform device, as the settings say: a system with Xen drivers gets faster disks and cards.",
                "xen_platform_pci",
                1,
            );
        } else {
            self.set(
                "No Xen platform device: with it a Linux kernel unplugs the emulated disks and looks for its root on \
                 xen-blkfront, which an initramfs made on the old machine lacks. Set it to 1 once the system has it.",
                "xen_platform_pci",
                0,
            );
        }
        if c.localtime {
            self.set(
                "The clock is in local time, as the settings say (Windows).",
                "localtime",
                1,
            );
        } else {
            self.set(
                "The clock is in UTC. Set it to 1 for a Windows that keeps local time.",
                "localtime",
                0,
            );
        }
        self.comment(
            "A system that switches itself off is gone, one that restarts comes back, and one that crashes does not \
             hold its disk.",
        );
        self.line("on_poweroff = \"destroy\"\non_reboot = \"restart\"\non_crash = \"destroy\"");
    }
}

/// The arguments that give QEMU a controller with the disks on it. Paths have no commas (see
/// [`fits_in_value`]).
fn qemu_arguments(model: &str, c: &DomainConfig) -> Vec<String> {
    let mut arguments = vec![quoted("-device"), quoted(&format!("{model},id=p2vhba"))];
    for (i, disk) in c.disks.iter().enumerate() {
        arguments.extend([
            quoted("-drive"),
            quoted(&format!(
                "file={},if=none,id=p2vdisk{i},format={},cache=none",
                disk.path.display(),
                disk.format
            )),
            quoted("-device"),
            quoted(&format!(
                "scsi-hd,bus=p2vhba.0,scsi-id={i},drive=p2vdisk{i},bootindex={}",
                i + 1
            )),
        ]);
    }
    arguments
}

/// A value in quotes. Everything given to it is free of quotes, backslashes and control characters.
fn quoted(value: &str) -> String {
    format!("\"{value}\"")
}
