//! The disks of the machine: which there are, what they are, and whether they can be exported.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use p2v_contract::SECTOR;

use crate::partitions::{self, Layout};
use crate::sysfs::{self, Attachment};

/// One disk as found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The kernel's name, such as `sda`.
    pub name: String,
    /// Its directory in sysfs, links resolved: where it hangs.
    pub sysfs: PathBuf,
    /// Model.
    pub model: String,
    /// Serial number; empty if it has none that can be read.
    pub serial: String,
    /// Size in 512-byte sectors.
    pub sectors: u64,
    /// Logical sector size in bytes.
    pub logical_sector: u32,
    /// Physical sector size in bytes.
    pub physical_sector: u32,
    /// Its controller.
    pub attachment: Attachment,
    /// It says that it cannot be written.
    pub read_only: bool,
    /// What its first sectors say.
    pub layout: Layout,
    /// Why it is not exported; empty if it can be.
    pub refused: String,
}

/// Block devices that are no disks of the machine: they are not even listed.
const NOT_DISKS: [&str; 9] = [
    "loop", "ram", "zram", "sr", "fd", "md", "dm-", "nbd", "mtdblock",
];

/// What decides whether a disk is exported.
#[derive(Clone, Copy, Debug)]
pub struct Traits<'a> {
    /// Size in 512-byte sectors.
    pub sectors: u64,
    /// Logical sector size in bytes.
    pub logical_sector: u32,
    /// Directory in sysfs.
    pub sysfs: &'a Path,
    /// SCSI device type (`device/type`), if it is a SCSI device.
    pub scsi_type: Option<u8>,
    /// `queue/zoned`.
    pub zoned: Option<&'a str>,
}

/// Why a disk is not exported; `None` if it can be.
///
/// The image has no USB drivers, so a disk on USB is not seen by its kernel; the rule stands all
/// the same for a kernel that has them built in.
pub fn refusal(disk: &Traits<'_>) -> Option<String> {
    if disk.sysfs.components().any(|c| {
        let name = c.as_os_str().to_string_lossy();
        name.strip_prefix("usb")
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    }) {
        return Some("on USB: not a fixed disk of the machine".into());
    }
    // SCSI device types (SPC-4, table 141): 0 direct access, 0x0E simplified direct access.
    if let Some(other) = disk.scsi_type.filter(|t| !matches!(t, 0 | 0x0E)) {
        return Some(format!("SCSI device type {other} is not a disk"));
    }
    if disk.zoned == Some("host-managed") {
        return Some("host-managed zones cannot be exported over AoE".into());
    }
    if disk.sectors == 0 {
        return Some("size 0: no medium, or the disk does not answer".into());
    }
    if u64::from(disk.logical_sector) != SECTOR {
        return Some(format!(
            "{}-byte logical sectors (4Kn): AoE has only 512",
            disk.logical_sector
        ));
    }
    None
}

/// Lists the disks under `sys` (`/sys`) in no particular order. `read_layout` opens a disk by name
/// and sector size and reads what is on it; its failure becomes the reason of a refusal.
pub fn list(sys: &Path, read_layout: impl Fn(&str, u32) -> std::io::Result<Layout>) -> Vec<Found> {
    sysfs::names(sys.join("block"))
        .into_iter()
        .filter(|name| !NOT_DISKS.iter().any(|other| name.starts_with(other)))
        .filter_map(|name| one(sys, &name, &read_layout))
        .collect()
}

/// Reads one disk; `None` if it is not to be listed: removable, hidden, or of no device.
fn one(
    sys: &Path,
    name: &str,
    read_layout: &impl Fn(&str, u32) -> std::io::Result<Layout>,
) -> Option<Found> {
    let dir = sysfs::real(sys.join("block").join(name))?;
    let flag = |attribute: &str| sysfs::number::<u8>(dir.join(attribute)).is_some_and(|n| n != 0);
    if flag("removable") || flag("hidden") || !dir.join("device").exists() {
        return None;
    }
    let device = sysfs::real(dir.join("device"))?;
    let sectors = sysfs::number(dir.join("size")).unwrap_or(0);
    let logical_sector =
        sysfs::number(dir.join("queue/logical_block_size")).unwrap_or(SECTOR as u32);
    let zoned = sysfs::text(dir.join("queue/zoned"));
    let mut refused = refusal(&Traits {
        sectors,
        logical_sector,
        sysfs: &dir,
        scsi_type: sysfs::number(device.join("type")),
        zoned: zoned.as_deref(),
    })
    .unwrap_or_default();
    let mut layout = Layout::default();
    if sectors > 0 {
        match read_layout(name, logical_sector) {
            Ok(read) => {
                if read.boot_medium && refused.is_empty() {
                    refused =
                        "the medium that p2v's agent is started from: not a disk of the old system"
                            .into();
                }
                layout = read;
            }
            // A disk whose first sector is bad may still be worth copying: it is exported, and
            // only a disk that cannot be opened at all is not.
            Err(error) if refused.is_empty() && error.raw_os_error() != Some(libc::EIO) => {
                refused = format!("cannot be read: {error}");
            }
            Err(_) => {}
        }
    }
    Some(Found {
        name: name.to_owned(),
        model: model(&device, name),
        serial: serial(&dir, &device),
        sectors,
        logical_sector,
        physical_sector: sysfs::number(dir.join("queue/physical_block_size"))
            .unwrap_or(logical_sector),
        attachment: sysfs::attachment(&controller_path(&dir)),
        read_only: flag("ro"),
        layout,
        refused,
        sysfs: dir,
    })
}

