//! How much memory is installed: what the firmware lists (SMBIOS), or else what the kernel has.

/// SMBIOS 3.7, 7.18: a memory device.
const MEMORY_DEVICE: u8 = 17;
/// The end of the table (7.45).
const END: u8 = 127;
/// Kinds of a memory device that hold no system memory (7.18.2): ROM, flash, EEPROM, FEPROM, EPROM.
const NOT_SYSTEM_MEMORY: std::ops::RangeInclusive<u8> = 8..=12;

/// Bytes installed, from the SMBIOS table (`/sys/firmware/dmi/tables/DMI`) and `/proc/meminfo`; 0 if neither tells.
pub fn installed(smbios: &[u8], meminfo: &str) -> u64 {
    let usable = usable(meminfo);
    let listed = modules(smbios);
    // Firmware and kernel take some of it for themselves. Much more than the kernel has: modules that mirror others,
    // or wait for one to fail.
    match (usable..=usable + usable / 4 + (64 << 20)).contains(&listed) {
        true => listed,
        false => usable,
    }
}

/// `MemTotal`, in bytes.
fn usable(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

/// Bytes of all memory devices. A table that makes no sense ends where it does not.
fn modules(mut table: &[u8]) -> u64 {
    let mut bytes = 0;
    while let Some((&[kind, len, ..], _)) = table.split_first_chunk::<4>() {
        let Some((structure, rest)) = table.split_at_checked(len.into()) else {
            break;
        };
        if kind == END || len < 4 {
            break;
        }
        if kind == MEMORY_DEVICE {
            bytes += module(structure).unwrap_or(0);
        }
        // Its strings, which end with an empty one.
        let Some(strings) = rest.windows(2).position(|two| two == [0, 0]) else {
            break;
        };
        table = &rest[strings + 2..];
    }
    bytes
}

/// Bytes of a memory device; `None` if it is an empty slot, not known, or no system memory.
fn module(structure: &[u8]) -> Option<u64> {
    let size = u16::from_le_bytes(*structure.get(0x0C..)?.first_chunk()?);
    if NOT_SYSTEM_MEMORY.contains(structure.get(0x12)?) {
        return None;
    }
    match size {
        0 | 0xFFFF => None,
        0x7FFF => {
            let mib = u32::from_le_bytes(*structure.get(0x1C..)?.first_chunk()?);
            Some(u64::from(mib & 0x7FFF_FFFF) << 20)
        }
        kib if kib & 0x8000 != 0 => Some(u64::from(kib & 0x7FFF) << 10),
        mib => Some(u64::from(mib) << 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A memory device: size, kind and extended size.
    fn device(size: u16, kind: u8, extended: u32) -> Vec<u8> {
        let mut structure = vec![MEMORY_DEVICE, 0x20, 1, 0];
        structure.resize(0x20, 0);
        structure[0x0C..0x0E].copy_from_slice(&size.to_le_bytes());
        structure[0x12] = kind;
        structure[0x1C..].copy_from_slice(&extended.to_le_bytes());
        structure.extend(b"DIMM 1\0Dell\0\0");
        structure
    }

    fn meminfo(mib: u64) -> String {
        format!("MemTotal:  {} kB\nMemFree: 1 kB\n", mib << 10)
    }

    #[test]
    fn all_modules_count_but_no_flash_and_no_empty_slot() {
        let table = [
            vec![0, 4, 0, 0, 0, 0],
            device(512, 0x12, 0),
            device(0x8000 | 1024, 0x12, 0),
            device(0, 2, 0),
            device(0xFFFF, 2, 0),
            device(4, 9, 0),
            device(0x7FFF, 0x18, 32768),
            vec![END, 4, 2, 0, 0, 0],
            device(512, 0x12, 0),
        ];
        assert_eq!(modules(&table.concat()), (512 + 1 + 32768) << 20);
    }

    #[test]
    fn what_the_kernel_has_counts_where_the_table_does_not_fit() {
        let table = device(512, 0x12, 0);
        assert_eq!(installed(&table, &meminfo(457)), 512 << 20);
        assert_eq!(installed(&table, &meminfo(520)), 520 << 20, "too little");
        let mirrored = [device(2048, 0x12, 0), device(2048, 0x12, 0)].concat();
        assert_eq!(installed(&mirrored, &meminfo(2000)), 2000 << 20);
        assert_eq!(installed(&[], &meminfo(457)), 457 << 20);
        assert_eq!(installed(&[], ""), 0);
    }

    #[test]
    fn a_table_that_is_cut_off_or_nonsense_is_read_as_far_as_it_goes() {
        let table = [device(512, 0x12, 0), device(512, 0x12, 0)].concat();
        for end in 0..table.len() {
            assert!(modules(&table[..end]) <= 1024 << 20);
        }
        assert_eq!(modules(&[MEMORY_DEVICE, 3, 0, 0, 0, 0]), 0);
        assert_eq!(modules(&[MEMORY_DEVICE, 5, 0, 0, 7, 0, 0]), 0);
    }
}
