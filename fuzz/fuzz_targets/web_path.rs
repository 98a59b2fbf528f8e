//! A request's path is read in one way: what comes out is in the one form, and reading it again changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mainstay_http::path::SitePath;

fuzz_target!(|raw: &str| {
    let Ok(path) = SitePath::parse(raw) else { return };
    assert!(path.decoded.starts_with(b"/"));
    assert!(!path.decoded.contains(&0) && !path.decoded.contains(&b'\\'));
    let inner = &path.decoded[1..];
    let inner = inner.strip_suffix(b"/").unwrap_or(inner);
    if !inner.is_empty() {
        for segment in inner.split(|byte| *byte == b'/') {
            assert!(!matches!(segment, b"" | b"." | b".."));
        }
    }
    let again = SitePath::parse(&path.encoded).expect("the one form can be read");
    assert_eq!(again.decoded, path.decoded);
    assert_eq!(again.encoded, path.encoded);
});
