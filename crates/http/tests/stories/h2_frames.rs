//! Frames that no client sends: what `h2spec` and the floods of the last years send to a server. Each is refused, its
//! request never reaches the service, and the server lives on.

use std::io::Write as _;
use std::time::Duration;

use crate::support::{Running, Wire, eventually};
use mainstay_http::Settings;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const BARE: u8 = END_STREAM | END_HEADERS;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field that is added to no table.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, name.len() as u8];
    bytes.extend(name.bytes());
    bytes.push(value.len() as u8);
    bytes.extend(value.bytes());
    bytes
}

/// `:method GET`, `:scheme http`, `:path /`, `:authority a`.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];
/// The same with POST.
const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 1, b'a'];

/// What came back.
#[derive(Debug, Default)]
struct Seen {
    goaway: Option<u32>,
    resets: Vec<(u32, u32)>,
    /// Streams with a response, and the first byte of its head: 0x88 is 200.
    responses: Vec<(u32, u8)>,
    pong: bool,
}

/// Sends frames and then a PING; reads until that is answered, or the connection ends.
fn talk(server: &Running, frames: &[Vec<u8>]) -> Seen {
    let mut wire = server.connect();
    wire.send(
        [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frames.concat(), &frame(PING, 0, 0, b"12345678")].concat(),
    );
    listen(&mut wire)
}

fn listen(wire: &mut Wire) -> Seen {
    let mut seen = Seen::default();
    while let Some(head) = wire.try_take(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let Some(payload) = wire.try_take(length) else { break };
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match head[3] {
            HEADERS => seen.responses.push((stream, payload[usize::from(payload[0] & 0xe0 == 0x20)])),
            RST_STREAM => seen.resets.push((stream, code(0))),
            GOAWAY => seen.goaway = Some(code(4)),
            // PINGs overtake responses: what came before the first is answered before the second.
            PING if payload == b"12345678" => wire.send(frame(PING, 0, 0, b"87654321")),
            PING if payload == b"87654321" => {
                seen.pong = true;
                break;
            }
            _ => {}
        }
    }
    seen
}

#[test]
fn what_breaks_the_connection_is_told_by_goaway() {
    let server = Running::new();
    let open = || frame(HEADERS, END_HEADERS, 1, POST);
    let done = || frame(HEADERS, BARE, 1, GET);
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("DATA on stream 0", vec![frame(DATA, 0, 0, b"x")]),
        ("DATA on an idle stream", vec![frame(DATA, 0, 1, b"x")]),
        (
            "DATA with more padding than payload",
            vec![open(), frame(DATA, PADDED | END_STREAM, 1, &[9, b'x'])],
        ),
        ("HEADERS on stream 0", vec![frame(HEADERS, BARE, 0, GET)]),
        ("HEADERS on an even stream", vec![frame(HEADERS, BARE, 2, GET)]),
        ("HEADERS on a smaller stream", vec![frame(HEADERS, BARE, 5, GET), frame(HEADERS, BARE, 3, GET)]),
        ("HEADERS with more padding than payload", vec![frame(HEADERS, BARE | PADDED, 1, &[99, 0x82])]),
        ("HEADERS that are no HPACK", vec![frame(HEADERS, BARE, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])]),
        ("an index that no table has", vec![frame(HEADERS, BARE, 1, &[0xfe])]),
        ("a table size beyond the settings", vec![frame(HEADERS, BARE, 1, &[0x3f, 0xe1, 0xff, 0x03, 0x82])]),
        ("PRIORITY on stream 0", vec![frame(2, 0, 0, &[0, 0, 0, 3, 1])]),
        ("RST_STREAM on stream 0", vec![frame(RST_STREAM, 0, 0, &[0; 4])]),
        ("RST_STREAM on an idle stream", vec![frame(RST_STREAM, 0, 1, &[0; 4])]),
        ("RST_STREAM of 3 bytes", vec![open(), frame(RST_STREAM, 0, 1, &[0; 3])]),
        ("SETTINGS ACK with payload", vec![frame(SETTINGS, 1, 0, &[0; 6])]),
        ("SETTINGS on a stream", vec![frame(SETTINGS, 0, 1, &[])]),
        ("SETTINGS of 5 bytes", vec![frame(SETTINGS, 0, 0, &[0; 5])]),
        ("ENABLE_PUSH 2", vec![frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2])]),
        ("a window of 2^31", vec![frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])]),
        ("MAX_FRAME_SIZE too small", vec![frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff])]),
        ("MAX_FRAME_SIZE too large", vec![frame(SETTINGS, 0, 0, &[0, 5, 1, 0, 0, 0])]),
        ("PUSH_PROMISE", vec![done(), frame(5, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])]),
        ("PING on a stream", vec![frame(PING, 0, 1, &[0; 8])]),
        ("PING of 6 bytes", vec![frame(PING, 0, 0, &[0; 6])]),
        ("GOAWAY on a stream", vec![frame(GOAWAY, 0, 1, &[0; 8])]),
        ("WINDOW_UPDATE by 0", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])]),
        ("WINDOW_UPDATE of 3 bytes", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])]),
        ("WINDOW_UPDATE on an idle stream", vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])]),
        ("a window beyond 2^31", vec![frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]); 2]),
        ("CONTINUATION of nothing", vec![frame(CONTINUATION, END_HEADERS, 1, GET)]),
        ("CONTINUATION after the end", vec![done(), frame(CONTINUATION, END_HEADERS, 1, GET)]),
        (
            "CONTINUATION on another stream",
            vec![frame(HEADERS, 1, 1, GET), frame(CONTINUATION, END_HEADERS, 3, GET)],
        ),
        ("a frame inside a head", vec![frame(HEADERS, 1, 1, GET), frame(DATA, 0, 1, b"x")]),
        ("an unknown frame inside a head", vec![frame(HEADERS, 1, 1, GET), frame(0x16, 0, 1, b"x")]),
        ("a frame larger than allowed", vec![frame(HEADERS, BARE, 1, &[0; 20_000])]),
    ];
    for (what, frames) in cases {
        let seen = talk(&server, &frames);
        assert!(
            seen.goaway.is_some_and(|code| code != 0) || (seen.goaway.is_none() && !seen.pong),
            "{what}: {seen:?}"
        );
        assert!(!seen.pong, "{what}: {seen:?}");
    }
    assert_eq!(server.connect().get("/").status, 200);
}

