use p2v_contract::inventory::{Cpu, Disk, Dmi, Nic};
use proptest::prelude::*;

use super::*;

fn nic(n: u8, driver: &str) -> Nic {
    Nic {
        name: format!("eth{n}"),
        mac: MacAddr::new(0x00, 0x0c, 0x29, 1, 2, n),
        driver: driver.into(),
        pci_id: String::new(),
        carrier: true,
        speed: 1000,
        boot: n == 0,
    }
}

fn disk(slot: u8, controller: &str) -> Disk {
    Disk {
        address: Some(Address::new(7, slot)),
        name: format!("sd{}", char::from(b'a' + slot)),
        model: "ST3500418AS".into(),
        serial: "5VM0".into(),
        sectors: 976_773_168,
        logical_sector: 512,
        physical_sector: 512,
        controller: controller.into(),
        ..Disk::default()
    }
}

fn machine(controller: &str, disks: u8, driver: &str) -> Inventory {
    Inventory {
        version: 1,
        dmi: Dmi {
            vendor: "HP".into(),
            product: "ProLiant ML110 G5".into(),
            serial: "CZC8".into(),
            uuid: "34313830-3838-5a43-4338-343334363747".into(),
            ..Dmi::default()
        },
        cpu: Cpu {
            threads: 2,
            sockets: 1,
            long_mode: true,
            model: "Xeon".into(),
        },
        memory_bytes: 2_065_956_864,
        nics: vec![nic(0, driver)],
        disks: (0..disks).map(|i| disk(i, controller)).collect(),
        ..Inventory::default()
    }
}

fn backends(inventory: &Inventory) -> Vec<Backend> {
    exported(inventory)
        .iter()
        .map(|(address, _)| Backend {
            address: *address,
            path: format!("/dev/mapper/p2v-web-{}", address.slot).into(),
            format: Format::Raw,
            underneath: format!("the old machine's disk {address}"),
        })
        .collect()
}

fn fit_with(
    inventory: &Inventory,
    settings: &Settings,
    host: HostFacts,
) -> Result<DomainConfig, Refusal> {
    let name = "web".parse().unwrap();
    let mac = MacAddr::new(0, 0x0c, 0x29, 1, 2, 0);
    fit(
        &name,
        mac,
        inventory,
        &backends(inventory),
        settings,
        host,
        false,
    )
}

fn text(inventory: &Inventory) -> String {
    fit_with(inventory, &Settings::default(), HostFacts::default())
        .unwrap()
        .to_string()
}

/// Compares with `golden/NAME.cfg`; `P2V_GOLDEN=write` writes it, to be read before it is committed.
fn golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("src/domain/golden/{name}.cfg"));
    if std::env::var_os("P2V_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(expected == text, "{} differs from:\n{text}", path.display());
}

#[test]
fn an_image_is_named_as_one_on_every_controller() {
    for (driver, disk) in [
        (
            "ata_piix",
            "format=qcow2, backendtype=qdisk, vdev=hda, access=rw, target=/srv/web.qcow2",
        ),
        (
            "megaraid_sas",
            "file=/srv/web.qcow2,if=none,id=p2vdisk0,format=qcow2,cache=none",
        ),
    ] {
        let inventory = machine(driver, 1, "e1000");
        let mut config = fit_with(&inventory, &Settings::default(), HostFacts::default()).unwrap();
        config.disks[0].path = "/srv/web.qcow2".into();
        config.disks[0].format = Format::Qcow2;
        let text = config.to_string();
        assert!(
            text.contains(disk) && !text.contains("format=raw"),
            "{text}"
        );
    }
}

#[test]
fn whole_configs() {
    golden("ide", &text(&machine("ata_piix", 2, "e1000")));
    golden("ahci", &text(&machine("ahci", 5, "r8169")));
    golden("lsi", &text(&machine("sym53c8xx", 1, "pcnet32")));
    let mut uefi = machine("megaraid_sas", 2, "bnx2");
    uefi.firmware = Firmware::Uefi;
    uefi.nics.push(nic(1, "bnx2"));
    uefi.dmi = Dmi::default();
    let settings = Settings {
        serial: Serial::Directory("/var/log/p2v".into()),
        localtime: true,
        xen_platform_pci: true,
        ..Settings::default()
    };
    golden(
        "megasas-uefi",
        &fit_with(&uefi, &settings, HostFacts::default())
            .unwrap()
            .to_string(),
    );
}

