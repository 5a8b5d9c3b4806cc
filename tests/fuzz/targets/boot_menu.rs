//! Any name asked for by TFTP or HTTP; and any text in a menu stays text: it adds no command.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2v_netboot::{BootDecision, Image};
use p2v_netboot::boot_menu::{MenuFormat, Reader, Wanted, render};

/// The menu without what it says.
fn commands(menu: &str) -> Vec<&str> {
    menu.lines().filter(|line| !line.starts_with("SAY") && !line.starts_with("echo")).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Wanted::parse(text);
    let decisions: [fn(String) -> BootDecision; 3] = [
        |append| BootDecision::Agent { append, image: Image::Usual },
        |message| BootDecision::Hold { message },
        |why| BootDecision::LocalDisk { why },
    ];
    for format in MenuFormat::ALL {
        for decision in decisions {
            let (kind, menu) = render(format, Reader::default(), &decision(text.to_owned()));
            let (plain_kind, plain) = render(format, Reader::default(), &decision("plain".to_owned()));
            // Text that cannot stand in a kernel command line makes it another kind of menu.
            if kind != plain_kind {
                continue;
            }
            match decision("".to_owned()) {
                BootDecision::Agent { .. } => assert_eq!(menu.lines().count(), plain.lines().count(), "{menu}"),
                _ => assert_eq!(commands(&menu), commands(&plain), "{menu}"),
            }
        }
    }
});
