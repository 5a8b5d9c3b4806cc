use super::*;
use proptest::prelude::*;

const MAC: MacAddr = MacAddr(0x52, 0x54, 0, 0x12, 0x34, 0x56);
const READER: Reader<'_> = Reader {
    mac: Some(MAC),
    http: None,
};
const HTTP: Reader<'_> = Reader {
    mac: Some(MAC),
    http: Some("192.168.7.1:8080"),
};

fn agent_with(append: &str) -> BootDecision {
    BootDecision::Agent {
        append: append.into(),
        image: Image::Usual,
    }
}

/// The menu without what it says.
fn commands(menu: &str) -> Vec<String> {
    let said = |line: &&str| ["SAY", "echo", "#"].iter().any(|w| line.starts_with(w));
    menu.lines()
        .filter(|line| !said(line))
        .map(str::to_owned)
        .collect()
}

/// Everything that would start a disk of the machine, or end the loader.
fn ways_out(menu: &str) -> Vec<&str> {
    let ways = [
        "LOCALBOOT",
        "vmlinuz",
        "exit",
        "reboot",
        "halt",
        "sanboot",
        "chainloader",
        "boot ||",
        "  boot",
        "shell",
        "COM32",
    ];
    ways.into_iter().filter(|way| menu.contains(way)).collect()
}

#[test]
fn the_agent_is_started_with_its_arguments() {
    for (format, reader, expected) in [
        (
            MenuFormat::Pxelinux,
            HTTP,
            &[
                "  KERNEL vmlinuz\n  INITRD initrd\n  SYSAPPEND 2\n  APPEND console=tty0 console=ttyS0,115200 a=1 b\n",
            ][..],
        ),
        (
            MenuFormat::Lpxelinux,
            HTTP,
            &[
                "  KERNEL http://192.168.7.1:8080/vmlinuz\n  INITRD http://192.168.7.1:8080/initrd\n",
                "ONERROR tftp\n",
                "  KERNEL vmlinuz\n",
            ],
        ),
        (MenuFormat::Lpxelinux, READER, &["  KERNEL vmlinuz\n"]),
        (
            MenuFormat::Grub,
            READER,
            &[
                "if linux /vmlinuz 'console=tty0' 'console=ttyS0,115200' 'a=1' 'b' 'BOOTIF=01-52-54-00-12-34-56'; then\n",
            ],
        ),
        (
            MenuFormat::Grub,
            HTTP,
            &[
                "if linux (http,192.168.7.1:8080)/vmlinuz '",
                "\nif linux /vmlinuz '",
            ],
        ),
        (
            MenuFormat::Ipxe,
            READER,
            &[
                "\nkernel --name vmlinuz /vmlinuz initrd=initrd console=tty0 console=ttyS0,115200 a=1 b BOOTIF=01-52-54-00-12-34-56 ||",
            ],
        ),
        (
            MenuFormat::Ipxe,
            HTTP,
            &[
                "\nkernel --name vmlinuz http://192.168.7.1:8080/vmlinuz ",
                "\nkernel --name vmlinuz /vmlinuz ",
            ],
        ),
    ] {
        let (kind, menu) = render(format, reader, &agent_with("a=1 b"));
        let image = Image::Usual;
        assert_eq!(kind, MenuKind::Agent { image });
        for part in expected {
            assert!(menu.contains(part), "{part}: {menu}");
        }
        assert!(!menu.contains('{') || format == MenuFormat::Ipxe, "{menu}");
        // Consoles of its own replace ours.
        let (_, menu) = render(format, reader, &agent_with("a=1 console=ttyS1"));
        assert!(!menu.contains("console=tty0"), "{menu}");
    }
}

#[test]
fn another_image_is_other_files_and_nothing_else() {
    let name = "debian-11".parse().unwrap();
    for format in MenuFormat::ALL {
        for reader in [READER, HTTP] {
            let with = |image| {
                let append = "a=1 b".into();
                render(format, reader, &BootDecision::Agent { append, image })
            };
            let (kind, menu) = with(Image::Named(name));
            assert_eq!(kind.to_string(), "start the agent (image debian-11)");
            // By TFTP, or by HTTP first.
            let ways = match format {
                MenuFormat::Pxelinux => 1,
                MenuFormat::Lpxelinux | MenuFormat::Grub => 1 + usize::from(reader.http.is_some()),
                MenuFormat::Ipxe => 2,
            };
            for file in ["vmlinuz", "initrd"] {
                let file = format!("/image/debian-11/{file}");
                let menu = menu.replace(" image/", " /image/");
                assert_eq!(menu.matches(&file).count(), ways, "{menu}");
            }
            let (_, usual) = with(Image::Usual);
            assert_eq!(menu.replace("image/debian-11/", ""), usual);
            assert_eq!(with(Image::UsualFor(name)).1, usual);
        }
    }
}