/// Opens `/dev/NAME` read-only and reads its layout.
///
/// # Errors
/// The device cannot be opened, or its first sector not be read.
pub fn read_layout(name: &str, logical_sector: u32) -> std::io::Result<Layout> {
    let mut disk = File::open(Path::new("/dev").join(name))?;
    partitions::read(&mut disk, logical_sector)
}

/// The path to look for the controller on. An NVMe disk that could have several controllers hangs
/// under a virtual "subsystem" device, which has links to them.
fn controller_path(dir: &Path) -> PathBuf {
    if let Some(subsystem) = dir
        .parent()
        .filter(|p| sysfs::file_name(p).starts_with("nvme-subsys"))
    {
        let controller = sysfs::names(subsystem).into_iter().find(|n| {
            n.strip_prefix("nvme")
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        });
        if let Some(real) = controller.and_then(|c| sysfs::real(subsystem.join(c))) {
            return real;
        }
    }
    dir.to_owned()
}

/// Vendor and model. The vendor of a disk behind libata is always "ATA", which says nothing.
fn model(device: &Path, name: &str) -> String {
    let vendor = sysfs::text(device.join("vendor"))
        .filter(|v| v != "ATA" && !v.starts_with("0x"))
        .unwrap_or_default();
    match sysfs::text(device.join("model")) {
        Some(model) => format!("{vendor} {model}").trim().to_owned(),
        None if name.starts_with("vd") => "virtio disk".into(),
        None if name.starts_with("xvd") => "Xen disk".into(),
        None => vendor,
    }
}

/// The serial number, from where the kernel has it.
fn serial(dir: &Path, device: &Path) -> String {
    sysfs::text(dir.join("serial"))
        .or_else(|| sysfs::text(device.join("serial")))
        .or_else(|| vpd_serial(&fs::read(device.join("vpd_pg80")).ok()?))
        .or_else(|| sysfs::text(device.join("wwid")))
        .or_else(|| sysfs::text(dir.join("wwid")))
        .map(|s| s.split_whitespace().collect::<Vec<_>>().join(" "))
        .unwrap_or_default()
}

