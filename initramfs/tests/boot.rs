//! The image boots in QEMU, finds its hardware and puts the disk on the wire.
//!
//! Needs qemu-system-x86_64, apt's kernel package and a C compiler. `P2V_IMAGE_DIR` names a
//! directory with a finished image, which saves making one; `P2V_SKIP_BOOT=1` skips these tests.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

/// Software emulation on a busy machine: seen 8 s on a quiet one.
const LIMIT: Duration = Duration::from_secs(400);

const HOST: [u8; 6] = [0x00, 0x16, 0x3e, 0, 0, 1];
const STRANGER: [u8; 6] = [0x00, 0x16, 0x3e, 0, 0, 2];
/// The agent's: the interface's permanent address with the local bit set.
const AGENT: [u8; 6] = [0x02, 0x54, 0, 0x12, 0x34, 0x56];

fn skipped() -> bool {
    let skip = std::env::var_os("P2V_SKIP_BOOT").is_some_and(|v| v == "1");
    if skip {
        eprintln!("skipped: P2V_SKIP_BOOT=1");
    }
    skip
}

/// Runs a command to its end; its output is shown if it fails.
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}

/// The directory with vmlinuz and initrd, made once.
fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        if let Some(given) = std::env::var_os("P2V_IMAGE_DIR") {
            return given.into();
        }
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let target = scratch.parent().unwrap();
        let triple = "x86_64-unknown-linux-gnu";
        run(Command::new(env!("CARGO"))
            .args(["build", "--profile", "image", "-p", "p2v-agent"])
            .args(["--target", triple, "--target-dir"])
            .arg(target)
            .env("RUSTFLAGS", "-C target-feature=+crt-static"));
        let out = scratch.join("image");
        run(Command::new(env!("CARGO_BIN_EXE_p2v-image"))
            .arg("build")
            .arg("--agent")
            .arg(target.join(triple).join("image/p2v-agent"))
            .arg("--out")
            .arg(&out)
            .arg("--cache")
            .arg(target.join("kernel-cache")));
        out
    })
}

/// An old server. Ends with the test.
struct Machine {
    qemu: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
    wire: UnixStream,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Machine {
    /// Starts one with `hardware`; its Ethernet card must be on the network `wire`.
    fn start(dir: &Path, hardware: &str, cmdline: &str) -> Machine {
        let socket = dir.join("wire");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-display", "none", "-no-reboot"])
            .args(["-serial", "file:/dev/stderr", "-monitor", "stdio"])
            .arg("-kernel")
            .arg(image().join("vmlinuz"))
            .arg("-initrd")
            .arg(image().join("initrd"))
            .arg("-append")
            .arg(format!("console=ttyS0,115200 quiet {cmdline}"))
            .arg("-netdev")
            .arg(format!(
                "stream,id=wire,server=off,addr.type=unix,addr.path={}",
                socket.display()
            ))
            .args(hardware.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("qemu-system-x86_64 (Debian package qemu-system-x86)");
        let serial = BufReader::new(qemu.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in serial.split(b'\n') {
                let Ok(line) = line else { return };
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let (wire, _) = listener.accept().unwrap();
        Machine {
            qemu,
            lines,
            seen: Vec::new(),
            wire,
        }
    }

    /// Waits for a line on the serial console that has `text` in it.
    fn wait_for(&mut self, text: &str) -> String {
        let until = Instant::now() + LIMIT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("no `{text}` ({error}) in:\n{}", self.seen.join("\n")),
            }
        }
    }

    /// Gives QEMU's monitor a command.
    fn monitor(&mut self, command: &str) {
        let stdin = self.qemu.stdin.as_mut().unwrap();
        writeln!(stdin, "{command}").unwrap();
        stdin.flush().unwrap();
    }

    /// Puts a frame on the wire: QEMU's stream sockets carry a 32-bit length before each.
    fn send(&mut self, frame: &[u8]) {
        let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
        bytes.extend(frame);
        self.wire.write_all(&bytes).unwrap();
    }

    /// The next AoE response from the machine that is `wanted`.
    fn receive(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        self.wire.set_read_timeout(Some(LIMIT)).unwrap();
        loop {
            let mut length = [0; 4];
            self.wire.read_exact(&mut length).unwrap();
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            self.wire.read_exact(&mut frame).unwrap();
            let aoe = frame.len() >= 36 && frame[12..14] == [0x88, 0xa2];
            if aoe && frame[14] & 0x08 != 0 && wanted(&frame) {
                return frame;
            }
        }
    }
}

/// A request to read one sector of e7.0 (AoE command 0, ATA READ SECTORS).
fn read_sector(from: [u8; 6], lba: u8, tag: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(AGENT);
    frame.extend(from);
    frame.extend([0x88, 0xa2, 0x10, 0, 0, 7, 0, 0, 0, 0, 0, tag]);
    frame.extend([0, 0, 1, 0x20, lba, 0, 0, 0xe0, 0, 0, 0, 0]);
    frame.resize(60, 0);
    frame
}

/// A disk image whose every sector says which one it is; the first ends as a boot sector does.
fn disk(path: &Path) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..16384u32)
        .flat_map(|lba| lba.to_le_bytes().into_iter().cycle().take(512))
        .collect();
    bytes[446..510].fill(0);
    bytes[0] = 0xEB;
    bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
    File::create(path).unwrap().write_all(&bytes).unwrap();
    bytes
}

