//! The pool as a client of upstreams that speak h2: real servers, and ones that say exactly what a story needs.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{FILE_BYTES, Running, collect, file_byte};
use ::h2::server::SendResponse;
use ::h2::{Reason, RecvStream};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use mainstay_http::pool::{ClientError, Hold, Pool, PoolSettings, Protocol, Sent, SharedLimit, Upstream};
use mainstay_http::{Body, BodyError, BodyStream, Interim, Request};
use tokio::runtime::LocalOptions;
use tokio::sync::{Barrier, Notify};

fn run<F: Future<Output = ()>>(story: F) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime
        .unwrap()
        .block_on(async { tokio::time::timeout(crate::support::PATIENCE, story).await.expect("in time") });
}

pub(crate) fn request(method: Method, path: &str, body: Body) -> Request {
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

fn get(path: &str) -> Request {
    request(Method::GET, path, Body::Empty)
}

fn settings() -> PoolSettings {
    PoolSettings { protocol: Protocol::Http2, ..PoolSettings::default() }
}

fn hasty() -> PoolSettings {
    let short = Duration::from_millis(300);
    PoolSettings { waiting: 1, wait: short, first_byte: short, between_bytes: short, ..settings() }
}

type Incoming = (http::Request<RecvStream>, SendResponse<Bytes>);

/// An upstream in a thread of its own, which answers each request by `answer` and counts its connections.
fn upstream<F, A>(streams: u32, answer: F) -> (Upstream, Arc<AtomicUsize>)
where
    F: Fn(usize, Incoming) -> A + Send + 'static,
    A: Future<Output = ()> + 'static,
{
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        runtime.unwrap().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let answer = std::rc::Rc::new(answer);
            let requests = std::rc::Rc::new(std::cell::Cell::new(0));
            // Ends with the test's process.
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (answer, requests) = (answer.clone(), requests.clone());
                tokio::task::spawn_local(async move {
                    let mut builder = ::h2::server::Builder::new();
                    builder.max_concurrent_streams(streams).enable_connect_protocol();
                    let Ok(mut connection) = builder.handshake(stream).await else { return };
                    while let Some(Ok(incoming)) = connection.accept().await {
                        let number = requests.replace(requests.get() + 1);
                        if incoming.0.uri().path() == "/goaway" && number == 0 {
                            // This one was not begun, says the GOAWAY; nothing is answered.
                            drop(incoming);
                            connection.abrupt_shutdown(Reason::NO_ERROR);
                            continue;
                        }
                        tokio::task::spawn_local(answer(number, incoming));
                    }
                });
            }
        });
    });
    (Upstream::Tcp(address), connections)
}

fn respond(respond: &mut SendResponse<Bytes>, body: &'static str) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(Bytes::from_static(body.as_bytes()), true).unwrap();
}

