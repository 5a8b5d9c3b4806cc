//! Menus for all loaders of a static tree, and of a medium: pure.
//!
//! PXELINUX fetches a file of each machine's own. GRUB and iPXE get one file for all: a machine whose own
//! file was lost on the way would be one without a menu.

use std::fmt::Write;

use p2v_contract::MacAddr;
use p2v_dom0::Record;
use p2v_netboot::boot_menu::{self, MenuFormat, Reader, menu_name};
use p2v_netboot::{BootDecision, Loader, MenuKind};

use super::orders::Order;
use super::tree::Item;
use super::{Unlisted, for_the_unlisted};

const CONSOLES: &str = "console=tty0 console=ttyS0,115200";
const MADE_BY: &str = "# Made by `p2v image install`, which makes it again: changes are lost.\n";
const STARTS: &str = "p2v: this machine starts the p2v agent. Nothing is written to its disks unless the operator of \
                      the Xen host says so.";
const FAILED: &str = "p2v: the agent could not be started. It is tried again in 30 s; the disk of this machine is not \
                      started.";

/// For a machine whose loader did not find out its address: it may be any of those that are named.
const NAMELESS: &str = "The boot loader did not say which machine this is.";

/// GRUB's first lines. The serial port is used where there is one that it knows.
const GRUB_CONSOLES: &str =
    "if serial --unit=0 --speed=115200; then\n  terminal_output console serial\nfi\n";

/// The files with menus.
pub fn items(orders: &[Order], unlisted: Unlisted) -> Vec<Item> {
    let mut items: Vec<Item> = orders
        .iter()
        .map(|order| {
            let (_, menu) = pxelinux(Some(order.mac), &order.decision);
            Item::new(menu_name(MenuFormat::Pxelinux, order.mac), menu)
        })
        .collect();
    items.push(Item::new("grub/grub.cfg", grub(orders, unlisted)));
    items.push(Item::new(Loader::Ipxe.name(), ipxe(orders, unlisted)));
    let (_, menu) = pxelinux(None, &for_the_unlisted(unlisted));
    // A site may have one of its own, for its other machines.
    items.push(Item::new("pxelinux.cfg/default", menu).or_the_sites());
    items
}

/// PXELINUX's menu for a machine that had one, and shall do as if it had none: GRUB and iPXE have one file for all.
pub fn as_unlisted(mac: MacAddr, unlisted: Unlisted) -> Item {
    let (_, menu) = pxelinux(Some(mac), &for_the_unlisted(unlisted));
    Item::new(menu_name(MenuFormat::Pxelinux, mac), menu)
}

/// The network card that a file of PXELINUX's is for; `None`: it is for no single one.
pub fn card_of(path: &str) -> Option<MacAddr> {
    let name = path.strip_prefix("pxelinux.cfg/01-")?;
    let mac = name.replace('-', ":").parse().ok()?;
    (menu_name(MenuFormat::Pxelinux, mac) == path).then_some(mac)
}

/// PXELINUX's menu; a site's own server may have no HTTP.
fn pxelinux(mac: Option<MacAddr>, decision: &BootDecision) -> (MenuKind, String) {
    let reader = Reader { mac, http: None };
    boot_menu::render(MenuFormat::Pxelinux, reader, decision)
}

/// GRUB's menu of a medium, which is for one machine: on another the agent finds no card with the address
/// in `BOOTIF`, and exports nothing.
pub fn medium(record: &Record, append: &str) -> String {
    let mut text = String::from(GRUB_CONSOLES);
    grub_agent(&mut text, record.boot_mac, append, "/boot/");
    text
}

fn grub(orders: &[Order], unlisted: Unlisted) -> String {
    let mut text = format!("{MADE_BY}{GRUB_CONSOLES}");
    for order in orders {
        let _ = writeln!(
            text,
            "if [ \"$net_default_mac\" = \"{}\" ]; then",
            order.mac
        );
        match &order.decision {
            BootDecision::Agent { append, image } => {
                let from = format!("/{}", image.prefix());
                grub_agent(&mut text, order.mac, append, &from);
            }
            BootDecision::Hold { message } => grub_hold(&mut text, message),
            BootDecision::LocalDisk { why } | BootDecision::Ignore { why } => {
                grub_local(&mut text, why)
            }
        }
        text += "fi\n";
    }
    text += "if [ -z \"$net_default_mac\" ]; then\n";
    grub_hold(&mut text, NAMELESS);
    text += "fi\n";
    match for_the_unlisted(unlisted) {
        BootDecision::Hold { message } => grub_hold(&mut text, &message),
        BootDecision::LocalDisk { why } | BootDecision::Ignore { why } => {
            grub_local(&mut text, &why)
        }
        BootDecision::Agent { .. } => {}
    }
    text
}

