//! Connections that left HTTP, when the server drains.

use std::time::Duration;

use mainstay_http::Settings;

use super::support::{Running, Wire, eventually};

const UPGRADE: &str = "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

fn draining(http: Duration, tunnels: Duration) -> (Running, Wire, Wire) {
    let mut settings = Settings::default();
    settings.timeouts.drain = http;
    settings.timeouts.drain_tunnels = Some(tunnels);
    let server = Running::with(&settings);
    let mut tunnel = server.connect();
    tunnel.send(UPGRADE);
    tunnel.until("\r\n\r\n");
    let mut request = server.connect();
    request.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("both are there", || server.metric("http_engine_requests_total") == "2");
    server.shutdown.drain();
    (server, tunnel, request)
}

#[test]
fn a_tunnel_outlives_requests_and_nothing_waits_once_it_ends() {
    let (mut server, mut tunnel, mut request) = draining(Duration::from_millis(200), Duration::from_hours(1));
    assert!(request.is_closed(), "its time is over");
    tunnel.send("still");
    assert_eq!(tunnel.take(5), b"STILL");
    drop(tunnel);
    server.join();
}

#[test]
fn a_tunnel_has_an_end_and_requests_are_not_cut_with_it() {
    let (server, mut tunnel, request) = draining(Duration::from_hours(1), Duration::from_millis(200));
    assert!(tunnel.is_closed());
    eventually("the request alone is left", || server.metric("http_connections_open") == "1");
    drop(request);
}
