//! A proxy made of the engine's two halves: interim responses, expectations, trailers and `WebSocket`s pass through it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;

use crate::support::{PATIENCE, Running, Wire, websocket_accept};
use ::h2::ext::Protocol as Asked;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use mainstay_http::metrics::{EngineMetrics, Registry};
use mainstay_http::pool::{Pool, PoolSettings, Protocol, Upstream};
use mainstay_http::{Listener, Request, Response, Server, Service, Settings, Shutdown};

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shutdown: Shutdown,
    server: Option<Server>,
}

struct Forward {
    pool: Pool,
    upstream: Upstream,
}

impl Service for Forward {
    async fn call(self: Rc<Self>, request: Request) -> Response {
        self.pool.send(&self.upstream, request).await.unwrap_or_else(|error| {
            let mut response = Response::default();
            *response.status_mut() = error.status();
            response
        })
    }
}

impl Proxy {
    pub(crate) fn to(upstream: SocketAddr, protocol: Protocol) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let metrics = EngineMetrics::new(&Registry::default());
        let service = move |_| Forward {
            pool: Pool::new(PoolSettings { protocol, ..PoolSettings::default() }),
            upstream: Upstream::Tcp(upstream),
        };
        let listeners = vec![vec![Listener::Tcp(listener)]];
        let server = Server::start(listeners, &Settings::default(), &metrics, &shutdown, service).unwrap();
        Self { address, shutdown, server: Some(server) }
    }

    fn connect(&self) -> Wire {
        Wire::to(self.address)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shutdown.end();
        self.server.take().unwrap().join().unwrap();
    }
}

fn run<F: Future<Output = ()>>(story: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, story).await.expect("in time") });
}

async fn h2_client(address: SocketAddr) -> ::h2::client::SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (client, connection) = ::h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client.ready().await.unwrap()
}

/// An upstream that answers one connection: it reads a head, says `early`, reads a body of `body` bytes, and says `late`.
fn upstream(early: &'static str, body: usize, late: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
            head.push(byte[0]);
        }
        if body > 0 {
            assert!(String::from_utf8_lossy(&head).contains("expect: 100-continue\r\n"));
        }
        stream.write_all(early.as_bytes()).unwrap();
        let mut received = vec![0; body];
        if !late.is_empty() && stream.read_exact(&mut received).is_ok() {
            assert!(received.iter().all(|byte| *byte == b'x'));
            stream.write_all(late.as_bytes()).unwrap();
        }
        let _ = stream.read(&mut byte);
    });
    address
}

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\n\r\n";
const DONE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";

