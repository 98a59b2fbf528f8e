//! What upstreams and clients get to see of each other.

use std::collections::HashMap;

use mainstay_site::plan::edge::{BalancePlan, HashKey, Rewrite, RouteAction, StickyPlan};

use crate::client::{Wire, exchange, get, request};
use crate::edge::{Edge, group, route};
use crate::origin::{Mood, Origin};

#[test]
fn requests_are_forwarded_in_turn_and_told_about() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let mut edge = Edge::over(&[&a, &b]);
    let mut wire = Wire::to(edge.address);
    let mut count: HashMap<String, usize> = HashMap::new();
    for number in 0..20 {
        let answer = wire.ask(&format!("GET /x//y/../{number}?q=%2F HTTP/1.1\r\nhost: a.test\r\n\r\n")).unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("x-request-id").len(), 32);
        assert!(answer.text().starts_with(&format!("GET /x/{number}?q=%2F HTTP/1.1\n")), "{}", answer.text());
        *count.entry(answer.origin()).or_default() += 1;
    }
    assert_eq!((count["a"], count["b"]), (10, 10));
    assert_eq!((a.opened(), b.opened()), (1, 1), "connections are kept");
    assert_eq!(edge.metric("mainstay_edge_requests_total{route=\"all\",method=\"GET\",class=\"2xx\"}"), 20.0);
    let log = edge.stop();
    assert_eq!(log.len(), 20);
    assert_eq!((&log[0]["route"], &log[0]["target"], &log[0]["tries"]), (&"all".into(), &"web".into(), &1.into()));
    assert!(log[0]["upstream"] == "a" || log[0]["upstream"] == "b");
    assert_eq!(log[0]["trace_id"].as_str().unwrap().len(), 32);
}

#[test]
fn forwarded_fields_cannot_be_forged() {
    let origin = Origin::start("a");
    let edge = Edge::over(&[&origin]);
    let lies = "x-forwarded-for: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nforwarded: for=6.6.6.6\r\nx-real-ip: 6.6.6.6\r\n\
        x-request-id: 0123456789abcdef\r\nproxy: evil\r\nx_forwarded_for: 6.6.6.6\r\nx-forwarded-host: evil\r\n\
        x-forwarded-port: 1\r\nx-forwarded-prefix: /evil\r\n\
        connection: x-forwarded-for, x-forwarded-proto, x-own, keep-alive\r\nx-own: secret\r\nkeep-alive: 5\r\nte: gzip\r\n";
    assert_eq!(get(edge.address, "/", lies).status, 200);
    let seen = origin.seen().pop().unwrap();
    let port = edge.address.port().to_string();
    for (name, value) in [
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("a.test")),
        ("x-forwarded-port", Some(port.as_str())),
        ("x-real-ip", Some("127.0.0.1")),
        ("forwarded", Some("for=127.0.0.1;host=\"a.test\";proto=http")),
        ("host", Some("a.test")),
        ("proxy", None),
        ("x_forwarded_for", None),
        ("x-forwarded-prefix", None),
        ("x-own", None),
        ("keep-alive", None),
        ("te", None),
    ] {
        assert_eq!(seen.field(name), value, "{name}: {seen:?}");
    }
    assert_ne!(seen.field("x-request-id"), Some("0123456789abcdef"));
    assert!(!format!("{seen:?}").contains("6.6.6.6"));
}

