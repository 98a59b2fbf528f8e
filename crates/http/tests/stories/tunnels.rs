//! Connections that left HTTP, when the server drains.

use std::time::Duration;

use ::h2::Reason;
use ::h2::ext::Protocol;
use bytes::Bytes;
use http::{Method, Request};
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

#[test]
fn requests_beside_a_tunnel_on_one_connection_have_no_more_time_than_others() {
    let mut settings = Settings::default();
    settings.timeouts.drain = Duration::from_millis(300);
    settings.timeouts.drain_tunnels = Some(Duration::from_hours(1));
    let mut server = Running::with(&settings);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let story = async {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let (client, mut connection) = ::h2::client::handshake(stream).await.unwrap();
        let mut pings = connection.ping_pong().unwrap();
        let driven = tokio::spawn(async move {
            // Its end is part of the story that the other half tells.
            let _ = connection.await;
        });
        // Extended CONNECT may be sent once the server's settings are known.
        pings.ping(::h2::Ping::opaque()).await.unwrap();
        let mut client = client.ready().await.unwrap();
        let mut connect =
            Request::builder().method(Method::CONNECT).uri("http://a/upgrade").body(()).unwrap();
        connect.extensions_mut().insert(Protocol::from_static("websocket"));
        let (response, mut tunnel) = client.send_request(connect, false).unwrap();
        let mut echoes = response.await.unwrap().into_body();
        let get = |path: &str| Request::get(format!("http://a{path}")).body(()).unwrap();
        let mut client = client.ready().await.unwrap();
        let (waiting, _) = client.send_request(get("/never"), true).unwrap();
        let (endless, _) = client.send_request(get("/endless"), true).unwrap();
        let mut endless = endless.await.unwrap().into_body();
        server.shutdown.drain();
        // Both are cut off, each alone.
        assert_eq!(waiting.await.unwrap_err().reason(), Some(Reason::CANCEL));
        let broken = loop {
            match endless.data().await {
                Some(Ok(piece)) => endless.flow_control().release_capacity(piece.len()).unwrap(),
                Some(Err(error)) => break error,
                None => panic!("it has no end"),
            }
        };
        assert_eq!(broken.reason(), Some(Reason::CANCEL));
        // The tunnel goes on, and no new request begins beside it.
        tunnel.send_data(Bytes::from_static(b"still"), false).unwrap();
        assert_eq!(echoes.data().await.unwrap().unwrap(), "STILL");
        let refused = match client.ready().await {
            Ok(mut client) => match client.send_request(get("/"), true) {
                Ok((response, _)) => response.await.is_err(),
                Err(_) => true,
            },
            Err(_) => true,
        };
        assert!(refused, "GOAWAY came first");
        tunnel.send_data(Bytes::new(), true).unwrap();
        while echoes.data().await.is_some() {}
        driven.await.unwrap();
    };
    runtime.block_on(async { tokio::time::timeout(super::support::PATIENCE, story).await.expect("in time") });
    server.join();
}
