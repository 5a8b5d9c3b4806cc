//! Old machines that boot without `p2v serve`: from a stick or a disk written with `p2v image iso`, and from a
//! site's own TFTP server, which QEMU's user network stands for, with a tree of `p2v image install`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use p2v_lab::artifacts::{Artifacts, checked};
use p2v_lab::console::Console;
use p2v_lab::disk::Disk;
use p2v_lab::machine::Machine;
use p2v_lab::old_server::MAC;
use p2v_lab::run::Run;

const BYTES: u64 = 16 << 20;
const LIMIT: Duration = Duration::from_secs(180);
const HOST: &str = "00:16:3e:00:00:01";

/// Debian's UEFI firmware (package ovmf), with nothing remembered.
const UEFI: &str = "-M q35 -drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd \
                    -drive if=pflash,format=raw,snapshot=on,file=/usr/share/OVMF/OVMF_VARS_4M.fd";
const BIOS: &str = "-M pc";

/// The host's command with its records, and an old machine's disk.
struct Scene {
    artifacts: Artifacts,
    run: Run,
    disk: Disk,
}

impl Scene {
    fn new(name: &str) -> Result<Scene> {
        let artifacts = Artifacts::find()?;
        let run = Run::new(&artifacts.lab, name)?;
        let work = run.directory();
        let boot_sector = artifacts.boot_sector(work)?;
        let disk = Disk::with_guest(&work.join("old.disk"), BYTES, &boot_sector)?;
        let scene = Scene {
            artifacts,
            run,
            disk,
        };
        scene.set(&scene.artifacts.image.join("vmlinuz"), "")?;
        Ok(scene)
    }

    /// Writes the settings: the usual kernel, and what there is beside.
    fn set(&self, kernel: &Path, more: &str) -> Result<()> {
        let settings = format!(
            "state = {:?}\n[serve]\nkernel = {kernel:?}\ninitrd = {:?}\n[machines.{MAC:?}]\nname = \"old\"\n{more}",
            self.path("state"),
            self.artifacts.image.join("initrd"),
        );
        fs::write(self.path("p2v.toml"), settings)?;
        Ok(())
    }

    /// Settings by which the machine has the image for itself, and the usual one cannot be started.
    fn set_own_image(&self) -> Result<()> {
        let own = format!(
            "image = \"own\"\n[serve.images.own]\nkernel = {:?}\ninitrd = {:?}\n",
            self.artifacts.image.join("vmlinuz"),
            self.artifacts.image.join("initrd"),
        );
        let none = self.path("no-kernel");
        fs::write(&none, "none")?;
        self.set(&none, &own)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.run.directory().join(name)
    }

    fn p2v(&self, arguments: &[&Path]) -> Result<()> {
        checked(
            Command::new(self.artifacts.binaries.join("p2v"))
                .arg("--config")
                .arg(self.path("p2v.toml"))
                .args(arguments)
                .args(["--host", HOST]),
        )
    }

