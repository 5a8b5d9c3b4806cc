//! Any bytes as a vendor request and as a reply.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2v_contract::operation::{Reply, Request};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = Request::parse(bytes) {
        assert_eq!(Request::parse(&request.to_bytes()), Ok(request));
    }
    if let Ok(reply) = Reply::parse(bytes) {
        let again = Reply::parse(&reply.to_bytes()).expect("what we write can be read");
        assert_eq!(again.to_bytes(), reply.to_bytes());
    }
});
