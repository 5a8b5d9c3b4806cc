//! What a client may ask for by name, and the menus it gets: pure.

use std::fmt::Write;

use pnet::util::MacAddr;

use crate::event::MenuKind;
use crate::machines::BootDecision;

/// Characters of a `SAY` line: a screen has 80 columns.
const SAY_WIDTH: usize = 76;
/// Bytes of kernel arguments at most: the x86 kernel takes 2047 (`COMMAND_LINE_SIZE`), and
/// PXELINUX adds `BOOT_IMAGE`, `initrd` and `BOOTIF`.
const APPEND_MAX: usize = 1700;
/// Lines of text at most, so that they all stay on the screen.
const LINES_MAX: usize = 15;

const AGENT: &str = include_str!("../../../pxelinux/agent.cfg");
const LOCAL_DISK: &str = include_str!("../../../pxelinux/local-disk.cfg");
const HOLD: &str = include_str!("../../../pxelinux/hold.cfg");

/// A file of the boot set: the only files there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootFile {
    /// `pxelinux.0`.
    Pxelinux,
    /// `ldlinux.c32`.
    Ldlinux,
    /// `vmlinuz`.
    Kernel,
    /// `initrd`.
    Initrd,
}

/// What a name asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A file of the boot set.
    File(BootFile),
    /// `pxelinux.cfg/01-` and a MAC: that machine's menu.
    Menu(MacAddr),
    /// `pxelinux.cfg/default`: the menu of a machine that did not say which one it is.
    DefaultMenu,
    /// A menu PXELINUX looks for before or after those two, by machine identifier or IP address:
    /// there is none, which is no news to anybody.
    NoSuchMenu,
}

impl Wanted {
    /// What the name stands for; `None`: nothing that is served. Names are compared as they are:
    /// nothing is decoded, so nothing can be hidden in them.
    pub fn parse(name: &str) -> Option<Wanted> {
        match name {
            "pxelinux.0" => return Some(Wanted::File(BootFile::Pxelinux)),
            "ldlinux.c32" => return Some(Wanted::File(BootFile::Ldlinux)),
            "vmlinuz" => return Some(Wanted::File(BootFile::Kernel)),
            "initrd" => return Some(Wanted::File(BootFile::Initrd)),
            "pxelinux.cfg/default" => return Some(Wanted::DefaultMenu),
            _ => {}
        }
        let menu = name.strip_prefix("pxelinux.cfg/")?;
        // The hardware type first: 01 is Ethernet.
        if let Some(mac) = menu.strip_prefix("01-") {
            return parse_mac(mac).map(Wanted::Menu);
        }
        let hex_or = |dash: &[usize]| {
            menu.bytes().enumerate().all(|(at, byte)| {
                if dash.contains(&at) {
                    byte == b'-'
                } else {
                    byte.is_ascii_hexdigit()
                }
            })
        };
        let uuid = menu.len() == 36 && hex_or(&[8, 13, 18, 23]);
        let address = (1..=8).contains(&menu.len()) && hex_or(&[]);
        (uuid || address).then_some(Wanted::NoSuchMenu)
    }
}

/// `52-54-00-12-34-56`, lower case as PXELINUX writes it.
fn parse_mac(text: &str) -> Option<MacAddr> {
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
            [high, low] | [high, low, b'-'] => *octet = digit(high)? << 4 | digit(low)?,
            _ => return None,
        }
    }
    let mac = MacAddr::from(octets);
    (!mac.is_multicast() && !mac.is_zero()).then_some(mac)
}

/// `pxelinux.cfg/01-52-54-00-12-34-56`.
pub fn menu_name(mac: MacAddr) -> String {
    format!("pxelinux.cfg/01-{}", mac.to_string().replace(':', "-"))
}

/// The PXELINUX configuration for a decision, and what it tells the machine to do. `mac`: the
/// machine, if it is known. A decision that cannot be carried out safely becomes a `Hold` that
/// says so.
pub fn render(mac: Option<MacAddr>, decision: &BootDecision) -> (MenuKind, String) {
    match decision {
        BootDecision::Agent { append } => {
            let wrong = if append.len() > APPEND_MAX {
                Some("are too long")
            } else if !append.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
                // A line break would end the directive and begin another.
                Some("contain a character that is not printable ASCII")
            } else {
                None
            };
            match wrong {
                None => (MenuKind::Agent, AGENT.replace("{append}", append.trim())),
                Some(wrong) => hold(
                    mac,
                    &format!("The kernel arguments p2v made for this machine {wrong}."),
                ),
            }
        }
        BootDecision::LocalDisk { why } | BootDecision::Ignore { why } => {
            (MenuKind::LocalDisk, LOCAL_DISK.replace("{why}", &say(why)))
        }
        BootDecision::Hold { message } => hold(mac, message),
    }
}

fn hold(mac: Option<MacAddr>, message: &str) -> (MenuKind, String) {
    let again = mac.map_or_else(|| "pxelinux.cfg/default".to_owned(), menu_name);
    let text = HOLD
        .replace("{again}", &again)
        .replace("{message}", &say(message));
    (MenuKind::Hold, text)
}

