//! BIOS machines: QEMU's PXE ROM, which is iPXE, with its script and with the real PXELINUX.

use std::time::Duration;

use p2v_netboot::{BootDecision, Loader, MachineId, Mode};

use crate::lab::{Lab, MAC, run};
use crate::machine::{Firmware, Machine, UUID};
use crate::site;

/// Longer than the service sends a block again each second.
const OUTAGE: Duration = Duration::from_secs(10);

/// What its firmware tells by DHCP, and by PXELINUX.
pub fn is_the_machine() -> String {
    let id: MachineId = UUID.parse().unwrap();
    format!("{MAC}: is {id}")
}

#[test]
fn a_held_machine_waits_asks_again_and_then_goes_on_with_its_own_disk() {
    let lab = Lab::new();
    lab.add_tap();
    *lab.recorder.decision.lock().unwrap() = BootDecision::Hold {
        message: "It runs on xen1 since Friday.".into(),
    };
    let mut settings = lab.settings(Mode::Dhcp);
    settings.loaders.insert(MAC, Loader::Pxelinux);
    let _service = lab.serve(settings);
    let mut machine = Machine::start(&lab, Firmware::Bios, "e1000");
    machine.says("boot:");
    let screen = machine.shows("Press Enter");
    assert!(screen.contains("It runs on xen1 since Friday."), "{screen}");
    assert!(screen.contains("Its disk is not started"), "{screen}");
    *lab.recorder.decision.lock().unwrap() = BootDecision::LocalDisk {
        why: "All is well.".into(),
    };
    machine.types("\r");
    machine.says("OWN DISK");
    machine.shows("All is well.");
    lab.recorder.wait_for(&is_the_machine());
    for line in [
        "52:54:00:12:34:56: BIOS (iPXE), asks for boot, offered 192.168.7.200",
        "52:54:00:12:34:56: given 192.168.7.200",
        "52:54:00:12:34:56: pxelinux.0 42 kB in ",
        "52:54:00:12:34:56: ldlinux.c32 119 kB in ",
        "52:54:00:12:34:56: menu sent: wait",
        "52:54:00:12:34:56: menu sent: boot its own disk",
    ] {
        lab.recorder.wait_for(line);
    }
}

#[test]
fn beside_the_sites_own_dhcp_server_the_kernel_is_fetched() {
    let lab = Lab::new();
    lab.add_tap();
    let _site = site::beside_machines(&lab, &[]);
    let mut settings = lab.settings(Mode::Proxy);
    settings.loaders.insert(MAC, Loader::Pxelinux);
    let _service = lab.serve(settings);
    let machine = Machine::start(&lab, Firmware::Bios, "e1000");
    machine.says("Loading initrd...");
    machine.shows("this machine starts the p2v agent from the network");
    lab.recorder.wait_for(
        "52:54:00:12:34:56: BIOS (iPXE), asks for boot, told to boot from here, pxelinux.0",
    );
    lab.recorder
        .wait_for("52:54:00:12:34:56: menu sent: start the agent");
    // What this lab serves as a kernel is none: PXELINUX says so once it has it all.
    lab.recorder
        .wait_for("52:54:00:12:34:56: vmlinuz 300 kB in ");
    machine.shows("Booting kernel failed");
}

/// Other servers may send machines here that are none of ours.
#[test]
fn a_machine_that_is_not_on_the_list_is_told_so_and_goes_on_with_its_own_disk() {
    let lab = Lab::new();
    lab.add_tap();
    let _site = site::beside_machines(&lab, &["--dhcp-boot=pxelinux.0,,192.168.7.1"]);
    let mut settings = lab.settings(Mode::Off);
    settings.allow = vec!["00:*".parse().unwrap()];
    let _service = lab.serve(settings);
    let machine = Machine::start(&lab, Firmware::Bios, "e1000");
    let screen = machine.shows("Nobody has approved it");
    // By PXELINUX: it asks for a menu by the machine's UUID first, and no DHCP message came here.
    lab.recorder.wait_for(&is_the_machine());
    assert!(screen.contains("boots its own disk"), "{screen}");
    machine.says("OWN DISK");
}

