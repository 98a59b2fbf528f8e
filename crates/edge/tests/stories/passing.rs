//! Requests that are passed on with their fields as bytes: what clients and upstreams see of it.

use std::net::Shutdown;

use crate::client::{Wire, get, request};
use crate::edge::{Edge, until};
use crate::origin::{Mood, Origin};

#[test]
fn requests_that_come_together_are_answered_in_turn() {
    let origin = Origin::start("a");
    let mut edge = Edge::over(&[&origin]);
    let mut wire = Wire::to(edge.address);
    wire.send(
        "GET /1 HTTP/1.1\r\nHost: a.test\r\nAccept:  */*\t\r\nConnection: keep-alive\r\n\r\n\
         POST /2 HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\nX-Named: x\r\nconnection: x-named\r\n\r\nhello\
         POST /3 HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
         GET /4 HTTP/1.1\r\nhost: a.test\r\nuser-agent: \"last\"\r\nconnection: close\r\n\r\n",
    );
    for number in 1..=4 {
        let answer = wire.answer().unwrap();
        assert!(answer.text().contains(&format!(" /{number} HTTP/1.1")), "{}", answer.text());
        assert_eq!(answer.head.to_ascii_lowercase().matches("x-request-id: ").count(), 1);
        assert_eq!(answer.field("connection"), if number == 4 { "close" } else { "" });
    }
    assert_eq!(wire.rest(), "");
    let seen = origin.seen();
    assert_eq!((seen[0].field("accept"), seen[0].field("connection")), (Some("*/*"), None));
    assert_eq!((seen[1].field("x-named"), &seen[1].body[..]), (None, &b"hello"[..]));
    assert_eq!((seen[1].field("content-length"), seen[2].field("content-length")), (Some("5"), None));
    assert_eq!(&seen[2].body, b"abc");
    for seen in &seen {
        assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(seen.field("traceparent").map(str::len), Some(55));
    }
    let log = edge.stop();
    assert_eq!(log.len(), 4);
    assert_eq!((&log[3]["user_agent"], &log[3]["path"]), (&"\"last\"".into(), &"/4".into()));
    assert_eq!(log[0]["request_id"], seen[0].field("x-request-id").unwrap());
}

#[test]
fn what_has_no_body_keeps_its_length() {
    let origin = Origin::start("a");
    let edge = Edge::over(&[&origin]);
    let mut wire = Wire::to(edge.address);
    wire.send("HEAD /x HTTP/1.1\r\nhost: a.test\r\n\r\n");
    let head = wire.until("\r\n\r\n").unwrap().to_ascii_lowercase();
    assert_eq!(head.matches("content-length: ").count(), 1, "{head}");
    assert!(!head.contains("content-length: 0\r\n"), "{head}");
    origin.is(Mood::Says(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: \"a\"\r\n\r\n"));
    let answer = wire.ask("GET /x HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
    assert_eq!((answer.status, answer.field("content-length"), answer.field("etag")), (304, "77", "\"a\""));
}

#[test]
fn an_upstream_cannot_frame_or_name_its_response_twice() {
    let origin = Origin::start("a");
    let edge = Edge::over(&[&origin]);
    origin.is(Mood::Says(
        b"HTTP/1.1 200 OK\r\nX-Request-Id: theirs\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: X-Hop, keep-alive\r\n\
          Content-Length: 2\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nServer:  x\r\n\r\nok",
    ));
    let answer = get(edge.address, "/", "");
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    let head = answer.head.to_ascii_lowercase();
    for (name, count) in [
        ("x-request-id: ", 1),
        ("date: ", 1),
        ("content-length: ", 1),
        ("server: x\r\n", 1),
        ("theirs", 0),
        ("x-hop", 0),
        ("keep-alive", 0),
    ] {
        assert_eq!(head.matches(name).count(), count, "{name} {head}");
    }
    origin.is(Mood::Says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"));
    assert_eq!(get(edge.address, "/", "").status, 502);
}

#[test]
fn a_text_is_marked_as_one_that_depends_on_codings() {
    let origin = Origin::start("a");
    let edge = Edge::with(&[&origin], |plan| plan.compress = true);
    let filler = format!("x-filler: {}\r\n", "x".repeat(1200));
    assert_eq!(get(edge.address, "/", &filler).field("vary"), "accept-encoding");
    assert_eq!(get(edge.address, "/", "").field("vary"), "");
    let coded = get(edge.address, "/", &format!("accept-encoding: gzip\r\n{filler}"));
    assert_eq!((coded.field("content-encoding"), coded.field("vary")), ("gzip", "accept-encoding"));
    assert_eq!(coded.field("x-request-id").len(), 32);
}

#[test]
fn a_client_that_has_said_its_last_still_gets_what_is_ready_and_is_not_waited_for() {
    let origin = Origin::start("a");
    let mut edge = Edge::over(&[&origin]);
    origin.is(Mood::Frozen);
    let mut wire = Wire::to(edge.address);
    wire.send("GET /left HTTP/1.1\r\nhost: a.test\r\n\r\n");
    until("the request is at the origin", || origin.count() == 1);
    wire.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(wire.rest(), "");
    origin.is(Mood::Well);
    assert_eq!(request(edge.address, "GET /next HTTP/1.0\r\nhost: a.test\r\n\r\n").status, 200);
    let log = edge.stop();
    assert_eq!((&log[0]["status"], &log[0]["path"]), (&499.into(), &"/left".into()));
    assert_eq!((&log[1]["status"], &log[1]["protocol"]), (&200.into(), &"HTTP/1.0".into()));
}
