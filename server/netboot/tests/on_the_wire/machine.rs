//! A whole machine in QEMU: firmware, network card, a disk with a system of its own.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use crate::lab::{LIMIT, Lab, Running, Screen, run};
use crate::site;

/// What a machine starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS; the card's ROM is iPXE.
    Bios,
    /// OVMF, without Secure Boot.
    Uefi,
    /// OVMF with Microsoft's keys.
    SecureBoot,
    /// OVMF for 32-bit processors.
    Uefi32,
    /// OVMF whose only way to boot from the network is HTTP.
    UefiHttp,
    /// The same for 32-bit processors.
    Uefi32Http,
}

impl Firmware {
    /// Code and variables (packages `ovmf`, `ovmf-ia32`).
    fn files(self) -> Option<(&'static str, &'static str)> {
        match self {
            Firmware::Bios => None,
            Firmware::Uefi | Firmware::UefiHttp => Some(("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd")),
            Firmware::SecureBoot => Some(("OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd")),
            Firmware::Uefi32 | Firmware::Uefi32Http => {
                Some(("OVMF32_CODE_4M.secboot.fd", "OVMF32_VARS_4M.fd"))
            }
        }
    }

    fn arguments(self, lab: &Lab) -> String {
        let Some((code, variables)) = self.files() else {
            return "-M pc".to_owned();
        };
        let folder = Path::new("/usr/share/OVMF");
        let own = lab.path("variables.fd");
        std::fs::copy(folder.join(variables), &own).unwrap();
        // These two need system management mode: it guards the variables.
        let secure = match self {
            Firmware::SecureBoot | Firmware::Uefi32 | Firmware::Uefi32Http => {
                "-M q35,smm=on -global driver=cfi.pflash01,property=secure,value=on"
            }
            _ => "-M q35",
        };
        let only_http = match self {
            Firmware::UefiHttp | Firmware::Uefi32Http => {
                " -fw_cfg name=opt/org.tianocore/IPv4PXESupport,string=n"
            }
            _ => "",
        };
        format!(
            "{secure}{only_http} -fw_cfg name=opt/org.tianocore/IPv6PXESupport,string=n -drive if=pflash,format=raw,unit=0,readonly=on,file={} \
             -drive if=pflash,format=raw,unit=1,file={}",
            folder.join(code).display(),
            own.display()
        )
    }
}

/// Machines that run at a time. ROMs give up by the clock, however slow their processor is emulated: with more
/// machines than cores, iPXE has ended its DHCP without an answer.
static FREE: (Mutex<usize>, Condvar) = (Mutex::new(2), Condvar::new());

/// One of them; its place is free again when dropped.
struct Place;

impl Place {
    fn take() -> Place {
        let free = FREE.0.lock().unwrap();
        *FREE.1.wait_while(free, |free| *free == 0).unwrap() -= 1;
        Place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *FREE.0.lock().unwrap() += 1;
        FREE.1.notify_one();
    }
}

/// A machine, switched off when dropped.
pub struct Machine {
    qemu: Running,
    serial: Screen,
    monitor: PathBuf,
    _router: Option<Running>,
    // The last: free when the machine is gone.
    _place: Place,
}

/// Its SMBIOS UUID.
pub const UUID: &str = "4c4c4544-0042-3510-8052-b4c04f4a3732";

impl Machine {
    /// Switches it on: it boots from the network first. `card`: QEMU's device, with its properties.
    pub fn start(lab: &Lab, firmware: Firmware, card: &str) -> Machine {
        let place = Place::take();
        let disk = lab.path("disk");
        match firmware {
            Firmware::Bios => std::fs::write(&disk, own_disk()).unwrap(),
            _ => own_uefi_disk(lab, &disk),
        }
        // `setpriv`: gone with the test, however that ends.
        let arguments = format!(
            "--pdeathsig KILL qemu-system-x86_64 {} -accel tcg -m 512 -uuid {UUID} -display none \
             -monitor unix:{},server=on,wait=off -serial stdio \
             -netdev tap,id=n,ifname=tap0,script=no,downscript=no \
             -device {card},netdev=n,mac=52:54:00:12:34:56,bootindex=1 \
             -drive if=none,id=d,file={},format=raw -device ide-hd,drive=d,bootindex=2",
            firmware.arguments(lab),
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
            _router: (!card.contains("romfile=")).then(|| site::ipv6_router(lab)),
            _place: place,
        }
    }

    /// Waits until its serial port said `part`, and returns all it said.
    pub fn says(&self, part: &str) -> String {
        self.serial.wait_for(part)
    }

    /// Waits until the screen shows `part`, and returns what it shows: the text mode's memory, as
    /// QEMU's monitor prints it.
    pub fn shows(&self, part: &str) -> String {
        let mut monitor = self.monitor();
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

    /// QEMU makes its monitor's socket in its own time.
    fn monitor(&self) -> UnixStream {
        let deadline = Instant::now() + LIMIT;
        loop {
            match UnixStream::connect(&self.monitor) {
                Ok(monitor) => return monitor,
                Err(e) => assert!(Instant::now() < deadline, "no monitor: {e}"),
            }
            std::thread::yield_now();
        }
    }

    /// Types on its serial port.
    pub fn types(&mut self, keys: &str) {
        let stdin = self.qemu.0.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).unwrap();
    }

    /// Presses a key of its keyboard, by QEMU's name for it.
    pub fn presses(&self, key: &str) {
        let mut monitor = self.monitor();
        monitor.set_read_timeout(Some(LIMIT)).unwrap();
        let line = format!("sendkey {key}\n");
        monitor.write_all(line.as_bytes()).unwrap();
        // Two prompts: the second one comes when it is done.
        let (mut said, mut buffer) = (String::new(), [0; 4096]);
        while said.matches("(qemu) ").count() < 2 {
            let got = monitor.read(&mut buffer).unwrap();
            assert!(got > 0, "QEMU ended: {said}");
            said.push_str(&String::from_utf8_lossy(&buffer[..got]));
        }
    }
}

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

/// A file system with a program for 64-bit UEFI that prints `OWN DISK`: GRUB with a script in it.
fn own_uefi_disk(lab: &Lab, disk: &Path) {
    let (script, program) = (lab.path("own.cfg"), lab.path("own.efi"));
    std::fs::write(&script, "echo 'OWN DISK'\nsleep 1000\n").unwrap();
    let mut make = Command::new("grub-mkimage");
    make.args(["-O", "x86_64-efi", "-p", "/", "-c"])
        .arg(&script);
    run(make.arg("-o").arg(&program).args(["echo", "sleep"]));
    std::fs::write(disk, vec![0; 4 << 20]).unwrap();
    let on_disk = |tool: &str, arguments: &[&str]| {
        run(Command::new(tool).arg("-i").arg(disk).args(arguments));
    };
    on_disk("mformat", &["::"]);
    on_disk("mmd", &["::/EFI", "::/EFI/BOOT"]);
    // mtools write a partition table into the boot sector too, with the file system as its first entry.
    let mut bytes = std::fs::read(disk).unwrap();
    bytes[446..510].fill(0);
    std::fs::write(disk, bytes).unwrap();
    let program = program.to_str().unwrap();
    on_disk("mcopy", &[program, "::/EFI/BOOT/BOOTX64.EFI"]);
}
