//! The connection pool against upstreams that behave well, badly, and not at all.

use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{FILE_BYTES, Running, collect};
use bytes::Bytes;
use http::{HeaderMap, Method, Version};
use mainstay_http::pool::{ClientError, Pool, PoolSettings, Upstream};
use mainstay_http::{Body, BodyError, BodyStream, Interim, Request, UpgradeRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::LocalOptions;

pub(crate) fn run<F: Future<Output = ()>>(story: F) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime
        .unwrap()
        .block_on(async { tokio::time::timeout(crate::support::PATIENCE, story).await.expect("in time") });
}

fn request(method: Method, path: &str, body: Body) -> Request {
    Request {
        method,
        uri: path.parse().unwrap(),
        version: Version::HTTP_11,
        headers: HeaderMap::new(),
        body,
        peer: None,
        local: None,
        tls: None,
        host: Some("a".into()),
        upgrade: None,
        interim: Interim::default(),
    }
}

pub(crate) fn get(path: &str) -> Request {
    request(Method::GET, path, Body::Empty)
}

/// Few connections, and more time than a busy machine takes.
fn narrow() -> PoolSettings {
    PoolSettings { connections: 2, waiting: 1, ..PoolSettings::default() }
}

/// Gives up after a second.
fn hasty() -> PoolSettings {
    let short = Duration::from_secs(1);
    PoolSettings { wait: short, first_byte: short, between_bytes: short, ..narrow() }
}

