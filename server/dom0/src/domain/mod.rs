//! Which domain fits an old machine: a pure function from its inventory and the operator's
//! preferences to a config with a reason for every choice, or a refusal that says what to do.

use std::path::PathBuf;

use p2v_contract::inventory::{Firmware, Inventory};
use p2v_contract::{Address, MacAddr};

use crate::name::MachineName;
use crate::record::exported;
use crate::settings::{Serial, Settings};

pub mod controller;
pub mod identity;
pub mod nic;
mod render;

pub use controller::Controller;

/// Least memory a domain is given, in MiB.
const MEMORY_MIN_MIB: u64 = 64;
/// Most network cards `xl` gives an HVM domain: each takes a PCI slot of the 32.
const NICS_MAX: usize = 8;

/// What the Xen host has to give; `None` where it was not asked or does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Free memory in MiB (`xl info`, `free_memory`).
    pub free_memory_mib: Option<u64>,
    /// Processors (`xl info`, `nr_cpus`).
    pub cpus: Option<u32>,
}

/// How a disk is kept in what the config names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As it is.
    Raw,
    /// As a qcow2 image.
    Qcow2,
}

/// What a disk of the domain is on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The disk of the old machine it stands for.
    pub address: Address,
    /// Device or file that the config names.
    pub path: PathBuf,
    /// What is in it.
    pub format: Format,
    /// What is underneath, for the comment: `the old machine's disk e7.0`, `volume vg/web-disk0`.
    pub underneath: String,
}

/// A value and the reason for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen<T> {
    /// The value.
    pub value: T,
    /// Why, in words for a comment.
    pub why: String,
}

impl<T> Chosen<T> {
    fn new(value: T, why: impl Into<String>) -> Chosen<T> {
        Chosen {
            value,
            why: why.into(),
        }
    }
}

/// One network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vif {
    /// Its address, the old card's.
    pub mac: MacAddr,
    /// QEMU's name of the emulated card.
    pub model: &'static str,
}

/// A domain that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainConfig {
    /// Its name.
    pub name: MachineName,
    /// What the old machine is, for the head of the file.
    pub title: String,
    /// Its UUID.
    pub uuid: Chosen<String>,
    /// Memory in MiB.
    pub memory_mib: Chosen<u64>,
    /// Virtual processors.
    pub vcpus: Chosen<u32>,
    /// BIOS or UEFI.
    pub firmware: Chosen<Firmware>,
    /// The controller the disks hang on.
    pub controller: Chosen<Controller>,
    /// The disks, boot disk first.
    pub disks: Vec<Backend>,
    /// Disks of the old machine that the domain does not get, and why.
    pub left_out: Vec<String>,
    /// The network cards.
    pub vifs: Vec<Chosen<Vif>>,
    /// The bridge they are on.
    pub bridge: String,
    /// COM1.
    pub serial: Serial,
    /// Clock in local time.
    pub localtime: bool,
    /// The Xen platform device.
    pub xen_platform_pci: bool,
}

/// Why there is no sane config, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing to boot from.
    #[error(
        "the old machine exports no disk{0}. Look at its screen: a RAID controller may need a driver that the \
         netboot image lacks, or its disks may be switched off in the firmware"
    )]
    NoDisk(String),
    /// The boot disk is not exported.
    #[error(
        "the boot disk {name} is not exported: {reason}. A domain on the other disks alone would not boot; \
         copy that disk's contents to one with 512-byte sectors, or reinstall the system"
    )]
    BootDisk {
        /// The kernel's name of it on the old machine.
        name: String,
        /// The agent's reason.
        reason: String,
    },
    /// The disk refuses writes.
    #[error(
        "the disk {address} says that it cannot be written (a write-protect switch or a worn-out SSD); a running \
         system needs to write. Copy it first (`p2v copy`), then `p2v cutover`"
    )]
    ReadOnly {
        /// The disk.
        address: Address,
    },
    /// More than the controller takes.
    #[error(
        "the old machine has {have} disks, and the emulated {controller} controller takes {most}. Export fewer \
         (detach data disks and move them by hand later), or write a config by hand"
    )]
    TooManyDisks {
        /// Number of disks.
        have: usize,
        /// The controller.
        controller: &'static str,
        /// The most it takes.
        most: usize,
    },
    /// The host has too little memory.
    #[error(
        "the old machine has {wanted} MiB and this host has {free} MiB free, of which {reserve} MiB are to stay \
         free (memory_reserve_mib). Stop another domain, lower dom0_mem, or write a config by hand with less"
    )]
    Memory {
        /// What it should get, MiB.
        wanted: u64,
        /// What is free, MiB.
        free: u64,
        /// What must stay free, MiB.
        reserve: u64,
    },
    /// A disk has no backend.
    #[error("no device was given for the disk {0}; this is a fault of p2v")]
    NoBackend(Address),
    /// A path that a config cannot hold.
    #[error(
        "the path {0:?} cannot stand in a domain config: it must be absolute, of printable ASCII, without white \
         space, commas, quotes or backslashes"
    )]
    Path(PathBuf),
    /// A bridge name that a config cannot hold.
    #[error("`{0}` cannot be the name of a bridge: correct `bridge` in the settings")]
    Bridge(String),
}

