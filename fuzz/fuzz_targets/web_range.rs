//! Ranges, conditions and codings from any bytes: no byte of a file is sent twice, and nothing takes long.
#![no_main]

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use mainstay_http::conditional::{Validators, judge, range_applies};
use mainstay_http::encoding::{Coding, choose};
use mainstay_http::range::{Asked, MOST_RANGES, parse};

fuzz_target!(|input: (u64, &str)| {
    let (length, field) = input;
    if let Asked::Parts(parts) = parse(field, length) {
        assert!(!parts.is_empty() && parts.len() <= MOST_RANGES);
        for (index, part) in parts.iter().enumerate() {
            assert!(part.start < part.end && part.end <= length);
            assert!(parts[..index].iter().all(|other| other.end < part.start || part.end < other.start));
        }
    }
    let Ok(value) = HeaderValue::from_str(field) else { return };
    let validators = Validators { etag: "\"a\"", modified: length };
    for name in ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "accept-encoding"] {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.clone());
        judge(&headers, validators);
        range_applies(&headers, validators);
        choose(&headers, &Coding::ALL);
    }
});
