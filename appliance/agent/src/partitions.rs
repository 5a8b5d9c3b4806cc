//! Recognising a disk's partition table and boot code.

use std::io::{self, Read, Seek, SeekFrom};

use gptman::GPT;
use mbrman::{MBR, MBRHeader, MBRPartitionEntry};
use p2v_contract::SECTOR;
use p2v_contract::inventory::{Partition, PartitionTable, TableKind};

/// What a disk's first sectors say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The partition table, if one was recognised.
    pub table: Option<PartitionTable>,
    /// The first sector ends in 55 AA and does not start with zero: a BIOS would run it.
    pub boot_code: bool,
    /// The disk signature at 0x1B8, by which EDD names disks; 0 if there is none.
    pub mbr_signature: u32,
    /// It is one of p2v's own boot media (`p2v image iso`), written to a disk.
    pub boot_medium: bool,
}

/// Where the primary volume descriptor is, in bytes: sector 16 of 2048 (ECMA-119, 6.2.1).
const VOLUME: u64 = 16 * 2048;
/// What it begins with (8.4).
const VOLUME_MARK: &[u8; 7] = b"\x01CD001\x01";
/// Where in it the volume identifier is.
const VOLUME_ID: usize = 40;

/// What `p2v image iso` calls its volumes (`server/p2v/src/image/medium.rs`).
const OUR_VOLUME: &[u8; 32] = b"P2V_AGENT                       ";

/// The type byte of the one partition in a protective MBR (UEFI 2.10, 5.2.3).
const PROTECTIVE: u8 = 0xEE;

/// GUID of an EFI System Partition (UEFI 2.10, 5.3.3).
const EFI_SYSTEM: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

/// GPT attribute bit 2: legacy BIOS bootable.
const GPT_LEGACY_BOOT: u64 = 1 << 2;

impl Layout {
    /// Whether there is an EFI System Partition.
    pub fn efi_system(&self) -> bool {
        self.table.as_ref().is_some_and(|table| {
            table.partitions.iter().any(|p| match table.kind {
                TableKind::Gpt => p.kind == EFI_SYSTEM,
                TableKind::Mbr => p.kind == "ef",
            })
        })
    }
}

/// Reads a disk's layout. `sector` is the logical sector size in bytes. What is damaged or not
/// known is not recognised, which is no error; not being able to read the first sector is one.
///
/// # Errors
/// The first sector cannot be read.
pub fn read<D: Read + Seek>(disk: &mut D, sector: u32) -> io::Result<Layout> {
    let mut first = [0; SECTOR as usize];
    disk.seek(SeekFrom::Start(0))?;
    disk.read_exact(&mut first)?;
    let mut layout = Layout::default();
    if first[510..] != [0x55, 0xAA] {
        return Ok(layout);
    }
    layout.boot_code = first[0] != 0;
    layout.boot_medium = is_our_medium(disk);
    layout.mbr_signature =
        u32::from_le_bytes([first[0x1B8], first[0x1B9], first[0x1BA], first[0x1BB]]);
    let units = u64::from(sector) / SECTOR;
    // Entries of 16 bytes from 446: status in byte 0, type in byte 4. A status that is neither 00
    // nor 80 means that this is a file system's boot sector, not a partition table.
    let entries: Vec<&[u8]> = first[446..510].chunks_exact(16).collect();
    if entries.iter().any(|e| e[0] & 0x7F != 0) {
        return Ok(layout);
    }
    if entries.iter().any(|e| e[4] == PROTECTIVE) {
        if let Ok(gpt) = GPT::read_from(disk, u64::from(sector)) {
            layout.table = Some(gpt_table(&gpt, units));
            return Ok(layout);
        }
    }
    layout.table = mbr_table(disk, sector, units);
    Ok(layout)
}

/// Whether p2v's own volume begins on the disk. What cannot be read is not ours.
fn is_our_medium<D: Read + Seek>(disk: &mut D) -> bool {
    let mut volume = [0; VOLUME_ID + OUR_VOLUME.len()];
    disk.seek(SeekFrom::Start(VOLUME)).is_ok()
        && disk.read_exact(&mut volume).is_ok()
        && volume.starts_with(VOLUME_MARK)
        && volume.ends_with(OUR_VOLUME)
}

