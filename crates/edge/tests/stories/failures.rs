//! Upstreams that die, freeze, come back, and talk nonsense.

use std::time::Duration;

use mainstay_site::plan::edge::{BalancePlan, OutlierPlan};

use crate::client::{Load, Wire, get, request};
use crate::edge::{Edge, health, until};
use crate::origin::{Mood, Origin};

#[test]
fn no_idempotent_request_fails_when_an_upstream_dies_and_comes_back() {
    let (mut a, b, c) = (Origin::start("a"), Origin::start("b"), Origin::start("c"));
    let edge = Edge::of_workers(2, &[&a, &b, &c], |plan| plan.groups[0].health = Some(health()));
    until("all are up", || ["a", "b", "c"].iter().all(|name| edge.state(name) == "up"));
    let load = Load::start(edge.address, 8);
    for _ in 0..3 {
        load.pass(200);
        a.kill();
        until("it is found down", || edge.state("a") == "down");
        load.pass(200);
        a.revive();
        until("it is found up", || edge.state("a") == "up");
        a.seen();
        load.pass(100);
        until("it gets requests again", || a.count() > 0);
    }
    assert_eq!(load.stop(), Vec::<String>::new());
    assert!(edge.metric("mainstay_edge_upstream_requests_total{group=\"web\",upstream=\"a\"}") > 0.0);
}

#[test]
fn no_idempotent_request_fails_when_an_upstream_freezes() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let edge = Edge::with(&[&a, &b], |plan| {
        plan.groups[0].health = Some(health());
        // Were the frozen one waited for, the requests would be late.
        plan.groups[0].first_byte_ms = 60_000;
    });
    until("all are up", || ["a", "b"].iter().all(|name| edge.state(name) == "up"));
    let load = Load::start(edge.address, 8);
    load.pass(200);
    a.is(Mood::Frozen);
    until("it is found down", || edge.state("a") == "down");
    load.pass(300);
    a.is(Mood::Well);
    until("it is found up", || edge.state("a") == "up");
    load.pass(100);
    assert_eq!(load.stop(), Vec::<String>::new());
}

#[test]
fn a_frozen_upstream_is_not_given_whole_timeouts_while_requests_wait_for_it() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let edge = Edge::with(&[&a, &b], |plan| {
        let mut checks = health();
        // By these alone it would take a minute, longer than anyone here is patient.
        (checks.timeout_ms, checks.fall) = (20_000, 3);
        plan.groups[0].health = Some(checks);
        plan.groups[0].first_byte_ms = 60_000;
    });
    until("all are up", || ["a", "b"].iter().all(|name| edge.state(name) == "up"));
    let load = Load::start(edge.address, 8);
    load.pass(200);
    a.is(Mood::Frozen);
    let began = std::time::Instant::now();
    until("it is found down", || edge.state("a") == "down");
    println!("found down after {:?}", began.elapsed());
    load.pass(300);
    assert_eq!(load.stop(), Vec::<String>::new());
}

#[test]
fn without_checks_a_dead_upstream_costs_no_request_either() {
    let (mut a, b) = (Origin::start("a"), Origin::start("b"));
    let edge = Edge::over(&[&a, &b]);
    let load = Load::start(edge.address, 4);
    load.pass(100);
    a.kill();
    load.pass(500);
    a.revive();
    load.pass(100);
    a.seen();
    until("it gets requests again", || a.count() > 0);
    assert_eq!(load.stop(), Vec::<String>::new());
}

#[test]
fn a_lone_upstream_that_restarts_is_waited_for() {
    let mut a = Origin::start("a");
    let edge = Edge::with(&[&a], |plan| plan.groups[0].retry.attempts = 6);
    assert_eq!(get(edge.address, "/", "").status, 200);
    a.kill();
    let address = edge.address;
    let waiting = std::thread::spawn(move || get(address, "/", ""));
    until("it was tried", || {
        edge.metric("mainstay_edge_retries_total{group=\"web\",reason=\"connect\"}") > 0.0
    });
    a.revive();
    assert_eq!(waiting.join().unwrap().status, 200);
}

#[test]
fn what_may_have_been_processed_is_never_sent_twice() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    a.is(Mood::Hangs);
    b.is(Mood::Hangs);
    let edge = Edge::with(&[&a, &b], |plan| plan.groups[0].first_byte_ms = 300);
    let post = "POST /pay HTTP/1.1\r\nhost: a.test\r\ncontent-length: 3\r\n\r\nabc";
    for mood in [Mood::Hangs, Mood::Frozen, Mood::Status(503)] {
        a.is(mood.clone());
        b.is(mood.clone());
        let status = request(edge.address, post).status;
        assert!((502..=504).contains(&status), "{status}");
        a.is(Mood::Well);
        b.is(Mood::Well);
        assert_eq!(a.seen().len() + b.seen().len(), 1, "{mood:?}");
    }
}

#[test]
fn a_request_without_effect_goes_to_another_upstream_with_its_body() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    a.is(Mood::Hangs);
    let edge = Edge::over(&[&a, &b]);
    for number in 0..6 {
        let put = format!(
            "PUT /{number} HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        );
        let answer = request(edge.address, &put);
        assert_eq!((answer.status, answer.origin().as_str()), (200, "b"));
        assert!(answer.text().ends_with("\n\nabcde"), "{}", answer.text());
    }
    assert!(a.count() > 0);
    // A long body is gone once it was sent.
    let long = "x".repeat(200_000);
    let put = format!("PUT /long HTTP/1.1\r\nhost: a.test\r\ncontent-length: 200000\r\n\r\n{long}");
    let (before, statuses) =
        (a.count(), (0..4).map(|_| request(edge.address, &put).status).collect::<Vec<_>>());
    assert!(a.count() == before || statuses.contains(&502), "{statuses:?}");
}

