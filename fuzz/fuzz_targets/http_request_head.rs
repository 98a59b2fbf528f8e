//! Any bytes as the head of a request: never a panic, one answer however they are split, and what is accepted has one
//! reading.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mainstay_http::h1::head;
use mainstay_http::h1::lines::{HeadScanner, Scan};
use mainstay_http::settings::Limits;

fuzz_target!(|bytes: &[u8]| {
    let whole = HeadScanner::default().scan(bytes);
    let mut scanner = HeadScanner::default();
    let mut split = scanner.scan(&[]);
    for end in 1..=bytes.len() {
        split = scanner.scan(&bytes[..end]);
        if !matches!(split, Ok(Scan::Partial { .. })) {
            break;
        }
    }
    assert_eq!(whole.is_ok(), split.is_ok());
    let Ok(Scan::Complete { start, end }) = whole else { return };
    assert_eq!(whole, split);
    let limits = Limits::default();
    let Ok(request) = head::parse(&bytes[start..end], &limits) else { return };
    assert!(request.headers.len() <= limits.headers);
    assert!(request.version < http::Version::HTTP_11 || request.host.is_some());
    for name in ["connection", "transfer-encoding", "upgrade", "te", "keep-alive", "proxy-connection"] {
        assert!(!request.headers.contains_key(name));
    }
    for value in request.headers.values() {
        assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
    }
});
