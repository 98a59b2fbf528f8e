//! TLS: passed on by name, ended here, and begun here.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use mainstay_edge::tcp::{Service, Tls};
use mainstay_http::tls::{ClientOptions, ClientTls, Protocols, ServerOptions, ServerTls};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::authority::Authority;
use super::support::*;

fn ending(authority: &Authority, names: &[&str]) -> Tls {
    let options = ServerOptions { protocols: Vec::new(), ..ServerOptions::default() };
    Tls::Terminate(ServerTls::new(&[authority.issue(names)], options).unwrap())
}

type Connected = rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream>;

fn client(authority: &Authority, server: &Running, name: &str) -> Connected {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    rustls::StreamOwned::new(connection, server.connect())
}

#[test]
fn tls_is_passed_on_by_the_name_in_its_hello_and_stays_whole() {
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let (echo_one, echo_two) = (Actor::echo("1"), Actor::echo("2"));
    // Two servers that end TLS, each with a certificate of its own, behind one that passes it on.
    let server_one = Running::new(
        Service { tls: ending(&one, &["one.test"]), ..service() },
        vec![group("all", &[echo_one.address])],
    );
    let server_two = Running::new(
        Service { tls: ending(&two, &["a.two.test"]), ..service() },
        vec![group("all", &[echo_two.address])],
    );
    let passing = Service {
        tls: Tls::Passthrough,
        by_name: vec![(pattern("one.test"), "one".into()), (pattern("*.two.test"), "two".into())],
        group: None,
        ..service()
    };
    let groups = vec![group("one", &[server_one.address]), group("two", &[server_two.address])];
    let server = Running::new(passing, groups);
    for (authority, name, tag) in
        [(&one, "one.test", "1"), (&two, "a.two.test", "2"), (&one, "ONE.test", "1")]
    {
        let mut stream = client(authority, &server, name);
        stream.write_all(b"hello").unwrap();
        assert_eq!(take(&mut stream, 6), format!("{tag}hello"));
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        assert_eq!(rest(&mut stream), "", "the end is told by TLS");
    }
    assert!(client(&one, &server, "other.test").write_all(b"x").is_err());
    eventually("counted", || server.errors("no group for name") == 1);
}

#[test]
fn a_hello_in_segments_of_one_byte_is_passed_on() {
    let authority = Authority::new("a");
    let echo = Actor::echo("");
    let back = Running::new(
        Service { tls: ending(&authority, &["a.test"]), ..service() },
        vec![group("all", &[echo.address])],
    );
    let passing = Service {
        tls: Tls::Passthrough,
        by_name: vec![(pattern("a.test"), "all".into())],
        group: None,
        ..service()
    };
    let server = Running::new(passing, vec![group("all", &[back.address])]);
    let mut stream = client(&authority, &server, "a.test");
    let mut hello = Vec::new();
    stream.conn.write_tls(&mut hello).unwrap();
    for byte in hello {
        stream.sock.write_all(&[byte]).unwrap();
    }
    stream.write_all(b"whole").unwrap();
    assert_eq!(take(&mut stream, 5), "whole");
}

#[test]
fn what_is_no_hello_or_comes_too_slowly_is_closed() {
    let echo = Actor::echo("x");
    let passing = Service { tls: Tls::Passthrough, handshake: Duration::from_millis(300), ..service() };
    let server = Running::new(passing, vec![group("all", &[echo.address])]);
    let (mut plain, mut slow, mut early) = (server.connect(), server.connect(), server.connect());
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    slow.write_all(&[22, 3, 1, 2]).unwrap();
    early.write_all(&[22, 3]).unwrap();
    early.shutdown(std::net::Shutdown::Write).unwrap();
    for stream in [&mut plain, &mut slow, &mut early] {
        assert!(stream.read(&mut [0]).map_or(true, |count| count == 0));
    }
    eventually("all are counted", || {
        ["no TLS", "client slow at start", "client left early"]
            .iter()
            .all(|reason| server.errors(reason) == 1)
    });
    assert_eq!(echo.count(), 0);
}

#[test]
fn tls_ends_here_and_each_side_may_be_done_first() {
    let authority = Authority::new("a");
    let after = Actor::new(|mut stream| {
        let all = rest(&mut stream);
        stream.write_all(format!("got {all}").as_bytes()).unwrap();
    });
    let server = Running::new(
        Service {
            tls: ending(&authority, &["a.test", "b.test"]),
            by_name: vec![(pattern("b.test"), "nobody".into())],
            ..service()
        },
        vec![group("all", &[after.address]), group("nobody", &[nobody()])],
    );
    let mut stream = client(&authority, &server, "a.test");
    stream.write_all(b"secret").unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    assert_eq!(rest(&mut stream), "got secret");
    // The name leads to another group, which has no one.
    let mut stream = client(&authority, &server, "b.test");
    let _ = stream.write_all(b"x");
    assert!(stream.read(&mut [0]).is_err(), "TLS without its last message");
    eventually("counted", || server.errors("no upstream") == 1);
    let handshakes = server.registry.render();
    assert!(handshakes.contains("http_tls_handshakes_total{version=\"TLSv1.3\",resumed=\"no\"} 2"));
}

#[test]
fn tls_begins_here_and_an_upstream_that_is_not_verified_is_passed_by() {
    let (authority, other) = (Authority::new("a"), Authority::new("other"));
    let echo = Actor::echo("");
    let back = |authority: &Authority| {
        let tls = ending(authority, &["db.test"]);
        Running::new(Service { tls, ..service() }, vec![group("all", &[echo.address])])
    };
    let (false_one, true_one) = (back(&other), back(&authority));
    let tls = ClientTls::new(&ClientOptions {
        server_name: Some("db.test".into()),
        authorities: Some(authority.ca()),
        protocols: Protocols::None,
        ..ClientOptions::default()
    });
    let groups = vec![(group("all", &[false_one.address, true_one.address]), Some(tls.unwrap()))];
    let server = Running::with(service(), groups, PATIENCE, |_| true);
    for _ in 0..3 {
        let mut stream = server.connect();
        let bytes = vec![b'x'; 300_000];
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(rest(&mut stream).len(), bytes.len());
    }
    assert!(
        server.metric("upstream_connects_total{service=\"story\",upstream=\"all-0\",result=\"failed\"}") > 0
    );
    assert_eq!(
        server.metric("upstream_connects_total{service=\"story\",upstream=\"all-1\",result=\"ok\"}"),
        3
    );
}