#[test]
fn nobody_is_retried_to_death() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    a.is(Mood::Status(503));
    b.is(Mood::Status(503));
    let edge = Edge::over(&[&a, &b]);
    let mut wire = Wire::to(edge.address);
    for _ in 0..300 {
        assert_eq!(wire.ask("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap().status, 503);
    }
    let asked = a.count() + b.count();
    // A fifth of the requests, and what is always allowed.
    assert!(asked <= 300 + 60 + 40, "{asked} for 300");
}

#[test]
fn nonsense_is_a_bad_gateway_and_its_connection_is_closed() {
    let nonsense: [&'static [u8]; 8] = [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\rset-cookie: evil\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad name: x\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 999 X\r\ncontent-length: 0\r\n\r\n",
        b"\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    ];
    for bytes in nonsense {
        let a = Origin::start("a");
        a.is(Mood::Says(bytes));
        let edge = Edge::over(&[&a]);
        let answer = get(edge.address, "/", "");
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(answer.status, 502, "{text}");
        until("the connection is closed", || a.open() == 0);
        a.is(Mood::Well);
        assert_eq!(get(edge.address, "/", "").status, 200, "{text}");
    }
}

#[test]
fn a_second_response_is_no_ones() {
    let a = Origin::start("a");
    a.is(Mood::Says(
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged",
    ));
    let edge = Edge::over(&[&a]);
    let mut wire = Wire::to(edge.address);
    for _ in 0..5 {
        assert_eq!(wire.ask("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap().text(), "1");
    }
    // Bodies where there can be none are left with their connection.
    for bytes in [
        &b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged"[..],
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\nforged",
    ] {
        a.is(Mood::Says(bytes));
        for _ in 0..3 {
            let answer = wire.ask("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
            assert!(matches!(answer.status, 204 | 304), "{}", answer.head);
        }
    }
}

#[test]
fn a_client_that_leaves_spoils_nothing_for_the_next() {
    let a = Origin::start("a");
    let edge = Edge::over(&[&a]);
    for round in 0..5 {
        a.is(Mood::Frozen);
        let mut gone = Wire::to(edge.address);
        gone.send(format!("GET /gone-{round} HTTP/1.1\r\nhost: a.test\r\n\r\n"));
        until("it was asked", || a.count() > 2 * round);
        drop(gone);
        let mut part = Wire::to(edge.address);
        part.send("POST /part HTTP/1.1\r\nhost: a.test\r\ncontent-length: 100\r\n\r\nonly this");
        drop(part);
        a.is(Mood::Well);
        let answer = get(edge.address, &format!("/here-{round}"), "");
        assert!(answer.text().starts_with(&format!("GET /here-{round} ")), "{}", answer.text());
    }
    until("nothing is in flight", || edge.status()["groups"][0]["upstreams"][0]["in_flight"] == 0);
    until("all is told", || edge.metric("mainstay_edge_requests_in_flight") == 0.0);
}

#[test]
fn one_that_fails_requests_is_left_out_for_a_while() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    a.is(Mood::Status(500));
    let edge = Edge::with(&[&a, &b], |plan| {
        plan.groups[0].outlier = Some(OutlierPlan {
            consecutive: 3,
            latency_percent: 0,
            base_ms: 500,
            most_ms: 2000,
            most_percent: 50,
        });
    });
    // 500 is an answer; 502 to 504 are none.
    (0..20).for_each(|_| drop(get(edge.address, "/", "")));
    assert_eq!(edge.state("a"), "up");
    a.is(Mood::Status(502));
    until("it is out", || {
        assert_eq!(get(edge.address, "/", "").status, 200);
        edge.state("a") == "ejected"
    });
    assert_eq!(edge.metric("mainstay_edge_upstream_ejected{group=\"web\",upstream=\"a\"}"), 1.0);
    a.is(Mood::Well);
    until("it is back", || {
        assert_eq!(get(edge.address, "/", "").status, 200);
        edge.state("a") == "up"
    });
}

#[test]
fn a_backup_helps_only_when_no_other_is_left() {
    let (mut a, b) = (Origin::start("a"), Origin::start("b"));
    let edge = Edge::with(&[&a, &b], |plan| plan.groups[0].upstreams[1].backup = true);
    for _ in 0..6 {
        assert_eq!(get(edge.address, "/", "").origin(), "a");
    }
    a.kill();
    for _ in 0..6 {
        assert_eq!(get(edge.address, "/", "").origin(), "b");
    }
}

#[test]
fn requests_follow_weights_and_the_less_loaded() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let edge = Edge::with(&[&a, &b], |plan| plan.groups[0].upstreams[0].weight = 300);
    let mut wire = Wire::to(edge.address);
    for _ in 0..80 {
        wire.ask("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
    }
    assert_eq!((a.seen().len(), b.seen().len()), (60, 20));
    for balance in [BalancePlan::LeastConnections, BalancePlan::Latency] {
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        // What the balancing goes by.
        a.is(Mood::Slow(Duration::from_millis(60)));
        let edge = Edge::with(&[&a, &b], |plan| plan.groups[0].balance = balance);
        let load = Load::start(edge.address, 4);
        load.pass(200);
        assert_eq!(load.stop(), Vec::<String>::new());
        assert!(b.count() > 3 * a.count(), "{} for the slow one, {} for the quick one", a.count(), b.count());
    }
}
