//! What a client may ask for by name.

use std::borrow::Cow;

use pnet::util::MacAddr;

use super::MenuFormat;
use crate::image::{Image, ImageName};
use crate::machine_id::MachineId;

const KERNEL: &str = "vmlinuz";
const INITRD: &str = "initrd";

/// A file of the boot set: the only files there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BootFile {
    /// `pxelinux.0`.
    Pxelinux,
    /// `lpxelinux.0`, which speaks HTTP.
    Lpxelinux,
    /// `ldlinux.c32`, the core of both.
    Ldlinux,
    /// `shimx64.efi`, signed by Microsoft; fetches `grubx64.efi` from beside it.
    ShimX64,
    /// `grubx64.efi`, signed by Debian.
    GrubX64,
    /// `grubia32.efi`, for 32-bit UEFI; not signed.
    GrubIa32,
    /// `vmlinuz`.
    Kernel,
    /// `initrd`.
    Initrd,
    /// `image/NAME/vmlinuz`, for the machines that the settings name this image for.
    KernelOf(ImageName),
    /// `image/NAME/initrd`.
    InitrdOf(ImageName),
}

impl BootFile {
    /// Those that there are without any settings.
    pub const USUAL: [BootFile; 8] = [
        BootFile::Pxelinux,
        BootFile::Lpxelinux,
        BootFile::Ldlinux,
        BootFile::ShimX64,
        BootFile::GrubX64,
        BootFile::GrubIa32,
        BootFile::Kernel,
        BootFile::Initrd,
    ];

    /// The name it is served under. The loaders know each other, and some have these built in.
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            BootFile::Pxelinux => "pxelinux.0",
            BootFile::Lpxelinux => "lpxelinux.0",
            BootFile::Ldlinux => "ldlinux.c32",
            BootFile::ShimX64 => "shimx64.efi",
            BootFile::GrubX64 => "grubx64.efi",
            BootFile::GrubIa32 => "grubia32.efi",
            BootFile::Kernel => KERNEL,
            BootFile::Initrd => INITRD,
            BootFile::KernelOf(image) => return Cow::Owned(Image::Named(image).prefix() + KERNEL),
            BootFile::InitrdOf(image) => return Cow::Owned(Image::Named(image).prefix() + INITRD),
        })
    }

    /// The one that goes by this name; that of an image need not be in the settings.
    fn named(name: &str) -> Option<BootFile> {
        if let Some((image, file)) = name.strip_prefix("image/").and_then(|n| n.split_once('/')) {
            let image = image.parse().ok()?;
            return match file {
                KERNEL => Some(BootFile::KernelOf(image)),
                INITRD => Some(BootFile::InitrdOf(image)),
                _ => None,
            };
        }
        let mut usual = BootFile::USUAL.into_iter();
        usual.find(|file| file.name() == name)
    }

    /// A UEFI machine's first program: without it the firmware goes on to its next boot entry.
    pub(crate) fn is_uefi_program(self) -> bool {
        matches!(
            self,
            BootFile::ShimX64 | BootFile::GrubX64 | BootFile::GrubIa32
        )
    }
}

/// What a loader is given first, the same for all machines: it asks for its machine's menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// `grub/grub.cfg`, built into Debian's signed network GRUB.
    Grub,
    /// `boot.ipxe`.
    Ipxe,
}

impl Script {
    /// Its text.
    pub fn text(self) -> &'static str {
        match self {
            Script::Grub => include_str!("../../../../pxelinux/grub/start.cfg"),
            Script::Ipxe => include_str!("../../../../pxelinux/ipxe/boot.ipxe"),
        }
    }
}

/// What a name asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A file of the boot set.
    File(BootFile),
    /// The same text for everybody.
    Script(Script),
    /// The menu of the machine that boots from this MAC, with its SMBIOS UUID where the loader told it.
    Menu(MenuFormat, MacAddr, Option<MachineId>),
    /// `pxelinux.cfg/default`: the menu of a machine that did not say which one it is.
    DefaultMenu,
    /// PXELINUX's first question: a menu for the machine with this SMBIOS UUID. There is none, and it goes on to the one
    /// for its card.
    MenuOf(MachineId),
    /// What loaders look for and need not find: menus by IP address, GRUB's
    /// modules, shim's revocations. There is none, which is no news to anybody.
    NotThere,
}

