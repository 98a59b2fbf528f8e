//! What a plan may ask for, seen through the whole edge.

use std::io::Read as _;
use std::time::Duration;

use mainstay_site::ByteSize;
use mainstay_site::plan::edge::{CachePlan, HashKey, PathCondition, RateLimit, RateWindow, RouteAction};

use crate::client::{Wire, get};
use crate::edge::{Edge, group, health, route, until, upstream};
use crate::origin::{Mood, Origin};

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n";

#[test]
fn a_websocket_lives_on_over_a_reload_and_a_drain_until_its_limit() {
    let a = Origin::start("a");
    let mut edge = Edge::with(&[&a], |plan| plan.drain_ms = 3000);
    let mut wire = Wire::to(edge.address);
    wire.send(UPGRADE);
    assert!(wire.until("\r\n\r\n").unwrap().starts_with("HTTP/1.1 101 "));
    edge.reload(|plan| plan.compress = true).unwrap();
    wire.send("reload");
    wire.until("daoler").unwrap();
    edge.server.as_ref().unwrap().shutdown().drain();
    wire.send("drain");
    wire.until("niard").unwrap();
    // Ordinary ones do not wait with it.
    assert_eq!(wire.rest(), "", "its time is over");
    edge.stop();
}

#[test]
fn a_drain_is_over_as_soon_as_the_last_websocket_is() {
    let a = Origin::start("a");
    let mut edge = Edge::with(&[&a], |plan| plan.drain_ms = 3_600_000);
    let mut wire = Wire::to(edge.address);
    wire.send(UPGRADE);
    wire.until("\r\n\r\n").unwrap();
    edge.server.as_ref().unwrap().shutdown().drain();
    wire.send("still");
    wire.until("llits").unwrap();
    drop(wire);
    // Were it not over, this would take an hour.
    edge.stop();
}

#[test]
fn responses_are_compressed_as_the_client_prefers() {
    let a = Origin::start("a");
    let edge = Edge::with(&[&a], |plan| plan.compress = true);
    let long = format!("x-long: {}\r\n", "compress me ".repeat(500));
    for (accepts, coding) in
        [("br", "br"), ("zstd", "zstd"), ("gzip", "gzip"), ("identity", ""), ("br;q=0, gzip;q=0.5", "gzip")]
    {
        let answer = get(edge.address, "/", &format!("accept-encoding: {accepts}\r\n{long}"));
        assert_eq!((answer.status, answer.field("content-encoding")), (200, coding), "{accepts}");
        if coding.is_empty() {
            assert!(answer.body.len() > 6000);
        } else {
            assert!(answer.body.len() < 2000, "{} bytes with {coding}", answer.body.len());
            assert!(answer.field("vary").to_ascii_lowercase().contains("accept-encoding"));
        }
        if coding == "gzip" {
            assert_eq!(answer.body[..2], [0x1f, 0x8b]);
        }
    }
}