/// The Unit Serial Number page (SPC-4, 7.8.16): length in bytes 2 and 3, text from byte 4.
fn vpd_serial(page: &[u8]) -> Option<String> {
    let length = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let text = page.get(4..)?;
    let text = String::from_utf8_lossy(&text[..length.min(text.len())]).into_owned();
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::tree::Tree;

    const PCI: &str = "devices/pci0000:00/0000:00:1f.2";

    fn disk(t: &Tree, name: &str, at: &str, size: u64) -> String {
        let dir = format!("{at}/block/{name}");
        t.file(&format!("{dir}/size"), size.to_string());
        t.file(&format!("{dir}/queue/logical_block_size"), "512\n");
        t.file(&format!("{dir}/queue/physical_block_size"), "4096\n");
        t.file(&format!("{dir}/removable"), "0\n");
        t.link(&format!("{dir}/device"), at);
        t.link(&format!("block/{name}"), &dir);
        dir
    }

    fn empty(_: &str, _: u32) -> std::io::Result<Layout> {
        Ok(Layout::default())
    }

    #[test]
    fn a_sata_disk_in_full() {
        let t = Tree::new();
        t.pci(PCI, "8086", "2922", Some("ahci"));
        let at = format!("{PCI}/ata1/host0/target0:0:0/0:0:0:0");
        t.file(&format!("{at}/vendor"), "ATA     \n");
        t.file(&format!("{at}/model"), "WDC WD5000AAKS-0 \n");
        t.file(&format!("{at}/type"), "0\n");
        t.file(&format!("{at}/vpd_pg80"), b"\x00\x80\x00\x08  WD-1  ");
        disk(&t, "sda", &at, 1000);
        let found = list(t.root(), empty);
        assert_eq!(found.len(), 1);
        let sda = &found[0];
        assert_eq!(sda.model, "WDC WD5000AAKS-0");
        assert_eq!(sda.serial, "WD-1");
        assert_eq!(
            (sda.sectors, sda.logical_sector, sda.physical_sector),
            (1000, 512, 4096)
        );
        assert_eq!(sda.attachment.driver, "ahci");
        assert_eq!(sda.refused, "");
    }

    #[test]
    fn what_is_no_fixed_disk_is_not_listed() {
        let t = Tree::new();
        for name in ["loop0", "ram0", "sr0", "fd0", "zram0", "dm-0"] {
            disk(&t, name, "devices/x", 10);
        }
        let dir = disk(&t, "sdb", "devices/y", 10);
        t.file(&format!("{dir}/removable"), "1\n");
        assert!(list(t.root(), empty).is_empty());
    }

    #[test]
    fn reasons() {
        let plain = Traits {
            sectors: 1,
            logical_sector: 512,
            sysfs: Path::new("/sys/devices/pci/ata1"),
            scsi_type: Some(0),
            zoned: Some("none"),
        };
        assert_eq!(refusal(&plain), None);
        let reason = |t: Traits<'_>| refusal(&t).unwrap();
        assert!(
            reason(Traits {
                logical_sector: 4096,
                ..plain
            })
            .contains("4Kn")
        );
        assert!(
            reason(Traits {
                sectors: 0,
                ..plain
            })
            .contains("size 0")
        );
        assert!(
            reason(Traits {
                scsi_type: Some(7),
                ..plain
            })
            .contains("type 7")
        );
        assert!(
            reason(Traits {
                zoned: Some("host-managed"),
                ..plain
            })
            .contains("zones")
        );
        let usb = Path::new("/sys/devices/pci0000:00/0000:00:1d.7/usb1/1-1/host6");
        assert!(
            reason(Traits {
                sysfs: usb,
                ..plain
            })
            .contains("USB")
        );
    }

    #[test]
    fn the_medium_that_was_booted_from_is_no_disk_of_the_machine() {
        let t = Tree::new();
        disk(&t, "sda", "devices/y", 10);
        let found = list(t.root(), |_, _| {
            Ok(Layout {
                boot_medium: true,
                ..Layout::default()
            })
        });
        assert!(found[0].refused.contains("started from"));
    }

    #[test]
    fn a_disk_that_cannot_be_opened_is_refused_and_one_with_a_bad_sector_is_not() {
        let t = Tree::new();
        disk(&t, "sda", "devices/y", 10);
        let with = |errno| {
            list(t.root(), move |_, _| {
                Err(std::io::Error::from_raw_os_error(errno))
            })
        };
        assert!(with(libc::ENXIO)[0].refused.contains("cannot be read"));
        assert_eq!(with(libc::EIO)[0].refused, "");
    }

    #[test]
    fn an_nvme_disk_under_a_subsystem_has_the_controller_of_its_first_path() {
        let t = Tree::new();
        let pci = "devices/pci0000:00/0000:00:04.0";
        t.pci(pci, "8086", "5845", Some("nvme"));
        t.file(&format!("{pci}/nvme/nvme0/model"), "QEMU NVMe Ctrl\n");
        let subsystem = "devices/virtual/nvme-subsystem/nvme-subsys0";
        t.link(&format!("{subsystem}/nvme0"), &format!("{pci}/nvme/nvme0"));
        t.file(&format!("{subsystem}/model"), "QEMU NVMe Ctrl\n");
        t.file(&format!("{subsystem}/serial"), "s1\n");
        let dir = format!("{subsystem}/nvme0n1");
        t.file(&format!("{dir}/size"), "8\n");
        t.link(&format!("{dir}/device"), subsystem);
        t.link("block/nvme0n1", &dir);
        let found = list(t.root(), empty);
        assert_eq!(found[0].attachment.pci_id, "8086:5845");
        assert_eq!(found[0].attachment.driver, "nvme");
        assert_eq!(found[0].model, "QEMU NVMe Ctrl");
        assert_eq!(found[0].serial, "s1");
    }

    #[test]
    fn a_damaged_serial_page_is_no_serial() {
        for page in [
            &b""[..],
            b"\0\x80\0",
            b"\0\x80\xff\xff",
            b"\0\x80\0\x04    ",
        ] {
            assert_eq!(vpd_serial(page), None);
        }
        assert_eq!(vpd_serial(b"\0\x80\xff\xffAB").as_deref(), Some("AB"));
    }
}
