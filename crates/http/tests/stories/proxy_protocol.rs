//! PROXY headers on the way in and out.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use mainstay_http::networks::Networks;
use mainstay_http::pool::{ConnectOptions, Pool, PoolSettings, Upstream};
use mainstay_http::proxy_protocol::{Addresses, Version, header};
use mainstay_http::tls::{ServerOptions, ServerTls};
use mainstay_http::{ListenerOptions, Settings};

use super::authority::Authority;
use super::pool::{get, run};
use super::support::{Running, collect, eventually};

fn trusting(network: &str) -> ListenerOptions {
    let trusted = Networks::parse(&[network.to_owned()]).unwrap();
    ListenerOptions { tls: None, proxy_protocol: Some(trusted) }
}

fn client() -> Addresses {
    Addresses { source: "192.0.2.7:4711".parse().unwrap(), destination: "198.51.100.1:443".parse().unwrap() }
}

const REQUEST: &[u8] = b"GET /peer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn the_client_is_whom_a_trusted_proxy_names() {
    let server = Running::with_options(&Settings::default(), trusting("127.0.0.0/8"));
    for version in [Version::V1, Version::V2] {
        let answer = server.exchange([&header(version, Some(client())), REQUEST].concat());
        assert!(answer.ends_with("Some(192.0.2.7:4711) Some(198.51.100.1:443)"), "{answer}");
        let answer = server.exchange([&header(version, None), REQUEST].concat());
        assert!(answer.contains("Some(127.0.0.1:"), "{answer}");
    }
}

#[test]
fn a_header_in_segments_of_one_byte_is_understood() {
    let server = Running::with_options(&Settings::default(), trusting("127.0.0.0/8"));
    for version in [Version::V1, Version::V2] {
        let mut wire = server.connect();
        wire.stream.set_nodelay(true).unwrap();
        for byte in [&header(version, Some(client())), REQUEST].concat() {
            wire.send([byte]);
        }
        let answer = wire.rest();
        assert!(answer.contains("192.0.2.7"), "{answer}");
    }
}

#[test]
fn who_is_not_trusted_or_sends_no_header_is_closed_and_counted() {
    let server = Running::with_options(&Settings::default(), trusting("10.0.0.0/8"));
    assert_eq!(server.exchange([&header(Version::V1, Some(client())), REQUEST].concat()), "");
    let count = |server: &Running, reason: &str| {
        server.metric(&format!("http_protocol_errors_total{{reason=\"{reason}\"}}"))
    };
    assert_eq!(count(&server, "PROXY header from untrusted network"), "1");
    let server = Running::with_options(&Settings::default(), trusting("127.0.0.0/8"));
    assert_eq!(server.exchange(REQUEST), "");
    assert_eq!(server.exchange("PROXY TCP4 x y z\r\n"), "");
    let mut half = server.connect();
    half.send("PROXY TCP4");
    half.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(half.rest(), "");
    eventually("all are counted", || {
        count(&server, "no PROXY header") == "1"
            && count(&server, "malformed PROXY header") == "1"
            && count(&server, "connection broke in PROXY header") == "1"
    });
}

#[test]
fn a_slow_header_is_cut_off_by_its_deadline() {
    let mut settings = Settings::default();
    settings.timeouts.handshake = Duration::from_millis(200);
    let server = Running::with_options(&settings, trusting("127.0.0.0/8"));
    let mut wire = server.connect();
    wire.send("PROXY ");
    assert_eq!(wire.rest(), "");
}

#[test]
fn a_header_comes_before_tls() {
    let authority = Authority::new("a");
    let tls = ServerTls::new(&[authority.issue(&["a.test"])], ServerOptions::default()).unwrap();
    let options = ListenerOptions { tls: Some(tls), ..trusting("127.0.0.0/8") };
    let server = Running::with_options(&Settings::default(), options);
    let mut socket = std::net::TcpStream::connect(server.address).unwrap();
    socket.write_all(&header(Version::V2, Some(client()))).unwrap();
    let config = std::sync::Arc::new(super::tls::Client::of(&authority).config);
    let name = rustls::pki_types::ServerName::try_from("a.test").unwrap();
    let mut stream = rustls::StreamOwned::new(rustls::ClientConnection::new(config, name).unwrap(), socket);
    stream.write_all(REQUEST).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("192.0.2.7:4711"), "{answer}");
}

#[test]
fn a_connection_that_names_a_client_is_never_given_to_another() {
    let server = Running::with_options(&Settings::default(), trusting("127.0.0.0/8"));
    let upstream = Upstream::Tcp(server.address);
    run(async {
        for version in [Version::V1, Version::V2] {
            let options = ConnectOptions { tls: None, proxy_protocol: Some(version) };
            let pool = Pool::new(PoolSettings { options, ..PoolSettings::default() });
            for client in ["192.0.2.1:1", "192.0.2.2:2", "[2001:db8::3]:3"] {
                let mut request = get("/peer");
                request.peer = Some(client.parse().unwrap());
                let answer = collect(pool.send(&upstream, request).await.unwrap().into_body()).await.unwrap();
                let answer = String::from_utf8(answer).unwrap();
                assert!(answer.starts_with(&format!("Some({client})")), "{answer}");
            }
        }
    });
    assert_eq!(server.metric("http_connections_accepted_total"), "6");
}
