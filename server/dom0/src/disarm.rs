//! An old disk from which no firmware starts anything: which sectors are replaced, by what, and what they were.
//!
//! A BIOS starts what is in the first sector of a disk; UEFI reads files of a FAT file system. So the code in the first
//! sector gives way to one that says what happened, and the first sector of each FAT file system to a text. Partition
//! tables stay, and nothing else is touched: with these sectors as they were, the disk is what it was.

use p2v_contract::SECTOR;
use p2v_contract::inventory::Disk;
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

/// The type of the partition that UEFI starts from: in an MBR, and in a GPT as it is on the disk (UEFI specification, 5.2.2
/// and 5.3.3).
const EFI_MBR: u8 = 0xEF;
const EFI_GPT: [u8; 16] = [
    0x28, 0x73, 0x2A, 0xC1, 0x1F, 0xF8, 0xD2, 0x11, 0xBA, 0x4B, 0x00, 0xA0, 0xC9, 0x3E, 0xC9, 0x3B,
];

/// What is kept of a disk, to put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disarmed {
    /// The disk's size in 512-byte sectors.
    pub sectors: u64,
    /// What was replaced.
    pub places: Vec<Place>,
}

/// One sector of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Which.
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

/// The first sector of a partition, which firmware may start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// That sector.
    pub lba: u64,
    /// The partition is there for UEFI to start from.
    pub is_efi: bool,
}

/// Where a GPT has its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries {
    /// Their first sector.
    pub lba: u64,
    /// Their number of sectors.
    pub sectors: u32,
    /// Bytes of each.
    pub bytes: usize,
}

/// What the sector after the first says of a GPT's entries, if there is one (UEFI specification, 5.3.2).
#[must_use]
pub fn gpt_entries(header: &[u8]) -> Option<Entries> {
    let number = |at: usize| Some(u32::from_le_bytes(*header.get(at..)?.first_chunk()?));
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    let bytes = u64::from(number(80)?) * u64::from(number(84)?);
    Some(Entries {
        lba: u64::from_le_bytes(*header.get(72..)?.first_chunk()?),
        // As many as there have ever been, several times over.
        sectors: bytes.div_ceil(SECTOR).min(256) as u32,
        bytes: number(84)? as usize,
    })
}

/// The partitions of a disk, as its first sector and its GPT's entries have them now, and as the agent saw them at its
/// start. `entries`: with the bytes of each, as the header says.
#[must_use]
pub fn candidates(disk: &Disk, first: &[u8], entries: &[u8], entry_bytes: usize) -> Vec<Candidate> {
    let table = disk.table.iter().flat_map(|table| &table.partitions);
    let mut all: Vec<Candidate> = table
        .map(|partition| Candidate {
            lba: partition.start,
            is_efi: false,
        })
        .collect();
    let has_table = first.get(510..512) == Some(&SIGNATURE);
    let mbr = first
        .get(446..510)
        .filter(|_| has_table)
        .unwrap_or_default();
    for entry in mbr.chunks_exact(16) {
        if let (kind @ 1.., Some(lba)) = (entry[4], entry[8..].first_chunk()) {
            all.push(Candidate {
                lba: u32::from_le_bytes(*lba).into(),
                is_efi: kind == EFI_MBR,
            });
        }
    }
    for entry in entries.chunks_exact(entry_bytes.max(128)) {
        if let Some(lba) = entry[32..].first_chunk().filter(|_| entry[..16] != [0; 16]) {
            all.push(Candidate {
                lba: u64::from_le_bytes(*lba),
                is_efi: entry[..16] == EFI_GPT,
            });
        }
    }
    all.retain(|candidate| (1..disk.sectors).contains(&candidate.lba));
    // Of two of one place the one that is there for UEFI.
    all.sort_unstable_by_key(|candidate| (candidate.lba, !candidate.is_efi));
    all.dedup_by_key(|candidate| candidate.lba);
    all
}

/// What takes the place of the first sector of disk `slot`, if a BIOS starts from it.
#[must_use]
pub fn replaced_first(name: &MachineName, slot: u8, was: &[u8]) -> Option<Place> {
    if was.get(510..512)? != SIGNATURE {
        return None;
    }
    let mut now = was.to_vec();
    now[..CODE_LEN].fill(0);
    now[..CODE.len()].copy_from_slice(&CODE);
    put(&mut now[CODE.len()..CODE_LEN], &text(name, slot, 0, was));
    Some(place(0, was, &now))
}

/// What takes the place of the first sector of a partition, if UEFI starts from it.
#[must_use]
pub fn replaced(name: &MachineName, slot: u8, candidate: Candidate, was: &[u8]) -> Option<Place> {
    if !candidate.is_efi && !is_fat(was) {
        return None;
    }
    let mut now = vec![0; was.len()];
    // Not a jump, which a boot sector begins with.
    put(&mut now, &text(name, slot, candidate.lba, was));
    Some(place(candidate.lba, was, &now))
}

/// Whether a disk's first sector is what a BIOS gets from one that was disarmed.
#[must_use]
pub fn is_disarmed(first: &[u8]) -> bool {
    first.starts_with(&CODE)
}

fn place(lba: u64, was: &[u8], now: &[u8]) -> Place {
    Place {
        lba,
        was: hex::encode(was),
        now: hex::encode(now),
    }
}

