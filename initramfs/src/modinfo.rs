//! What a kernel module says about itself: the `.modinfo` section of its ELF file, NUL-separated
//! `key=value` strings (`include/linux/moduleparam.h`, `scripts/mod/modpost.c`).

use object::{Object, ObjectSection};

/// The part of a module's own description that an image needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModInfo {
    /// Modules whose symbols it uses (`depends=`).
    pub depends: Vec<String>,
    /// Modules that should be loaded before it (`softdep=pre:`); missing ones are no error.
    pub soft_pre: Vec<String>,
    /// Modules that should be loaded after it (`softdep=post:`).
    pub soft_post: Vec<String>,
    /// Patterns of the devices it drives and names it answers to (`alias=`).
    pub aliases: Vec<String>,
    /// Firmware files it may ask for (`firmware=`), below `/lib/firmware`.
    pub firmware: Vec<String>,
}

/// Why a module's description cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ModInfoError {
    /// Not an ELF file that `object` can read.
    #[error("not a kernel module that can be read: {0}")]
    Elf(#[from] object::Error),
    /// No `.modinfo` section.
    #[error("not a kernel module: it has no .modinfo section (a compressed module? unpack it)")]
    NoSection,
}

/// Reads the description out of a module file's bytes.
///
/// # Errors
/// It is no object file, or has no section `.modinfo` that can be read.
pub fn read(module: &[u8]) -> Result<ModInfo, ModInfoError> {
    let file = object::File::parse(module)?;
    let section = file
        .section_by_name(".modinfo")
        .ok_or(ModInfoError::NoSection)?;
    Ok(parse(section.data()?))
}

/// Reads the section's bytes.
fn parse(section: &[u8]) -> ModInfo {
    let mut info = ModInfo::default();
    for entry in section.split(|b| *b == 0) {
        let entry = String::from_utf8_lossy(entry);
        let Some((key, value)) = entry.split_once('=') else {
            continue;
        };
        match key {
            "depends" => info.depends.extend(
                value
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(canonical),
            ),
            "alias" => info.aliases.push(value.to_owned()),
            "firmware" => info.firmware.push(value.to_owned()),
            "softdep" => {
                let mut post = false;
                for word in value.split_whitespace() {
                    match word {
                        "pre:" => post = false,
                        "post:" => post = true,
                        name if post => info.soft_post.push(canonical(name)),
                        name => info.soft_pre.push(canonical(name)),
                    }
                }
            }
            _ => {}
        }
    }
    info
}

/// A module's name as the kernel spells it: `-` and `_` are one letter, written `_`.
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_read() {
        let info = parse(
            b"license=GPL\0alias=pci:v00008086d0000100Esv*sd*bc*sc*i*\0depends=libata,scsi-mod\0\
              softdep=pre: crc32c a-b post: c\0firmware=bnx2/x.fw\0\0vermagic=6.1 SMP",
        );
        assert_eq!(info.aliases, ["pci:v00008086d0000100Esv*sd*bc*sc*i*"]);
        assert_eq!(info.depends, ["libata", "scsi_mod"]);
        assert_eq!(info.soft_pre, ["crc32c", "a_b"]);
        assert_eq!(info.soft_post, ["c"]);
        assert_eq!(info.firmware, ["bnx2/x.fw"]);
        assert_eq!(parse(b"depends=\0").depends, Vec::<String>::new());
    }

    #[test]
    fn what_is_no_module_is_said_to_be_none() {
        assert!(matches!(read(b"not ELF"), Err(ModInfoError::Elf(_))));
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(matches!(read(&own), Err(ModInfoError::NoSection)));
    }
}
