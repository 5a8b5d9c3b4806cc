//! UEFI machines: OVMF with Debian's shim and GRUB.

use p2v_netboot::{BootDecision, Mode, Settings};

use crate::dhcp::site_dhcp_server;
use crate::lab::{Lab, run};
use crate::machine::{Firmware, Machine};

/// A real netboot image, which `P2V_IMAGE_DIR` names; without one there is nothing to start.
fn with_image(settings: Settings) -> Option<Settings> {
    let Some(image) = std::env::var_os("P2V_IMAGE_DIR").map(std::path::PathBuf::from) else {
        eprintln!("skipped: P2V_IMAGE_DIR names no netboot image (`make image` makes one)");
        return None;
    };
    Some(Settings {
        kernel: image.join("vmlinuz"),
        initrd: image.join("initrd"),
        ..settings
    })
}

#[test]
fn a_held_machine_waits_asks_again_and_then_goes_on_with_its_own_disk() {
    let lab = Lab::new();
    lab.add_tap();
    *lab.recorder.decision.lock().unwrap() = BootDecision::Hold {
        message: "It runs on xen1 since Friday ('$root').".into(),
    };
    let _service = lab.serve(lab.settings(Mode::Dhcp));
    let mut machine = Machine::start(&lab, Firmware::Uefi, "virtio-net-pci,romfile=");
    let screen = machine.says("Press Esc to ask the Xen host again.");
    assert!(
        screen.contains("It runs on xen1 since Friday (`?root`)."),
        "{screen}"
    );
    // Another key is no way out, and asks nobody.
    machine.types("c");
    *lab.recorder.decision.lock().unwrap() = BootDecision::LocalDisk {
        why: "All is well.".into(),
    };
    machine.types("\u{1b}");
    machine.says("All is well.");
    // It restarts, and is not given its loader: the firmware goes on to its next boot entry. (That is
    // HTTP boot here, and it takes OVMF a minute to find that nobody answers; its disk comes then.)
    machine.says(": Not Found");
    for line in [
        "52:54:00:12:34:56: UEFI x64, asks for boot, offered 192.168.7.200",
        "52:54:00:12:34:56: shimx64.efi 1.0 MB in ",
        "52:54:00:12:34:56: grubx64.efi 3.8 MB in ",
        "52:54:00:12:34:56: menu sent: wait",
        "52:54:00:12:34:56: menu sent: go on with its own disk",
        "52:54:00:12:34:56: not given its boot loader, so that it goes on with its own disk",
    ] {
        lab.recorder.wait_for(line);
    }
    // What loaders look for and need not find is no news.
    let lines = lab.recorder.lines();
    assert!(
        !lines.iter().any(|l| l.contains("not served")),
        "{lines:#?}"
    );
}

/// The GRUB images that Debian does not have, as `make image` makes them.
fn with_our_grub(lab: &Lab, settings: Settings) -> Settings {
    run(std::process::Command::new("make")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .args(["--silent", "grub"])
        .arg(format!("IMAGE={}", lab.dir.path().display())));
    Settings {
        grub_ia32: lab.path("grubia32.efi"),
        grub_x64_unsigned: lab.path("grubx64.efi"),
        ..settings
    }
}

#[test]
fn under_secure_boot_the_agent_comes_up() {
    let lab = Lab::new();
    lab.add_tap();
    let Some(settings) = with_image(lab.settings(Mode::Dhcp)) else {
        return;
    };
    let token = "ab".repeat(32);
    *lab.recorder.decision.lock().unwrap() = BootDecision::Agent {
        append: format!("p2v.shelf=7 p2v.host=00:16:3e:00:00:01 p2v.token={token} p2v.access=ro"),
    };
    let _service = lab.serve(settings);
    let machine = Machine::start(&lab, Firmware::SecureBoot, "virtio-net-pci,romfile=");
    machine.says("Secure boot enabled");
    // The agent has the disk on the wire, through the card the machine booted from.
    machine.says("e7.0");
    for line in [
        "52:54:00:12:34:56: UEFI x64, asks for boot, offered 192.168.7.200",
        "52:54:00:12:34:56: menu sent: start the agent",
        "52:54:00:12:34:56: initrd ",
    ] {
        lab.recorder.wait_for(line);
    }
}

#[test]
fn beside_the_sites_dhcp_server_a_uefi_machine_fetches_the_kernel() {
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
    let _service = lab.serve(with_our_grub(&lab, lab.settings(Mode::Proxy)));
    let _machine = Machine::start(&lab, Firmware::Uefi, "virtio-net-pci,romfile=");
    for line in [
        "52:54:00:12:34:56: UEFI x64, asks for boot, told to boot from here",
        "52:54:00:12:34:56: menu sent: start the agent",
        // What this lab serves as a kernel is none, as GRUB soon sees.
        "52:54:00:12:34:56: vmlinuz: stopped by the machine after ",
    ] {
        lab.recorder.wait_for(line);
    }
}

#[test]
fn a_machine_with_32_bit_uefi_starts_the_kernel() {
    let lab = Lab::new();
    lab.add_tap();
    let Some(settings) = with_image(lab.settings(Mode::Dhcp)) else {
        return;
    };
    let _service = lab.serve(with_our_grub(&lab, settings));
    let machine = Machine::start(&lab, Firmware::Uefi32, "virtio-net-pci,romfile=");
    machine.says("Linux version");
    for line in [
        "52:54:00:12:34:56: UEFI IA32, asks for boot, offered 192.168.7.200",
        "52:54:00:12:34:56: grubia32.efi ",
        "52:54:00:12:34:56: menu sent: start the agent",
    ] {
        lab.recorder.wait_for(line);
    }
}

/// The card's own ROM is iPXE for UEFI.
#[test]
fn ipxe_for_uefi_runs_its_script_and_goes_on_with_its_own_disk() {
    let lab = Lab::new();
    lab.add_tap();
    *lab.recorder.decision.lock().unwrap() = BootDecision::Hold {
        message: "It runs on xen1 since Friday.".into(),
    };
    let _service = lab.serve(lab.settings(Mode::Dhcp));
    let mut machine = Machine::start(&lab, Firmware::Uefi, "virtio-net-pci");
    let screen = machine.says("Press any key to ask the Xen host again.");
    assert!(screen.contains("It runs on xen1 since Friday."), "{screen}");
    *lab.recorder.decision.lock().unwrap() = BootDecision::LocalDisk {
        why: "All is well.".into(),
    };
    machine.types(" ");
    machine.says("All is well.");
    // The firmware goes on to its next boot entry.
    machine.says(": Not Found");
    lab.recorder
        .wait_for("52:54:00:12:34:56: UEFI x64 (iPXE), asks for boot, offered 192.168.7.200");
}
