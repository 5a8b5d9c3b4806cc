//! An old disk from which no firmware starts anything: which sectors are replaced, by what, and what they were.
//!
//! A BIOS starts what is in the first sector of a disk; UEFI reads files of a FAT file system. So the code in the first
//! sector gives way to one that says what happened, and the first sector of each FAT file system to a text. Partition
//! tables stay, and nothing else is touched: with these sectors as they were, the disk is what it was.

use p2v_aoe::SECTOR;
use p2v_aoe::inventory::{Disk, TableKind};
use serde::{Deserialize, Serialize};

use crate::name::MachineName;

/// Bytes of code in the first sector of a disk; the disk's signature and the partition table follow (a BIOS loads the
/// sector to 0x7C00 and jumps to it).
const CODE_LEN: usize = 440;

/// Prints the text that follows by the BIOS, and has it try what else it may start from (int 18h), which may be the network.
const CODE: [u8; 27] = [
    0x31, 0xC0, // xor ax, ax
    0x8E, 0xD8, // mov ds, ax
    0xFC, // cld
    0xBE, 0x1B, 0x7C, // mov si, 0x7C00 + 27: the text
    0xAC, // lodsb
    0x84, 0xC0, // test al, al
    0x74, 0x09, // jz: all is printed
    0xB4, 0x0E, // mov ah, 0x0E: teletype
    0xBB, 0x07, 0x00, // mov bx, 7: grey on black
    0xCD, 0x10, // int 0x10
    0xEB, 0xF2, // jmp to lodsb
    0xCD, 0x18, // int 0x18
    0xF4, // hlt
    0xEB, 0xFD, // jmp to hlt
];

/// Ends the first sector of a disk with code in it, and of a FAT file system.
const SIGNATURE: [u8; 2] = [0x55, 0xAA];

/// Types of the partition that UEFI starts from, as the inventory has them (UEFI specification, 5.2.2 and 5.3.3).
const EFI_MBR: &str = "ef";
const EFI_GPT: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

/// What is kept of a disk, to put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disarmed {
    /// The disk's size in 512-byte sectors.
    pub sectors: u64,
    /// What was replaced.
    pub places: Vec<Place>,
}

/// One place of a disk: a sector of 512 bytes, or one of 4096 where the disk has only such.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Its first 512-byte sector.
    pub lba: u64,
    /// What was there, in hex.
    was: String,
    /// What is there instead, in hex.
    now: String,
}

impl Place {
    /// What was there.
    #[must_use]
    pub fn was(&self) -> Vec<u8> {
        hex::decode(&self.was).unwrap_or_default()
    }

    /// What is there instead.
    #[must_use]
    pub fn now(&self) -> Vec<u8> {
        hex::decode(&self.now).unwrap_or_default()
    }
}

/// Where something may be that firmware starts: the first sector of the disk, and of each partition.
#[must_use]
pub fn candidates(disk: &Disk) -> Vec<u64> {
    let partitions = disk.table.iter().flat_map(|table| &table.partitions);
    let starts = partitions.map(|partition| partition.start);
    let mut candidates: Vec<u64> = std::iter::once(0).chain(starts).collect();
    let block = block(disk);
    candidates.retain(|lba| lba % block == 0 && lba + block <= disk.sectors);
    candidates.sort_unstable();
    candidates.dedup();
    candidates
}

/// Sectors of 512 bytes that the disk writes at a time.
#[must_use]
pub fn block(disk: &Disk) -> u64 {
    (u64::from(disk.logical_sector) / SECTOR).max(1)
}

/// What takes the place of a candidate, if firmware could start from it. `was`: what is there, whole blocks of the disk.
#[must_use]
pub fn replaced(name: &MachineName, disk: &Disk, lba: u64, was: &[u8]) -> Option<Place> {
    let text = format!(
        "\r\nThis server runs on a Xen host now. p2v has made this old disk unable to start,\r\nso that there are not two of \
         it. To take that back, on the Xen host:\r\n  p2v rearm {name}\r\n"
    );
    let mut now = was.to_vec();
    if lba == 0 && was.get(510..512)? == SIGNATURE {
        now[..CODE_LEN].fill(0);
        now[..CODE.len()].copy_from_slice(&CODE);
        put(&mut now[CODE.len()..CODE_LEN], &text);
    } else if lba != 0 && (is_fat(was) || is_efi(disk, lba)) {
        now.get_mut(..SECTOR as usize)?.fill(0);
        // Not a jump, which a boot sector begins with.
        put(&mut now[..SECTOR as usize], &text);
    } else {
        return None;
    }
    Some(Place {
        lba,
        was: hex::encode(was),
        now: hex::encode(now),
    })
}

/// As much of the text as there is room for, with a zero at its end.
fn put(room: &mut [u8], text: &str) {
    let room = room.split_last_mut().map_or(&mut [][..], |(_, room)| room);
    let bytes = text.bytes().filter(u8::is_ascii);
    room.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
}