/// Text as `SAY` lines: wrapped, and nothing but printable ASCII, so that it stays text.
fn say(text: &str) -> String {
    let mut lines = vec![String::new()];
    for (at, paragraph) in text.lines().enumerate() {
        if at > 0 {
            lines.push(String::new());
        }
        for word in paragraph.split_whitespace() {
            let mut word: String = word
                .chars()
                .map(|c| if c.is_ascii_graphic() { c } else { '?' })
                .collect();
            word.truncate(SAY_WIDTH);
            match lines.last_mut() {
                Some(line) if line.is_empty() => *line = word,
                Some(line) if line.len() + 1 + word.len() <= SAY_WIDTH => {
                    line.push(' ');
                    line.push_str(&word);
                }
                _ => lines.push(word),
            }
        }
    }
    lines.truncate(LINES_MAX);
    let mut said = String::new();
    for (at, line) in lines.iter().enumerate() {
        let end = if at + 1 < lines.len() { "\n" } else { "" };
        let _ = write!(said, "SAY   {line}{end}");
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr(0x52, 0x54, 0, 0x12, 0x34, 0x56);

    fn directives(menu: &str) -> Vec<&str> {
        let words = menu
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        words.filter(|word| !word.starts_with('#')).collect()
    }

    #[test]
    fn names() {
        assert_eq!(
            Wanted::parse("pxelinux.0"),
            Some(Wanted::File(BootFile::Pxelinux))
        );
        assert_eq!(Wanted::parse(&menu_name(MAC)), Some(Wanted::Menu(MAC)));
        assert_eq!(
            Wanted::parse("pxelinux.cfg/default"),
            Some(Wanted::DefaultMenu)
        );
        for name in [
            "C0A807C8",
            "C0A8",
            "C",
            "01020304",
            "4c4c4544-0042-3010-8051-b4c04f4d3232",
        ] {
            let name = format!("pxelinux.cfg/{name}");
            assert_eq!(Wanted::parse(&name), Some(Wanted::NoSuchMenu), "{name}");
        }
        for name in [
            "",
            "/",
            "/pxelinux.0",
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
            "/etc/passwd",
        ] {
            assert_eq!(Wanted::parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn the_agent_is_started_with_its_arguments() {
        let decision = BootDecision::Agent {
            append: "p2v.shelf=7 p2v.token=ab".into(),
        };
        let (kind, menu) = render(Some(MAC), &decision);
        assert_eq!(kind, MenuKind::Agent);
        assert!(
            menu.contains(
                "\n  APPEND console=tty0 console=ttyS0,115200 p2v.shelf=7 p2v.token=ab\n"
            )
        );
        assert!(menu.contains("SYSAPPEND 2") && menu.contains("INITRD initrd"));
        assert!(!menu.contains('{'), "{menu}");
    }

    #[test]
    fn a_machine_that_is_held_is_told_no_way_to_its_disk() {
        let (kind, menu) = render(
            Some(MAC),
            &BootDecision::Hold {
                message: "moved to xen1".into(),
            },
        );
        assert_eq!(kind, MenuKind::Hold);
        assert!(menu.contains("SAY   moved to xen1\n"));
        assert!(menu.contains("CONFIG pxelinux.cfg/01-52-54-00-12-34-56\n"));
        assert!(!menu.contains("LOCALBOOT") && !menu.contains("vmlinuz"));
        assert!(menu.contains("PROMPT 1") && menu.contains("TIMEOUT 0"));
        assert!(!menu.contains('{'), "{menu}");
    }

    #[test]
    fn arguments_that_cannot_be_passed_hold_the_machine() {
        for append in [
            "a\nLOCALBOOT 0",
            "a\rb",
            "a\u{e9}",
            &"x".repeat(3000),
            "a\0",
        ] {
            let (kind, menu) = render(
                Some(MAC),
                &BootDecision::Agent {
                    append: append.into(),
                },
            );
            assert_eq!(kind, MenuKind::Hold);
            assert!(!menu.contains("LOCALBOOT"));
        }
    }

    #[test]
    fn long_texts_are_wrapped() {
        let menu = render(
            None,
            &BootDecision::LocalDisk {
                why: "word ".repeat(100),
            },
        )
        .1;
        assert!(menu.lines().all(|line| line.len() <= SAY_WIDTH + 6));
        assert!(menu.contains("LOCALBOOT 0"));
    }

    proptest! {
        /// Whatever a decision's text is, the menu has the same directives.
        #[test]
        fn no_text_becomes_a_directive(text in "(?s).{0,300}") {
            let without_say = |menu: &str| {
                let mut words: Vec<String> = directives(menu).iter().map(|w| w.to_string()).collect();
                words.retain(|word| word != "SAY");
                words
            };
            for (one, other) in [
                (BootDecision::Hold { message: text.clone() }, BootDecision::Hold { message: "x".into() }),
                (BootDecision::LocalDisk { why: text.clone() }, BootDecision::LocalDisk { why: "x".into() }),
                (BootDecision::Ignore { why: text.clone() }, BootDecision::Ignore { why: "x".into() }),
            ] {
                let (one, other) = (render(Some(MAC), &one), render(Some(MAC), &other));
                prop_assert_eq!(without_say(&one.1), without_say(&other.1));
                prop_assert!(one.1.is_ascii());
            }
            let (kind, menu) = render(Some(MAC), &BootDecision::Agent { append: text });
            let plain = match kind {
                MenuKind::Agent => BootDecision::Agent { append: "x".into() },
                _ => BootDecision::Hold { message: "x".into() },
            };
            prop_assert_eq!(without_say(&menu), without_say(&render(Some(MAC), &plain).1));
        }

        #[test]
        fn any_name_is_parsed(name in "(?s).{0,80}") {
            let _ = Wanted::parse(&name);
        }

        #[test]
        fn any_name_like_a_menu_is_parsed(name in "pxelinux.cfg/(01-)?[0-9a-fA-F-]{0,40}") {
            if let Some(Wanted::Menu(mac)) = Wanted::parse(&name) {
                prop_assert_eq!(menu_name(mac), name);
            }
        }
    }
}