/// iPXE is given its script at once, on each card that QEMU has it for.
#[test]
fn ipxe_runs_its_script_waits_and_goes_on_with_its_own_disk() {
    for card in ["e1000", "virtio-net-pci", "rtl8139"] {
        let lab = Lab::new();
        lab.add_tap();
        *lab.recorder.decision.lock().unwrap() = BootDecision::Hold {
            message: "It runs on xen1 since Friday.".into(),
        };
        let _service = lab.serve(lab.settings(Mode::Dhcp));
        let machine = Machine::start(&lab, Firmware::Bios, card);
        let screen = machine.shows("Press any key to ask the Xen host again.");
        assert!(screen.contains("It runs on xen1 since Friday."), "{screen}");
        *lab.recorder.decision.lock().unwrap() = BootDecision::LocalDisk {
            why: "All is well.".into(),
        };
        machine.presses("spc");
        machine.says("OWN DISK");
        lab.recorder
            .wait_for("52:54:00:12:34:56: menu sent: boot its own disk");
        let fetched = |line: &String| line.contains("pxelinux");
        assert!(!lab.recorder.lines().iter().any(fetched));
    }
}

/// lpxelinux and iPXE fetch the large files by HTTP, where it is served.
#[test]
fn large_files_come_by_http() {
    for (loader, card) in [(Some(Loader::Lpxelinux), "virtio-net-pci"), (None, "e1000")] {
        let lab = Lab::new();
        lab.add_tap();
        let mut settings = lab.settings(Mode::Dhcp);
        settings.http_port = 80;
        if let Some(loader) = loader {
            settings.loaders.insert(MAC, loader);
        }
        let _service = lab.serve(settings);
        let machine = Machine::start(&lab, Firmware::Bios, card);
        match loader {
            // It says so before it fetches each.
            Some(_) => machine.says("Loading http://192.168.7.1/initrd..."),
            None => machine.shows("http://192.168.7.1/initrd..."),
        };
        lab.recorder
            .wait_for("52:54:00:12:34:56: vmlinuz 300 kB in ");
    }
}

/// A kernel of the machine's own: the usual one is none here.
/// Where nobody answers at all lpxelinux takes 20 s to give HTTP up, and iPXE 16: not waited for here. A cable that
/// was out for ten seconds does not end it: they ask again for longer than that.
#[test]
fn where_http_is_refused_machines_boot_by_tftp_also_with_an_outage() {
    for (loader, card) in [(Some(Loader::Lpxelinux), "virtio-net-pci"), (None, "e1000")] {
        let lab = Lab::new();
        lab.add_tap();
        lab.http("reject with tcp reset");
        let Some(mut settings) = lab.settings_with_own_image(Mode::Dhcp) else {
            return;
        };
        if let Some(loader) = loader {
            settings.loaders.insert(MAC, loader);
        }
        let _service = lab.serve(settings);
        let machine = Machine::start(&lab, Firmware::Bios, card);
        lab.recorder
            .wait_for("52:54:00:12:34:56: menu sent: start the agent (image own)");
        match loader {
            Some(_) => drop(machine.says("Loading http://192.168.7.1/image/own/vmlinuz...")),
            None => drop(machine.shows("http://192.168.7.1/image/own/vmlinuz...")),
        }
        lab.recorder
            .wait_for("52:54:00:12:34:56: image/own/vmlinuz ");
        // Once is enough: iPXE begins again with its script, after 45 s.
        if loader.is_some() {
            let port = |state: &str| {
                let set = ["link", "set", "dev", "tap0", "state", state];
                run(lab.client.command("bridge").args(set));
            };
            port("disabled");
            std::thread::sleep(OUTAGE);
            port("forwarding");
        }
        lab.recorder
            .wait_for("52:54:00:12:34:56: image/own/initrd ");
        machine.says("Linux version");
    }
}
