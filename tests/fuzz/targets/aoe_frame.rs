//! Any bytes as an AoE frame: what is read is written back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2v_aoe::acl::{MacMask, Reserve};
use p2v_aoe::ata::{Identify, Registers};
use p2v_aoe::config::QueryConfig;
use p2v_aoe::frame;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((header, body)) = frame::parse(bytes) {
        let again = header.frame(&[body]);
        let (read, rest) = frame::parse(&again).expect("what we write can be read");
        assert_eq!(read, header);
        assert!(rest.starts_with(body));
    }
    if let Ok(config) = QueryConfig::parse(bytes) {
        assert_eq!(QueryConfig::parse(&config.to_bytes()).as_ref(), Ok(&config));
    }
    if let Ok(mask) = MacMask::parse(bytes) {
        assert_eq!(MacMask::parse(&mask.to_bytes()).as_ref(), Ok(&mask));
    }
    if let Ok(reserve) = Reserve::parse(bytes) {
        assert_eq!(Reserve::parse(&reserve.to_bytes()).as_ref(), Ok(&reserve));
    }
    if let Ok((registers, _)) = Registers::parse(bytes) {
        assert!(registers.lba() < 1 << 48);
    }
    let _ = Identify::parse(bytes);
});
