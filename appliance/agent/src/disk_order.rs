//! The order of the disks: the one the machine boots from first, the others by where they hang.
//!
//! The order decides the AoE slots, so it must be the same at every start of the same machine,
//! whatever order the drivers came up in.

use std::cmp::Ordering;
use std::path::Path;

use p2v_contract::inventory::Firmware;

use crate::disks::Found;
use crate::sysfs;

/// What the BIOS said about its disk 0x80 (`/sys/firmware/edd/int13_dev80`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edd {
    /// The signature at 0x1B8 of its first sector; 0 if it has none.
    pub mbr_signature: u32,
    /// PCI address of its controller; empty if the BIOS does not say.
    pub pci_address: String,
    /// Size in 512-byte sectors; 0 if the BIOS does not say.
    pub sectors: u64,
}

/// How the boot disk was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// Its MBR signature is that of the BIOS's disk 0x80.
    Signature,
    /// It is the first on the controller the BIOS names for disk 0x80 (and has its size).
    Controller,
    /// It is the first with an EFI System Partition.
    EfiSystem,
    /// It is the first whose first sector holds code.
    BootCode,
    /// It is the first one.
    First,
}

impl Because {
    /// The reason in words.
    pub fn words(self) -> &'static str {
        match self {
            Because::Signature => "the BIOS's disk 0x80 has its signature",
            Because::Controller => "the BIOS's disk 0x80 is on its controller",
            Because::EfiSystem => "the first with an EFI system partition",
            Because::BootCode => "the first with boot code",
            Because::First => "the first disk; none has boot code",
        }
    }
}

/// Reads what the module `edd` shows under `sys` (`/sys`).
pub fn read_edd(sys: &Path) -> Option<Edd> {
    let dir = sys.join("firmware/edd/int13_dev80");
    if !dir.exists() {
        return None;
    }
    let signature = sysfs::text(dir.join("mbr_signature"))
        .and_then(|t| u32::from_str_radix(t.trim_start_matches("0x"), 16).ok());
    Some(Edd {
        mbr_signature: signature.unwrap_or(0),
        pci_address: sysfs::link_name(dir.join("pci_dev")).unwrap_or_default(),
        sectors: sysfs::number(dir.join("sectors")).unwrap_or(0),
    })
}

/// Sorts `disks` by where they hang, then moves the boot disk to the front. Returns how it was
/// told; `None` without disks.
pub fn sort(disks: &mut [Found], firmware: Firmware, edd: Option<&Edd>) -> Option<Because> {
    disks.sort_by(|a, b| by_place(&place(a), &place(b)));
    let (index, because) = boot_disk(disks, firmware, edd)?;
    disks[..=index].rotate_right(1);
    Some(because)
}

/// Which of the sorted `disks` the machine boots from.
fn boot_disk(disks: &[Found], firmware: Firmware, edd: Option<&Edd>) -> Option<(usize, Because)> {
    // What the agent itself was started from has boot code and a system partition, and may be 0x80.
    let of_the_machine = |d: &Found| !d.layout.boot_medium;
    let only = |test: &dyn Fn(&Found) -> bool| {
        let mut hits = disks
            .iter()
            .enumerate()
            .filter(|(_, d)| of_the_machine(d) && test(d));
        let (index, _) = hits.next()?;
        hits.next().is_none().then_some(index)
    };
    let first =
        |test: &dyn Fn(&Found) -> bool| disks.iter().position(|d| of_the_machine(d) && test(d));
    if let (Firmware::Bios, Some(edd)) = (firmware, edd) {
        // Two disks of one signature (clones) do not tell.
        if edd.mbr_signature != 0 {
            if let Some(index) = only(&|d| d.layout.mbr_signature == edd.mbr_signature) {
                return Some((index, Because::Signature));
            }
        }
        // Where there is such a medium, the BIOS's first disk may have been that one, and its controller tells
        // nothing.
        if !edd.pci_address.is_empty() && disks.iter().all(of_the_machine) {
            let on = |d: &Found| d.attachment.pci_address == edd.pci_address;
            let found = first(&|d| on(d) && d.sectors == edd.sectors).or_else(|| first(&on));
            if let Some(index) = found {
                return Some((index, Because::Controller));
            }
        }
    }
    if firmware == Firmware::Uefi {
        if let Some(index) = first(&|d| d.layout.efi_system()) {
            return Some((index, Because::EfiSystem));
        }
    }
    if let Some(index) = first(&|d| d.layout.boot_code) {
        return Some((index, Because::BootCode));
    }
    first(&|_| true).map(|index| (index, Because::First))
}

