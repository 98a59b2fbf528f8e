//! Who is turned away, and how.

use mainstay_site::ByteSize;
use mainstay_site::plan::edge::{HashKey, Maintenance, RateLimit, RateWindow};

use crate::client::{Wire, get, request};
use crate::edge::{Edge, route, until};
use crate::origin::{Mood, Origin};

#[test]
fn who_comes_too_often_waits_and_others_do_not() {
    let a = Origin::start("a");
    let edge = Edge::with(&[&a], |plan| {
        plan.rates = vec![RateLimit {
            name: "login".to_owned(),
            by: Some(HashKey::Field { name: "x-user".to_owned() }),
            windows: vec![RateWindow { requests: 2, per_ms: 60_000, burst: 2 }],
        }];
        plan.routes[0].rates = vec!["login".to_owned()];
        plan.routes.insert(0, route("free", "/free"));
    });
    assert_eq!(get(edge.address, "/", "x-user: 1\r\n").status, 200);
    assert_eq!(get(edge.address, "/", "x-user: 1\r\n").status, 200);
    let answer = get(edge.address, "/", "x-user: 1\r\n");
    assert_eq!(answer.status, 429);
    let seconds: u64 = answer.field("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds));
    assert_eq!(get(edge.address, "/", "x-user: 2\r\n").status, 200);
    assert_eq!(get(edge.address, "/free", "x-user: 1\r\n").status, 200);
    assert_eq!(edge.metric("mainstay_edge_refusals_total{route=\"all\",reason=\"rate\"}"), 1.0);
}

#[test]
fn maintenance_turns_everyone_away_but_those_who_work_on_it() {
    let a = Origin::start("a");
    let mut edge = Edge::over(&[&a]);
    edge.reload(|plan| {
        plan.maintenance = Some(Maintenance {
            message: "Back at <noon>.".to_owned(),
            retry_after_secs: 7,
            allow: vec!["192.0.2.0/24".to_owned()],
        });
        plan.trusted_proxies = vec!["127.0.0.1".to_owned()];
    })
    .unwrap();
    let answer = get(edge.address, "/", "");
    assert_eq!((answer.status, answer.field("retry-after")), (503, "7"));
    assert!(answer.text().contains("Back at &lt;noon&gt;."));
    assert_eq!(get(edge.address, "/", "x-forwarded-for: 192.0.2.1\r\n").status, 200);
    edge.reload(|plan| plan.maintenance = None).unwrap();
    assert_eq!(get(edge.address, "/", "").status, 200);
    assert_eq!(edge.admin_post("/maintenance/on").status, 200);
    let answer = get(edge.address, "/", "accept: application/json\r\n");
    assert_eq!((answer.status, answer.field("content-type")), (503, "application/json"));
    assert_eq!(edge.admin_post("/maintenance/off").status, 200);
    assert_eq!(get(edge.address, "/", "").status, 200);
}

#[test]
fn full_upstreams_are_waited_for_but_not_by_too_many_nor_too_long() {
    let a = Origin::start("a");
    let edge = Edge::of_workers(2, &[&a], |plan| {
        plan.groups[0].connections = 1;
        plan.groups[0].queue = 2;
        plan.groups[0].queue_ms = 400;
    });
    a.is(Mood::Frozen);
    let ask = |number: usize| {
        let mut wire = Wire::to(edge.address);
        wire.send(format!("GET /{number} HTTP/1.1\r\nhost: a.test\r\n\r\n"));
        wire
    };
    let mut first = ask(0);
    until("one is at work", || a.count() == 1);
    let (mut second, mut third) = (ask(1), ask(2));
    until("two wait", || edge.metric("mainstay_edge_queue_length{group=\"web\"}") == 2.0);
    let fourth = ask(3).answer().unwrap();
    assert_eq!((fourth.status, fourth.field("retry-after")), (503, "1"));
    assert_eq!((second.answer().unwrap().status, third.answer().unwrap().status), (503, 503));
    a.is(Mood::Well);
    assert_eq!(first.answer().unwrap().status, 200);
    // One after the other, those that wait get their turn.
    a.is(Mood::Frozen);
    let mut wires: Vec<_> = (0..3).map(ask).collect();
    until("two wait again", || edge.metric("mainstay_edge_queue_length{group=\"web\"}") == 2.0);
    a.is(Mood::Well);
    let statuses: Vec<u16> = wires.iter_mut().map(|wire| wire.answer().unwrap().status).collect();
    assert_eq!(statuses, [200, 200, 200]);
    assert!(edge.metric("mainstay_edge_refusals_total{route=\"all\",reason=\"queue_full\"}") == 1.0);
    assert!(edge.metric("mainstay_edge_refusals_total{route=\"all\",reason=\"queue_timeout\"}") == 2.0);
}

#[test]
fn a_route_has_bounds_of_its_own() {
    let a = Origin::start("a");
    let edge = Edge::with(&[&a], |plan| {
        plan.routes[0].body = Some(ByteSize::from_bytes(10));
        plan.routes[0].timeout_ms = 300;
        plan.routes[0].concurrent = 1;
        let mut other = route("other", "/other");
        other.body = Some(ByteSize::from_mebibytes(200));
        plan.routes.insert(0, other);
    });
    let post = |path: &str, length: usize| {
        let body = "x".repeat(length);
        request(
            edge.address,
            &format!("POST {path} HTTP/1.1\r\nhost: a.test\r\ncontent-length: {length}\r\n\r\n{body}"),
        )
        .status
    };
    assert_eq!((post("/", 10), post("/", 11), post("/other", 11)), (200, 413, 200));
    let chunked =
        "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\nb\r\nabcdefghijk\r\n0\r\n\r\n";
    assert_eq!(request(edge.address, chunked).status, 413);
    a.is(Mood::Frozen);
    let mut slow = Wire::to(edge.address);
    slow.send("GET /slow HTTP/1.1\r\nhost: a.test\r\n\r\n");
    a.seen();
    until("it is at work", || a.count() == 1);
    assert_eq!(get(edge.address, "/", "").status, 503);
    assert_eq!(slow.answer().unwrap().status, 504);
    a.is(Mood::Well);
    assert_eq!(get(edge.address, "/", "").status, 200);
}

#[test]
fn strangers_cannot_make_metrics_grow() {
    let a = Origin::start("a");
    let edge = Edge::over(&[&a]);
    let lines = || edge.server.as_ref().unwrap().registry().render().lines().count();
    get(edge.address, "/", "");
    let before = lines();
    for number in 0..300 {
        let mut wire = Wire::to(edge.address);
        wire.send(format!("M{number} /{number} HTTP/1.1\r\nhost: h{number}.b.test\r\nx-{number}: 1\r\n\r\n"));
        wire.answer().unwrap();
    }
    assert!(lines() < before + 20, "{} lines after {before}", lines());
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let a = Origin::start("a");
    let edge = Edge::over(&[&a]);
    let many: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    let large = format!("cookie: {}\r\n", "c".repeat(64 * 1024));
    for fields in [many, large] {
        assert_eq!(get(edge.address, "/", &fields).status, 431);
    }
    let long = format!("/?{}", "q".repeat(64 * 1024));
    assert!(matches!(get(edge.address, &long, "").status, 414 | 431));
    assert_eq!(a.count(), 0);
}
