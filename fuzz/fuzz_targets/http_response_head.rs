//! Any bytes as the head of an upstream's response: never a panic, and nothing accepted could split a response.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use mainstay_http::h1::answer;
use mainstay_http::h1::lines::{HeadScanner, Scan};

fuzz_target!(|bytes: &[u8]| {
    let Ok(Scan::Complete { start, end }) = HeadScanner::default().scan(bytes) else { return };
    for method in [Method::GET, Method::HEAD] {
        let Ok(response) = answer::parse(&bytes[start..end], &method) else { continue };
        assert!((100..600).contains(&response.status.as_u16()));
        for (name, value) in &response.headers {
            assert!(name != "transfer-encoding" && name != "connection");
            assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        }
    }
});