const ORDERS: &str = "p2v.shelf=7 p2v.host=00:16:3e:00:00:01 BOOTIF=01-00-54-00-12-34-56";

/// Boots, reads a sector over the wire as the host, and is refused as a stranger.
fn boots_and_exports(hardware: &str, controller: &str) {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let content = disk(&path);
    let hardware = hardware.replace("DISK", &format!("file={},format=raw", path.display()));
    let mut machine = Machine::start(dir.path(), &hardware, ORDERS);
    let line = machine.wait_for("disk ");
    while !machine
        .seen
        .iter()
        .any(|l| l.contains("exporting e7.0 read-only"))
    {
        machine.wait_for("p2v: ");
    }
    let listed = machine.seen.iter().find(|l| l.contains("p2v: disk "));
    assert!(listed.is_some_and(|l| l.contains(controller)), "{line}");

    // It announces itself; then the stranger asks first, and only the host is answered.
    let hello = machine.receive(|f| f[19] == 1);
    assert_eq!(hello[6..12], AGENT);
    assert_eq!(hello[16..19], [0, 7, 0]);
    machine.send(&read_sector(STRANGER, 3, 1));
    machine.send(&read_sector(HOST, 3, 2));
    let reply = machine.receive(|f| f[19] == 0);
    assert_eq!(reply[..6], HOST);
    assert_eq!(reply[23], 2);
    assert_eq!(reply[27], 0x40, "ATA status");
    assert_eq!(reply[36..548], content[3 * 512..4 * 512]);

    machine.monitor("set_link wire off");
    machine.wait_for("NO CARRIER");
    machine.monitor("set_link wire on");
    machine.wait_for("link is up");
    machine.send(&read_sector(HOST, 5, 3));
    let reply = machine.receive(|f| f[19] == 0 && f[23] == 3);
    assert_eq!(reply[36..548], content[5 * 512..6 * 512]);
    assert_eq!(
        fs::read(&path).unwrap(),
        content,
        "a byte of the disk changed"
    );
}

#[test]
fn an_ide_machine_of_128_mb() {
    boots_and_exports(
        "-M pc -m 128 -drive DISK,if=ide -device e1000,netdev=wire,mac=00:54:00:12:34:56",
        "ata_piix [8086:7010]: e7.0",
    );
}

#[test]
fn a_raid_controller_and_another_card() {
    boots_and_exports(
        "-M q35 -m 256 -device megasas -drive DISK,if=none,id=d -device scsi-hd,drive=d \
         -device rtl8139,netdev=wire,mac=00:54:00:12:34:56",
        "megaraid_sas [1000:0060]: e7.0",
    );
}

#[test]
fn without_orders_nothing_is_exported_and_a_wrong_boot_address_is_named() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let hardware = "-M pc -m 256 -device e1000,netdev=wire,mac=00:54:00:12:34:56";
    let mut machine = Machine::start(dir.path(), hardware, "p2v.shelf=7");
    machine.wait_for("NOTHING IS EXPORTED: no p2v.host=MAC");
    drop(machine);

    fs::remove_file(dir.path().join("wire")).unwrap();
    let orders = ORDERS.replace("34-56", "34-57");
    let mut machine = Machine::start(dir.path(), hardware, &orders);
    let line = machine.wait_for("no interface has the boot address");
    assert!(line.contains("eth0 00:54:00:12:34:56 (e1000)"), "{line}");
}
