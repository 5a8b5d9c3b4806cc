//! What a request asks for: pure.

use std::ops::Range;

use http_range_header::parse_range_header;
use hyper::Uri;
use hyper::header::{HeaderMap, IF_RANGE, RANGE};

/// The name a request's target stands for: what follows the slash, query and all, with nothing decoded.
/// Names are few, and compared as they are, so nothing can be hidden in them. Of an absolute target
/// (RFC 9112, 3.2.2) the host is not looked at: there is one.
pub fn name(target: &Uri) -> &str {
    let path = target.path_and_query().map_or("", |path| path.as_str());
    path.strip_prefix('/').unwrap_or("")
}

/// Which bytes of a file a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All.
    Whole,
    /// These, at least one, within the file.
    Of(Range<u64>),
    /// Some that the file does not have.
    Outside,
}

/// What the headers say about the part of a file of `size` bytes. RFC 9110, 14.2: a server may ignore
/// `Range`; done for several ranges at once, for what is no range, and with `If-Range`, whose
/// condition no answer of ours has given a value for.
pub fn part(headers: &HeaderMap, size: u64) -> Part {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Part::Whole;
    };
    if headers.contains_key(IF_RANGE) {
        return Part::Whole;
    }
    let Some(ranges) = value
        .to_str()
        .ok()
        .and_then(|text| parse_range_header(text).ok())
    else {
        return Part::Whole;
    };
    if ranges.len() != 1 {
        return Part::Whole;
    }
    match ranges.validate(size).as_deref() {
        Ok([range]) => Part::Of(*range.start()..*range.end() + 1),
        // The last bytes of a file that has none: all it has.
        Ok(_) => Part::Whole,
        Err(_) => Part::Outside,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    fn asked(range: &str, size: u64) -> Part {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_str(range).unwrap());
        part(&headers, size)
    }

    #[test]
    fn ranges() {
        assert_eq!(part(&HeaderMap::new(), 10), Part::Whole);
        for (range, expected) in [
            ("bytes=0-0", Part::Of(0..1)),
            ("bytes=2-4", Part::Of(2..5)),
            ("bytes=2-", Part::Of(2..10)),
            ("bytes=9-", Part::Of(9..10)),
            ("bytes=-3", Part::Of(7..10)),
            ("bytes=-30", Part::Of(0..10)),
            ("bytes=5-99", Part::Of(5..10)),
            ("bytes=0-18446744073709551615", Part::Of(0..10)),
            ("bytes=10-", Part::Outside),
            ("bytes=10-20", Part::Outside),
            ("bytes=0-1,4-5", Part::Whole),
            ("bytes=4-5,0-1", Part::Whole),
            ("bytes=", Part::Whole),
            ("bytes=x-y", Part::Whole),
            // More than a u64 holds is more than any file has.
            ("bytes=0-99999999999999999999", Part::Of(0..10)),
            ("bytes=99999999999999999999-", Part::Outside),
            ("bytes=-0", Part::Outside),
            // Backwards is no range (RFC 9110, 14.1.1).
            ("bytes=4-2", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("0-1", Part::Whole),
        ] {
            assert_eq!(asked(range, 10), expected, "{range}");
        }
        for (range, expected) in [("bytes=0-", Part::Outside), ("bytes=-3", Part::Whole)] {
            assert_eq!(asked(range, 0), expected, "{range} of nothing");
        }
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_static("bytes=1-2"));
        headers.insert(IF_RANGE, HeaderValue::from_static("\"x\""));
        assert_eq!(part(&headers, 10), Part::Whole);
        headers.remove(IF_RANGE);
        headers.append(RANGE, HeaderValue::from_static("bytes=1-2"));
        assert_eq!(part(&headers, 10), Part::Whole);
    }

    #[test]
    fn names_are_what_was_sent() {
        for (target, expected) in [
            ("/vmlinuz", "vmlinuz"),
            ("http://192.168.7.1:80/vmlinuz", "vmlinuz"),
            ("//vmlinuz", "/vmlinuz"),
            ("/%76mlinuz", "%76mlinuz"),
            ("/../vmlinuz", "../vmlinuz"),
            ("/vmlinuz?x", "vmlinuz?x"),
            ("/", ""),
            ("*", ""),
            ("vmlinuz:80", ""),
        ] {
            assert_eq!(name(&target.parse().unwrap()), expected, "{target}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_within_the_file(range in "(bytes=)?[0-9,-]{0,24}", size in 0..100_u64) {
            if let Part::Of(range) = asked(&range, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }

        #[test]
        fn what_is_in_the_file_is_given(from in 0..1000_u64, len in 1..1000_u64, more in 0..1000_u64) {
            let (to, size) = (from + len - 1, from + len + more);
            prop_assert_eq!(asked(&format!("bytes={from}-{to}"), size), Part::Of(from..to + 1));
        }
    }
}