fn gpt_table(gpt: &GPT, units: u64) -> PartitionTable {
    let partitions = gpt
        .iter()
        .filter(|(_, p)| p.is_used())
        .map(|(number, p)| Partition {
            number,
            start: p.starting_lba.saturating_mul(units),
            sectors: p
                .ending_lba
                .saturating_add(1)
                .saturating_sub(p.starting_lba)
                .saturating_mul(units),
            kind: guid(&p.partition_type_guid),
            bootable: p.attribute_bits & GPT_LEGACY_BOOT != 0,
            name: p.partition_name.as_str().to_owned(),
        })
        .collect();
    PartitionTable {
        kind: TableKind::Gpt,
        id: match gpt.header.disk_guid {
            bytes if bytes == [0; 16] => String::new(),
            bytes => guid(&bytes),
        },
        partitions,
    }
}

fn mbr_table<D: Read + Seek>(disk: &mut D, sector: u32, units: u64) -> Option<PartitionTable> {
    let one = |(number, p): (usize, &MBRPartitionEntry)| {
        (!p.is_unused() && p.starting_lba > 0).then(|| Partition {
            number: number as u32,
            start: u64::from(p.starting_lba) * units,
            sectors: u64::from(p.sectors) * units,
            kind: format!("{:02x}", p.sys),
            bootable: p.is_active(),
            name: String::new(),
        })
    };
    disk.seek(SeekFrom::Start(0)).ok()?;
    let header = MBRHeader::read_from(disk).ok()?;
    // mbrman 0.6.1 panics while it looks for the alignment of a partition that starts at 0, as that of a
    // file system without a table does, which mtools and Windows write into their boot sectors.
    let whole = match header
        .iter()
        .any(|(_, p)| p.is_used() && p.starting_lba == 0)
    {
        true => None,
        false => MBR::read_from(disk, sector).ok(),
    };
    let partitions: Vec<Partition> = match whole {
        Some(mbr) => mbr.iter().filter_map(one).collect(),
        // A broken chain of logical partitions: the primary ones still count.
        None => header.iter().filter_map(one).collect(),
    };
    (!partitions.is_empty()).then_some(PartitionTable {
        kind: TableKind::Mbr,
        id: match header.disk_signature {
            [0, 0, 0, 0] => String::new(),
            bytes => format!("{:08x}", u32::from_le_bytes(bytes)),
        },
        partitions,
    })
}