/// What is said. Its last line tells one disk's from another's, should they change places.
fn text(name: &MachineName, slot: u8, lba: u64, was: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&[slot])
        .update(&lba.to_le_bytes())
        .update(was);
    let mark = &hasher.finalize().to_hex()[..8];
    format!(
        "\r\nThis server runs on a Xen host now. p2v has made this old disk unable to start,\r\nso that there are not two of \
         it. To take that back, on the Xen host:\r\n  p2v rearm {name}\r\n({mark})\r\n"
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_contract::inventory::{Partition, PartitionTable, TableKind};

    fn name() -> MachineName {
        "web".parse().unwrap()
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
        let at = |is_efi| Candidate { lba: 2048, is_efi };
        for (candidate, was, expected) in [
            (None, sector(7, None), true),
            // No firmware starts a disk without the signature.
            (None, vec![7; 512], false),
            (Some(at(true)), vec![7; 512], true),
            (Some(at(false)), sector(7, None), false),
            (Some(at(false)), sector(7, Some(54)), true),
            (Some(at(false)), sector(7, Some(82)), true),
            (Some(at(false)), vec![0; 512], false),
        ] {
            let place = match candidate {
                None => replaced_first(&name(), 0, &was),
                Some(candidate) => replaced(&name(), 0, candidate, &was),
            };
            let case = format!("{candidate:?} {:?}", &was[..2]);
            assert_eq!(place.is_some(), expected, "{case}");
            let Some(place) = place else { continue };
            let now = place.now();
            assert_eq!((place.was(), now.len()), (was.clone(), 512), "{case}");
            assert!(!is_fat(&now), "{case}");
            assert_eq!(is_disarmed(&now), candidate.is_none(), "{case}");
            let text = String::from_utf8_lossy(&now).into_owned();
            assert!(text.contains("  p2v rearm web\r\n("), "{case}");
            // The disk's signature and its partition table.
            if candidate.is_none() {
                assert_eq!(now[CODE_LEN..], was[CODE_LEN..]);
            }
        }
    }

    /// Equal sectors of two disks that may change places.
    #[test]
    fn no_two_places_hold_the_same() {
        let candidate = |lba| Candidate { lba, is_efi: true };
        let was = [sector(7, Some(82)), sector(8, Some(82))];
        let now = |slot, lba, was| replaced(&name(), slot, candidate(lba), was).unwrap().now();
        let first = now(0, 2048, &was[0]);
        assert_ne!(first, now(1, 2048, &was[0]));
        assert_ne!(first, now(0, 4096, &was[0]));
        assert_ne!(first, now(0, 2048, &was[1]));
    }

    #[test]
    fn partitions_are_those_of_now_and_those_that_the_agent_saw() {
        let mut disk = Disk {
            sectors: 10_000,
            ..Disk::default()
        };
        let mut first = sector(0, None);
        let mut mbr = |n: usize, kind, lba: u32| {
            first[446 + 16 * n + 4] = kind;
            first[446 + 16 * n + 8..][..4].copy_from_slice(&lba.to_le_bytes());
        };
        mbr(0, 0xEE, 1);
        mbr(1, 0xEF, 300);
        mbr(2, 0x83, 20_000);
        let mut header = vec![0; 512];
        header[..8].copy_from_slice(b"EFI PART");
        header[72] = 2;
        header[80] = 128;
        header[84] = 128;
        let mut expected = Entries {
            lba: 2,
            sectors: 32,
            bytes: 128,
        };
        assert_eq!(gpt_entries(&header), Some(expected));
        header[81] = 0xff;
        expected.sectors = 256;
        assert_eq!(gpt_entries(&header), Some(expected), "not gigabytes");
        assert_eq!(gpt_entries(&first), None);
        let mut entries = vec![0; 1024];
        let mut gpt = |n: usize, kind: [u8; 16], lba: u64| {
            entries[128 * n..][..16].copy_from_slice(&kind);
            entries[128 * n + 32..][..8].copy_from_slice(&lba.to_le_bytes());
        };
        gpt(0, [9; 16], 400);
        gpt(1, EFI_GPT, 500);
        gpt(3, [0; 16], 600);
        let found = |disk: &Disk, first: &[u8], entries: &[u8]| -> Vec<(u64, bool)> {
            let all = candidates(disk, first, entries, 128);
            all.iter().map(|c| (c.lba, c.is_efi)).collect()
        };
        let expected = [(1, false), (300, true), (400, false), (500, true)];
        assert_eq!(found(&disk, &first, &entries), expected);
        assert_eq!(found(&disk, &[0; 512], &[]), []);
        disk.table = Some(PartitionTable {
            kind: TableKind::Mbr,
            id: String::new(),
            partitions: [300, 700]
                .map(|start| Partition {
                    start,
                    ..Partition::default()
                })
                .to_vec(),
        });
        let expected = [(1, false), (300, true), (700, false)];
        assert_eq!(found(&disk, &first, &[]), expected);
    }

    #[test]
    fn a_long_name_leaves_the_table_alone() {
        let name: MachineName = "a".repeat(60).parse().unwrap();
        let was = sector(7, None);
        let now = replaced_first(&name, 0, &was).unwrap().now();
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
