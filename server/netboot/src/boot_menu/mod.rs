//! What a client may ask for by name, and the menus it gets, in the language of its boot loader:
//! pure.

mod grub;
mod ipxe;
mod kind;
mod names;
mod pxelinux;
mod text;

use pnet::util::MacAddr;

use crate::boot_decision::BootDecision;
use crate::image::Image;

pub use kind::MenuKind;
pub use names::{BootFile, Script, Wanted};
pub use text::check_arguments;

/// Consoles of the netboot image, unless a machine's arguments name others: the screen, and the
/// first serial port.
const CONSOLES: &str = "console=tty0 console=ttyS0,115200";

/// Which boot loader reads the menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MenuFormat {
    /// PXELINUX, by TFTP.
    Pxelinux,
    /// lpxelinux: the same, and it can fetch by HTTP.
    Lpxelinux,
    /// GRUB.
    Grub,
    /// iPXE.
    Ipxe,
}

impl MenuFormat {
    /// All of them.
    pub const ALL: [MenuFormat; 4] = [
        MenuFormat::Pxelinux,
        MenuFormat::Lpxelinux,
        MenuFormat::Grub,
        MenuFormat::Ipxe,
    ];

    /// What the name of such a menu begins with; the machine's MAC follows. PXELINUX's own has the
    /// hardware type in it: 01 is Ethernet.
    fn prefix(self) -> &'static str {
        match self {
            MenuFormat::Pxelinux => "pxelinux.cfg/01-",
            MenuFormat::Lpxelinux => "lpxelinux.cfg/01-",
            MenuFormat::Grub => "grub/machine/",
            MenuFormat::Ipxe => "ipxe/",
        }
    }

    /// What stands between the bytes of the MAC: GRUB's `$net_default_mac` has colons.
    fn separator(self) -> u8 {
        match self {
            MenuFormat::Grub => b':',
            _ => b'-',
        }
    }
}

/// `pxelinux.cfg/01-52-54-00-12-34-56`.
pub fn menu_name(format: MenuFormat, mac: MacAddr) -> String {
    let mac = mac.to_string();
    match format.separator() {
        b':' => format!("{}{mac}", format.prefix()),
        _ => format!("{}{}", format.prefix(), mac.replace(':', "-")),
    }
}

/// For whom a menu is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reader<'a> {
    /// The machine, if it is known.
    pub mac: Option<MacAddr>,
    /// `192.168.7.1` or `192.168.7.1:8080`: this host, if kernel and initial RAM disk can be had
    /// there by HTTP; they can always be had by TFTP.
    pub http: Option<&'a str>,
}

/// The menu for a decision, and what it tells the machine to do. A decision that cannot be carried
/// out safely becomes a `Hold` that says so.
pub fn render(
    format: MenuFormat,
    reader: Reader<'_>,
    decision: &BootDecision,
) -> (MenuKind, String) {
    match decision {
        BootDecision::Agent { append, image } => match check_arguments(append) {
            Ok(()) => {
                let named = append.split(' ').any(|a| a.starts_with("console="));
                let append = match named {
                    true => append.trim().to_owned(),
                    false => format!("{CONSOLES} {}", append.trim()),
                };
                let menu = agent(format, reader, append.trim(), *image);
                (MenuKind::Agent { image: *image }, menu)
            }
            Err(wrong) => hold(
                format,
                reader,
                &format!("The kernel arguments p2v made for this machine {wrong}."),
            ),
        },
        BootDecision::LocalDisk { why } | BootDecision::Ignore { why } => {
            let lines = text::lines(why);
            let menu = match format {
                MenuFormat::Pxelinux | MenuFormat::Lpxelinux => pxelinux::local_disk(&lines),
                MenuFormat::Grub => grub::local_disk(&lines),
                MenuFormat::Ipxe => ipxe::local_disk(&lines),
            };
            (MenuKind::LocalDisk, menu)
        }
        BootDecision::Hold { message } => hold(format, reader, message),
    }
}

fn agent(format: MenuFormat, reader: Reader<'_>, append: &str, image: Image) -> String {
    match format {
        MenuFormat::Pxelinux => pxelinux::agent(append, image, None),
        MenuFormat::Lpxelinux => pxelinux::agent(append, image, reader.http),
        MenuFormat::Grub => grub::agent(append, image, reader),
        MenuFormat::Ipxe => ipxe::agent(append, image, reader),
    }
}

fn hold(format: MenuFormat, reader: Reader<'_>, message: &str) -> (MenuKind, String) {
    let lines = text::lines(message);
    let menu = match format {
        MenuFormat::Pxelinux | MenuFormat::Lpxelinux => {
            let again = reader.mac.map_or_else(
                || "pxelinux.cfg/default".to_owned(),
                |mac| menu_name(format, mac),
            );
            pxelinux::hold(&lines, &again)
        }
        MenuFormat::Grub => grub::hold(&lines),
        MenuFormat::Ipxe => ipxe::hold(&lines),
    };
    (MenuKind::Hold, menu)
}

/// `BOOTIF`, which names the interface the machine booted from, as PXELINUX itself writes it.
fn boot_interface(reader: Reader<'_>) -> String {
    reader.mac.map_or_else(String::new, |mac| {
        format!(" BOOTIF=01-{}", mac.to_string().replace(':', "-"))
    })
}

#[cfg(test)]
mod tests;