#[test]
fn what_breaks_a_request_never_reaches_the_service() {
    let server = Running::new();
    let with = |fields: &[u8]| frame(HEADERS, BARE, 1, &[GET, fields].concat());
    let long = |name: &str, value: &str| with(&field(name, value));
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("a name in upper case", vec![long("X-Up", "1")]),
        ("a name with a colon", vec![long("a:b", "1")]),
        ("a name with white space", vec![long("a b", "1")]),
        ("an empty name", vec![long("", "1")]),
        ("CR LF in a value", vec![long("x", "a\r\nb: c")]),
        ("NUL in a value", vec![long("x", "a\0b")]),
        ("an unknown pseudo field", vec![long(":test", "1")]),
        ("a response's pseudo field", vec![long(":status", "200")]),
        ("a pseudo field twice", vec![with(&[0x84])]),
        ("a pseudo field after others", vec![frame(HEADERS, BARE, 1, &[&field("x", "1"), GET].concat())]),
        ("Connection", vec![long("connection", "close")]),
        ("Keep-Alive", vec![long("keep-alive", "1")]),
        ("Proxy-Connection", vec![long("proxy-connection", "close")]),
        ("Transfer-Encoding", vec![long("transfer-encoding", "chunked")]),
        ("Upgrade", vec![long("upgrade", "h2c")]),
        ("TE other than trailers", vec![long("te", "gzip")]),
        ("no method", vec![frame(HEADERS, BARE, 1, &GET[1..])]),
        ("no scheme", vec![frame(HEADERS, BARE, 1, &[0x82, 0x84, 0x41, 1, b'a'])]),
        ("no path", vec![frame(HEADERS, BARE, 1, &[0x82, 0x86, 0x41, 1, b'a'])]),
        ("an empty path", vec![frame(HEADERS, BARE, 1, &[0x82, 0x86, 0x04, 0, 0x41, 1, b'a'])]),
        ("another host", vec![long("host", "b")]),
        ("a length that is none", vec![long("content-length", "+0")]),
        ("two lengths", vec![with(&[field("content-length", "0"), field("content-length", "1")].concat())]),
        ("a length without a body", vec![long("content-length", "1")]),
        (
            "a plain tunnel",
            vec![frame(HEADERS, BARE, 1, &[&[0x02, 7], &b"CONNECT"[..], &[0x41, 1, b'a']].concat())],
        ),
    ];
    for (what, frames) in cases {
        let seen = talk(&server, &frames);
        assert!(!seen.responses.contains(&(1, 0x88)), "{what}: {seen:?}");
        let refused =
            !seen.resets.is_empty() || !seen.responses.is_empty() || seen.goaway.is_some() || !seen.pong;
        assert!(refused, "{what}: {seen:?}");
    }
    assert_eq!(server.metric("http_engine_requests_total "), "0");
    assert_eq!(server.connect().get("/").status, 200);
}

