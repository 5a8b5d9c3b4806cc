//! Finding drivers for all devices there are, until no new device turns up.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::modules::Loader;
use crate::sysfs;
use crate::uevent::Uevents;

/// The machine is taken as complete when nothing new appeared for so long. Drivers of old SCSI
/// adapters reset their bus and scan it behind the loading of the module; one such step is
/// seldom longer.
const QUIET: Duration = Duration::from_millis(1500);

/// ... and in any case after so long.
const LIMIT: Duration = Duration::from_secs(60);

/// Every modalias below a directory of sysfs (`/sys/devices`).
pub fn modaliases(devices: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![devices.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                open.push(entry.path());
            } else if entry.file_name() == "modalias" {
                found.extend(sysfs::text(entry.path()));
            }
        }
    }
    found
}

/// Loads drivers until the machine is complete; `say` is told what is loaded and what fails.
pub fn load_all(loader: &mut Loader, events: Option<&Uevents>, mut say: impl FnMut(&str)) {
    let start = Instant::now();
    let mut last_change = start;
    let mut known = BTreeSet::new();
    loop {
        let now = modaliases(Path::new("/sys/devices"));
        let mut names = Vec::new();
        for modalias in now.difference(&known) {
            let (loaded, errors) = loader.load_matching(modalias);
            names.extend(loaded);
            for error in errors {
                say(&format!("{error}"));
            }
        }
        if !names.is_empty() {
            say(&format!("drivers: {}", names.join(" ")));
        }
        if now != known || !names.is_empty() {
            last_change = Instant::now();
        }
        known = now;
        let event = match events {
            Some(events) => events.wait(100),
            None => {
                std::thread::sleep(Duration::from_millis(100));
                false
            }
        };
        if event {
            last_change = Instant::now();
        }
        if last_change.elapsed() >= QUIET {
            return;
        }
        if start.elapsed() >= LIMIT {
            say("devices are still appearing after 60 s: going on with those that are there");
            return;
        }
    }
}

/// Firmware files that drivers asked for and did not get, from the kernel's messages: the image
/// has none unless it was made with them (`p2v-image build --firmware`).
///
/// Debian's kernels say `DRIVER DEVICE: firmware: failed to load FILE (-2)` (seen with 6.1), others
/// `Direct firmware load for FILE failed with error -2`.
pub fn missing_firmware(messages: &str) -> BTreeSet<String> {
    messages
        .lines()
        .filter_map(|line| {
            let rest = line
                .split_once("firmware: failed to load ")
                .or_else(|| line.split_once("Direct firmware load for "))?
                .1;
            rest.split_whitespace().next().map(str::to_owned)
        })
        .collect()
}

/// What the kernel has said so far (`/dev/kmsg`); empty if it cannot be read.
pub fn kernel_messages() -> String {
    let mut messages = String::new();
    let Ok(mut log) = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
    else {
        return messages;
    };
    // One record a read; EAGAIN at the end, EPIPE when records were overwritten meanwhile.
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(length) if length > 0 => {
                messages.push_str(&String::from_utf8_lossy(&record[..length]));
            }
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            _ => return messages,
        }
    }
}

/// A PCI function that no driver has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Its address, such as `0000:00:03.0`.
    pub address: String,
    /// `vendor:device`.
    pub id: String,
    /// What its class says it is: `Ethernet`, `SCSI`, `RAID` ...
    pub kind: &'static str,
}

/// PCI functions of classes that matter here and that have no driver.
pub fn orphans(sys: &Path) -> Vec<Orphan> {
    let bus = sys.join("bus/pci/devices");
    sysfs::names(&bus)
        .into_iter()
        .filter_map(|address| {
            let function = bus.join(&address);
            let class = sysfs::text(function.join("class"))?;
            let kind = kind(&class)?;
            if function.join("driver").exists() {
                return None;
            }
            Some(Orphan {
                id: sysfs::pci_id(&function)?,
                address,
                kind,
            })
        })
        .collect()
}

/// Names the classes that matter (PCI Code and ID Assignment: 01 mass storage, 02 network).
fn kind(class: &str) -> Option<&'static str> {
    Some(match class.strip_prefix("0x").unwrap_or(class).get(..4)? {
        "0100" => "SCSI",
        "0101" => "IDE",
        "0104" => "RAID",
        "0105" => "ATA",
        "0106" => "SATA",
        "0107" => "SAS",
        "0108" => "NVMe",
        "0180" => "storage",
        "0200" => "Ethernet",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::tree::Tree;

    #[test]
    fn modaliases_are_found_at_any_depth() {
        let t = Tree::new();
        t.file("devices/pci0/0000:00:03.0/modalias", "pci:v1\n");
        t.file("devices/pci0/0000:00:03.0/virtio0/modalias", "virtio:d1\n");
        t.file("devices/empty/modalias", "\n");
        t.link("devices/loop", "devices");
        let found = modaliases(&t.root().join("devices"));
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            ["pci:v1", "virtio:d1"]
        );
    }

    #[test]
    fn firmware_that_is_missing_is_named_once() {
        let messages = "6,1,2,-;e100 0000:00:04.0: firmware: failed to load e100/d102e_ucode.bin (-2)\n\
             6,2,2,-;e100 0000:00:04.0: firmware: failed to load e100/d102e_ucode.bin (-2)\n\
             4,3,2,-;bnx2 0: Direct firmware load for bnx2/x.fw failed with error -2\nother\n";
        let found: Vec<_> = missing_firmware(messages).into_iter().collect();
        assert_eq!(found, ["bnx2/x.fw", "e100/d102e_ucode.bin"]);
    }

    #[test]
    fn functions_without_a_driver_are_named() {
        let t = Tree::new();
        for (address, class, driver) in [
            ("0000:00:03.0", "0x020000", None),
            ("0000:00:04.0", "0x010400", Some("megaraid_sas")),
            ("0000:00:05.0", "0x030000", None),
        ] {
            let path = format!("bus/pci/devices/{address}");
            t.pci(&path, "8086", "100e", None);
            t.file(&format!("{path}/class"), class);
            if let Some(driver) = driver {
                t.file(&format!("bus/pci/drivers/{driver}/bind"), "");
                t.link(
                    &format!("{path}/driver"),
                    &format!("bus/pci/drivers/{driver}"),
                );
            }
        }
        assert_eq!(
            orphans(t.root()),
            [Orphan {
                address: "0000:00:03.0".into(),
                id: "8086:100e".into(),
                kind: "Ethernet"
            }]
        );
    }
}