impl Wanted {
    /// What the name stands for; `None`: nothing that is served. Names are compared as they are, but
    /// for one `/` before them, or two: shim 16 asks for `//grubx64.efi` by HTTP. Nothing is decoded, so
    /// nothing can be hidden in them.
    pub fn parse(name: &str) -> Option<Wanted> {
        let name = name.strip_prefix('/').unwrap_or(name);
        let name = name.strip_prefix('/').unwrap_or(name);
        if let Some(file) = BootFile::named(name) {
            return Some(Wanted::File(file));
        }
        match name {
            "pxelinux.cfg/default" => return Some(Wanted::DefaultMenu),
            "grub/grub.cfg" => return Some(Wanted::Script(Script::Grub)),
            "boot.ipxe" => return Some(Wanted::Script(Script::Ipxe)),
            // shim 16 looks for these beside itself (shim.c, load_unbundled_trust and others).
            "revocations.efi" | "revocations_sku.efi" | "revocations_sbat.efi" => {
                return Some(Wanted::NotThere);
            }
            _ => {}
        }
        for format in MenuFormat::ALL {
            if let Some(machine) = name.strip_prefix(format.prefix()) {
                // A UUID that is none, or nobody's, must not cost the machine its menu.
                let (mac, id) = machine.split_once('/').unwrap_or((machine, ""));
                if let Some(mac) = parse_mac(mac, format.separator()) {
                    return Some(Wanted::Menu(format, mac, id.parse().ok()));
                }
                break;
            }
        }
        let menu = name.strip_prefix("pxelinux.cfg/");
        let menu = menu.or_else(|| name.strip_prefix("lpxelinux.cfg/"));
        if let Some(id) = menu.and_then(|id| id.parse().ok()) {
            return Some(Wanted::MenuOf(id));
        }
        not_there(name).then_some(Wanted::NotThere)
    }
}

fn not_there(name: &str) -> bool {
    let plain = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && !text.starts_with('.')
    };
    if let Some(number) = name
        .strip_prefix("shim_certificate_")
        .and_then(|rest| rest.strip_suffix(".efi"))
    {
        return !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    }
    for folder in ["grub/x86_64-efi/", "grub/i386-efi/"] {
        if let Some(module) = name.strip_prefix(folder) {
            return plain(module);
        }
    }
    // A GRUB that was not made by Debian looks for these before `grub.cfg`.
    if let Some(machine) = name.strip_prefix("grub/grub.cfg-") {
        return plain(machine);
    }
    let menu = ["pxelinux.cfg/", "lpxelinux.cfg/"]
        .iter()
        .find_map(|folder| name.strip_prefix(folder));
    menu.is_some_and(is_uuid_or_address)
}

/// By the machine's UUID, or its IPv4 address in hexadecimal digits, cut shorter and shorter.
fn is_uuid_or_address(menu: &str) -> bool {
    let hex_or = |dash: &[usize]| {
        menu.bytes().enumerate().all(|(at, byte)| {
            if dash.contains(&at) {
                byte == b'-'
            } else {
                byte.is_ascii_hexdigit()
            }
        })
    };
    (menu.len() == 36 && hex_or(&[8, 13, 18, 23])) || ((1..=8).contains(&menu.len()) && hex_or(&[]))
}

