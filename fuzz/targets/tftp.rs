//! Any datagram that comes to a TFTP port, the service's or a transfer's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2v_netboot::boot_menu::Wanted;
use p2v_netboot::tftp::{is_packet, requested_name};

fuzz_target!(|bytes: &[u8]| {
    // What was read is written and read again in there.
    let is_packet = is_packet(bytes);
    if let Some(name) = requested_name(bytes) {
        assert!(is_packet);
        assert!(name.len() <= 3 * bytes.len(), "at most a replacement character for each byte");
        let _ = Wanted::parse(&name);
    }
});
