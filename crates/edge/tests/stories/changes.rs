//! Changes while requests come: new plans, live changes, and the end.

use mainstay_site::plan::EdgePlan;
use mainstay_site::plan::edge::RouteAction;

use crate::client::{Load, Wire, get};
use crate::edge::{Edge, group, health, until, upstream};
use crate::origin::{Mood, Origin};

#[test]
fn a_hundred_new_plans_under_load_cost_no_request() {
    let origins = [Origin::start("a"), Origin::start("b"), Origin::start("c")];
    let mut edge = Edge::of_workers(2, &origins.iter().collect::<Vec<_>>(), |plan| {
        plan.groups[0].health = Some(health());
    });
    let load = Load::start(edge.address, 6);
    for round in 0..100 {
        edge.reload(|plan| {
            // One leaves and comes back, weights change, routes come and go.
            let all: Vec<_> = origins.iter().map(upstream).collect();
            plan.groups[0].upstreams =
                all.into_iter().enumerate().filter(|(at, _)| *at != round % 4).map(|(_, one)| one).collect();
            plan.groups[0].upstreams[0].weight = 1 + round as u32;
            plan.groups[0].connections = (round % 3) as u32 * 50;
            plan.routes.truncate(1);
            if round % 2 == 0 {
                let mut early = crate::edge::route("early", "/");
                early.condition.methods = vec!["PUT".to_owned()];
                plan.routes.insert(0, early);
            } else {
                plan.routes = vec![crate::edge::route("all", "/")];
            }
        })
        .unwrap();
    }
    load.pass(100);
    assert_eq!(load.stop(), Vec::<String>::new());
    assert_eq!(edge.metric("mainstay_edge_reloads_total{result=\"ok\"}"), 100.0);
    until("nothing is in flight", || edge.metric("mainstay_edge_requests_in_flight") == 0.0);
}

#[test]
fn a_plan_that_does_not_fit_is_refused_and_the_old_one_stays() {
    let a = Origin::start("a");
    let mut edge = Edge::over(&[&a]);
    let before = edge.admin_get("/config").text();
    assert!(before.contains(&edge.config.digest()), "{before}");
    type Change = fn(&mut EdgePlan);
    let wrong: [(&str, Change); 5] = [
        ("listening addresses", |plan| plan.listeners[0].address.set_port(1)),
        ("no group", |plan| {
            plan.routes[0].action = RouteAction::Forward { groups: Vec::new(), rewrite: None, host: None }
        }),
        ("which is not there", |plan| plan.routes[0].rates.push("none".to_owned())),
        ("no field name", |plan| plan.routes[0].request_fields.remove.push("a b".to_owned())),
        ("two upstreams", |plan| {
            let twin = plan.groups[0].upstreams[0].clone();
            plan.groups[0].upstreams.push(twin);
        }),
    ];
    for (why, change) in wrong {
        let error = edge.reload(change).unwrap_err();
        assert!(error.contains(why) || why == "no group", "{error}");
        assert_eq!(get(edge.address, "/", "").status, 200);
        let config = edge.admin_get("/config").text();
        assert!(
            config.contains(&edge.config.digest()) && config.contains(&error.replace('"', "\\\"")),
            "{config}"
        );
        assert_eq!(edge.status()["refused"]["why"], error);
    }
    assert_eq!(edge.metric("mainstay_edge_reloads_total{result=\"refused\"}"), 5.0);
    edge.reload(|plan| plan.routes[0].name = "renamed".to_owned()).unwrap();
    assert!(edge.status()["refused"].is_null());
    assert_ne!(edge.admin_get("/config").text(), before);
}

#[test]
fn requests_in_flight_end_under_the_old_plan() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let mut edge = Edge::over(&[&a]);
    a.is(Mood::Frozen);
    let mut old = Wire::to(edge.address);
    old.send("GET /old HTTP/1.1\r\nhost: a.test\r\n\r\n");
    until("it is at work", || a.count() == 1);
    edge.reload(|plan| plan.groups = vec![group("web", &[&b])]).unwrap();
    assert_eq!(get(edge.address, "/", "").origin(), "b");
    a.is(Mood::Well);
    assert_eq!(old.answer().unwrap().origin(), "a");
    // The same connection follows the new plan from the next request on.
    assert_eq!(old.ask("GET /new HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap().origin(), "b");
}

#[test]
fn upstreams_are_drained_and_weighted_live() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let mut edge = Edge::over(&[&a, &b]);
    assert_eq!(edge.admin_post("/upstream?group=web&name=a&drain=true").status, 200);
    for _ in 0..6 {
        assert_eq!(get(edge.address, "/", "").origin(), "b");
    }
    assert_eq!(edge.state("a"), "draining");
    // A plan that says nothing new about it changes nothing about it.
    edge.reload(|plan| plan.compress = true).unwrap();
    assert_eq!(get(edge.address, "/", "").origin(), "b");
    edge.reload(|plan| plan.groups[0].upstreams[0].weight = 50).unwrap();
    assert_eq!(edge.state("a"), "up");
    assert_eq!(edge.admin_post("/upstream?group=web&name=b&weight=0").status, 200);
    for _ in 0..6 {
        assert_eq!(get(edge.address, "/", "").origin(), "a");
    }
    for wrong in ["group=web&name=a&weight=1001", "group=web&name=a", "name=a&drain=true"] {
        assert_eq!(edge.admin_post(&format!("/upstream?{wrong}")).status, 400, "{wrong}");
    }
    assert_eq!(edge.admin_post("/upstream?group=none&name=a&drain=true").status, 409);
    assert_eq!(edge.admin_get("/health").status, 200);
}

#[test]
fn the_end_finishes_what_was_begun() {
    let a = Origin::start("a");
    let mut edge = Edge::over(&[&a]);
    a.is(Mood::Frozen);
    let mut wire = Wire::to(edge.address);
    wire.send("GET /last HTTP/1.1\r\nhost: a.test\r\n\r\n");
    until("it is at work", || a.count() == 1);
    edge.server.as_ref().unwrap().shutdown().drain();
    assert_eq!(edge.admin_get("/health").status, 503);
    a.is(Mood::Well);
    let answer = wire.answer().unwrap();
    assert_eq!((answer.status, answer.field("connection")), (200, "close"));
    let log = edge.stop();
    assert_eq!((log.len(), &log[0]["status"]), (1, &200.into()));
}