    /// Starts the old machine with these parts as well, until it has said all of `wanted`.
    fn boots(&self, name: &str, parts: &str, wanted: &[&str]) -> Result<()> {
        let mut console = Console::new(self.path(&format!("{name}.log")));
        let mut arguments: Vec<String> = [
            "-accel",
            "tcg",
            "-m",
            "512",
            "-display",
            "none",
            "-no-reboot",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.extend(parts.split_whitespace().map(str::to_owned));
        arguments.extend([
            "-serial".into(),
            format!("file:{}", console.path().display()),
            "-drive".into(),
            format!(
                "file={},format=raw,if=ide,index=1",
                self.disk.path.display()
            ),
        ]);
        let mut machine = Machine::start(name, self.run.directory(), &arguments)?;
        for text in wanted {
            console.wait_for(text, LIMIT, || machine.is_running())?;
        }
        Ok(())
    }

    /// The old system was never started, and nothing of it was changed.
    fn ends_well(self) -> Result<()> {
        assert_eq!(self.disk.boots()?, 0);
        assert!(self.disk.has_pattern(1024, BYTES)?);
        self.run.succeeded();
        Ok(())
    }
}

/// The machine's card, on a network without anything; `more`: QEMU's options for that network.
fn card(device: &str, more: &str) -> String {
    format!("-netdev user,id=wire,restrict=on{more} -device {device},netdev=wire,mac={MAC}")
}

#[test]
fn a_medium_starts_the_agent_by_bios_and_uefi_and_is_not_exported() {
    let scene = Scene::new("medium").unwrap();
    scene.set_own_image().unwrap();
    let image = scene.path("p2v.iso");
    let iso = ["image", "iso"].map(Path::new);
    let machine = ["--machine", MAC].map(Path::new);
    scene
        .p2v(&[iso.as_slice(), &[image.as_path()], &machine].concat())
        .unwrap();
    let image = image.display();
    let exports = format!("exporting e1.0 read-only to {HOST}");

    // A disk that it was written to is one the agent has drivers for.
    let disk = format!(
        "{BIOS} {} -drive file={image},format=raw,if=ide,index=0,snapshot=on",
        card("e1000", "")
    );
    let refused = "not exported: the medium that p2v's agent is started from";
    scene
        .boots("bios-disk", &disk, &[refused, &exports])
        .unwrap();
    let cd = format!("{BIOS} {} -cdrom {image} -boot d", card("rtl8139", ""));
    scene.boots("bios-cd", &cd, &[&exports]).unwrap();
    let stick = format!(
        "{UEFI} {} -drive file={image},format=raw,if=none,id=stick,readonly=on -device qemu-xhci \
         -device usb-storage,drive=stick,bootindex=0",
        card("e1000", "")
    );
    scene.boots("uefi-stick", &stick, &[&exports]).unwrap();

    // It is for one machine: another one's disks must not answer by that address.
    let other = disk.replace(MAC, "52:54:00:12:34:57");
    let not_its_card = "no interface has the boot address";
    scene
        .boots("other-machine", &other, &[not_its_card])
        .unwrap();
    scene.ends_well().unwrap();
}

#[test]
fn a_sites_own_server_boots_machines_and_holds_one_that_has_moved() {
    let scene = Scene::new("tree").unwrap();
    let tree = scene.path("tree");
    let install = || scene.p2v(&[Path::new("image"), Path::new("install"), &tree]);
    scene.set_own_image().unwrap();
    install().unwrap();
    let boot_file = |file| format!(",tftp={},bootfile={file}", tree.display());
    let exports = format!("exporting e1.0 read-only to {HOST}");
    let bios = format!("{BIOS} -boot n {}", card("e1000", &boot_file("pxelinux.0")));
    scene.boots("bios", &bios, &[&exports]).unwrap();
    let usual = scene.artifacts.image.join("vmlinuz");
    scene.set(&usual, "").unwrap();
    install().unwrap();
    // EDK2's own PXE, without a ROM on the card.
    let uefi = format!(
        "{UEFI} {},romfile=,bootindex=0",
        card("virtio-net-pci", &boot_file("shimx64.efi"))
    );
    scene.boots("uefi", &uefi, &[&exports]).unwrap();

    let record = scene.path("state/machines/old.json");
    let text = fs::read_to_string(&record).unwrap();
    let moved = text.replace("\"state\": \"seen\"", "\"state\": \"moved\"");
    assert_ne!(text, moved);
    fs::write(&record, moved).unwrap();
    install().unwrap();
    let held = ["Its disk is not started"];
    scene.boots("uefi-held", &uefi, &held).unwrap();
    // PXELINUX speaks on the serial port from its prompt on, where it waits.
    scene.boots("bios-held", &bios, &["boot:"]).unwrap();

    // A machine that nobody named boots its own disk.
    let boot_sector = fs::read(&scene.disk.path).unwrap();
    let other = scene.path("other.disk");
    fs::write(&other, &boot_sector[..1024]).unwrap();
    for (file, name) in [
        ("pxelinux.0", "pxelinux-other"),
        ("boot.ipxe", "ipxe-other"),
    ] {
        let unlisted = format!(
            "{BIOS} -boot nc {} -drive file={},format=raw,if=ide,index=0,snapshot=on",
            card("e1000", &boot_file(file)),
            other.display()
        );
        let unlisted = unlisted.replace(MAC, "52:54:00:12:34:57");
        scene.boots(name, &unlisted, &["p2v guest: boot"]).unwrap();
    }
    scene.ends_well().unwrap();
}