/// A GUID as text: its first three fields are little-endian on disk (UEFI 2.10, appendix A).
fn guid(bytes: &[u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::with_capacity(36);
    for (place, index) in order.into_iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", bytes[index]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const SIZE: usize = 4 << 20;

    /// A status, a type, a start and a length at one of the four places.
    fn entry(disk: &mut [u8], place: usize, status: u8, kind: u8, start: u32, sectors: u32) {
        let at = 446 + 16 * place;
        disk[at] = status;
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xAA]);
    }

    fn layout(disk: Vec<u8>) -> Layout {
        read(&mut Cursor::new(disk), 512).unwrap()
    }

    #[test]
    fn a_file_system_that_calls_itself_a_partition_at_zero_is_no_table() {
        let mut disk = vec![0; SIZE];
        entry(&mut disk, 0, 0x80, 0x01, 0, 8192);
        let layout = read(&mut Cursor::new(&disk[..]), 512).unwrap();
        assert_eq!(layout.table, None);
        entry(&mut disk, 1, 0, 0x83, 2048, 2048);
        let table = read(&mut Cursor::new(&disk[..]), 512)
            .unwrap()
            .table
            .unwrap();
        let starts: Vec<_> = table
            .partitions
            .iter()
            .map(|p| (p.number, p.start))
            .collect();
        assert_eq!(starts, [(2, 2048)]);
    }

    #[test]
    fn an_empty_disk_has_nothing_and_a_short_one_is_an_error() {
        assert_eq!(layout(vec![0; SIZE]), Layout::default());
        assert!(read(&mut Cursor::new(vec![0; 100]), 512).is_err());
    }

    #[test]
    fn primary_and_logical_partitions() {
        let mut disk = vec![0; SIZE];
        disk[0] = 0xEB;
        disk[0x1B8..0x1BC].copy_from_slice(&0x1234_5678u32.to_le_bytes());
        entry(&mut disk, 0, 0x80, 0x83, 63, 1000);
        entry(&mut disk, 1, 0, 0x05, 2048, 2048);
        entry(&mut disk[2048 * 512..], 0, 0, 0x82, 63, 500);
        let found = layout(disk.clone());
        assert!(found.boot_code);
        assert_eq!(found.mbr_signature, 0x1234_5678);
        let table = found.table.unwrap();
        assert_eq!(table.kind, TableKind::Mbr);
        let rows: Vec<_> = table
            .partitions
            .iter()
            .map(|p| (p.number, p.start, p.sectors, p.kind.as_str(), p.bootable))
            .collect();
        assert_eq!(
            rows,
            [
                (1, 63, 1000, "83", true),
                (2, 2048, 2048, "05", false),
                (5, 2048 + 63, 500, "82", false)
            ]
        );
        // A broken chain leaves the primary ones.
        disk[2048 * 512 + 510] = 0;
        assert_eq!(layout(disk).table.unwrap().partitions.len(), 2);
    }

    #[test]
    fn our_own_medium_is_known_by_its_volume() {
        let mut disk = vec![0; SIZE];
        entry(&mut disk, 0, 0x80, 0xCD, 1, 1000);
        assert!(!layout(disk.clone()).boot_medium);
        disk[16 * 2048..16 * 2048 + 7].copy_from_slice(b"\x01CD001\x01");
        disk[16 * 2048 + 40..][..32].copy_from_slice(OUR_VOLUME);
        assert!(layout(disk.clone()).boot_medium);
        disk[16 * 2048 + 40..][..4].copy_from_slice(b"Deb ");
        assert!(!layout(disk).boot_medium);
    }

    #[test]
    fn a_file_system_without_a_table_is_none() {
        let mut disk = vec![0; SIZE];
        disk[0] = 0xEB;
        entry(&mut disk, 0, b'n', b's', 1, 1);
        let found = layout(disk);
        assert!(found.boot_code && found.table.is_none());
    }

    #[test]
    fn gpt_with_a_system_partition() {
        let mut disk = Cursor::new(vec![0; SIZE]);
        let mut gpt = GPT::new_from(&mut disk, 512, [7; 16]).unwrap();
        let mut kind = [0; 16];
        kind.copy_from_slice(b"\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b");
        gpt[1] = gptman::GPTPartitionEntry {
            partition_type_guid: kind,
            unique_partition_guid: [9; 16],
            starting_lba: 2048,
            ending_lba: 4095,
            attribute_bits: 0,
            partition_name: "EFI".into(),
        };
        gpt.write_into(&mut disk).unwrap();
        GPT::write_protective_mbr_into(&mut disk, 512).unwrap();
        let found = read(&mut disk, 512).unwrap();
        assert!(found.efi_system());
        let table = found.table.unwrap();
        assert_eq!(table.kind, TableKind::Gpt);
        assert_eq!(table.id, "07070707-0707-0707-0707-070707070707");
        assert_eq!(table.partitions.len(), 1);
        let p = &table.partitions[0];
        assert_eq!((p.number, p.start, p.sectors), (1, 2048, 2048));
        assert_eq!((p.kind.as_str(), p.name.as_str()), (EFI_SYSTEM, "EFI"));
        // Without the protective MBR an old GPT does not count.
        let mut bytes = disk.into_inner();
        bytes[..512].fill(0);
        entry(&mut bytes, 0, 0, 0x83, 63, 100);
        let table = layout(bytes.clone()).table.unwrap();
        assert_eq!((table.kind, table.id.as_str()), (TableKind::Mbr, ""));
        bytes[0x1B8..0x1BC].copy_from_slice(&[4, 3, 2, 1]);
        assert_eq!(layout(bytes).table.unwrap().id, "01020304");
    }
}