/// An upstream that plays one script per connection: it reads a head, then writes these bytes, and goes on for each
/// `|`; at the end it closes.
fn scripted(scripts: &'static [&'static str]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    std::thread::spawn(move || {
        for script in scripts {
            let Ok((mut stream, _)) = listener.accept() else { return };
            count.fetch_add(1, Ordering::SeqCst);
            for part in script.split('|') {
                if !read_head(&mut stream) || stream.write_all(part.as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    (address, connections)
}

fn read_head(stream: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => seen.push(byte[0]),
            _ => return false,
        }
    }
    true
}

struct Pieces(Vec<&'static str>);

impl BodyStream for Pieces {
    fn poll_data(
        &mut self,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Bytes, BodyError>>> {
        let piece = if self.0.is_empty() { None } else { Some(self.0.remove(0)) };
        std::task::Poll::Ready(piece.map(|piece| Ok(Bytes::from_static(piece.as_bytes()))))
    }
}

#[test]
fn one_connection_carries_request_after_request() {
    let server = Running::new();
    let upstream = Upstream::Tcp(server.address);
    run(async {
        let pool = Pool::new(PoolSettings::default());
        for path in ["/a", "/stream", "/file", "/empty", "/small-file", "/b"] {
            let response = pool.send(&upstream, get(path)).await.unwrap();
            let body = collect(response.into_body()).await.unwrap();
            match path {
                "/file" => assert_eq!(body.len(), FILE_BYTES),
                "/stream" => assert_eq!(body, b"a2a1a0"),
                "/empty" => assert_eq!(body, b""),
                "/small-file" => assert_eq!(body.len(), 1000),
                _ => assert_eq!(body, format!("GET {path}").as_bytes()),
            }
        }
        let body = Body::Full(Bytes::from(vec![b'x'; 1 << 20]));
        let response = pool.send(&upstream, request(Method::POST, "/echo", body)).await.unwrap();
        assert_eq!(collect(response.into_body()).await.unwrap().len(), 1 << 20);
        let body = Body::Stream(Box::new(Pieces(vec!["one ", "two"])));
        let response = pool.send(&upstream, request(Method::POST, "/echo", body)).await.unwrap();
        assert_eq!(collect(response.into_body()).await.unwrap(), b"one two");
        assert_eq!(server.metric("http_connections_accepted_total "), "1");
    });
}

#[test]
fn a_connection_with_an_unread_response_is_not_used_again() {
    let server = Running::new();
    let upstream = Upstream::Tcp(server.address);
    run(async {
        let pool = Pool::new(PoolSettings::default());
        drop(pool.send(&upstream, get("/file")).await.unwrap());
        let response = pool.send(&upstream, get("/b")).await.unwrap();
        assert_eq!(collect(response.into_body()).await.unwrap(), b"GET /b");
        assert_eq!(server.metric("http_connections_accepted_total "), "2");
    });
}

#[test]
fn what_is_no_clean_response_is_never_passed_on_or_kept() {
    for script in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "SSH-2.0-x\r\n\r\n",
    ] {
        let scripts: &'static [&'static str] = Box::leak(Box::new([script]));
        let (address, _) = scripted(scripts);
        run(async move {
            let error = Pool::new(narrow()).send(&Upstream::Tcp(address), get("/")).await.err();
            let error = error.unwrap_or_else(|| panic!("accepted {script:?}"));
            assert!(matches!(error, ClientError::Malformed(_)), "{script:?}: {error}");
            assert_eq!(error.status(), 502);
        });
    }
}

#[test]
fn a_flood_of_interim_responses_is_refused_and_a_few_are_skipped() {
    let few = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
    let flood = "HTTP/1.1 100 Continue\r\n\r\n".repeat(100);
    let scripts: &'static [&'static str] = Box::leak(Box::new([few, Box::leak(flood.into_boxed_str())]));
    let (address, _) = scripted(scripts);
    run(async move {
        let upstream = Upstream::Tcp(address);
        assert_eq!(Pool::new(narrow()).send(&upstream, get("/")).await.unwrap().status(), 204);
        let flooded = Pool::new(narrow()).send(&upstream, get("/")).await.err();
        assert!(matches!(flooded, Some(ClientError::Malformed(_))));
    });
}

#[test]
fn a_body_that_breaks_off_is_an_error_and_not_an_end() {
    let (address, _) = scripted(&[
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
        "HTTP/1.1 200 OK\r\n\r\nabc",
    ]);
    run(async move {
        let (upstream, pool) = (Upstream::Tcp(address), Pool::new(narrow()));
        for _ in 0..3 {
            let response = pool.send(&upstream, get("/")).await.unwrap();
            assert!(collect(response.into_body()).await.is_err());
        }
        let response = pool.send(&upstream, get("/")).await.unwrap();
        assert_eq!(collect(response.into_body()).await.unwrap(), b"abc");
    });
}

#[test]
fn bytes_after_a_response_spoil_the_connection() {
    let (address, connections) = scripted(&[
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil|",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb|",
    ]);
    run(async move {
        let (upstream, pool) = (Upstream::Tcp(address), Pool::new(narrow()));
        for expected in [b"a", b"b"] {
            let response = pool.send(&upstream, get("/")).await.unwrap();
            assert_eq!(collect(response.into_body()).await.unwrap(), expected);
        }
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    });
}

/// The upstream reads the second request and closes without an answer: it may have worked on it.
const STALE: &[&str] =
    &["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na|", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb"];

#[test]
fn a_stale_connection_is_retried_once_for_idempotent_requests() {
    let (address, connections) = scripted(STALE);
    run(async move {
        let (upstream, pool) = (Upstream::Tcp(address), Pool::new(narrow()));
        pool.send(&upstream, get("/")).await.unwrap();
        let response = pool.send(&upstream, get("/")).await.unwrap();
        assert_eq!(collect(response.into_body()).await.unwrap(), b"b");
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn what_may_have_been_worked_on_is_not_sent_again() {
    for streamed in [false, true] {
        let (address, connections) = scripted(STALE);
        run(async move {
            let (upstream, pool) = (Upstream::Tcp(address), Pool::new(narrow()));
            pool.send(&upstream, get("/")).await.unwrap();
            let second = if streamed {
                request(Method::PUT, "/", Body::Stream(Box::new(Pieces(vec!["x"]))))
            } else {
                request(Method::POST, "/", Body::Full(Bytes::from_static(b"x")))
            };
            let error = pool.send(&upstream, second).await.err();
            assert!(matches!(error, Some(ClientError::Closed { .. })), "{error:?}");
            assert_eq!(connections.load(Ordering::SeqCst), 1);
        });
    }
}

#[test]
fn waits_are_bounded() {
    let server = Running::new();
    let upstream = Upstream::Tcp(server.address);
    run(async {
        let pool = Pool::new(hasty());
        let never = pool.send(&upstream, get("/never")).await.err();
        assert!(matches!(never, Some(ClientError::TimedOut { .. })), "{never:?}");
        let _first = pool.send(&upstream, get("/endless")).await.unwrap();
        let _second = pool.send(&upstream, get("/endless")).await.unwrap();
        let (third, fourth) = tokio::join!(pool.send(&upstream, get("/")), pool.send(&upstream, get("/")));
        assert!(matches!(third.err(), Some(ClientError::WaitTimedOut(_))));
        assert!(matches!(fourth.err(), Some(ClientError::Busy)));
    });
    run(async {
        let nowhere = Upstream::Unix("/nonexistent/app.sock".into());
        let error = Pool::new(hasty()).send(&nowhere, get("/")).await.err();
        assert!(matches!(error, Some(ClientError::Connect(_))));
    });
}

#[test]
fn a_silent_body_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = Upstream::Tcp(listener.local_addr().unwrap());
    let holding = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").unwrap();
        // Held open until the pool gives up.
        let _ = stream.read(&mut [0]);
    });
    run(async {
        let response = Pool::new(hasty()).send(&upstream, get("/")).await.unwrap();
        let ended = collect(response.into_body()).await;
        assert!(matches!(ended, Err(BodyError::TimedOut { .. })));
    });
    holding.join().unwrap();
}

/// A kept connection keeps its timer, which runs out while nothing is asked.
#[test]
fn a_kept_connection_gives_each_request_its_whole_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = Upstream::Tcp(listener.local_addr().unwrap());
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for _ in 0..2 {
            read_head(&mut stream);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").unwrap();
        }
        // The third request gets no answer, on the same connection.
        read_head(&mut stream);
        let _ = stream.read(&mut [0]);
    });
    run(async {
        let pool = Pool::new(hasty());
        for _ in 0..2 {
            let response = pool.send(&upstream, get("/")).await.unwrap();
            assert_eq!(collect(response.into_body()).await.unwrap(), b"abc");
        }
        // Nothing tells that a timer has run out which nobody waits for: only time does.
        tokio::time::sleep(hasty().first_byte + Duration::from_millis(10)).await;
        let asked = std::time::Instant::now();
        let never = pool.send(&upstream, get("/")).await.err();
        assert!(matches!(never, Some(ClientError::TimedOut { .. })), "{never:?}");
        assert!(asked.elapsed() >= hasty().first_byte);
    });
    answering.join().unwrap();
}

