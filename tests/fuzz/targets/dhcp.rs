//! Any bytes on the DHCP ports, and as a TFTP request.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = p2v_netboot::dhcp::parse(bytes);
    if let Some(name) = p2v_netboot::tftp::requested_name(bytes) {
        let _ = p2v_netboot::boot_menu::Wanted::parse(&name);
    }
});
