//! Any target and any Range of an HTTP request: a part is within the file.
#![no_main]

use hyper::Uri;
use hyper::header::{HeaderMap, HeaderValue, RANGE};
use libfuzzer_sys::fuzz_target;
use p2v_netboot::boot_menu::Wanted;
use p2v_netboot::http::answer::{Part, name, part};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(target) = Uri::try_from(bytes) {
        let _ = Wanted::parse(name(&target));
    }
    let Some((size, range)) = bytes.split_first_chunk::<2>() else { return };
    let size = u64::from(u16::from_be_bytes(*size));
    let Ok(value) = HeaderValue::from_bytes(range) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(RANGE, value);
    if let Part::Of(range) = part(&headers, size) {
        assert!(range.start < range.end && range.end <= size, "{range:?} of {size}");
    }
});