#[test]
fn a_request_to_an_upstream_is_a_small_future() {
    let pool = Pool::new(PoolSettings::default());
    let upstream = Upstream::Tcp(SocketAddr::from(([127, 0, 0, 1], 1)));
    let sending = pool.send(&upstream, get("/"));
    let bytes = size_of_val(&sending);
    assert!(bytes <= 2048, "{bytes}");
}

#[test]
fn an_upgrade_joins_the_two_streams() {
    let server = Running::new();
    let upstream = Upstream::Tcp(server.address);
    run(async {
        let mut asking = get("/upgrade");
        asking.upgrade = Some(UpgradeRequest { protocol: "websocket".into() });
        let response = Pool::new(narrow()).send(&upstream, asking).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["upgrade"]),
            (101, &"websocket".parse().unwrap())
        );
        let Body::Upgrade(task) = response.into_body() else { panic!("no upgrade") };
        let (mut client, inside) = tokio::io::duplex(64);
        let splicing = tokio::task::spawn_local(task(Box::new(inside)));
        client.write_all(b"hello").await.unwrap();
        let mut shouted = [0; 5];
        client.read_exact(&mut shouted).await.unwrap();
        assert_eq!(&shouted, b"HELLO");
        drop(client);
        splicing.await.unwrap();
    });
}

#[test]
fn a_whole_proxy_never_mixes_answers_up() {
    let server = Running::new();
    let upstream = Upstream::Tcp(server.address);
    run(async {
        let pool = Pool::new(PoolSettings { connections: 4, ..PoolSettings::default() });
        let tasks: Vec<_> = (0..200_u32)
            .map(|number| {
                let (pool, upstream) = (pool.clone(), upstream.clone());
                tokio::task::spawn_local(async move {
                    let response = pool.send(&upstream, get(&format!("/{number}"))).await.unwrap();
                    if number % 3 == 0 {
                        return;
                    }
                    let mut body = response.into_body();
                    if let Body::Stream(stream) = &mut body {
                        poll_fn(|cx| stream.poll_data(cx)).await;
                    }
                    let body = collect(body).await.unwrap();
                    assert_eq!(body, format!("GET /{number}").into_bytes());
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}
