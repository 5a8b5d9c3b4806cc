//! Command 0: the ATA registers in a frame, and the IDENTIFY DEVICE data of a disk.
use p2v_contract::address::SECTOR;
use p2v_contract::bytes::{Short, fixed};

use crate::frame::{ETHERNET_LEN, HEADER_LEN};

/// Bytes of the ATA registers, at offset 24; data follows at 36.
pub const ATA_LEN: usize = 12;

/// Bit of the flags byte: the LBA has 48 bits.
pub const FLAG_LBA48: u8 = 0x40;
/// Bit of the flags byte: data goes to the disk.
pub const FLAG_WRITE: u8 = 0x01;

/// ATA command codes (ATA/ATAPI-7).
pub mod opcode {
    /// READ SECTORS (LBA28).
    pub const READ: u8 = 0x20;
    /// READ SECTORS EXT (LBA48).
    pub const READ_EXT: u8 = 0x24;
    /// WRITE SECTORS (LBA28).
    pub const WRITE: u8 = 0x30;
    /// WRITE SECTORS EXT (LBA48).
    pub const WRITE_EXT: u8 = 0x34;
    /// CHECK POWER MODE.
    pub const CHECK_POWER_MODE: u8 = 0xE5;
    /// FLUSH CACHE.
    pub const FLUSH: u8 = 0xE7;
    /// FLUSH CACHE EXT.
    pub const FLUSH_EXT: u8 = 0xEA;
    /// IDENTIFY DEVICE.
    pub const IDENTIFY: u8 = 0xEC;
}

/// Status register: device ready.
pub const STATUS_READY: u8 = 0x40;
/// Status register: ready, with the error bit. The Linux driver takes any of 0xA9 for an error.
pub const STATUS_ERROR: u8 = 0x41;
/// Bits of the status register that mean failure (`drivers/block/aoe/aoecmd.c`, `ktiocomplete`).
pub const STATUS_FAILED: u8 = 0xA9;
/// Error register: command aborted.
pub const ERROR_ABORT: u8 = 0x04;
/// Error register: sector address not found.
pub const ERROR_ID_NOT_FOUND: u8 = 0x10;
/// Error register: uncorrectable data.
pub const ERROR_UNCORRECTABLE: u8 = 0x40;

/// The twelve bytes of registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// [`FLAG_LBA48`], [`FLAG_WRITE`] and two that we do not need.
    pub flags: u8,
    /// Feature in a request, error in a reply.
    pub feature: u8,
    /// Sectors.
    pub count: u8,
    /// Command in a request, status in a reply.
    pub command: u8,
    /// LBA registers as they come, low byte first.
    pub lba: [u8; 6],
}

impl Registers {
    /// Reads the registers; what follows is data (and padding).
    ///
    /// # Errors
    /// The body is shorter than the registers.
    pub fn parse(body: &[u8]) -> Result<(Registers, &[u8]), Short> {
        let (bytes, data) = fixed::<ATA_LEN>(body)?;
        let [flags, feature, count, command, l0, l1, l2, l3, l4, l5, _, _] = *bytes;
        Ok((
            Registers {
                flags,
                feature,
                count,
                command,
                lba: [l0, l1, l2, l3, l4, l5],
            },
            data,
        ))
    }

    /// The registers as bytes.
    pub fn to_bytes(self) -> [u8; ATA_LEN] {
        let [l0, l1, l2, l3, l4, l5] = self.lba;
        [
            self.flags,
            self.feature,
            self.count,
            self.command,
            l0,
            l1,
            l2,
            l3,
            l4,
            l5,
            0,
            0,
        ]
    }

    /// The LBA: 48 bits, or 28 when [`FLAG_LBA48`] is clear (the upper four bits of the fourth
    /// byte are device/head bits then).
    pub fn lba(&self) -> u64 {
        let [l0, l1, l2, l3, l4, l5] = self.lba;
        if self.flags & FLAG_LBA48 != 0 {
            u64::from_le_bytes([l0, l1, l2, l3, l4, l5, 0, 0])
        } else {
            u64::from(u32::from_le_bytes([l0, l1, l2, l3 & 0x0f]))
        }
    }

    /// The request for `count` sectors at `lba`, always in the 48-bit form.
    pub fn transfer(write: bool, lba: u64, count: u8) -> Registers {
        let [l0, l1, l2, l3, l4, l5, _, _] = lba.to_le_bytes();
        Registers {
            flags: FLAG_LBA48 | if write { FLAG_WRITE } else { 0 },
            feature: 0,
            count,
            command: if write {
                opcode::WRITE_EXT
            } else {
                opcode::READ_EXT
            },
            lba: [l0, l1, l2, l3, l4, l5],
        }
    }

    /// The reply's registers for success.
    pub fn done(self) -> Registers {
        Registers {
            feature: 0,
            command: STATUS_READY,
            ..self
        }
    }

    /// The reply's registers for failure with an error register.
    pub fn failed(self, error: u8) -> Registers {
        Registers {
            feature: error,
            command: STATUS_ERROR,
            ..self
        }
    }
}

/// Sectors in a frame at the most: as many as fit an MTU of 9000. Larger frames are a matter of single
/// switches.
pub const SECTORS_MAX: u8 = 17;

/// Sectors that fit a frame of an interface with this MTU.
pub fn sectors_that_fit(mtu: usize) -> u8 {
    let room = (mtu + ETHERNET_LEN).saturating_sub(HEADER_LEN + ATA_LEN);
    u8::try_from(room / SECTOR as usize)
        .unwrap_or(u8::MAX)
        .clamp(1, SECTORS_MAX)
}