/// Chooses the domain for the machine `inventory` describes. `backends` has one entry per exported
/// disk. A disk that cannot be written is refused unless `copied`: then the old disk is not used.
///
/// # Errors
/// [`Refusal`] says what is in the way and what to do.
pub fn fit(
    name: &MachineName,
    boot_mac: MacAddr,
    inventory: &Inventory,
    backends: &[Backend],
    settings: &Settings,
    host: HostFacts,
    copied: bool,
) -> Result<DomainConfig, Refusal> {
    let disks = exported(inventory);
    let left_out: Vec<String> = inventory
        .disks
        .iter()
        .filter(|d| d.address.is_none())
        .map(|d| {
            format!(
                "{} {} ({} sectors): {}",
                d.name, d.model, d.sectors, d.refused
            )
        })
        .collect();
    let Some((_, boot)) = disks.first().copied() else {
        return Err(Refusal::NoDisk(match left_out.len() {
            0 => String::new(),
            _ => format!(" ({})", render::plain(&left_out.join("; "))),
        }));
    };
    if let Some(first) = inventory.disks.first().filter(|d| d.address.is_none()) {
        return Err(Refusal::BootDisk {
            name: render::plain(&first.name),
            reason: render::plain(&first.refused),
        });
    }
    if let Some((address, _)) = disks.iter().find(|(_, d)| d.read_only && !copied) {
        return Err(Refusal::ReadOnly { address: *address });
    }
    let controller = controller::choose(&boot.controller, disks.len());
    if disks.len() > controller.value.most_disks() {
        return Err(Refusal::TooManyDisks {
            have: disks.len(),
            controller: controller.value.label(),
            most: controller.value.most_disks(),
        });
    }
    let mut chosen = Vec::new();
    for (address, _) in &disks {
        let backend = backends
            .iter()
            .find(|b| b.address == *address)
            .ok_or(Refusal::NoBackend(*address))?;
        if !render::fits_in_value(&backend.path) {
            return Err(Refusal::Path(backend.path.clone()));
        }
        chosen.push(backend.clone());
    }
    if let Serial::Directory(path) = &settings.serial
        && !render::fits_in_value(path)
    {
        return Err(Refusal::Path(path.clone()));
    }
    // An interface name of Linux (IFNAMSIZ), and nothing that means something to xl.
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if settings.bridge.is_empty()
        || settings.bridge.len() > 15
        || !settings.bridge.bytes().all(legal)
    {
        return Err(Refusal::Bridge(render::plain(&settings.bridge)));
    }
    Ok(DomainConfig {
        name: name.clone(),
        title: title(inventory),
        uuid: identity::uuid(&inventory.dmi.uuid, boot_mac),
        memory_mib: memory(inventory.memory_bytes, settings.memory_reserve_mib, host)?,
        vcpus: vcpus(inventory.cpu.threads, host),
        firmware: match inventory.firmware {
            Firmware::Bios => Chosen::new(Firmware::Bios, "the old machine starts by its BIOS"),
            Firmware::Uefi => Chosen::new(
                Firmware::Uefi,
                "the old machine starts by UEFI. UEFI variables do not outlive the domain, so the system must be \
                 bootable by the removable-media path \\EFI\\BOOT\\BOOTX64.EFI",
            ),
        },
        controller,
        disks: chosen,
        left_out,
        vifs: inventory
            .nics
            .iter()
            .filter(|nic| identity::is_station(nic.mac))
            .take(NICS_MAX)
            .map(nic::choose)
            .collect(),
        bridge: settings.bridge.clone(),
        serial: settings.serial.clone(),
        localtime: settings.localtime,
        xen_platform_pci: settings.xen_platform_pci,
    })
}

fn title(inventory: &Inventory) -> String {
    let dmi = &inventory.dmi;
    let words: Vec<&str> = [&*dmi.vendor, &*dmi.product]
        .into_iter()
        .filter(|w| !w.is_empty())
        .collect();
    let mut title = if words.is_empty() {
        "an unnamed machine".to_owned()
    } else {
        words.join(" ")
    };
    if !dmi.serial.is_empty() {
        title.push_str(&format!(", serial {}", dmi.serial));
    }
    title
}

/// The kernel's MemTotal lacks what the kernel and the firmware took for themselves; memory comes
/// in modules, so the next step up is what was installed.
fn installed_mib(seen_bytes: u64) -> u64 {
    let mib = seen_bytes.div_ceil(1 << 20);
    let step = match mib {
        0..=1024 => 64,
        1025..=4096 => 256,
        _ => 512,
    };
    mib.div_ceil(step).max(1) * step
}

fn memory(seen_bytes: u64, reserve: u64, host: HostFacts) -> Result<Chosen<u64>, Refusal> {
    let wanted = installed_mib(seen_bytes).max(MEMORY_MIN_MIB);
    let Some(free) = host.free_memory_mib else {
        return Ok(Chosen::new(
            wanted,
            "as much as the old machine has; this host's free memory is not known",
        ));
    };
    let spare = free.saturating_sub(reserve);
    if wanted <= spare {
        return Ok(Chosen::new(wanted, "as much as the old machine has"));
    }
    // A quarter is still a machine that runs, slowly; less is a surprise at night.
    let given = spare - spare % 64;
    if given < MEMORY_MIN_MIB || given < wanted / 4 {
        return Err(Refusal::Memory {
            wanted,
            free,
            reserve,
        });
    }
    Ok(Chosen::new(
        given,
        format!(
            "the old machine has {wanted} MiB, but this host has only {free} MiB free and {reserve} MiB are to stay free"
        ),
    ))
}

fn vcpus(threads: u32, host: HostFacts) -> Chosen<u32> {
    let wanted = threads.max(1);
    match host.cpus {
        Some(cpus) if cpus > 0 && wanted > cpus => Chosen::new(
            cpus,
            format!("the old machine has {wanted}, but this host has only {cpus}"),
        ),
        _ if wanted == 1 => Chosen::new(
            1,
            "one, as in the old machine: an old Windows installed on one processor has a HAL for one",
        ),
        _ => Chosen::new(wanted, "as many as the old machine has"),
    }
}

#[cfg(test)]
mod tests;