#[test]
fn what_breaks_a_stream_ends_it() {
    let server = Running::new();
    let path = |path: &str| {
        let mut head = vec![0x83, 0x86, 0x04, path.len() as u8];
        head.extend(path.bytes());
        head.extend([0x41, 1, b'a']);
        head
    };
    let open = || frame(HEADERS, END_HEADERS, 1, &path("/never"));
    let done = || frame(HEADERS, BARE, 1, &path("/never"));
    let overflow = || frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]);
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("DATA after the end", vec![done(), frame(DATA, 0, 1, b"x")]),
        ("HEADERS after the end", vec![done(), frame(HEADERS, BARE, 1, POST)]),
        (
            "DATA after RST_STREAM",
            vec![open(), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), frame(DATA, 1, 1, b"x")],
        ),
        ("WINDOW_UPDATE by 0", vec![open(), frame(WINDOW_UPDATE, 0, 1, &[0; 4])]),
        ("a window beyond 2^31", vec![open(), overflow(), overflow()]),
        ("a stream that depends on itself", vec![frame(2, 0, 1, &[0, 0, 0, 1, 1])]),
        ("PRIORITY of 4 bytes", vec![frame(2, 0, 1, &[0; 4])]),
        (
            "trailers that do not end the stream",
            vec![open(), frame(HEADERS, END_HEADERS, 1, &field("x", "1"))],
        ),
        ("trailers with a pseudo field", vec![open(), frame(HEADERS, BARE, 1, &[0x82])]),
        (
            "a body longer than its length",
            vec![
                frame(HEADERS, END_HEADERS, 1, &[path("/read"), field("content-length", "1")].concat()),
                frame(DATA, END_STREAM, 1, b"xx"),
            ],
        ),
        (
            "a body shorter than its length",
            vec![
                frame(HEADERS, END_HEADERS, 1, &[path("/read"), field("content-length", "3")].concat()),
                frame(DATA, END_STREAM, 1, b"xx"),
            ],
        ),
    ];
    for (what, frames) in cases {
        let seen = talk(&server, &frames);
        let ended = !seen.resets.is_empty() || seen.goaway.is_some() || !seen.pong;
        let answered = seen.responses.iter().any(|(_, first)| *first != 0x88);
        // A frame behind a reset that is still on its way has to be forgiven (RFC 9113, 5.1), and pseudo fields in
        // trailers are dropped by the h2 crate rather than refused.
        let forgiven = ["DATA after RST_STREAM", "trailers with a pseudo field"].contains(&what);
        assert!(ended || answered || forgiven, "{what}: {seen:?}");
        assert!(!seen.responses.contains(&(1, 0x88)), "{what}: {seen:?}");
    }
    eventually("no work is left", || server.metric("http_engine_requests_in_flight ") == "0");
    assert_eq!(server.connect().get("/").status, 200);
}

#[test]
fn what_is_only_odd_is_answered() {
    let server = Running::new();
    let padded: Vec<u8> = [&[3], GET, &[0, 0, 0]].concat();
    let prioritised: Vec<u8> = [&[0, 0, 0, 0, 9], GET].concat();
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("an unknown frame", vec![frame(0x16, 0xff, 0, b"x"), frame(HEADERS, BARE, 1, GET)]),
        (
            "an unknown setting",
            vec![frame(SETTINGS, 0, 0, &[0xff, 0, 0, 0, 0, 1]), frame(HEADERS, BARE, 1, GET)],
        ),
        ("unknown flags", vec![frame(PING, 0x16, 0, &[0; 8]), frame(HEADERS, BARE | 0x40, 1, GET)]),
        ("the reserved bit", vec![frame(HEADERS, BARE, 1 | 1 << 31, GET)]),
        ("padding", vec![frame(HEADERS, BARE | PADDED, 1, &padded)]),
        ("a priority", vec![frame(HEADERS, BARE | 0x20, 1, &prioritised)]),
        (
            "a head in pieces",
            vec![
                frame(HEADERS, END_STREAM, 1, &GET[..2]),
                frame(CONTINUATION, 0, 1, &GET[2..3]),
                frame(CONTINUATION, END_HEADERS, 1, &GET[3..]),
            ],
        ),
        ("TE: trailers", vec![frame(HEADERS, BARE, 1, &[GET, &field("te", "trailers")].concat())]),
    ];
    for (what, frames) in cases {
        let seen = talk(&server, &frames);
        assert!(
            seen.responses.contains(&(1, 0x88)) && seen.goaway.is_none() && seen.pong,
            "{what}: {seen:?}"
        );
    }
}

