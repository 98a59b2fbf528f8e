//! Requests that two servers could read in two ways. Each is refused, and the connection with it: what follows on the
//! same connection is never taken for a request.

use crate::support::Running;

/// What an attacker hopes to have read as a second request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

fn refused(server: &Running, request: &str, status: u16) {
    let answer = server.exchange(format!("{request}{SMUGGLED}"));
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?} got {answer:?}");
    assert!(answer.contains("connection: close\r\n"), "{request:?} got {answer:?}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{request:?} got {answer:?}");
}

fn all_refused(status: u16, requests: &[&str]) {
    let server = Running::new();
    for request in requests {
        refused(&server, request, status);
    }
}

#[test]
fn bodies_with_two_ends_are_refused() {
    all_refused(
        400,
        &[
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
    );
}

#[test]
fn disguised_encodings_are_refused() {
    let server = Running::new();
    for encoding in [
        "xchunked",
        "Chunked",
        "CHUNKED",
        "chunked, identity",
        "identity, chunked",
        "chunked;a",
        "\"chunked\"",
        "x",
        "",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {encoding}\r\n\r\n0\r\n\r\n");
        refused(&server, &request, 400);
    }
    for line in ["Transfer-Encoding : chunked", " Transfer-Encoding: chunked", "Transfer-Encoding\t: chunked"]
    {
        refused(&server, &format!("POST / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n0\r\n\r\n"), 400);
    }
    for value in ["\tchunked", "  chunked", "chunked ", "chunked\t"] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:{value}\r\n\r\n0\r\n\r\n");
        refused(&server, &request, 400);
    }
}

#[test]
fn lengths_that_are_no_plain_number_are_refused() {
    let server = Running::new();
    for length in
        ["+3", "-3", "0x3", "3,3", "3, 3", "03", "3.0", "3 3", "", "99999999999999999999", "\u{0663}"]
    {
        refused(&server, &format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nabc"), 400);
    }
}

#[test]
fn lines_that_end_oddly_are_refused() {
    all_refused(
        400,
        &[
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\tc\r\n\r\n",
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            "\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    );
}

#[test]
fn odd_fields_are_refused() {
    all_refused(
        400,
        &[
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nA B: c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nA\0: c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nA: b\x01c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nA: b\x7fc\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nNo colon\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Host\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Content-Length\r\n\r\n",
        ],
    );
}

#[test]
fn odd_request_lines_are_refused() {
    all_refused(
        400,
        &[
            "G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET(/ HTTP/1.1\r\nHost: a\r\n\r\n",
            " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
            "GET /\r\nHost: a\r\n\r\n",
            "GET / http/1.1\r\nHost: a\r\n\r\n",
            "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    );
    all_refused(501, &["CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"]);
    all_refused(505, &["GET / HTTP/2.0\r\nHost: a\r\n\r\n", "GET / HTTP/0.9\r\nHost: a\r\n\r\n"]);
}

#[test]
fn the_host_is_one_and_plain() {
    all_refused(
        400,
        &[
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:port\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n",
            "GET http://a:80/ HTTP/1.1\r\nHost: a:81\r\n\r\n",
        ],
    );
}

#[test]
fn bombs_are_refused_before_they_are_held() {
    let server = Running::new();
    refused(&server, &format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(20_000)), 414);
    refused(&server, &format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "a".repeat(40_000)), 431);
    refused(&server, &format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(200)), 431);
    // Without an end: refused when the limit is reached, not when the sender is done.
    let mut wire = server.connect();
    wire.send(format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}", "a".repeat(40_000)));
    assert!(wire.rest().starts_with("HTTP/1.1 431 "));
    let mut wire = server.connect();
    wire.send("GET /".to_owned() + &"a".repeat(30_000));
    assert!(wire.rest().starts_with("HTTP/1.1 414 "));
}

#[test]
fn chunks_that_are_not_exactly_chunks_end_the_connection() {
    let server = Running::new();
    for body in [
        "+1\r\na\r\n0\r\n\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        " 1\r\na\r\n0\r\n\r\n",
        "1\na\r\n0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na0\r\n\r\n",
        "10000000000000000\r\na\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "0\r\nContent-Length: 1\r\n\r\n",
        "0\r\nA : b\r\n\r\n",
        "0\r\nA: b\n\r\n",
    ] {
        let head = "POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        refused(&server, &format!("{head}{body}"), 400);
    }
}

#[test]
fn a_body_never_becomes_a_request() {
    let server = Running::new();
    let mut wire = server.connect();
    // The service answers without reading; what it did not read is thrown away, not parsed.
    wire.send(format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()));
    assert_eq!(wire.answer().text(), "POST /a");
    assert_eq!(wire.get("/next").text(), "GET /next");
}

#[test]
fn refusals_are_counted_by_reason() {
    let server = Running::new();
    server.exchange("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(server.metric("http_protocol_errors_total{reason=\"no Host\"}"), "1");
}
