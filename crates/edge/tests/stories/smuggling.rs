//! What two servers could read in two ways never reaches an upstream, and what reaches it is read as the edge read it.

use crate::client::{Wire, exchange, get};
use crate::edge::{Edge, until};
use crate::origin::Origin;

/// Sends bytes, asserts that they are refused with a closed connection, and that no upstream saw anything of them.
fn refused(edge: &Edge, origin: &Origin, bytes: &str) {
    let answer = exchange(edge.address, bytes);
    let status = answer.get(9..12).unwrap_or_default().to_owned();
    assert!(status.starts_with('4') || status == "501" || status == "505", "{bytes:?} gave {answer:?}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{bytes:?} gave {answer:?}");
    assert_eq!(origin.count(), 0, "{bytes:?} reached an upstream: {:?}", origin.seen());
}

#[test]
fn bodies_have_one_length() {
    let origin = Origin::start("a");
    let edge = Edge::over(&[&origin]);
    let hidden = "GET /hidden HTTP/1.1\r\nhost: a.test\r\n\r\n";
    for fields in [
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: Chunked\r\ntransfer-encoding: identity\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: \tchunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding : chunked\r\n",
        " transfer-encoding: chunked\r\n",
        "x: y\r\n transfer-encoding: chunked\r\n",
        "transfer-encoding:\x0bchunked\r\n",
        "content-length: 4\r\ncontent-length: 4\r\n",
        "content-length: 4, 4\r\n",
        "content-length: +4\r\n",
        "content-length: 0x4\r\n",
        "content-length: 00004\r\n",
        "content-length: 4 \x0b\r\n",
        "content-length: 18446744073709551620\r\n",
        "content-length: -1\r\n",
        "connection: content-length\r\ncontent-length: 4\r\n",
    ] {
        refused(&edge, &origin, &format!("POST / HTTP/1.1\r\nhost: a.test\r\n{fields}\r\n0\r\n\r\n{hidden}"));
    }
    refused(&edge, &origin, &format!("POST / HTTP/1.0\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"));
}

#[test]
fn chunks_are_read_in_one_way() {
    let origin = Origin::start("a");
    let edge = Edge::over(&[&origin]);
    for chunks in [
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabcX0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "-1\r\nabc\r\n0\r\n\r\n",
        "3;\r\x0a\r\nabc\r\n0\r\n\r\n",
    ] {
        let answer = exchange(
            edge.address,
            &format!("POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n{chunks}GET /hidden HTTP/1.1\r\nhost: a.test\r\n\r\n"),
        );
        assert!(answer.starts_with("HTTP/1.1 400 "), "{chunks:?} gave {answer:?}");
        let seen = origin.seen();
        assert!(seen.iter().all(|seen| !seen.line.contains("hidden")), "{chunks:?}: {seen:?}");
    }
    // A good one, after it a second request on the same connection: two requests, not one nor three.
    let mut wire = Wire::to(edge.address);
    wire.send("POST /one HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nx-trailer: t\r\n\r\nGET /two HTTP/1.1\r\nhost: a.test\r\n\r\n");
    wire.answer().unwrap();
    wire.answer().unwrap();
    let seen = origin.seen();
    let lines: Vec<_> = seen.iter().map(|seen| (seen.line.as_str(), seen.body.as_slice())).collect();
    assert_eq!(lines, [("POST /one HTTP/1.1", &b"abc"[..]), ("GET /two HTTP/1.1", b"")]);
}

