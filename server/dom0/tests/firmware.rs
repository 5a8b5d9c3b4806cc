//! Real firmware and a disk before and after it is disarmed: SeaBIOS and OVMF in QEMU. Needs QEMU, OVMF, GRUB's images,
//! mtools and sfdisk.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use p2v_contract::SECTOR;
use p2v_contract::inventory::Disk;
use p2v_dom0::disarm::{Place, candidates, gpt_entries, replaced, replaced_first};

/// Where the partition begins, in sectors.
const START: u64 = 2048;
/// Its length.
const LENGTH: u64 = 8192;
const SECTORS: u64 = 16_384;

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Switches a machine on and waits until its serial port says one of `wanted`; returns all it said.
fn says(arguments: &str, disk: &Path, wanted: &[&str]) -> String {
    let mut qemu = Command::new("setpriv")
        .args("--pdeathsig KILL qemu-system-x86_64 -accel tcg -m 256 -display none -net none -serial stdio".split(' '))
        .args(arguments.split_whitespace())
        .arg("-drive")
        .arg(format!("file={},format=raw", disk.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut said, mut output) = (Vec::new(), qemu.stdout.take().unwrap());
    let text = loop {
        let mut buffer = [0; 4096];
        let got = output.read(&mut buffer).unwrap();
        said.extend_from_slice(&buffer[..got]);
        let text = String::from_utf8_lossy(&said);
        if got == 0 || wanted.iter().any(|wanted| text.contains(wanted)) {
            break text.into_owned();
        }
    };
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    assert!(wanted.iter().any(|wanted| text.contains(wanted)), "{text}");
    text
}

/// Replaces what `p2v disarm` does, in the file.
fn disarm(path: &Path) -> Vec<u64> {
    let mut bytes = fs::read(path).unwrap();
    let name = "web".parse().unwrap();
    let disk = Disk {
        sectors: SECTORS,
        ..Disk::default()
    };
    let at = |lba: u64| (lba * SECTOR) as usize;
    let sector = |lba: u64| &bytes[at(lba)..at(lba + 1)];
    let mut places: Vec<Place> = replaced_first(&name, 0, sector(0)).into_iter().collect();
    let entries = gpt_entries(sector(1));
    let listed = entries.map_or(&[][..], |e| {
        &bytes[at(e.lba)..at(e.lba + u64::from(e.sectors))]
    });
    for candidate in candidates(&disk, sector(0), listed, entries.map_or(0, |e| e.bytes)) {
        places.extend(replaced(&name, 0, candidate, sector(candidate.lba)));
    }
    for place in &places {
        bytes[at(place.lba)..at(place.lba + 1)].copy_from_slice(&place.now());
    }
    fs::write(path, bytes).unwrap();
    places.iter().map(|place| place.lba).collect()
}

#[test]
fn a_bios_says_what_happened_and_tries_what_else_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    // Prints `!` by the BIOS, and stops.
    let mut bytes = vec![0xB8, 0x21, 0x0E, 0xCD, 0x10, 0xF4, 0xEB, 0xFD];
    bytes.resize(510, 0);
    bytes.extend([0x55, 0xAA]);
    bytes.resize((SECTORS * SECTOR) as usize, 0);
    fs::write(&path, bytes).unwrap();
    // SeaBIOS's screen is its serial port: the address is a number of 16 bits.
    let port = dir.path().join("port");
    fs::write(&port, 0x3F8u16.to_le_bytes()).unwrap();
    let bios = format!(
        "-vga none -fw_cfg name=etc/sercon-port,file={}",
        port.display()
    );
    says(&bios, &path, &["!"]);
    assert_eq!(disarm(&path), [0]);
    let said = says(&bios, &path, &["No bootable device"]);
    assert!(
        said.contains("This server runs on a Xen host now."),
        "{said}"
    );
    assert!(said.contains("  p2v rearm web\r"), "{said}");
}

/// It starts from any FAT file system, whatever the type of its partition is.
#[test]
fn uefi_finds_nothing_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let path = file("disk");
    fs::write(file("own.cfg"), "echo 'OWN DISK'\nsleep 1000\n").unwrap();
    run(Command::new("grub-mkimage")
        .args(["-O", "x86_64-efi", "-p", "/", "-c"])
        .arg(file("own.cfg"))
        .arg("-o")
        .arg(file("own.efi"))
        .args(["echo", "sleep"]));
    fs::File::create(&path)
        .unwrap()
        .set_len(SECTORS * SECTOR)
        .unwrap();
    let linux = "0fc63daf-8483-4772-8e79-3d69d8477de4";
    fs::write(
        file("table"),
        format!("label: gpt\nstart={START}, size={LENGTH}, type={linux}\n"),
    )
    .unwrap();
    run(Command::new("sh")
        .args(["-c", "sfdisk -q \"$0\" <\"$1\""])
        .arg(&path)
        .arg(file("table")));
    let on_disk = |tool: &str, arguments: &[&str]| {
        let place = format!("{}@@{}S", path.display(), START);
        run(Command::new(tool).args(["-i", &place]).args(arguments));
    };
    on_disk("mformat", &["-T", &LENGTH.to_string(), "::"]);
    on_disk("mmd", &["::/EFI", "::/EFI/BOOT"]);
    on_disk(
        "mcopy",
        &[file("own.efi").to_str().unwrap(), "::/EFI/BOOT/BOOTX64.EFI"],
    );
    let variables = file("variables");
    let uefi = format!(
        "-M q35 -drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd \
         -drive if=pflash,format=raw,file={}",
        variables.display()
    );
    fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &variables).unwrap();
    says(&uefi, &path, &["OWN DISK"]);
    assert_eq!(disarm(&path), [0, START]);
    let said = says(&uefi, &path, &["OWN DISK", "Shell>", "No bootable option"]);
    assert!(!said.contains("OWN DISK"), "{said}");
}