/// Sends a frame, with the number of a new stream each time, until the connection is cut.
fn flood(server: &Running, first: &[u8], mut next: impl FnMut(u32) -> Vec<u8>) {
    let mut wire = server.connect();
    wire.send([PREFACE, &frame(SETTINGS, 0, 0, &[]), first].concat());
    let reading = wire.stream.try_clone().unwrap();
    // What comes back is read, so that only the flood itself can be the reason.
    let reader = std::thread::spawn(move || std::io::copy(&mut &reading, &mut std::io::sink()));
    let mut stream = 1;
    eventually("the connection is cut", || {
        let mut burst = Vec::new();
        for _ in 0..100 {
            stream += 2;
            burst.extend(next(stream));
        }
        wire.stream.write_all(&burst).is_err()
    });
    drop(wire);
    let _ = reader.join().unwrap();
    assert_eq!(server.connect().get("/").status, 200, "the server lives on");
}

#[test]
fn floods_of_frames_that_carry_nothing_are_cut() {
    let server = Running::new();
    let never: Vec<u8> = [&[0x83, 0x86, 0x04, 6], &b"/never"[..], &[0x41, 1, b'a']].concat();
    let open = frame(HEADERS, END_HEADERS, 1, &never);
    flood(&server, &open, |_| frame(DATA, 0, 1, &[]));
    flood(&server, &open, |_| frame(DATA, PADDED, 1, &[0]));
    flood(&server, &open, |_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]));
    flood(&server, &[], |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]));
    flood(&server, &[], |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]));
    flood(&server, &[], |_| frame(0x16, 0, 0, &[]));
}

#[test]
fn resets_that_the_server_is_made_to_send_are_cut() {
    let server = Running::new();
    // CVE-2025-8671: a request, and then something for which the server resets its stream.
    flood(&server, &[], |stream| {
        [frame(HEADERS, BARE, stream, GET), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
    });
    flood(&server, &[], |stream| {
        [frame(HEADERS, END_HEADERS, stream, POST), frame(HEADERS, END_HEADERS, stream, &field("x", "1"))]
            .concat()
    });
    flood(&server, &[], |stream| frame(HEADERS, BARE, stream, &[GET, &field("x", "\0")].concat()));
}

#[test]
fn a_head_that_unpacks_to_much_is_refused() {
    let server = Running::new();
    // One entry of 3 KiB in the table, named a thousand times.
    let mut bomb = GET.to_vec();
    bomb.extend([0x40, 1, b'x', 0x7f, 0x81, 0x17]);
    bomb.extend([b'a'; 3072]);
    bomb.extend([0xbe; 1000]);
    let seen = talk(&server, &[frame(HEADERS, BARE, 1, &bomb)]);
    assert!(!seen.responses.contains(&(1, 0x88)), "{seen:?}");
    assert_eq!(server.metric("http_engine_requests_total "), "0");
}

#[test]
fn many_streams_with_tiny_windows_hold_little_and_are_given_up() {
    let mut settings = Settings::default();
    settings.timeouts.write = Duration::from_millis(300);
    let server = Running::with(&settings);
    let mut wire = server.connect();
    let head: Vec<u8> = [&[0x82, 0x86, 0x04, 8], &b"/endless"[..], &[0x41, 1, b'a']].concat();
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1])].concat();
    for stream in (1..200).step_by(2) {
        bytes.extend(frame(HEADERS, BARE, stream, &head));
    }
    wire.send(bytes);
    eventually("requests arrive", || server.metric("http_engine_requests_total ") == "100");
    eventually("they are given up", || server.metric("http_engine_requests_in_flight ") == "0");
}