#[test]
fn a_trusted_proxy_is_believed_and_added_to() {
    let origin = Origin::start("a");
    let edge = Edge::with(&[&origin], |plan| {
        plan.trusted_proxies = vec!["127.0.0.0/8".to_owned()];
        plan.keep_request_ids = true;
    });
    let told = "x-forwarded-for: 6.6.6.6, 192.0.2.7\r\nx-forwarded-proto: https\r\nx-request-id: 0123456789abcdef\r\n\
        traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\ntracestate: a=b\r\n";
    let answer = get(edge.address, "/", told);
    assert_eq!(answer.field("x-request-id"), "0123456789abcdef");
    let seen = origin.seen().pop().unwrap();
    assert_eq!(seen.field("x-forwarded-for"), Some("6.6.6.6, 192.0.2.7, 127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.field("x-real-ip"), Some("192.0.2.7"));
    assert_eq!(seen.field("x-request-id"), Some("0123456789abcdef"));
    assert_eq!(seen.field("tracestate"), Some("a=b"));
    let trace = seen.field("traceparent").unwrap();
    assert!(trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && !trace.contains("00f067aa0ba902b7"));
    // Naming them as hop-by-hop does not strip what a proxy wrote.
    let strip = "x-forwarded-for: 192.0.2.7\r\nconnection: x-forwarded-for\r\n";
    let answer = get(edge.address, "/", strip);
    let seen = origin.seen();
    let stripped = seen.first().is_some_and(|seen| seen.field("x-real-ip") != Some("192.0.2.7"));
    assert!(answer.status == 400 || !stripped, "{seen:?}");
}

#[test]
fn routes_rewrite_redirect_and_answer() {
    let origin = Origin::start("a");
    let edge = Edge::with(&[&origin], |plan| {
        let mut shop = route("shop", "/shop");
        shop.action = RouteAction::Forward {
            groups: vec![("web".to_owned(), 1)],
            rewrite: Some(Rewrite::Prefix("/".to_owned())),
            host: Some("inner.test".to_owned()),
        };
        shop.request_fields.set.insert("x-set".to_owned(), "1".to_owned());
        shop.request_fields.remove.push("cookie".to_owned());
        shop.response_fields.remove.push("x-origin".to_owned());
        shop.response_fields.add.insert("x-frame-options".to_owned(), "DENY".to_owned());
        let mut old = route("old", "/old");
        old.action = RouteAction::Redirect { to: "https://new.test/*".to_owned(), status: 308 };
        let mut teapot = route("teapot", "/teapot");
        teapot.action = RouteAction::Respond { status: 418, body: "short and stout".to_owned() };
        plan.routes = vec![shop, old, teapot, route("api", "/api")];
    });
    let answer = get(edge.address, "/shop/cart?x", "cookie: a=b\r\n");
    assert_eq!((answer.field("x-frame-options"), answer.field("x-origin")), ("DENY", ""));
    let seen = origin.seen().pop().unwrap();
    assert_eq!(seen.line, "GET /cart?x HTTP/1.1");
    assert_eq!((seen.field("host"), seen.field("x-set"), seen.field("cookie")), (Some("inner.test"), Some("1"), None));
    assert_eq!(seen.field("x-forwarded-host"), Some("a.test"));
    let answer = get(edge.address, "/old/page?y", "");
    assert_eq!((answer.status, answer.field("location")), (308, "https://new.test/page?y"));
    let answer = get(edge.address, "/teapot", "");
    assert_eq!((answer.status, answer.text().as_str()), (418, "short and stout"));
    let answer = get(edge.address, "/none", "accept: application/json\r\n");
    assert_eq!((answer.status, answer.field("content-type")), (404, "application/json"));
    assert!(get(edge.address, "/none", "").text().contains("<h1>404 Not Found</h1>"));
    let misdirected = request(edge.address, "GET / HTTP/1.1\r\nhost: other.test\r\n\r\n");
    assert_eq!(misdirected.status, 421);
}

#[test]
fn a_cookie_keeps_a_client_at_its_upstream_even_while_it_drains() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let mut edge = Edge::with(&[&a, &b], |plan| {
        plan.groups[0].sticky = Some(StickyPlan { cookie: "stick".to_owned(), max_age_secs: 0 });
    });
    let first = get(edge.address, "/", "");
    let cookie = first.field("set-cookie").split(';').next().unwrap().to_owned();
    let with_cookie = format!("cookie: x=y; {cookie}\r\n");
    for _ in 0..10 {
        let answer = get(edge.address, "/", &with_cookie);
        assert_eq!((answer.origin(), answer.field("set-cookie")), (first.origin(), ""));
    }
    let home = first.origin();
    edge.reload(|plan| {
        plan.groups[0].upstreams.iter_mut().filter(|upstream| upstream.name == home).for_each(|upstream| upstream.drain = true);
    })
    .unwrap();
    assert_eq!(get(edge.address, "/", &with_cookie).origin(), home);
    for _ in 0..4 {
        assert_ne!(get(edge.address, "/", "").origin(), home);
    }
    let forged = format!("cookie: {}0\r\n", &cookie[..cookie.len() - 1]);
    assert_ne!(get(edge.address, "/", &forged).field("set-cookie"), "");
}

#[test]
fn the_same_key_goes_to_the_same_upstream() {
    let origins = [Origin::start("a"), Origin::start("b"), Origin::start("c")];
    let edge = Edge::with(&origins.iter().collect::<Vec<_>>(), |plan| {
        plan.groups[0].balance =
            BalancePlan::ConsistentHash { by: HashKey::Field { name: "x-key".to_owned() }, bound_percent: 150 };
    });
    let mut homes = std::collections::HashSet::new();
    for key in 0..30 {
        let field = format!("x-key: {key}\r\n");
        let home = get(edge.address, "/", &field).origin();
        assert_eq!(get(edge.address, "/elsewhere", &field).origin(), home);
        homes.insert(home);
    }
    assert_eq!(homes.len(), 3);
}

#[test]
fn groups_share_requests_by_weight() {
    let (old, new) = (Origin::start("old"), Origin::start("new"));
    let edge = Edge::with(&[&old], |plan| {
        plan.groups.push(group("canary", &[&new]));
        plan.routes[0].action = RouteAction::Forward {
            groups: vec![("web".to_owned(), 9), ("canary".to_owned(), 1)],
            rewrite: None,
            host: None,
        };
    });
    let mut wire = Wire::to(edge.address);
    for _ in 0..500 {
        wire.ask("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
    }
    let canary = new.count();
    assert!((20..100).contains(&canary), "{canary} of 500 for one tenth");
    assert_eq!(old.count() + canary, 500);
}

#[test]
fn bodies_and_trailers_stream_both_ways() {
    let origin = Origin::start("a");
    let edge = Edge::over(&[&origin]);
    let body = "x".repeat(300_000);
    let post = format!("POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    assert!(request(edge.address, &post).text().ends_with(&body));
    let chunked = "POST /c HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert!(request(edge.address, chunked).text().ends_with("\n\nabcde"));
    let seen = origin.seen();
    assert_eq!((seen[0].body.len(), seen[1].body.as_slice()), (300_000, &b"abcde"[..]));
}

#[test]
fn a_connection_that_leaves_http_is_joined() {
    let origin = Origin::start("a");
    let edge = Edge::over(&[&origin]);
    let mut wire = Wire::to(edge.address);
    wire.send("GET /ws HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n");
    let head = wire.until("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    wire.send(b"\x01\x02\x00z");
    assert_eq!(wire.until("\x01").unwrap().as_bytes(), b"z\x00\x02\x01");
    assert_eq!(edge.status()["groups"][0]["upstreams"][0]["in_flight"], 1);
}

#[test]
fn events_are_seen_as_they_come() {
    let origin = Origin::start("a");
    origin.is(Mood::Says(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
    ));
    let edge = Edge::with(&[&origin], |plan| plan.compress = true);
    let mut wire = Wire::to(edge.address);
    wire.send("GET /events HTTP/1.1\r\nhost: a.test\r\n\r\n");
    // The origin has not finished, and yet the client has the first event.
    wire.until("data: 1").unwrap();
}

#[test]
fn options_about_the_server_and_methods_that_reflect() {
    let origin = Origin::start("a");
    let edge = Edge::over(&[&origin]);
    assert_eq!(request(edge.address, "OPTIONS * HTTP/1.1\r\nhost: a.test\r\n\r\n").status, 204);
    assert_eq!(request(edge.address, "TRACE / HTTP/1.1\r\nhost: a.test\r\n\r\n").status, 405);
    let connect = exchange(edge.address, "CONNECT a.test:443 HTTP/1.1\r\nhost: a.test:443\r\n\r\n");
    assert!(!connect.starts_with("HTTP/1.1 2"), "{connect}");
    assert_eq!(origin.count(), 0);
}