/// Where a disk hangs: the directories of its device, from the root of sysfs down. A disk under a
/// virtual NVMe subsystem is placed by its controller.
fn place(disk: &Found) -> Vec<String> {
    let parts: Vec<String> = disk
        .sysfs
        .components()
        .map(|c| c.as_os_str().to_string_lossy().into_owned())
        .collect();
    // The host number counts drivers as they come up; below one controller it adds nothing that
    // the numbers after it do not say.
    let mut place: Vec<String> = parts
        .into_iter()
        .filter(|part| part != "virtual" && !part.starts_with("nvme-subsys"))
        .collect();
    if !disk.attachment.pci_address.is_empty() && !place.contains(&disk.attachment.pci_address) {
        place.insert(0, disk.attachment.pci_address.clone());
    }
    place
}

fn by_place(a: &[String], b: &[String]) -> Ordering {
    a.iter()
        .zip(b)
        .map(|(a, b)| by_part(a, b))
        .find(|order| order.is_ne())
        .unwrap_or_else(|| a.len().cmp(&b.len()))
}

/// Compares two names so that `ata2` comes before `ata10`; PCI addresses, which are hexadecimal
/// and of one width, as they are.
fn by_part(a: &str, b: &str) -> Ordering {
    let pci = |t: &str| t.len() == 12 && t.as_bytes()[4] == b':' && t.as_bytes()[10] == b'.';
    if pci(a) && pci(b) {
        return a.cmp(b);
    }
    let (mut a, mut b) = (a, b);
    loop {
        let (Some(x), Some(y)) = (a.chars().next(), b.chars().next()) else {
            return a.len().cmp(&b.len());
        };
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let (m, rest_a) = leading_number(a);
            let (n, rest_b) = leading_number(b);
            if m != n {
                return m.cmp(&n);
            }
            (a, b) = (rest_a, rest_b);
        } else if x != y {
            return x.cmp(&y);
        } else {
            (a, b) = (&a[x.len_utf8()..], &b[y.len_utf8()..]);
        }
    }
}

