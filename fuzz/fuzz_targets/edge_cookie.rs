//! `Cookie` fields from any bytes: what is read is part of what was sent, and nothing that was not signed is believed.
#![no_main]

use std::sync::LazyLock;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use mainstay_edge::sticky::{Sticky, values};
use mainstay_site::plan::edge::{StickyPlan, UpstreamGroup};
use serde_json::json;

static STICKY: LazyLock<Sticky> = LazyLock::new(|| {
    let upstream = |number: u8| {
        let address = format!("10.0.0.{number}:80");
        json!({ "name": number.to_string(), "address": address, "weight": 1, "backup": false, "drain": false })
    };
    let group: UpstreamGroup = serde_json::from_value(json!({
        "name": "web",
        "balance": { "kind": "round_robin" },
        "upstreams": (1..=3).map(upstream).collect::<Vec<_>>(),
        "protocol": "http1",
        "slow_start_ms": 0,
        "connections": 0,
        "queue": 0,
        "queue_ms": 0,
        "connect_ms": 0,
        "first_byte_ms": 0,
        "between_bytes_ms": 0,
        "idle_ms": 0,
        "retry": { "attempts": 0, "budget_percent": 0, "on_status": false },
    }))
    .expect("this is a group");
    let plan = StickyPlan { cookie: "s".to_owned(), max_age_secs: 0 };
    Sticky::new(&plan, &group, "a secret that no fuzzer finds out").expect("the name is a token")
});

fuzz_target!(|fields: Vec<Vec<u8>>| {
    let mut sent = HeaderMap::new();
    for field in fields.iter().take(100) {
        if let Ok(value) = HeaderValue::from_bytes(field) {
            sent.append(COOKIE, value);
        }
    }
    for value in values(&sent, STICKY.name()) {
        let is_part = |field: &Vec<u8>| value.is_empty() || field.windows(value.len()).any(|part| part == value);
        assert!(fields.iter().any(is_part));
        assert_eq!(STICKY.read(value), None);
    }
    assert_eq!(STICKY.upstream(&sent), None);
    for field in &fields {
        assert_eq!(STICKY.read(field), None);
    }
});
