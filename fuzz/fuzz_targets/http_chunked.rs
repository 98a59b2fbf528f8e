//! Any bytes as a chunked body: never a panic, and the same data whether they come at once or one by one.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use mainstay_http::h1::chunked::{ChunkDecoder, Decoded};

/// The data, and whether the body ended; an error loses the data before it.
fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<(Vec<u8>, bool), &'static str> {
    let mut decoder = ChunkDecoder::default();
    let (mut buffer, mut data) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer)? {
                Decoded::Data(piece) => data.extend_from_slice(&piece),
                Decoded::NeedMore => break,
                Decoded::End(_) => return Ok((data, true)),
            }
        }
    }
    Ok((data, false))
}

fuzz_target!(|bytes: &[u8]| {
    let whole = decode(std::iter::once(bytes));
    let split = decode(bytes.chunks(1));
    match (whole, split) {
        (Ok(whole), Ok(split)) => assert_eq!(whole, split),
        (Err(_), Err(_)) => {}
        (whole, split) => panic!("{whole:?} whole, {split:?} split"),
    }
});