/// Whether it is the first sector of a FAT file system (Microsoft's FAT specification: the type's name is in none of the
/// places that decide it, but every known program writes it).
fn is_fat(sector: &[u8]) -> bool {
    let named = |at: usize| sector.get(at..at + 3) == Some(b"FAT");
    sector.get(510..512) == Some(&SIGNATURE) && (named(54) || named(82))
}

fn is_efi(disk: &Disk, lba: u64) -> bool {
    disk.table.as_ref().is_some_and(|table| {
        let efi = match table.kind {
            TableKind::Mbr => EFI_MBR,
            TableKind::Gpt => EFI_GPT,
        };
        let mut partitions = table.partitions.iter();
        partitions.any(|p| p.start == lba && p.kind.eq_ignore_ascii_case(efi))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_aoe::inventory::{Partition, PartitionTable};

    fn disk(kind: TableKind, partitions: &[(u64, &str)]) -> Disk {
        let partitions = partitions.iter().map(|(start, kind)| Partition {
            start: *start,
            sectors: 100,
            kind: (*kind).to_owned(),
            ..Partition::default()
        });
        Disk {
            sectors: 10_000,
            logical_sector: 512,
            table: Some(PartitionTable {
                kind,
                id: String::new(),
                partitions: partitions.collect(),
            }),
            ..Disk::default()
        }
    }

    fn sector(fill: u8, fat_at: Option<usize>) -> Vec<u8> {
        let mut sector = vec![fill; 512];
        sector[510..].copy_from_slice(&SIGNATURE);
        if let Some(at) = fat_at {
            sector[at..at + 3].copy_from_slice(b"FAT");
        }
        sector
    }

    #[test]
    fn what_firmware_starts_is_replaced_and_nothing_else() {
        let name: MachineName = "web".parse().unwrap();
        let gpt = disk(TableKind::Gpt, &[(2048, EFI_GPT), (4096, "linux")]);
        let mbr = disk(TableKind::Mbr, &[(2048, "EF"), (4096, "83")]);
        assert_eq!(candidates(&gpt), [0, 2048, 4096]);
        for (disk, lba, was, expected) in [
            (&gpt, 0, sector(7, None), true),
            // No firmware starts a disk without the signature.
            (&gpt, 0, vec![7; 512], false),
            (&gpt, 2048, vec![7; 512], true),
            (&mbr, 2048, vec![7; 512], true),
            (&gpt, 4096, sector(7, None), false),
            (&gpt, 4096, sector(7, Some(54)), true),
            (&mbr, 4096, sector(7, Some(82)), true),
            (&mbr, 4096, vec![0; 512], false),
        ] {
            let place = replaced(&name, disk, lba, &was);
            let case = format!("{lba} {:?}", &was[..2]);
            assert_eq!(place.is_some(), expected, "{case}");
            let Some(place) = place else { continue };
            let now = place.now();
            assert_eq!((place.was(), now.len()), (was.clone(), 512), "{case}");
            assert!(!is_fat(&now), "{case}");
            let text = String::from_utf8_lossy(&now).into_owned();
            assert!(text.contains("p2v rearm web\r\n\0"), "{case}");
            // The disk's signature and its partition table.
            if lba == 0 {
                assert_eq!(now[CODE_LEN..], was[CODE_LEN..]);
            }
        }
    }

    #[test]
    fn a_sector_of_4096_bytes_is_written_whole() {
        let name: MachineName = "web".parse().unwrap();
        let mut disk = disk(TableKind::Gpt, &[(2048, EFI_GPT), (2049, EFI_GPT)]);
        disk.logical_sector = 4096;
        assert_eq!(candidates(&disk), [0, 2048]);
        let was = [sector(7, None), vec![9; 4096 - 512]].concat();
        for lba in [0, 2048] {
            let now = replaced(&name, &disk, lba, &was).unwrap().now();
            assert_eq!(now.len(), 4096);
            assert_eq!(now[512..], was[512..]);
        }
    }

    #[test]
    fn a_long_name_leaves_the_table_alone() {
        let name: MachineName = "a".repeat(60).parse().unwrap();
        let disk = disk(TableKind::Mbr, &[]);
        let was = sector(7, None);
        let now = replaced(&name, &disk, 0, &was).unwrap().now();
        assert_eq!((now[CODE_LEN - 1], &now[CODE_LEN..]), (0, &was[CODE_LEN..]));
    }

    #[test]
    fn the_code_jumps_where_it_should() {
        let after = |jump: usize| (jump + 2) as i64 + i64::from(CODE[jump + 1] as i8);
        assert_eq!((after(11), after(20), after(25)), (22, 8, 24));
        let text = u16::from_le_bytes([CODE[6], CODE[7]]);
        assert_eq!(usize::from(text) - 0x7C00, CODE.len());
    }
}