/// The number a text starts with, and the rest.
fn leading_number(text: &str) -> (u128, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (text[..end].parse().unwrap_or(u128::MAX), &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partitions::Layout;
    use crate::sysfs::Attachment;
    use crate::sysfs::tree::Tree;
    use p2v_contract::inventory::{Partition, PartitionTable, TableKind};

    fn disk(name: &str, pci: &str, below: &str) -> Found {
        Found {
            name: name.into(),
            sysfs: format!("/sys/devices/pci0000:00/{pci}/{below}/block/{name}").into(),
            attachment: Attachment {
                pci_address: pci.into(),
                ..Attachment::default()
            },
            sectors: 100,
            ..Found::default()
        }
    }

    fn names(disks: &[Found]) -> Vec<&str> {
        disks.iter().map(|d| d.name.as_str()).collect()
    }

    /// An IDE disk, a RAID volume at a higher and one at a lower PCI address, two SATA ports.
    fn several() -> Vec<Found> {
        vec![
            disk("sdc", "0000:02:0e.0", "host4/target4:2:0/4:2:0:0"),
            disk("sdb", "0000:00:1f.2", "ata10/host9/target9:0:0/9:0:0:0"),
            disk("sda", "0000:00:1f.2", "ata2/host1/target1:0:0/1:0:0:0"),
            disk("sdd", "0000:00:02.0", "host0/target0:0:0/0:0:0:0"),
        ]
    }

    #[test]
    fn by_place_whatever_the_names() {
        let mut disks = several();
        assert_eq!(sort(&mut disks, Firmware::Bios, None), Some(Because::First));
        assert_eq!(names(&disks), ["sdd", "sda", "sdb", "sdc"]);
        disks.reverse();
        sort(&mut disks, Firmware::Bios, None);
        assert_eq!(names(&disks), ["sdd", "sda", "sdb", "sdc"]);
        assert_eq!(sort(&mut [], Firmware::Bios, None), None);
    }

    #[test]
    fn the_boot_disk_comes_first_and_the_others_keep_their_order() {
        let mut disks = several();
        disks[0].layout.boot_code = true;
        assert_eq!(
            sort(&mut disks, Firmware::Bios, None),
            Some(Because::BootCode)
        );
        assert_eq!(names(&disks), ["sdc", "sdd", "sda", "sdb"]);

        let mut disks = several();
        disks[3].layout.boot_code = true;
        disks[1].layout.mbr_signature = 7;
        let edd = Edd {
            mbr_signature: 7,
            ..Edd::default()
        };
        assert_eq!(
            sort(&mut disks, Firmware::Bios, Some(&edd)),
            Some(Because::Signature)
        );
        assert_eq!(names(&disks), ["sdb", "sdd", "sda", "sdc"]);

        // A clone with the same signature: the controller decides, then the size on it.
        let mut disks = several();
        disks[1].layout.mbr_signature = 7;
        disks[1].sectors = 50;
        disks[0].layout.mbr_signature = 7;
        let edd = Edd {
            mbr_signature: 7,
            pci_address: "0000:00:1f.2".into(),
            sectors: 50,
        };
        assert_eq!(
            sort(&mut disks, Firmware::Bios, Some(&edd)),
            Some(Because::Controller)
        );
        assert_eq!(names(&disks), ["sdb", "sdd", "sda", "sdc"]);
    }

    #[test]
    fn uefi_looks_for_its_system_partition() {
        let mut disks = several();
        disks[3].layout.boot_code = true;
        disks[2].layout = Layout {
            table: Some(PartitionTable {
                kind: TableKind::Gpt,
                id: String::new(),
                partitions: vec![Partition {
                    kind: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b".into(),
                    ..Partition::default()
                }],
            }),
            ..Layout::default()
        };
        assert_eq!(
            sort(&mut disks, Firmware::Uefi, None),
            Some(Because::EfiSystem)
        );
        assert_eq!(names(&disks)[0], "sda");
    }

    #[test]
    fn what_the_agent_was_started_from_is_no_boot_disk() {
        let mut disks = several();
        disks[0].layout.boot_medium = true;
        disks[0].layout.boot_code = true;
        disks[0].layout.mbr_signature = 7;
        disks[1].layout.boot_code = true;
        let edd = Edd {
            mbr_signature: 7,
            ..Edd::default()
        };
        assert_eq!(
            sort(&mut disks, Firmware::Bios, Some(&edd)),
            Some(Because::BootCode)
        );
        assert_eq!(names(&disks), ["sdb", "sdd", "sda", "sdc"]);
        let medium = &mut [disks[3].clone()];
        assert_eq!(sort(medium, Firmware::Bios, None), None);
    }

    #[test]
    fn edd_is_read() {
        let t = Tree::new();
        assert_eq!(read_edd(t.root()), None);
        t.file("firmware/edd/int13_dev80/mbr_signature", "0x1234abcd\n");
        t.file("firmware/edd/int13_dev80/sectors", "2048\n");
        t.link(
            "firmware/edd/int13_dev80/pci_dev",
            "devices/pci0000:00/0000:00:01.1",
        );
        assert_eq!(
            read_edd(t.root()),
            Some(Edd {
                mbr_signature: 0x1234_abcd,
                pci_address: "0000:00:01.1".into(),
                sectors: 2048
            })
        );
    }
}
