//! Any bytes as a server's answer, in any pieces: never a panic, no more bytes than there are, and the same events whatever
//! the pieces.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use mainstay_sqlrouter::wire::capability::DEPRECATE_EOF;
use mainstay_sqlrouter::wire::compress::Compressed;
use mainstay_sqlrouter::wire::reply::{ErrPacket, OkPacket, changes};
use mainstay_sqlrouter::wire::response::{End, Event, Kind, Response};

/// The ends of results, and how many bytes belong to the answer.
fn follow(kind: Kind, capabilities: u64, bytes: &[u8], piece: usize) -> (Vec<(End, bool)>, usize) {
    let mut response = Response::new(kind, capabilities);
    let (mut at, mut seen, mut ends) = (0, 0, Vec::new());
    while !response.is_over() {
        match response.next(&bytes[at..seen]) {
            Err(_) => break,
            Ok(Event::Need) if seen == bytes.len() => break,
            Ok(Event::Need) => seen = (seen + piece).min(bytes.len()),
            Ok(Event::Pass(count) | Event::LocalInfile(count) | Event::Prepared(count)) => at += count,
            Ok(Event::End { bytes, end, more }) => {
                at += bytes;
                ends.push((end, more));
            }
        }
        assert!(at <= seen);
    }
    (ends, at)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let kind = [Kind::Results, Kind::Rows, Kind::Prepared, Kind::One][usize::from(first & 3)];
    let capabilities = if first & 4 == 0 { 0 } else { DEPRECATE_EOF };
    let whole = follow(kind, capabilities, rest, rest.len().max(1));
    assert_eq!(follow(kind, capabilities, rest, 1), whole);
    assert_eq!(follow(kind, capabilities, rest, 7), whole);
    if let Ok(ok) = OkPacket::parse(rest) {
        assert!(changes(ok.state).count() <= rest.len());
        let mut out = BytesMut::new();
        ok.put(true, &mut out);
        assert!(OkPacket::parse(&out).is_ok());
    }
    let _ = ErrPacket::parse(rest);
    let _ = Compressed::default().take(&mut BytesMut::from(rest), &mut BytesMut::new());
});