#[test]
fn a_machine_that_is_held_is_told_no_way_to_its_disk() {
    for (format, again) in [
        (
            MenuFormat::Pxelinux,
            "CONFIG pxelinux.cfg/01-52-54-00-12-34-56\n",
        ),
        (
            MenuFormat::Lpxelinux,
            "CONFIG lpxelinux.cfg/01-52-54-00-12-34-56\n",
        ),
        // Comes back to start.cfg.
        (MenuFormat::Grub, "sleep --interruptible"),
        (MenuFormat::Ipxe, "chain --replace /boot.ipxe || goto again"),
    ] {
        let held = BootDecision::Hold {
            message: "moved to xen1".into(),
        };
        let (kind, menu) = render(format, HTTP, &held);
        assert_eq!(kind, MenuKind::Hold);
        assert!(
            menu.contains("moved to xen1") && menu.contains(again),
            "{menu}"
        );
        assert_eq!(ways_out(&menu), Vec::<&str>::new(), "{menu}");
        assert!(!menu.contains('{'), "{menu}");
    }
    for script in [Script::Grub, Script::Ipxe] {
        assert_eq!(ways_out(script.text()), Vec::<&str>::new());
    }
}

#[test]
fn arguments_that_cannot_be_passed_hold_the_machine() {
    for append in [
        "a\nLOCALBOOT 0",
        "a\rb",
        "a\u{e9}",
        &"x".repeat(3000),
        "a\0",
        "a=${mac}",
        "a'b",
        "a\"b",
        "a || shell",
        "a;b",
        "a\\b",
        "{append}",
    ] {
        for format in MenuFormat::ALL {
            let (kind, menu) = render(format, READER, &agent_with(append));
            assert_eq!(kind, MenuKind::Hold);
            assert_eq!(ways_out(&menu), Vec::<&str>::new(), "{menu}");
        }
    }
}

#[test]
fn long_texts_are_wrapped() {
    for format in MenuFormat::ALL {
        let why = "word ".repeat(100);
        let (_, menu) = render(format, READER, &BootDecision::LocalDisk { why });
        let said = menu.lines().filter(|line| line.contains("word"));
        assert!(said.clone().count() > 3);
        for line in said {
            assert!(line.len() <= text::LINE_WIDTH + 9, "{line}");
        }
    }
    let (_, menu) = render(
        MenuFormat::Pxelinux,
        READER,
        &BootDecision::LocalDisk { why: "x".into() },
    );
    assert!(menu.contains("LOCALBOOT 0"));
}

proptest! {
    /// Whatever a decision's text is, the menu has the same commands.
    #[test]
    fn no_text_becomes_a_command(text in "(?s).{0,300}") {
        for format in MenuFormat::ALL {
            for (one, other) in [
                (BootDecision::Hold { message: text.clone() }, BootDecision::Hold { message: "x".into() }),
                (BootDecision::LocalDisk { why: text.clone() }, BootDecision::LocalDisk { why: "x".into() }),
                (BootDecision::Ignore { why: text.clone() }, BootDecision::Ignore { why: "x".into() }),
            ] {
                let (one, other) = (render(format, READER, &one).1, render(format, READER, &other).1);
                prop_assert_eq!(commands(&one), commands(&other));
                for line in one.lines().filter(|line| line.starts_with("echo '")) {
                    prop_assert_eq!(line.matches('\'').count(), 2, "{}", line);
                }
                for line in one.lines().filter(|line| line.starts_with("echo")) {
                    let special = |c: char| "$\"\\|&;#".contains(c);
                    prop_assert!(!line.contains(special), "{}", line);
                }
                prop_assert!(one.is_ascii());
            }
            let (kind, menu) = render(format, READER, &agent_with(&text));
            if matches!(kind, MenuKind::Agent { .. }) {
                let (_, plain) = render(format, READER, &agent_with("x"));
                prop_assert_eq!(menu.lines().count(), plain.lines().count());
            }
        }
    }
}
