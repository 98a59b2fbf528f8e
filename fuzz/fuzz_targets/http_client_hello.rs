//! A TLS client's hello, as it is read by services that pass TLS on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mainstay_http::tls::client_hello::HelloReader;

fuzz_target!(|bytes: &[u8]| {
    let whole = HelloReader::default().read(bytes);
    // In pieces it is the same.
    let mut reader = HelloReader::default();
    let mut last = Ok(None);
    for end in (0..=bytes.len()).step_by(1 + bytes.len() / 16).chain([bytes.len()]) {
        last = reader.read(&bytes[..end]);
        if last != Ok(None) {
            break;
        }
    }
    assert_eq!(last, whole);
    if let Ok(Some(hello)) = whole {
        let name = hello.server_name.unwrap_or_default();
        assert!(name.len() <= 255 && !name.bytes().any(|byte| byte.is_ascii_uppercase()));
    }
});
