//! UEFI machines: OVMF with Debian's shim and GRUB.

use p2v_netboot::{BootDecision, Image, Mode, Settings};

use crate::lab::{Lab, run};
use crate::machine::{Firmware, Machine};
use crate::rom::is_the_machine;
use crate::site;

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
    // The lines stand for 5 s, or as many as GRUB takes for that: on a busy machine it misjudges the clock.
    machine.types("\u{1b}");
    // It restarts, and is not given its loader: the firmware goes on to its next boot entry. (That is
    // HTTP boot here, and it takes OVMF a minute to find that nobody answers; its disk comes then.)
    machine.says(": Not Found");
    for line in [
        "52:54:00:12:34:56: UEFI x64, asks for boot, offered 192.168.7.200",
        "52:54:00:12:34:56: shimx64.efi 1.0 MB in ",
        "52:54:00:12:34:56: grubx64.efi 3.8 MB in ",
        "52:54:00:12:34:56: menu sent: wait",
        "52:54:00:12:34:56: menu sent: boot its own disk",
        "52:54:00:12:34:56: not given its boot loader, so that it boots its own disk",
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

/// Its UUID came with the question for its menu, not only with the firmware's by DHCP.
fn assert_identified_by(lab: &Lab, loader: &str) {
    let lines = lab.recorder.lines();
    let mut after = lines.iter().skip_while(|line| !line.contains(loader));
    assert!(after.any(|line| *line == is_the_machine()), "{lines:#?}");
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
    let Some(settings) = lab.settings_with_image(Mode::Dhcp) else {
        return;
    };
    let token = "ab".repeat(32);
    *lab.recorder.decision.lock().unwrap() = BootDecision::Agent {
        append: format!("p2v.shelf=7 p2v.host=00:16:3e:00:00:01 p2v.token={token} p2v.access=ro"),
        image: Image::Usual,
    };
    let _service = lab.serve(settings);
    let machine = Machine::start(&lab, Firmware::SecureBoot, "virtio-net-pci,romfile=");
    machine.says("Secure boot enabled");
    // The agent has the disk on the wire, through the card the machine booted from.
    machine.says("e7.0");
    assert_identified_by(&lab, "grubx64.efi ");
    for line in [
        "52:54:00:12:34:56: UEFI x64, asks for boot, offered 192.168.7.200",
        "52:54:00:12:34:56: menu sent: start the agent",
        "52:54:00:12:34:56: vmlinuz ",
    ] {
        lab.recorder.wait_for(line);
    }
}

/// HTTP is refused, so it comes by TFTP.
#[test]
fn beside_the_sites_dhcp_server_a_uefi_machine_fetches_the_kernel() {
    let lab = Lab::new();
    lab.add_tap();
    let _site = site::beside_machines(&lab, &[]);
    lab.http("reject with tcp reset");
    let _service = lab.serve(with_our_grub(&lab, lab.settings(Mode::Proxy)));
    let machine = Machine::start(&lab, Firmware::Uefi, "virtio-net-pci,romfile=");
    for line in [
        "52:54:00:12:34:56: UEFI x64, asks for boot, told to boot from here",
        "52:54:00:12:34:56: menu sent: start the agent",
        // What this lab serves as a kernel is none, as GRUB soon sees.
        "52:54:00:12:34:56: vmlinuz: stopped by the machine after ",
    ] {
        lab.recorder.wait_for(line);
    }
    let said = machine.says("The Xen host is asked again in 30 seconds");
    assert!(said.contains("HTTP did not do: by TFTP."), "{said}");
}

/// Other servers may send machines here that are none of ours. EDK2 shows no words of a TFTP server's.
#[test]
fn a_machine_that_is_not_on_the_list_is_refused_its_boot_loader_and_says_so() {
    let lab = Lab::new();
    lab.add_tap();
    let _site = site::beside_machines(&lab, &["--dhcp-boot=shimx64.efi,,192.168.7.1"]);
    let mut settings = lab.settings(Mode::Off);
    settings.allow = vec!["00:*".parse().unwrap()];
    let _service = lab.serve(settings);
    let machine = Machine::start(&lab, Firmware::Uefi, "virtio-net-pci,romfile=");
    machine.says("PXE-E23: Client received TFTP error from server.");
    machine.says(": Not Found");
    let told = lab
        .recorder
        .wait_for("52:54:00:12:34:56: not given its boot loader");
    assert!(told.contains("Nobody has approved it"), "{told}");
}

#[test]
fn a_machine_with_32_bit_uefi_starts_the_kernel() {
    let lab = Lab::new();
    lab.add_tap();
    let Some(settings) = lab.settings_with_image(Mode::Dhcp) else {
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
    assert_identified_by(&lab, "grubia32.efi ");
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

/// From the firmware's first program to the image by HTTP alone, beside the site's DHCP server.
#[test]
fn by_uefi_http_boot_the_kernel_is_started() {
    let lab = Lab::new();
    lab.add_tap();
    let Some(settings) = lab.settings_with_own_image(Mode::Proxy) else {
        return;
    };
    let _site = site::beside_machines(&lab, &[]);
    let _service = lab.serve(with_our_grub(&lab, settings));
    let machine = Machine::start(&lab, Firmware::UefiHttp, "virtio-net-pci,romfile=");
    machine.says("Start HTTP Boot over IPv4");
    for line in [
        "52:54:00:12:34:56: UEFI HTTP boot x64, asks for boot, told to boot from here",
        "shimx64.efi 1.0 MB in ",
        "grubx64.efi ",
        "52:54:00:12:34:56: menu sent: start the agent (image own)",
        "52:54:00:12:34:56: image/own/initrd ",
    ] {
        lab.recorder.wait_for(line);
    }
    let said = machine.says("Linux version");
    assert!(!said.contains("HTTP did not do"), "{said}");
}

#[test]
fn by_http_boot_of_32_bit_uefi_the_kernel_is_started() {
    let lab = Lab::new();
    lab.add_tap();
    let Some(settings) = lab.settings_with_image(Mode::Dhcp) else {
        return;
    };
    let _service = lab.serve(with_our_grub(&lab, settings));
    let machine = Machine::start(&lab, Firmware::Uefi32Http, "virtio-net-pci,romfile=");
    machine.says("Start HTTP Boot over IPv4");
    for line in [
        "52:54:00:12:34:56: UEFI HTTP boot IA32, asks for boot, offered 192.168.7.200, http://192.168.7.1/grubia32.efi",
        "52:54:00:12:34:56: grubia32.efi 4",
        "52:54:00:12:34:56: menu sent: start the agent",
        // The menu is made for the signed GRUB, which has no HTTP: by TFTP.
        "52:54:00:12:34:56: vmlinuz ",
    ] {
        lab.recorder.wait_for(line);
    }
    machine.says("Linux version");
}

/// Debian's signed GRUB is from where the answer that gave the machine its address says. A kernel of the machine's own
/// that Debian signed is as good as the usual one.
#[test]
fn under_secure_boot_beside_a_dhcp_server_that_sends_it_here_the_kernel_is_started() {
    let lab = Lab::new();
    lab.add_tap();
    let Some(mut settings) = lab.settings_with_own_image(Mode::Proxy) else {
        return;
    };
    settings.secure_boot = Some(true);
    let next_server = "dhcp-boot=,,192.168.7.1";
    let _site = site::beside_machines(&lab, &[&format!("--{next_server}")]);
    let _service = lab.serve(settings);
    let told = lab.recorder.wait_for("next-server 192.168.7.1");
    assert!(told.contains(next_server), "{told}");
    let machine = Machine::start(&lab, Firmware::SecureBoot, "virtio-net-pci,romfile=");
    for line in [
        "52:54:00:12:34:56: UEFI x64, asks for boot, told to boot from here",
        "52:54:00:12:34:56: menu sent: start the agent (image own)",
        "52:54:00:12:34:56: image/own/vmlinuz ",
    ] {
        lab.recorder.wait_for(line);
    }
    machine.says("Secure boot enabled");
}

/// iPXE for UEFI, sent to its script's URL by the site's DHCP server.
#[test]
fn ipxe_for_uefi_with_its_script_by_http_starts_the_kernel() {
    let lab = Lab::new();
    lab.add_tap();
    let Some(settings) = lab.settings_with_image(Mode::Off) else {
        return;
    };
    let script = "--dhcp-boot=http://192.168.7.1/boot.ipxe";
    let _site = site::beside_machines(&lab, &[script]);
    let _service = lab.serve(settings);
    let machine = Machine::start(&lab, Firmware::Uefi, "virtio-net-pci");
    machine.says("http://192.168.7.1/boot.ipxe... ok");
    lab.recorder
        .wait_for("52:54:00:12:34:56: menu sent: start the agent");
    lab.recorder.wait_for("52:54:00:12:34:56: initrd ");
    let said = machine.says("Linux version");
    assert!(said.contains("http://192.168.7.1/initrd..."), "{said}");
    // No DHCP message came here.
    lab.recorder.wait_for(&is_the_machine());
}