#[test]
fn many_who_want_the_same_cost_one_fetch() {
    let a = Origin::start("a");
    a.is(Mood::Frozen);
    let edge = Edge::with(&[&a], |plan| {
        plan.cache = Some(CachePlan {
            memory: ByteSize::from_mebibytes(16),
            object: ByteSize::from_mebibytes(1),
            heuristic_ms: 60_000,
            stale_while_revalidate_ms: 0,
            stale_if_error_ms: 0,
        });
        plan.routes[0].cache = true;
    });
    let mut wires: Vec<_> = (0..10).map(|_| Wire::to(edge.address)).collect();
    for wire in &mut wires {
        wire.send("GET /same HTTP/1.1\r\nhost: a.test\r\n\r\n");
    }
    until("all have asked", || edge.metric("http_engine_requests_total") == 10.0);
    until("one is fetched", || a.count() == 1);
    a.is(Mood::Says(b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 4\r\n\r\nsame"));
    // The one that was begun is answered as usual; what is answered from then on is kept.
    assert!(wires.iter_mut().all(|wire| wire.answer().unwrap().status == 200));
    let asked = a.count();
    for _ in 0..5 {
        assert_eq!(get(edge.address, "/kept", "").text(), "same");
    }
    assert_eq!(a.count(), asked + 1);
    for nonsense in ["", "{}", r#"{"url": "http://a.test/", "prefix": "http://a.test/"}"#] {
        assert_eq!(edge.purge(nonsense).status, 400, "{nonsense}");
    }
    assert_eq!(edge.purge(r#"{"url": "/kept"}"#).status, 409);
    assert_eq!(edge.purge(r#"{"url": "http://a.test/kept"}"#).status, 200);
    assert_eq!(get(edge.address, "/kept", "").text(), "same");
    assert_eq!(a.count(), asked + 2);
}

#[test]
fn a_canary_gets_its_share_of_requests() {
    let (old, new) = (Origin::start("old"), Origin::start("new"));
    let edge = Edge::with(&[&old], |plan| {
        plan.groups.push(group("canary", &[&new]));
        let groups = vec![("web".to_owned(), 9), ("canary".to_owned(), 1)];
        plan.routes[0].action = RouteAction::Forward { groups, rewrite: None, host: None };
    });
    let mut wire = Wire::to(edge.address);
    for _ in 0..1000 {
        assert_eq!(wire.ask("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap().status, 200);
    }
    // A tenth, give or take five standard deviations.
    assert!((52..=148).contains(&new.count()), "{} of 1000", new.count());
    assert_eq!(old.count() + new.count(), 1000);
}

#[test]
fn ten_thousand_routes_are_told_apart() {
    let a = Origin::start("a");
    let edge = Edge::with(&[&a], |plan| {
        plan.routes = (0..10_000)
            .map(|number| {
                let mut one = route(&format!("r{number}"), "/");
                one.condition.path = PathCondition::Prefix(format!("/shop/{number}"));
                one.action = RouteAction::Respond { status: 200, body: number.to_string() };
                one
            })
            .collect();
    });
    let mut wire = Wire::to(edge.address);
    for number in (0..10_000).step_by(97) {
        let asked = format!("GET /shop/{number}/cart HTTP/1.1\r\nhost: a.test\r\n\r\n");
        assert_eq!(wire.ask(&asked).unwrap().text(), number.to_string());
    }
    assert_eq!(get(edge.address, "/shop/10000", "").status, 404);
    assert_eq!(edge.status()["routes"], 10_000);
}

#[test]
fn who_is_limited_is_told_how_and_until_when() {
    let a = Origin::start("a");
    let edge = Edge::with(&[&a], |plan| {
        plan.rates = vec![RateLimit {
            name: "all".to_owned(),
            by: Some(HashKey::Client),
            windows: vec![RateWindow { requests: 2, per_ms: 60_000, burst: 2 }],
        }];
        plan.routes[0].rates = vec!["all".to_owned()];
    });
    let answers: Vec<_> = (0..5).map(|_| get(edge.address, "/", "")).collect();
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 200, 429, 429, 429]);
    assert!(answers.iter().all(|answer| answer.field("ratelimit-policy") == "\"all\";q=2;w=60"));
    let left: Vec<_> =
        answers.iter().map(|answer| answer.field("ratelimit").split(";t=").next().unwrap()).collect();
    assert_eq!(left, ["\"all\";r=1", "\"all\";r=0", "\"all\";r=0", "\"all\";r=0", "\"all\";r=0"]);
    assert!(answers[2..].iter().all(|answer| answer.field("retry-after").parse::<u32>().unwrap() >= 1));
    assert_eq!(a.count(), 2);
}

#[test]
fn a_client_has_no_more_connections_than_its_share() {
    let a = Origin::start("a");
    let mut edge = Edge::of_workers(2, &[&a], |plan| plan.connections_per_client = 3);
    let mut wires: Vec<_> = (0..3).map(|_| Wire::to(edge.address)).collect();
    for wire in &mut wires {
        assert_eq!(wire.ask("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap().status, 200);
    }
    let mut fourth = Wire::to(edge.address);
    let _ = fourth.stream.set_read_timeout(Some(Duration::from_secs(10)));
    assert!(matches!(fourth.stream.read(&mut [0; 1]), Ok(0) | Err(_)), "over all workers");
    assert_eq!(edge.metric("http_client_connections_refused_total"), 1.0);
    assert!(edge.reload(|plan| plan.connections_per_client = 4).unwrap_err().contains("new process"));
}

#[test]
fn status_tells_the_weight_that_one_which_comes_back_has() {
    let (mut a, b) = (Origin::start("a"), Origin::start("b"));
    let edge = Edge::with(&[&a, &b], |plan| {
        plan.groups[0].health = Some(health());
        plan.groups[0].slow_start_ms = 3_600_000;
    });
    let weight = || edge.status()["groups"][0]["upstreams"][0]["effective_weight"].as_f64().unwrap();
    until("it is up", || edge.state("a") == "up");
    a.kill();
    until("it is down", || edge.state("a") == "down");
    assert_eq!(weight(), 0.0);
    a.revive();
    until("it is up again", || edge.state("a") == "up");
    assert!((10.0..20.0).contains(&weight()), "a tenth of 100 at first: {}", weight());
}

#[test]
fn an_upstream_that_is_added_starts_slowly_from_its_own_moment() {
    let (a, b, c) = (Origin::start("a"), Origin::start("b"), Origin::start("c"));
    let mut edge = Edge::with(&[&a], |plan| plan.groups[0].slow_start_ms = 3_600_000);
    let weights = |edge: &Edge| -> Vec<f64> {
        let status = edge.status();
        let upstreams = status["groups"][0]["upstreams"].as_array().unwrap().iter();
        upstreams.map(|upstream| upstream["effective_weight"].as_f64().unwrap()).collect()
    };
    assert_eq!(weights(&edge), [100.0], "with the edge itself nobody starts slowly");
    edge.reload(|plan| plan.groups[0].upstreams.push(upstream(&b))).unwrap();
    let now = weights(&edge);
    assert!(now[0] == 100.0 && (10.0..20.0).contains(&now[1]), "{now:?}");
    for _ in 0..110 {
        assert_eq!(get(edge.address, "/", "").status, 200);
    }
    let (of_a, of_b) = (a.seen().len(), b.seen().len());
    assert!((5..=20).contains(&of_b), "{of_a} and {of_b}");
    // One that comes later, or that gets a weight again, has a moment of its own; the others keep theirs.
    edge.reload(|plan| {
        plan.groups[0].slow_start_ms = 1;
        plan.groups[0].upstreams.push(upstream(&c));
        plan.groups[0].upstreams[0].weight = 0;
    })
    .unwrap();
    until("those two are warm", || weights(&edge) == [0.0, 100.0, 100.0]);
    edge.reload(|plan| {
        plan.groups[0].slow_start_ms = 3_600_000;
        plan.groups[0].upstreams[0].weight = 100;
    })
    .unwrap();
    let now = weights(&edge);
    assert!((10.0..20.0).contains(&now[0]), "{now:?}");
}

#[test]
fn every_metric_has_its_line_in_the_reference() {
    let a = Origin::start("a");
    let edge = Edge::with(&[&a], |plan| {
        plan.cache = Some(CachePlan {
            memory: ByteSize::from_mebibytes(16),
            object: ByteSize::from_mebibytes(1),
            heuristic_ms: 0,
            stale_while_revalidate_ms: 0,
            stale_if_error_ms: 0,
        });
    });
    let reference = include_str!("../../../../docs/reference/metrics.md");
    let text = edge.server.as_ref().unwrap().registry().render();
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let missing: Vec<_> = names
        .filter(|name| {
            !reference.contains(&format!("`{name}`")) && !reference.contains(&format!("`{name}{{"))
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
