//! The boot loaders: for which machines, by what name, and where Debian has them.

/// One kind of firmware that boots over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// For names of classes and tags.
    pub tag: &'static str,
    /// In words.
    pub words: &'static str,
    /// DHCP option 93 (RFC 4578, and IANA's "Processor Architecture Types").
    pub architectures: &'static [u16],
    /// The file it is told to fetch.
    pub boot_file: &'static str,
}

/// What is booted over TFTP. iPXE says one of these architectures too, and gets [`IPXE_SCRIPT`].
pub const FIRMWARES: [Firmware; 3] = [
    Firmware {
        tag: "bios",
        words: "BIOS",
        architectures: &[0],
        boot_file: "pxelinux.0",
    },
    Firmware {
        tag: "x64",
        words: "UEFI, 64 bits",
        // 7 by the RFC's registry; 9 by the RFC's text, which some firmware follows.
        architectures: &[7, 9],
        boot_file: "shimx64.efi",
    },
    Firmware {
        tag: "ia32",
        words: "UEFI, 32 bits",
        architectures: &[6],
        boot_file: "grubia32.efi",
    },
];

/// What iPXE gets.
pub const IPXE_SCRIPT: &str = "boot.ipxe";
