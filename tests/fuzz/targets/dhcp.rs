//! Any bytes on the DHCP ports.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = p2v_netboot::dhcp::parse(bytes);
});
