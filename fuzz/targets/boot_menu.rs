//! Any name asked for by TFTP; and any text in a menu stays text: it adds no directive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2v_netboot::BootDecision;
use p2v_netboot::boot_menu::{Wanted, render};

/// The first words of a menu's lines.
fn directives(menu: &str) -> Vec<&str> {
    menu.lines().filter_map(|line| line.split_whitespace().next()).filter(|word| *word != "SAY").collect()
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Wanted::parse(text);
    let decisions: [fn(String) -> BootDecision; 3] = [
        |append| BootDecision::Agent { append },
        |message| BootDecision::Hold { message },
        |why| BootDecision::LocalDisk { why },
    ];
    for decision in decisions {
        let (kind, menu) = render(None, &decision(text.to_owned()));
        let (plain_kind, plain) = render(None, &decision("plain".to_owned()));
        // Text that cannot stand in a kernel command line makes it another kind of menu.
        if kind == plain_kind {
            assert_eq!(directives(&menu), directives(&plain), "{menu}");
        }
    }
});