#[test]
fn refusals_say_what_to_do() {
    let refuse = |inventory: &Inventory| {
        fit_with(inventory, &Settings::default(), HostFacts::default()).unwrap_err()
    };
    assert!(matches!(
        refuse(&machine("ahci", 0, "e1000")),
        Refusal::NoDisk(_)
    ));
    let mut four_k = machine("ahci", 2, "e1000");
    four_k.disks[0].address = None;
    four_k.disks[0].refused = "4096-byte sectors\n".into();
    let error = refuse(&four_k).to_string();
    assert!(
        error.contains("4096-byte sectors?") && error.contains("sda"),
        "{error}"
    );
    let mut protected = machine("ahci", 1, "e1000");
    protected.disks[0].read_only = true;
    assert!(matches!(refuse(&protected), Refusal::ReadOnly { .. }));
    let error = refuse(&machine("ata_piix", 5, "e1000")).to_string();
    assert!(
        error.contains("5 disks") && error.contains("takes 4"),
        "{error}"
    );
    assert!(matches!(
        refuse(&machine("nvme", 7, "e1000")),
        Refusal::TooManyDisks { most: 6, .. }
    ));
    let settings = Settings {
        bridge: "x\", \"y".into(),
        ..Settings::default()
    };
    assert!(matches!(
        fit_with(
            &machine("ahci", 1, "e1000"),
            &settings,
            HostFacts::default()
        ),
        Err(Refusal::Bridge(_))
    ));
}

#[test]
fn memory_and_processors_fit_the_host() {
    let host = |free, cpus| HostFacts {
        free_memory_mib: Some(free),
        cpus: Some(cpus),
    };
    let inventory = machine("ahci", 1, "e1000");
    let config = |h| fit_with(&inventory, &Settings::default(), h);
    let roomy = config(host(8192, 8)).unwrap();
    assert_eq!((roomy.memory_mib.value, roomy.vcpus.value), (2048, 2));
    let tight = config(host(1500, 1)).unwrap();
    assert_eq!((tight.memory_mib.value, tight.vcpus.value), (1216, 1));
    assert!(tight.memory_mib.why.contains("1500"));
    assert!(matches!(
        config(host(700, 1)),
        Err(Refusal::Memory {
            wanted: 2048,
            free: 700,
            reserve: 256
        })
    ));
    assert_eq!(installed_mib(470 << 20), 512);
    assert_eq!(installed_mib(7_900 << 20), 8192);
    assert_eq!(installed_mib(0), 64);
}

/// The lines `xl` acts on.
fn acting(config: &str) -> Vec<&str> {
    config
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
        .collect()
}

fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        Just("\"]\nname = \"Domain-0\"\ndisk = [".into()),
        Just("x\rdevice_model_override = \"/tmp/evil\"".into()),
        Just("'\\\n\u{2028}\u{85}vnclisten=\"0.0.0.0\"\0".into()),
        "[\\PC\n\r\t\"'\\\\#=]{0,400}",
    ]
}

proptest! {
    #[test]
    fn texts_from_the_wire_change_nothing_xl_reads(texts in proptest::collection::vec(hostile(), 10)) {
        let mut inventory = machine("?", 2, "?");
        inventory.dmi.uuid = String::new();
        inventory.disks.push(Disk { address: None, ..Disk::default() });
        let clean = text(&inventory);
        inventory.dmi = Dmi {
            vendor: texts[0].clone(),
            product: texts[1].clone(),
            serial: texts[2].clone(),
            uuid: texts[3].clone(),
            bios: texts[4].clone(),
        };
        inventory.cpu.model = texts[4].clone();
        inventory.nics[0].name = texts[5].clone();
        inventory.nics[0].driver = texts[6].clone();
        inventory.disks[0].controller = texts[7].clone();
        inventory.disks[0].model = texts[8].clone();
        inventory.disks[2].refused = texts[9].clone();
        inventory.disks[2].name = texts[0].clone();
        let dirty = text(&inventory);
        prop_assert_eq!(acting(&dirty), acting(&clean));
        prop_assert!(dirty.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)));
    }
}
