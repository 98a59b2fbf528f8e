//! One client takes only its share of connections.

use mainstay_http::networks::Networks;
use mainstay_http::proxy_protocol::{Addresses, Version, header};
use mainstay_http::{ListenerOptions, Settings};

use super::support::{Running, eventually};

fn settings(most: u32) -> Settings {
    let mut settings = Settings::default();
    settings.limits.connections_per_client = most;
    settings
}

#[test]
fn a_client_with_as_many_connections_as_it_may_waits_for_one_to_end() {
    let server = Running::with(&settings(2));
    let (mut one, mut two) = (server.connect(), server.connect());
    assert_eq!((one.get("/").status, two.get("/").status), (200, 200));
    assert!(server.connect().is_closed());
    assert_eq!(server.metric("http_client_connections_refused_total"), "1");
    assert_eq!(two.get("/").status, 200, "the others are not touched");
    drop(one);
    eventually("its place is free", || {
        let mut wire = server.connect();
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        wire.try_take(1).is_some()
    });
}

#[test]
fn the_usual_limit_leaves_room_for_benches() {
    let server = Running::with(&settings(1000));
    let mut wires: Vec<_> = (0..256).map(|_| server.connect()).collect();
    assert!(wires.iter_mut().all(|wire| wire.get("/").status == 200));
    assert_eq!(server.metric("http_client_connections_refused_total"), "0");
}

#[test]
fn proxies_are_not_counted() {
    let mut settings = settings(1);
    settings.limits.many_connections = Networks::parse(&["127.0.0.0/8".to_owned()]).unwrap();
    let server = Running::with(&settings);
    let mut wires: Vec<_> = (0..5).map(|_| server.connect()).collect();
    assert!(wires.iter_mut().all(|wire| wire.get("/").status == 200));
}

#[test]
fn behind_a_proxy_header_the_client_that_it_names_counts() {
    let trusted = Networks::parse(&["127.0.0.0/8".to_owned()]).unwrap();
    let options = ListenerOptions { tls: None, proxy_protocol: Some(trusted) };
    let server = Running::with_options(&settings(1), options);
    let from = |client: &str| {
        let (source, destination) = (client.parse().unwrap(), "198.51.100.1:80".parse().unwrap());
        let mut wire = server.connect();
        wire.send(header(Version::V1, Some(Addresses { source, destination })));
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        wire
    };
    let (mut one, mut other) = (from("192.0.2.1:1"), from("192.0.2.2:1"));
    assert_eq!((one.answer().status, other.answer().status), (200, 200));
    assert!(from("192.0.2.1:2").is_closed());
    assert_eq!(server.metric("http_client_connections_refused_total"), "1");
}
