//! A PROXY header, from a network that is trusted but whose machine may not be.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mainstay_http::proxy_protocol::{Header, MOST_BYTES, Version, header, parse};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some((said, length))) = parse(bytes) {
        assert!(length <= bytes.len() && length <= MOST_BYTES);
        // The same header, however much of it is there, is read once and in one way.
        assert!(matches!(parse(&bytes[..length - 1]), Ok(None)));
        assert_eq!(parse(&bytes[..length]), Ok(Some((said, length))));
        if let Header::Client(addresses) = said {
            for version in [Version::V1, Version::V2] {
                let written = header(version, Some(addresses));
                assert_eq!(parse(&written), Ok(Some((said, written.len()))));
            }
        }
    }
});