#[test]
fn lines_and_fields_are_clean() {
    let origin = Origin::start("a");
    let edge = Edge::over(&[&origin]);
    for head in [
        "GET / HTTP/1.1\r\nhost: a.test\r\nx: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a.test\r\nx: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a.test\r\nx: a\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a.test\r\nx : a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a.test\r\n: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a.test\r\nx\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a.test\r\nx y: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a.test\r\nx: \x7f\r\n\r\n",
        "G@T / HTTP/1.1\r\nhost: a.test\r\n\r\n",
        "GET / HTTP/1.1\nhost: a.test\n\n",
        "GET /a b HTTP/1.1\r\nhost: a.test\r\n\r\n",
        "GET /#fragment HTTP/1.1\r\nhost: a.test\r\n\r\n",
        "GET a.test HTTP/1.1\r\nhost: a.test\r\n\r\n",
        "GET * HTTP/1.1\r\nhost: a.test\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a.test\r\nhost: a.test\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: user@a.test\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a.test:99999\r\n\r\n",
        "GET http://a.test/ HTTP/1.1\r\nhost: other.test\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: host\r\n\r\n",
        "GET / HTTP/3.0\r\nhost: a.test\r\n\r\n",
    ] {
        refused(&edge, &origin, head);
    }
}

#[test]
fn a_path_is_forwarded_as_it_was_routed() {
    let origin = Origin::start("a");
    let edge = Edge::with(&[&origin], |plan| {
        let mut secret = crate::edge::route("secret", "/admin");
        secret.action = mainstay_site::plan::edge::RouteAction::Respond { status: 403, body: String::new() };
        plan.routes.insert(0, secret);
    });
    for path in ["/admin", "/admin/x", "//admin", "/./admin", "/x/../admin", "/%61dmin", "/x/%2e%2e/admin", "/admin%2e", "/x/..//admin"] {
        let answer = get(edge.address, path, "");
        let seen = origin.seen();
        // Refused, or, where it is another path, seen upstream as no path below /admin in any reading.
        assert!(answer.status == 403 || seen.iter().all(|seen| seen.line == "GET /admin. HTTP/1.1"), "{path}: {seen:?}");
    }
    for path in ["/a%2fb", "/a%5cb", "/a\\b", "/%00", "/%0d%0ax", "/..", "/%zz", "/a/../../b"] {
        assert_eq!(get(edge.address, path, "").status, 400, "{path}");
    }
    assert_eq!(origin.count(), 0);
    get(edge.address, "/%2561/%3B;x=1//y?a=%2F%2e", "");
    assert_eq!(origin.seen()[0].line, "GET /%2561/%3B;x=1/y?a=%2F%2e HTTP/1.1");
}

#[test]
fn expectations_and_upgrades_are_the_edges_own() {
    let origin = Origin::start("a");
    let edge = Edge::over(&[&origin]);
    let mut wire = Wire::to(edge.address);
    wire.send("POST / HTTP/1.1\r\nhost: a.test\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n");
    wire.until("100 Continue\r\n\r\n").unwrap();
    wire.send("abc");
    assert_eq!(wire.answer().unwrap().status, 200);
    let seen = origin.seen().pop().unwrap();
    assert_eq!(seen.body, b"abc");
    // h2c is not passed through: the connection behind it would be another protocol than the edge reads.
    let fields = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n";
    let answer = get(edge.address, "/h2c", fields);
    assert_ne!(answer.status, 101);
    let seen = origin.seen();
    assert!(seen.iter().all(|seen| seen.field("upgrade").is_none()), "{seen:?}");
}

#[test]
fn slow_clients_hold_nothing_upstream() {
    let origin = Origin::start("a");
    let edge = Edge::with(&[&origin], |plan| {
        plan.limits.head_timeout_secs = 1;
        plan.limits.body_timeout_secs = 1;
    });
    let mut head = Wire::to(edge.address);
    head.send("GET / HTTP/1.1\r\nhost: a");
    let mut body = Wire::to(edge.address);
    body.send("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 10\r\n\r\nabc");
    let (head, body) = (head.rest(), body.rest());
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 408 "), "{head}");
    assert!(body.starts_with("HTTP/1.1 408 "), "{body}");
    until("nothing is in flight", || edge.status()["groups"][0]["upstreams"][0]["in_flight"] == 0);
    assert_eq!(origin.count(), 0);
}
