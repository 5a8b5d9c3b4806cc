//! A whole machine: QEMU with its PXE ROM (iPXE) and the real PXELINUX.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use p2v_netboot::{BootDecision, Mode};

use crate::dhcp::site_dhcp_server;
use crate::lab::{LIMIT, Lab, Running, Screen, run};

/// A boot sector that prints `OWN DISK` on the first serial port and stops.
fn own_disk() -> Vec<u8> {
    let mut sector = vec![
        0xBE, 0x1B, 0x7C, // mov si, text (7C1B)
        0xBA, 0xFD, 0x03, // wait: mov dx, 3FD (line status)
        0xEC, // in al, dx
        0xA8, 0x20, // test al, 20 (transmitter empty)
        0x74, 0xF8, // jz wait
        0x2E, 0x8A, 0x04, // mov al, cs:[si]
        0x46, // inc si
        0x84, 0xC0, // test al, al
        0x74, 0x05, // jz stop
        0xB2, 0xF8, // mov dl, F8 (data)
        0xEE, // out dx, al
        0xEB, 0xEB, // jmp wait
        0xF4, 0xEB, 0xFD, // stop: hlt; jmp stop
    ];
    assert_eq!(sector.len(), 0x1B);
    sector.extend(b"OWN DISK\r\n\0");
    sector.resize(510, 0);
    sector.extend([0x55, 0xAA]);
    sector.resize(1 << 20, 0);
    sector
}

struct Machine {
    qemu: Running,
    serial: Screen,
    monitor: PathBuf,
}

impl Machine {
    fn start(lab: &Lab) -> Machine {
        let disk = lab.path("disk");
        std::fs::write(&disk, own_disk()).unwrap();
        // `setpriv`: gone with the test, however that ends.
        let arguments = format!(
            "--pdeathsig KILL qemu-system-x86_64 -M pc -accel tcg -m 256 -display none \
             -monitor unix:{},server=on,wait=off -serial stdio -boot order=nc \
             -netdev tap,id=n,ifname=tap0,script=no,downscript=no \
             -device e1000,netdev=n,mac=52:54:00:12:34:56 -drive file={},format=raw,if=ide",
            lab.path("monitor").display(),
            disk.display()
        );
        let mut command = lab.client.command("setpriv");
        command.args(arguments.split_whitespace());
        let mut qemu = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let serial = Screen::of(qemu.stdout.take().unwrap());
        Machine {
            qemu: Running(qemu),
            serial,
            monitor: lab.path("monitor"),
        }
    }

    fn says(&self, part: &str) -> String {
        self.serial.wait_for(part)
    }

    /// Waits until the screen shows `part`, and returns what it shows: the text mode's memory, as
    /// QEMU's monitor prints it.
    fn shows(&self, part: &str) -> String {
        let mut monitor = UnixStream::connect(&self.monitor).unwrap();
        monitor.set_read_timeout(Some(LIMIT)).unwrap();
        let deadline = Instant::now() + LIMIT;
        loop {
            monitor.write_all(b"xp /4000xb 0xb8000\n").unwrap();
            let (mut dump, mut buffer) = (String::new(), [0; 4096]);
            while !dump.contains("b8f98:") || !dump.ends_with("(qemu) ") {
                let got = monitor.read(&mut buffer).unwrap();
                assert!(got > 0, "QEMU ended: {dump}");
                dump.push_str(&String::from_utf8_lossy(&buffer[..got]));
            }
            let bytes = dump
                .split_whitespace()
                .filter_map(|word| word.strip_prefix("0x"));
            let cells: Vec<u8> = bytes
                .filter_map(|hex| u8::from_str_radix(hex, 16).ok())
                .collect();
            let text: String = cells
                .iter()
                .step_by(2)
                .map(|&byte| char::from(byte))
                .collect();
            if text.contains(part) {
                return text;
            }
            assert!(
                Instant::now() < deadline,
                "no {part:?} on the screen: {text}"
            );
        }
    }

    fn press_enter(&mut self) {
        self.qemu
            .0
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"\r")
            .unwrap();
    }
}

#[test]
fn a_held_machine_waits_asks_again_and_then_goes_on_with_its_own_disk() {
    let lab = Lab::new();
    lab.add_tap();
    *lab.recorder.decision.lock().unwrap() = BootDecision::Hold {
        message: "It runs on xen1 since Friday.".into(),
    };
    let _service = lab.serve(lab.settings(Mode::Dhcp));
    let mut machine = Machine::start(&lab);
    machine.says("boot:");
    let screen = machine.shows("Press Enter");
    assert!(screen.contains("It runs on xen1 since Friday."), "{screen}");
    assert!(screen.contains("Its disk is not started"), "{screen}");
    *lab.recorder.decision.lock().unwrap() = BootDecision::LocalDisk {
        why: "All is well.".into(),
    };
    machine.press_enter();
    machine.says("OWN DISK");
    machine.shows("All is well.");
    for line in [
        "52:54:00:12:34:56: BIOS (iPXE), asks for boot, offered 192.168.7.200",
        "52:54:00:12:34:56: given 192.168.7.200",
        "52:54:00:12:34:56: pxelinux.0 42 kB in ",
        "52:54:00:12:34:56: ldlinux.c32 119 kB in ",
        "52:54:00:12:34:56: menu sent: wait",
        "52:54:00:12:34:56: menu sent: go on with its own disk",
    ] {
        lab.recorder.wait_for(line);
    }
}

#[test]
fn beside_the_sites_own_dhcp_server_the_kernel_is_fetched() {
    let lab = Lab::new();
    lab.add_tap();
    let address = [
        "-n",
        &lab.client.0,
        "addr",
        "add",
        "192.168.7.2/24",
        "dev",
        "br0",
    ];
    run(std::process::Command::new("ip").args(address));
    let _site = site_dhcp_server(&lab, "br0");
    let _service = lab.serve(lab.settings(Mode::Proxy));
    let machine = Machine::start(&lab);
    machine.says("Loading initrd...");
    machine.shows("this machine starts the p2v agent from the network");
    lab.recorder
        .wait_for("52:54:00:12:34:56: BIOS (iPXE), asks for boot, told to boot from here");
    lab.recorder
        .wait_for("52:54:00:12:34:56: menu sent: start the agent");
    // What this lab serves as a kernel is none: PXELINUX says so once it has it all.
    lab.recorder
        .wait_for("52:54:00:12:34:56: vmlinuz 300 kB in ");
}