/// `from`: what stands before the names of kernel and initial RAM disk.
fn grub_agent(text: &mut String, mac: MacAddr, append: &str, from: &str) {
    // To GRUB nothing in single quotes is special.
    let quoted: Vec<String> = arguments(mac, append)
        .split_whitespace()
        .map(|argument| format!("'{argument}'"))
        .collect();
    let _ = write!(
        text,
        "echo \"{STARTS}\"\nwhile true; do\n  if linux {from}vmlinuz {}; then\n    if initrd {from}initrd; then\n      \
         boot\n    fi\n  fi\n  echo \"{FAILED}\"\n  sleep 30\ndone\n",
        quoted.join(" "),
    );
}

/// All that the kernel is told, with consoles if none is named, as PXELINUX's menus have it.
fn arguments(mac: MacAddr, append: &str) -> String {
    let named = append.split(' ').any(|a| a.starts_with("console="));
    let consoles = if named { "" } else { CONSOLES };
    let bootif = mac.to_string().replace(':', "-");
    format!("{consoles} {append} BOOTIF=01-{bootif}")
        .trim()
        .to_owned()
}

fn grub_hold(text: &mut String, message: &str) {
    let _ = write!(
        text,
        "while true; do\n  echo \"p2v: this machine waits here. Its disk is not started.\"\n  echo \"{}\"\n  \
         sleep 3600\ndone\n",
        plain(message)
    );
}

fn grub_local(text: &mut String, why: &str) {
    let _ = write!(
        text,
        "echo \"p2v: this machine boots its own disk.\"\necho \"{}\"\nexit\n",
        plain(why)
    );
}

fn ipxe(orders: &[Order], unlisted: Unlisted) -> String {
    let mut text = format!("#!ipxe\n{MADE_BY}");
    for order in orders {
        let _ = writeln!(
            text,
            "iseq ${{mac}} {} && goto {} ||",
            order.mac,
            label(order.mac)
        );
    }
    text += "isset ${mac} || goto nameless\n";
    match for_the_unlisted(unlisted) {
        BootDecision::Hold { message } => ipxe_hold(&mut text, "unlisted", &message),
        BootDecision::LocalDisk { why } | BootDecision::Ignore { why } => {
            ipxe_local(&mut text, &why)
        }
        BootDecision::Agent { .. } => {}
    }
    ipxe_hold(&mut text, "nameless", NAMELESS);
    for order in orders {
        let label = label(order.mac);
        match &order.decision {
            BootDecision::Agent { append, image } => {
                let from = image.prefix();
                let arguments = arguments(order.mac, append);
                // `initrd=` is for UEFI, where the kernel finds it by name: the last part of its path (iPXE's
                // src/core/image.c, alloc_image).
                let _ = write!(
                    text,
                    ":{label}\necho {STARTS}\n:{label}-again\nimgfree\nkernel {from}vmlinuz initrd=initrd \
                     {arguments} && initrd {from}initrd && boot ||\necho {FAILED}\nsleep 30\ngoto {label}-again\n"
                );
            }
            BootDecision::Hold { message } => ipxe_hold(&mut text, &label, message),
            BootDecision::LocalDisk { why } | BootDecision::Ignore { why } => {
                let _ = writeln!(text, ":{label}");
                ipxe_local(&mut text, why);
            }
        }
    }
    text
}

fn ipxe_hold(text: &mut String, label: &str, message: &str) {
    let _ = write!(
        text,
        ":{label}\necho p2v: this machine waits here. Its disk is not started.\necho {}\nsleep 3600\ngoto {label}\n",
        plain(message)
    );
}

fn ipxe_local(text: &mut String, why: &str) {
    let _ = write!(
        text,
        // Having failed, it lets UEFI firmware go on to the next boot entry.
        "echo p2v: this machine boots its own disk.\necho {}\nexit 1\n",
        plain(why)
    );
}

/// iPXE's label for a card.
fn label(mac: MacAddr) -> String {
    format!("card-{}", mac.to_string().replace(':', "-"))
}

