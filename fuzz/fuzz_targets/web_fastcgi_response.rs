//! What an app sends over FastCGI, split anywhere: the same bytes come out however they came in.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use mainstay_web::fastcgi::head;
use mainstay_web::fastcgi::record::{Decoder, Event};

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Vec<u8>, usize, bool) {
    let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
    let (mut out, mut err, mut ends) = (Vec::new(), Vec::new(), 0);
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(Event::Stdout(piece))) => out.extend_from_slice(&piece),
                Ok(Some(Event::Stderr(piece))) => err.extend_from_slice(&piece),
                Ok(Some(Event::End { .. })) => ends += 1,
                Ok(None) => break,
                Err(_) => return (out, err, ends, false),
            }
        }
    }
    (out, err, ends, true)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = (usize::from(input.0).max(1), input.1);
    let whole = decode(std::iter::once(bytes));
    assert_eq!(decode(bytes.chunks(size)), whole);
    if let Ok(Some(end)) = head::end(&whole.0) {
        if let Ok(head) = head::parse(&whole.0[..end]) {
            assert!(!head.status.is_informational());
            for value in head.headers.values() {
                assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
            }
        }
    }
});
