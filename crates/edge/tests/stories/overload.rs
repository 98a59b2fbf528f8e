//! More requests than upstreams bear.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::client::{Wire, get};
use crate::edge::Edge;
use crate::origin::{Mood, Origin};

#[test]
fn slow_upstreams_stay_at_work_and_what_is_too_much_is_refused_at_once() {
    const HANDS: usize = 8;
    const CLIENTS: usize = 120;
    const ENOUGH: usize = 1500;
    let a = Origin::start("a");
    let edge = Edge::with(&[&a], |plan| {
        plan.shed = true;
        plan.routes[0].timeout_ms = 15_000;
        plan.groups[0].queue = 20;
        plan.groups[0].queue_ms = 200;
    });
    a.is(Mood::Hands(HANDS, Duration::from_millis(10)));
    let (good, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (good, refused, address) = (Arc::clone(&good), Arc::clone(&refused), edge.address);
            std::thread::spawn(move || {
                let mut wire = Wire::to(address);
                while good.load(Ordering::Relaxed) < ENOUGH {
                    let answer = wire.ask("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
                    match answer.status {
                        200 => drop(good.fetch_add(1, Ordering::Relaxed)),
                        503 => {
                            let after: u32 = answer.field("retry-after").parse().unwrap();
                            assert!((1..=5).contains(&after), "{}", answer.head);
                            refused.fetch_add(1, Ordering::Relaxed);
                            // More patient than none, so that the machine is not busy with refusals alone.
                            std::thread::sleep(Duration::from_millis(50));
                        }
                        other => panic!("{other}: {}", answer.text()),
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    let (good, refused) = (good.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    let counted = |reason| {
        edge.metric(&format!("mainstay_edge_refusals_total{{route=\"all\",reason=\"{reason}\"}}")) as usize
    };
    assert_eq!(counted("queue_full") + counted("queue_time"), refused);
    assert!(refused > 100, "{CLIENTS} clients are too many: {refused} refused, {good} answered");
    // Nothing was worked on for nobody, and those who were refused cost the upstream nothing.
    assert_eq!(a.seen().len(), good);
    // The upstream's hands were hardly ever idle.
    let at_work = a.at_work();
    let mean = at_work.iter().sum::<usize>() as f64 / at_work.len() as f64;
    assert!(mean > 0.8 * HANDS as f64, "{mean:.1} of {HANDS} hands were at work");
    // All places are given back.
    let status = edge.status();
    assert_eq!(status["groups"][0]["upstreams"][0]["in_flight"], 0, "{status}");
}

#[test]
fn clients_that_are_slow_to_send_a_body_keep_no_place_from_others() {
    const SLOW: usize = 150;
    let a = Origin::start("a");
    let edge = Edge::with(&[&a], |plan| {
        plan.shed = true;
        plan.routes[0].timeout_ms = 60_000;
        // While connections are made to the upstream, they may well wait for each other.
        plan.groups[0].queue = 300;
        plan.groups[0].queue_ms = 16_000;
    });
    // More of each kind than are let ahead at once: a small body, a large one, one of unknown length, and one that asks.
    let kinds = [
        "content-length: 1000\r\n\r\nabc",
        "content-length: 1000000\r\n\r\nabc",
        "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "expect: 100-continue\r\ncontent-length: 1000\r\n\r\nabc",
    ];
    for kind in kinds {
        let slow = |_| {
            let mut wire = Wire::to(edge.address);
            wire.send(format!("POST /slow HTTP/1.1\r\nhost: a.test\r\n{kind}"));
            wire
        };
        let mut wires: Vec<_> = (0..SLOW).map(slow).collect();
        for number in 0..30 {
            let answer = get(edge.address, "/", "");
            assert_eq!(answer.status, 200, "request {number} beside {kind:?}: {}", answer.text());
        }
        // Slow is not lost.
        let left = if kind.contains("1000000") { 999_997 } else { 997 };
        let rest = if kind.contains("chunked") { "0\r\n\r\n".to_owned() } else { "x".repeat(left) };
        let mut last = wires.pop().unwrap();
        last.send(rest);
        let _ = last.until("x-origin: a\r\n").unwrap();
    }
    let turned_away = |reason| {
        edge.metric(&format!("mainstay_edge_refusals_total{{route=\"all\",reason=\"{reason}\"}}")) as usize
    };
    assert_eq!(turned_away("queue_full") + turned_away("queue_time"), 0);
}