#[test]
fn early_hints_reach_clients_that_know_them() {
    let hinting = || upstream(Box::leak([HINTS, HINTS, DONE].concat().into_boxed_str()), 0, "");
    let proxy = Proxy::to(hinting(), Protocol::Http1);
    let mut wire = proxy.connect();
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    for _ in 0..2 {
        assert_eq!(wire.until("\r\n\r\n"), "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
    }
    assert_eq!(wire.answer().text(), "done");

    let proxy = Proxy::to(hinting(), Protocol::Http1);
    let mut wire = proxy.connect();
    wire.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(wire.answer().status, 200);

    let proxy = Proxy::to(hinting(), Protocol::Http1);
    run(async {
        let mut client = h2_client(proxy.address).await;
        let (mut response, _) =
            client.send_request(http::Request::get("http://a/").body(()).unwrap(), true).unwrap();
        let hint = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(
            (hint.status(), &hint.headers()["link"]),
            (StatusCode::EARLY_HINTS, &"</a.css>".parse().unwrap())
        );
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

const EXPECTING: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";

#[test]
fn an_upstreams_100_lets_the_client_go_on_once() {
    let proxy = Proxy::to(upstream("HTTP/1.1 100 Continue\r\n\r\n", 3, DONE), Protocol::Http1);
    let mut wire = proxy.connect();
    wire.send(EXPECTING);
    assert_eq!(wire.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    wire.send("xxx");
    assert_eq!(wire.answer().text(), "done");
}

#[test]
fn an_upstream_that_refuses_never_sees_the_body() {
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
    let proxy = Proxy::to(upstream(refusal, 3, ""), Protocol::Http1);
    let mut wire = proxy.connect();
    wire.send(EXPECTING);
    assert_eq!(wire.answer().status, 403);
    // What follows can be a body or a request: no one can tell, so the connection ends.
    assert!(wire.is_closed());
}

#[test]
fn an_upstream_that_says_nothing_gets_the_body_in_the_end() {
    let proxy = Proxy::to(upstream("", 3, DONE), Protocol::Http1);
    let mut wire = proxy.connect();
    wire.send(EXPECTING);
    assert_eq!(wire.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    wire.send("xxx");
    assert_eq!(wire.answer().text(), "done");
}

#[test]
fn trailers_pass_through_both_ways() {
    let server = Running::new();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let proxy = Proxy::to(server.address, protocol);
        let mut wire = proxy.connect();
        wire.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: te\r\n\r\n");
        wire.send("3\r\nabc\r\n0\r\nX-Sum: 3\r\nSet-Cookie: a=b\r\nAuthorization: x\r\n\r\n");
        let text = wire.until("0\r\nx-sum: 3\r\n\r\n");
        assert!(text.contains("3\r\nabc\r\n"), "{text}");
        run(async {
            let mut client = h2_client(proxy.address).await;
            let request = http::Request::post("http://a/echo").header("te", "trailers").body(()).unwrap();
            let (response, mut stream) = client.send_request(request, false).unwrap();
            stream.send_data(Bytes::from_static(b"abc"), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            trailers.insert("host", HeaderValue::from_static("b"));
            stream.send_trailers(trailers).unwrap();
            let mut body = response.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "abc");
            let trailers = body.trailers().await.unwrap().unwrap();
            assert_eq!((trailers.len(), &trailers["grpc-status"]), (1, &"0".parse().unwrap()));
        });
    }
}

#[test]
fn a_websocket_over_h2_reaches_upstreams_of_both_kinds() {
    let server = Running::new();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let proxy = Proxy::to(server.address, protocol);
        run(async {
            let mut client = h2_client(proxy.address).await;
            while !client.is_extended_connect_protocol_enabled() {
                tokio::task::yield_now().await;
            }
            let request = http::Request::builder()
                .method(Method::CONNECT)
                .uri("http://a/upgrade")
                .extension(Asked::from_static("websocket"))
                .header("sec-websocket-version", "13")
                .body(())
                .unwrap();
            let (response, mut stream) = client.send_request(request, false).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            for name in ["upgrade", "connection", "sec-websocket-accept", "content-length"] {
                assert!(!response.headers().contains_key(name), "{name}");
            }
            let mut body = response.into_body();
            for _ in 0..3 {
                stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
                let piece = body.data().await.unwrap().unwrap();
                body.flow_control().release_capacity(piece.len()).unwrap();
                assert_eq!(piece, "HELLO");
            }
            stream.send_data(Bytes::new(), true).unwrap();
            assert!(body.data().await.is_none_or(|piece| piece.is_ok_and(|piece| piece.is_empty())));
            // A tunnel to anywhere is no WebSocket.
            for request in [
                http::Request::connect("a:80").body(()).unwrap(),
                http::Request::builder()
                    .method(Method::CONNECT)
                    .uri("http://a/upgrade")
                    .extension(Asked::from_static("connect-udp"))
                    .body(())
                    .unwrap(),
            ] {
                let (response, _stream) = client.send_request(request, false).unwrap();
                assert_eq!(response.await.unwrap().status(), 501);
            }
        });
    }
}

#[test]
fn a_websocket_over_http_1_reaches_upstreams_of_both_kinds() {
    let server = Running::new();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let proxy = Proxy::to(server.address, protocol);
        let mut wire = proxy.connect();
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        wire.send(format!(
            "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        ));
        let head = wire.until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let accept = websocket_accept(&key.parse().unwrap());
        assert!(head.contains(&format!("sec-websocket-accept: {}\r\n", accept.to_str().unwrap())), "{head}");
        wire.send("hello");
        assert_eq!(wire.take(5), b"HELLO");
    }
}