/// `52-54-00-12-34-56`, lower case, as all loaders write it.
fn parse_mac(text: &str, separator: u8) -> Option<MacAddr> {
    let bytes = text.as_bytes();
    if bytes.len() != 17 {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut octets = [0; 6];
    for (octet, chunk) in octets.iter_mut().zip(bytes.chunks(3)) {
        match *chunk {
            [high, low] => *octet = digit(high)? << 4 | digit(low)?,
            [high, low, between] if between == separator => {
                *octet = digit(high)? << 4 | digit(low)?;
            }
            _ => return None,
        }
    }
    let mac = MacAddr::from(octets);
    (!mac.is_multicast() && !mac.is_zero()).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot_menu::menu_name;
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr(0x52, 0x54, 0, 0x12, 0x34, 0x56);

    #[test]
    fn names() {
        let image = "debian-11".parse().unwrap();
        let of_image = [BootFile::KernelOf(image), BootFile::InitrdOf(image)];
        assert_eq!(of_image[0].name(), "image/debian-11/vmlinuz");
        for file in BootFile::USUAL.into_iter().chain(of_image) {
            assert_eq!(Wanted::parse(&file.name()), Some(Wanted::File(file)));
            for slashes in ["/", "//"] {
                let absolute = format!("{slashes}{}", file.name());
                assert_eq!(Wanted::parse(&absolute), Some(Wanted::File(file)));
            }
        }
        for format in MenuFormat::ALL {
            let name = menu_name(format, MAC);
            assert_eq!(Wanted::parse(&name), Some(Wanted::Menu(format, MAC, None)));
        }
        assert_eq!(
            Wanted::parse("/grub/machine/52:54:00:12:34:56"),
            Some(Wanted::Menu(MenuFormat::Grub, MAC, None))
        );
        let id = "4c4c4544-0042-3010-8051-b4c04f4d3232";
        for (text, id) in [(id, id.parse().ok()), ("", None), ("a/b", None)] {
            assert_eq!(
                Wanted::parse(&format!("ipxe/52-54-00-12-34-56/{text}")),
                Some(Wanted::Menu(MenuFormat::Ipxe, MAC, id))
            );
        }
        assert_eq!(
            Wanted::parse("pxelinux.cfg/default"),
            Some(Wanted::DefaultMenu)
        );
        let id = "4c4c4544-0042-3010-8051-b4c04f4d3232";
        for folder in ["pxelinux.cfg", "/lpxelinux.cfg"] {
            assert_eq!(
                Wanted::parse(&format!("{folder}/{id}")),
                Some(Wanted::MenuOf(id.parse().unwrap()))
            );
        }
        for name in [
            "pxelinux.cfg/C0A807C8",
            "pxelinux.cfg/C0A8",
            "lpxelinux.cfg/C",
            "pxelinux.cfg/00000000-0000-0000-0000-000000000000",
            "/grub/x86_64-efi/command.lst",
            "/grub/i386-efi/terminal.lst",
            "revocations_sbat.efi",
            "/grub/grub.cfg-01-52-54-00-12-34-56",
            "/grub/grub.cfg-C0A8",
            "shim_certificate_0.efi",
        ] {
            assert_eq!(Wanted::parse(name), Some(Wanted::NotThere), "{name}");
        }
        for name in [
            "",
            "/",
            "///pxelinux.0",
            "./pxelinux.0",
            "../etc/passwd",
            "pxelinux.cfg/../vmlinuz",
            "pxelinux.cfg\\default",
            "\\pxelinux.0",
            "PXELINUX.0",
            "pxelinux.0 ",
            "vmlinuz\0",
            "pxelinux.cfg/",
            "pxelinux.cfg/01-",
            "pxelinux.cfg/01-52-54-00-12-34-5",
            "pxelinux.cfg/01-52-54-00-12-34-567",
            "pxelinux.cfg/01-52:54:00:12:34:56",
            "pxelinux.cfg/01-52-54-00-12-34-5G",
            "pxelinux.cfg/01-ff-ff-ff-ff-ff-ff",
            "pxelinux.cfg/20-52-54-00-12-34-56",
            "pxelinux.cfg/C0A807C8F",
            "grub/machine/52-54-00-12-34-56",
            "grub/machine/",
            "grub/x86_64-efi/../grub.cfg",
            "grub/x86_64-efi/..",
            "grub/x86_64-efi/",
            "shim_certificate_.efi",
            "ipxe/52:54:00:12:34:56",
            "/etc/passwd",
            "image/",
            "image/old",
            "image/old/",
            "image//vmlinuz",
            "image/../vmlinuz",
            "image/./vmlinuz",
            "image/old/../vmlinuz",
            "image/old//vmlinuz",
            "image/old/pxelinux.0",
            "image/old/image/old/vmlinuz",
            "image/Old/vmlinuz",
            "image/old\\vmlinuz",
            "image/old\0/vmlinuz",
            "image/old/vmlinuz ",
            "image/seventeen-letters/vmlinuz",
        ] {
            assert_eq!(Wanted::parse(name), None, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_parsed(name in "(?s).{0,80}") {
            let _ = Wanted::parse(&name);
        }

        #[test]
        fn any_name_like_an_images_file_is_parsed(name in "image/[a-z0-9./-]{0,20}/?(vmlinuz|initrd)") {
            if let Some(Wanted::File(file)) = Wanted::parse(&name) {
                prop_assert_eq!(file.name(), name);
            }
        }

        #[test]
        fn any_name_like_a_menu_is_parsed(
            name in "(l?pxelinux.cfg/01-|grub/machine/|ipxe/)[0-9a-fA-F:-]{0,40}"
        ) {
            if let Some(Wanted::Menu(format, mac, _)) = Wanted::parse(&name) {
                prop_assert_eq!(menu_name(format, mac), name);
            }
        }
    }
}