/// Text that stays text in both languages: no quotes, no variables, no operators.
fn plain(text: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || " .,:()-_".contains(c);
    text.chars()
        .map(|c| match c {
            c if keep(c) => c,
            c if c.is_whitespace() => ' ',
            _ => '?',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot_tree::example;
    use p2v_netboot::Image;

    fn text(items: &[Item], name: &str) -> String {
        let item = items.iter().find(|item| item.path == name).unwrap();
        String::from_utf8(item.bytes.clone()).unwrap()
    }

    #[test]
    fn no_loader_leads_a_named_machine_to_its_disk() {
        let items = items(&example(), Unlisted::Local);
        let menu = text(&items, "pxelinux.cfg/01-52-54-00-00-00-01");
        assert!(menu.contains("p2v.shelf=1") && !menu.contains("LOCALBOOT"));
        let menu = text(&items, "pxelinux.cfg/01-52-54-00-00-00-02");
        assert!(!menu.contains("vmlinuz") && !menu.contains("LOCALBOOT"));
        assert!(text(&items, "pxelinux.cfg/default").contains("LOCALBOOT"));

        // In GRUB's, `exit` is the only way on, and stands after all endless branches.
        let grub = text(&items, "grub/grub.cfg");
        assert_eq!(grub.matches("exit").count(), 1);
        assert!(grub.trim_end().ends_with("exit"));
        assert_eq!(grub.matches("while true").count(), 3);
        assert!(grub.contains("'BOOTIF=01-52-54-00-00-00-01';"));
        assert!(grub.contains("e2 runs ?elsewhere? ?now? ?x?"), "{grub}");
        // In iPXE's, each branch after it ends where it began.
        let ipxe = text(&items, &Loader::Ipxe.name());
        let after = ipxe.split_once("exit 1\n").unwrap().1;
        assert!(after.starts_with(":nameless\n"));
        assert!(!after.contains("exit"));
        assert!(after.contains("goto card-52-54-00-00-00-01-again\n:card-52-54-00-00-00-02\n"));
        assert!(after.ends_with("goto card-52-54-00-00-00-02\n"));
    }

    #[test]
    fn a_machines_own_console_is_its_only_one() {
        let mac = MacAddr::new(0x52, 0x54, 0, 0, 0, 1);
        let order = |append: &str| Order {
            mac,
            decision: BootDecision::Agent {
                append: append.into(),
                image: Image::Usual,
            },
        };
        for (append, told) in [
            ("p2v.shelf=1", format!("{CONSOLES} p2v.shelf=1")),
            (
                "console=ttyS1,9600 a~b p2v.shelf=1",
                "console=ttyS1,9600 a~b p2v.shelf=1".to_owned(),
            ),
        ] {
            let items = items(&[order(append)], Unlisted::Wait);
            let menu = text(&items, "pxelinux.cfg/01-52-54-00-00-00-01");
            assert!(menu.contains(&told), "{menu}");
            let ipxe = text(&items, &Loader::Ipxe.name());
            let line = format!("initrd=initrd {told} BOOTIF=01-52-54-00-00-00-01 && initrd initrd");
            assert!(ipxe.contains(&line), "{ipxe}");
            let quoted = format!("'{}'", told.replace(' ', "' '"));
            let line = format!("linux /vmlinuz {quoted} 'BOOTIF=01-52-54-00-00-00-01'; then");
            let grub = text(&items, "grub/grub.cfg");
            assert!(grub.contains(&line), "{grub}");
        }
    }

    #[test]
    fn a_machines_own_image_is_what_its_menus_name_and_no_others() {
        let mac = |n| MacAddr::new(0x52, 0x54, 0, 0, 0, n);
        let order = |n, image| Order {
            mac: mac(n),
            decision: BootDecision::Agent {
                append: "p2v.shelf=1".into(),
                image,
            },
        };
        let own = Image::Named("debian-11".parse().unwrap());
        let items = items(&[order(1, own), order(2, Image::Usual)], Unlisted::Wait);
        let menu = text(&items, "pxelinux.cfg/01-52-54-00-00-00-01");
        let files = "KERNEL image/debian-11/vmlinuz\n  INITRD image/debian-11/initrd\n";
        assert!(menu.contains(files), "{menu}");
        let menu = text(&items, "pxelinux.cfg/01-52-54-00-00-00-02");
        assert!(menu.contains("KERNEL vmlinuz\n  INITRD initrd\n"), "{menu}");

        // One file for all machines, whose parts come in their order.
        let grub = text(&items, "grub/grub.cfg");
        let (one, two) = grub.split_once(&format!("\"{}\"", mac(2))).unwrap();
        assert!(
            one.contains("if linux /image/debian-11/vmlinuz '"),
            "{grub}"
        );
        assert!(one.contains("if initrd /image/debian-11/initrd;"), "{grub}");
        assert!(two.contains("if linux /vmlinuz '") && two.contains("if initrd /initrd;"));
        assert!(!one.contains(" /vmlinuz") && !two.contains("image/"));
        let ipxe = text(&items, &Loader::Ipxe.name());
        let (one, two) = ipxe.split_once(":card-52-54-00-00-00-02\n").unwrap();
        assert!(
            one.contains("\nkernel image/debian-11/vmlinuz initrd=initrd "),
            "{ipxe}"
        );
        assert!(
            one.contains(" && initrd image/debian-11/initrd && boot"),
            "{ipxe}"
        );
        assert!(two.contains("\nkernel vmlinuz ") && two.contains("&& initrd initrd &&"));
        assert!(!two.contains("image/"));
    }

    #[test]
    fn the_unlisted_may_be_made_to_wait() {
        let items = items(&example(), Unlisted::Wait);
        for name in [
            "pxelinux.cfg/default",
            "grub/grub.cfg",
            &Loader::Ipxe.name(),
        ] {
            let menu = text(&items, name);
            assert!(
                !menu.contains("LOCALBOOT") && !menu.contains("exit"),
                "{menu}"
            );
            assert!(menu.contains("no menu for this machine"));
        }
    }
}