struct Pieces(Vec<&'static str>, Option<HeaderMap>);

impl BodyStream for Pieces {
    fn poll_data(
        &mut self,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Bytes, BodyError>>> {
        let piece = if self.0.is_empty() { None } else { Some(self.0.remove(0)) };
        std::task::Poll::Ready(piece.map(|piece| Ok(Bytes::from_static(piece.as_bytes()))))
    }

    fn trailers(&mut self) -> Option<HeaderMap> {
        self.1.take()
    }
}

#[test]
fn many_requests_share_one_connection() {
    let server = Running::new();
    let upstream = Upstream::Tcp(server.address);
    run(async {
        let pool = Pool::new(settings());
        let tasks: Vec<_> = (0..300_u32)
            .map(|number| {
                let (pool, upstream) = (pool.clone(), upstream.clone());
                tokio::task::spawn_local(async move {
                    let path = if number % 10 == 0 { "/file".to_owned() } else { format!("/{number}") };
                    let response = pool.send(&upstream, get(&path)).await.unwrap();
                    if number % 20 == 0 {
                        // A client leaves in the middle; the connection stays usable.
                        return;
                    }
                    let body = collect(response.into_body()).await.unwrap();
                    if path == "/file" {
                        assert_eq!(body.len(), FILE_BYTES);
                        assert!(body.iter().enumerate().all(|(at, byte)| *byte == file_byte(at)));
                    } else {
                        assert_eq!(body, format!("GET {path}").into_bytes());
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        // 300 at once want three connections of 100 streams at most.
        let accepted: u32 = server.metric("http_connections_accepted_total ").parse().unwrap();
        assert!(accepted <= 3, "{accepted} connections");
        let counts = pool.counts(&upstream);
        assert_eq!((counts.in_use, counts.waiting), (0, 0));
        assert!(counts.idle >= 1 && counts.open == counts.idle);
        pool.close_upstream(&upstream);
        assert_eq!(pool.counts(&upstream).open, 0);
        while server.metric("http_connections_open ") != "0" {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn bodies_and_trailers_flow_both_ways() {
    let (upstream, _) = upstream(100, |_, (request, mut respond)| async move {
        assert_eq!(request.headers()["te"], "trailers");
        let mut body = request.into_body();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            stream.send_data(piece, false).unwrap();
        }
        let mut trailers = body.trailers().await.unwrap().unwrap_or_default();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("set-cookie", HeaderValue::from_static("a=b"));
        stream.send_trailers(trailers).unwrap();
    });
    run(async move {
        let pool = Pool::new(settings());
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        trailers.insert("content-length", HeaderValue::from_static("7"));
        let body = Body::Stream(Box::new(Pieces(vec!["one ", "two"], Some(trailers))));
        let response = pool.send(&upstream, request(Method::POST, "/", body)).await.unwrap();
        let Body::Stream(mut stream) = response.into_body() else { panic!("no stream") };
        let mut all = Vec::new();
        while let Some(piece) = poll_fn(|cx| stream.poll_data(cx)).await {
            all.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(all, b"one two");
        let trailers = stream.trailers().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["x-sum"]),
            (&"0".parse().unwrap(), &"7".parse().unwrap())
        );
        assert_eq!(trailers.len(), 2, "{trailers:?}");
    });
}

#[test]
fn a_large_upload_flows_at_the_upstreams_pace() {
    let server = Running::new();
    run(async {
        let pool = Pool::new(settings());
        let body = Body::Full(Bytes::from(vec![b'x'; 5 << 20]));
        let response =
            pool.send(&Upstream::Tcp(server.address), request(Method::POST, "/echo", body)).await.unwrap();
        assert_eq!(collect(response.into_body()).await.unwrap().len(), 5 << 20);
    });
}

#[test]
fn what_was_refused_is_sent_again_and_what_was_not_is_told_exactly() {
    let (upstream, _) = upstream(100, |number, (request, mut respond_to)| async move {
        match (request.uri().path(), number) {
            ("/refused", 0) | ("/always", _) => respond_to.send_reset(Reason::REFUSED_STREAM),
            ("/broken", _) => respond_to.send_reset(Reason::INTERNAL_ERROR),
            ("/never", _) => std::future::pending().await,
            _ => respond(&mut respond_to, "done"),
        }
    });
    run(async move {
        let pool = Pool::new(hasty());
        let post = |path| request(Method::POST, path, Body::Full(Bytes::from_static(b"x")));
        let response = pool.send(&upstream, post("/refused")).await.unwrap();
        assert_eq!(collect(response.into_body()).await.unwrap(), b"done");
        let always = pool.send(&upstream, post("/always")).await.err().unwrap();
        assert!(matches!(always, ClientError::Closed { sent: Sent::Nothing }), "{always:?}");
        assert!(always.may_retry(&Method::POST));
        let broken = pool.send(&upstream, post("/broken")).await.err().unwrap();
        assert!(matches!(broken, ClientError::Reset { code: 2, sent: Sent::Whole }), "{broken:?}");
        assert!(!broken.may_retry(&Method::POST) && broken.may_retry(&Method::GET));
        let never = pool.send(&upstream, post("/never")).await.err().unwrap();
        assert!(matches!(never, ClientError::TimedOut { sent: Sent::Whole, .. }), "{never:?}");
        assert_eq!(pool.counts(&upstream).in_use, 0);
    });
}

#[test]
fn a_goaway_moves_requests_to_a_new_connection() {
    let (upstream, connections) = upstream(100, |_, (_, mut respond_to)| async move {
        respond(&mut respond_to, "done");
    });
    run(async move {
        let pool = Pool::new(settings());
        let response = pool.send(&upstream, get("/goaway")).await;
        // Whether the frame or the end of the connection is seen first, an idempotent request is not lost.
        if let Ok(response) = response {
            assert_eq!(collect(response.into_body()).await.unwrap(), b"done");
        }
        let response = pool.send(&upstream, get("/")).await.unwrap();
        assert_eq!(collect(response.into_body()).await.unwrap(), b"done");
        assert!(connections.load(Ordering::SeqCst) >= 2);
    });
}

#[test]
fn no_more_streams_than_the_upstream_allows() {
    // Each is answered beside another one, so that there is never room for all.
    let two = Arc::new(Barrier::new(2));
    let (upstream, connections) = upstream(2, move |_, (_, mut respond_to)| {
        let two = Arc::clone(&two);
        async move {
            two.wait().await;
            respond(&mut respond_to, "done");
        }
    });
    run(async move {
        let pool = Pool::new(PoolSettings { connections: 2, ..settings() });
        let tasks: Vec<_> = (0..40)
            .map(|_| {
                let (pool, upstream) = (pool.clone(), upstream.clone());
                tokio::task::spawn_local(async move { pool.send(&upstream, get("/")).await.map(|_| ()) })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert!(connections.load(Ordering::SeqCst) <= 2);
    });
}

#[test]
fn interim_responses_reach_the_client_and_a_flood_does_not() {
    let (upstream, _) = upstream(100, |_, (request, mut respond_to)| async move {
        let count = if request.uri().path() == "/flood" { 100 } else { 2 };
        for _ in 0..count {
            let hint = Response::builder().status(103).header("link", "</a.css>").body(()).unwrap();
            respond_to.send_informational(hint).unwrap();
        }
        respond(&mut respond_to, "done");
    });
    run(async move {
        let pool = Pool::new(settings());
        let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let noted = seen.clone();
        let mut asking = get("/");
        asking.interim = Interim::new(move |status, headers: &HeaderMap| {
            noted.borrow_mut().push((status, headers["link"].clone()));
        });
        let response = pool.send(&upstream, asking).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(seen.borrow().len(), 2);
        assert_eq!(seen.borrow()[0].0, StatusCode::EARLY_HINTS);
        let flooded = pool.send(&upstream, get("/flood")).await.err().unwrap();
        assert!(matches!(flooded, ClientError::Malformed(_)));
    });
}

#[test]
fn an_early_answer_ends_the_upload() {
    let arrived = Arc::new(Notify::new());
    let seen = Arc::clone(&arrived);
    let (upstream, connections) = upstream(100, move |_, (request, mut respond_to)| {
        let seen = Arc::clone(&seen);
        async move {
            if request.method() == Method::POST {
                let mut response = Response::new(());
                *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
                respond_to.send_response(response, true).unwrap();
                // As RFC 9113, 8.1 has it, after the whole response.
                seen.notified().await;
                respond_to.send_reset(Reason::NO_ERROR);
            } else {
                respond(&mut respond_to, "done");
            }
        }
    });
    run(async move {
        let pool = Pool::new(settings());
        let body = Body::Full(Bytes::from(vec![b'x'; 5 << 20]));
        let response = pool.send(&upstream, request(Method::POST, "/", body)).await.unwrap();
        assert_eq!(response.status(), 413);
        arrived.notify_one();
        drop(response);
        let response = pool.send(&upstream, get("/")).await.unwrap();
        assert_eq!(collect(response.into_body()).await.unwrap(), b"done");
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn responses_without_a_body_have_none() {
    let server = Running::new();
    let upstream = Upstream::Tcp(server.address);
    run(async {
        let pool = Pool::new(settings());
        let head = pool.send(&upstream, request(Method::HEAD, "/file", Body::Empty)).await.unwrap();
        assert_eq!(head.headers()["content-length"], "3000000");
        assert!(matches!(head.body(), Body::Empty));
        assert_eq!(pool.send(&upstream, get("/empty")).await.unwrap().status(), 204);
        assert_eq!(pool.send(&upstream, get("/not-modified")).await.unwrap().status(), 304);
    });
}

#[test]
fn an_upstream_that_speaks_something_else_is_an_error_for_all_who_wait() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    run(async move {
        let pool = Pool::new(PoolSettings { waiting: 100, ..hasty() });
        let upstream = Upstream::Tcp(address);
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (pool, upstream) = (pool.clone(), upstream.clone());
                tokio::task::spawn_local(async move { pool.send(&upstream, get("/")).await.err() })
            })
            .collect();
        for task in tasks {
            let error = task.await.unwrap().unwrap();
            assert!(matches!(error, ClientError::Connect(_)), "{error:?}");
            assert!(error.may_retry(&Method::POST));
        }
    });
}

#[test]
fn what_is_held_is_let_go_when_the_exchange_is_over() {
    let server = Running::new();
    let upstream = Upstream::Tcp(server.address);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        run(async {
            let limit = SharedLimit::new(1, 0, Duration::from_millis(50));
            let pool = Pool::new(PoolSettings { protocol, ..settings() });
            let hold = Hold::new(limit.acquire().await.unwrap());
            let response = pool.send_holding(&upstream, get("/file"), hold).await.unwrap();
            assert!(matches!(limit.acquire().await, Err(ClientError::Busy)));
            collect(response.into_body()).await.unwrap();
            let hold = Hold::new(limit.acquire().await.unwrap());
            drop(pool.send_holding(&upstream, get("/file"), hold).await.unwrap());
            assert_eq!(limit.in_use(), 0);
        });
    }
}
