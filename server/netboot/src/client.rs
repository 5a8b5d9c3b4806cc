//! What kind of network-boot client is asking (options 60, 77, 93, 175).

use std::fmt;

/// A client's kind, as far as the answer depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// A BIOS machine's PXE ROM.
    Bios {
        /// It is iPXE (option 77 is `iPXE`, or option 175 is there).
        ipxe: bool,
    },
    /// A UEFI machine's PXE client.
    Uefi {
        /// Option 93 (RFC 4578).
        architecture: u16,
        /// It is iPXE.
        ipxe: bool,
    },
    /// A UEFI machine's HTTP boot client, with its architecture.
    HttpBoot(u16),
    /// Not booting from the network: nothing here is for it.
    Other,
}

impl ClientKind {
    /// Decides from the vendor class (60), the architectures (93: one or more 16-bit numbers) and
    /// whether the client is iPXE. Old BIOS ROMs leave option 93 out but name the architecture in
    /// their class, `PXEClient:Arch:00000:UNDI:002001`.
    pub fn from_options(
        class: Option<&[u8]>,
        architectures: Option<&[u8]>,
        ipxe: bool,
    ) -> ClientKind {
        let Some(class) = class else {
            return ClientKind::Other;
        };
        let http = class.starts_with(b"HTTPClient");
        if !http && !class.starts_with(b"PXEClient") {
            return ClientKind::Other;
        }
        let first = architectures
            .and_then(|list| list.first_chunk())
            .map(|a| u16::from_be_bytes(*a));
        let in_class = || {
            let digits = class.get(b"PXEClient:Arch:".len()..)?.first_chunk::<5>()?;
            std::str::from_utf8(digits).ok()?.parse().ok()
        };
        match first.or_else(in_class).unwrap_or(0) {
            architecture if http => ClientKind::HttpBoot(architecture),
            0 => ClientKind::Bios { ipxe },
            architecture @ (0x0F..=0x14) => ClientKind::HttpBoot(architecture),
            architecture => ClientKind::Uefi { architecture, ipxe },
        }
    }
}

impl fmt::Display for ClientKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names of the IANA "Processor Architecture Types" registry, shortened.
        let name = |architecture: &u16| match architecture {
            2 => "Itanium",
            6 => "IA32",
            7 | 9 => "x64",
            0x0A => "ARM 32-bit",
            0x0B => "ARM 64-bit",
            0x0F => "IA32",
            0x10 => "x64",
            0x12 => "ARM 32-bit",
            0x13 => "ARM 64-bit",
            _ => "of an unknown architecture",
        };
        match self {
            ClientKind::Bios { ipxe: false } => f.write_str("BIOS"),
            ClientKind::Bios { ipxe: true } => f.write_str("BIOS (iPXE)"),
            ClientKind::Uefi {
                architecture,
                ipxe: false,
            } => write!(f, "UEFI {}", name(architecture)),
            ClientKind::Uefi {
                architecture,
                ipxe: true,
            } => write!(f, "UEFI {} (iPXE)", name(architecture)),
            ClientKind::HttpBoot(a) => write!(f, "UEFI HTTP boot {}", name(a)),
            ClientKind::Other => f.write_str("not a network boot"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let kind =
            |class: &[u8], arch: Option<&[u8]>| ClientKind::from_options(Some(class), arch, false);
        let bios = ClientKind::Bios { ipxe: false };
        let uefi = |architecture| ClientKind::Uefi {
            architecture,
            ipxe: false,
        };
        assert_eq!(
            kind(b"PXEClient:Arch:00000:UNDI:002001", Some(&[0, 0])),
            bios
        );
        assert_eq!(kind(b"PXEClient", None), bios);
        assert_eq!(kind(b"PXEClient:Arch:00007:UNDI:003016", None), uefi(7));
        assert_eq!(
            kind(b"PXEClient:Arch:00007:UNDI:003016", Some(&[0, 9])),
            uefi(9)
        );
        assert_eq!(
            kind(b"HTTPClient:Arch:00016", Some(&[0, 16])),
            ClientKind::HttpBoot(16)
        );
        assert_eq!(kind(b"PXEClient:Arch:xx", Some(&[0])), bios);
        assert_eq!(kind(b"MSFT 5.0", Some(&[0, 0])), ClientKind::Other);
        assert_eq!(
            ClientKind::from_options(None, Some(&[0, 0]), true),
            ClientKind::Other
        );
    }
}