/// What IDENTIFY DEVICE says of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identify {
    /// Size in 512-byte sectors.
    pub sectors: u64,
    /// Model, at most 40 ASCII characters.
    pub model: String,
    /// Serial number, at most 20 ASCII characters.
    pub serial: String,
    /// Firmware revision, at most 8 ASCII characters.
    pub firmware: String,
    /// Physical sector in bytes: 512, or 4096 for a 512e disk.
    pub physical_sector: u32,
}

impl Identify {
    /// The 512 bytes of IDENTIFY DEVICE data (ATA/ATAPI-7, 6.17): words low byte first, strings
    /// with the bytes of each word swapped.
    pub fn to_bytes(&self) -> [u8; 512] {
        let mut words = [0u16; 256];
        let lba28 = self.sectors.min(0x0fff_ffff) as u32;
        // Geometry that every BIOS translates: 16 heads of 63 sectors.
        let cylinders = (self.sectors / (16 * 63)).min(16383) as u16;
        let chs = u32::from(cylinders) * 16 * 63;
        words[0] = 0x0040; // fixed device
        words[1] = cylinders;
        words[3] = 16;
        words[6] = 63;
        string(&mut words[10..20], &self.serial);
        string(&mut words[23..27], &self.firmware);
        string(&mut words[27..47], &self.model);
        words[47] = 0x8000;
        words[49] = 0x0200; // LBA
        words[53] = 0x0001; // words 54 to 58 are valid
        words[54] = cylinders;
        words[55] = 16;
        words[56] = 63;
        words[57] = chs as u16;
        words[58] = (chs >> 16) as u16;
        words[60] = lba28 as u16;
        words[61] = (lba28 >> 16) as u16;
        words[80] = 0x00f0; // ATA/ATAPI-4 to -7
        words[83] = 0x7400; // valid; FLUSH CACHE, FLUSH CACHE EXT, 48-bit addresses
        words[84] = 0x4000;
        words[86] = 0x3400;
        words[87] = 0x4000;
        for (i, word) in words[100..104].iter_mut().enumerate() {
            *word = (self.sectors >> (16 * i)) as u16;
        }
        if self.physical_sector > 512 && self.physical_sector.is_power_of_two() {
            // Valid; several logical sectors per physical one, as a power of two.
            words[106] = 0x6000 | (self.physical_sector / 512).trailing_zeros() as u16;
        }
        let mut bytes = [0; 512];
        for (pair, word) in bytes.chunks_exact_mut(2).zip(words) {
            pair.copy_from_slice(&word.to_le_bytes());
        }
        // Word 255: signature 0xA5 and a checksum that makes all bytes add up to zero.
        bytes[510] = 0xa5;
        let sum = bytes[..511].iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
        bytes[511] = sum.wrapping_neg();
        bytes
    }

    /// Reads IDENTIFY DEVICE data as the Linux driver does: 48-bit size if word 83 or 86 says so,
    /// otherwise the 28-bit one.
    ///
    /// # Errors
    /// There are fewer than 512 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Identify, Short> {
        let (bytes, _) = fixed::<512>(bytes)?;
        let word = |i: usize| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
        let sectors = if (word(83) | word(86)) & (1 << 10) != 0 {
            (0..4).fold(0u64, |sum, i| sum | u64::from(word(100 + i)) << (16 * i))
        } else {
            u64::from(word(60)) | u64::from(word(61)) << 16
        };
        let text = |from: usize, to: usize| {
            let swapped: Vec<u8> = (from..to).flat_map(|i| word(i).to_be_bytes()).collect();
            String::from_utf8_lossy(&swapped)
                .trim_matches([' ', '\0'])
                .to_owned()
        };
        let physical = word(106);
        let physical_sector = if physical & 0xe000 == 0x6000 {
            512 << (physical & 0xf)
        } else {
            512
        };
        Ok(Identify {
            sectors,
            model: text(27, 47),
            serial: text(10, 20),
            firmware: text(23, 27),
            physical_sector,
        })
    }
}

/// ATA string: printable ASCII, padded with blanks, the bytes of each word swapped.
fn string(words: &mut [u16], text: &str) {
    let mut bytes = text
        .bytes()
        .map(|b| if (0x20..0x7f).contains(&b) { b } else { b'?' });
    for word in words {
        let high = bytes.next().unwrap_or(b' ');
        let low = bytes.next().unwrap_or(b' ');
        *word = u16::from_be_bytes([high, low]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn registers_and_back(bytes: [u8; 10], rest in proptest::collection::vec(any::<u8>(), 0..32)) {
            let mut body = bytes.to_vec();
            body.extend([0, 0]);
            body.extend(&rest);
            let (registers, data) = Registers::parse(&body).unwrap();
            prop_assert_eq!(&registers.to_bytes()[..], &body[..12]);
            prop_assert_eq!(data, &rest[..]);
        }

        #[test]
        fn identify_and_back(sectors in 0u64..1 << 48, physical in prop_oneof![Just(512u32), Just(4096)]) {
            let identify = Identify {
                sectors, model: "QUANTUM FIREBALL".into(), serial: "S3RIAL".into(),
                firmware: "1.0".into(), physical_sector: physical,
            };
            let bytes = identify.to_bytes();
            prop_assert_eq!(bytes.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
            prop_assert_eq!(Identify::parse(&bytes).unwrap(), identify);
        }
    }

    #[test]
    fn lba28_ignores_the_device_bits() {
        let registers = Registers {
            lba: [1, 2, 3, 0xe4, 5, 6],
            ..Registers::default()
        };
        assert_eq!(registers.lba(), 0x0403_0201);
        let registers = Registers {
            flags: FLAG_LBA48,
            ..registers
        };
        assert_eq!(registers.lba(), 0x0605_e403_0201);
    }
}
