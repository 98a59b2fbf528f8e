//! Upstreams that speak h2 in plain text, gRPC among them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Version};
use mainstay_http::metrics::{EngineMetrics, Registry};
use mainstay_http::{
    Body, BodyError, BodyStream, Listener, Request, Response, Server, Service, Settings, Shutdown,
};
use mainstay_site::plan::edge::{HealthCheck, UpstreamProtocol};

use crate::client::get;
use crate::edge::{Edge, health, until};
use crate::origin::Origin;

/// A server that says whether it is well as gRPC servers do.
struct Grpc {
    serving: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
}

/// A message and its status, which comes as a trailer.
struct Message(Option<Bytes>);

impl BodyStream for Message {
    fn poll_data(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        Poll::Ready(self.0.take().map(Ok))
    }

    fn trailers(&mut self) -> Option<HeaderMap> {
        Some(HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]))
    }
}

impl Service for Grpc {
    async fn call(self: Rc<Self>, request: Request) -> Response {
        if request.uri.path() != "/grpc.health.v1.Health/Check" {
            self.requests.fetch_add(1, Ordering::Relaxed);
            let version = if request.version == Version::HTTP_2 { "h2" } else { "another" };
            return Response::new(Body::Full(Bytes::from_static(version.as_bytes())));
        }
        let state = if self.serving.load(Ordering::Relaxed) { 1 } else { 2 };
        let frame = Bytes::from(vec![0, 0, 0, 0, 2, 8, state]);
        let mut response = Response::new(Body::Stream(Box::new(Message(Some(frame)))));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }
}

fn grpc(serving: &Arc<AtomicBool>, requests: &Arc<AtomicUsize>) -> (SocketAddr, Server, Shutdown) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
    let (serving, requests) = (Arc::clone(serving), Arc::clone(requests));
    let service = move |_| Grpc { serving: Arc::clone(&serving), requests: Arc::clone(&requests) };
    let metrics = EngineMetrics::new(&Registry::default());
    let listeners = vec![vec![Listener::Tcp(listener)]];
    let server = Server::start(listeners, &Settings::default(), &metrics, &shutdown, service).unwrap();
    (address, server, shutdown)
}

#[test]
fn a_grpc_server_gets_requests_over_h2_as_long_as_it_says_that_it_serves() {
    let (serving, requests) = (Arc::new(AtomicBool::new(true)), Arc::default());
    let (address, server, shutdown) = grpc(&serving, &requests);
    let a = Origin::start("a");
    let edge = Edge::with(&[&a], |plan| {
        plan.groups[0].upstreams[0].address = address;
        plan.groups[0].protocol = UpstreamProtocol::Http2;
        let mut checks = health();
        checks.check = HealthCheck::Grpc { service: "shop.Orders".to_owned() };
        plan.groups[0].health = Some(checks);
    });
    until("it is up", || edge.state("a") == "up");
    for _ in 0..5 {
        assert_eq!(get(edge.address, "/", "").text(), "h2");
    }
    assert_eq!(requests.load(Ordering::Relaxed), 5);
    serving.store(false, Ordering::Relaxed);
    until("it is down", || edge.state("a") == "down");
    assert!(edge.status()["groups"][0]["upstreams"][0]["why"].as_str().unwrap().contains("not serving"));
    serving.store(true, Ordering::Relaxed);
    until("it is up again", || edge.state("a") == "up");
    assert_eq!(get(edge.address, "/", "").status, 200);
    drop(edge);
    shutdown.end();
    server.join().unwrap();
}

/// Passes bytes on to a server, both ways, until it is told to be silent: then it takes what comes and passes nothing on, as
/// a machine that hangs, or a network that drops all packets.
struct Relay {
    address: SocketAddr,
    silent: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
}

impl Relay {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, silent) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let (quiet, accepted) = (Arc::clone(&silent), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&accepted);
        // Ends with the test's process.
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                count.fetch_add(1, Ordering::SeqCst);
                let server = TcpStream::connect(server).unwrap();
                let ways = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
                for (mut from, mut to) in ways {
                    let quiet = Arc::clone(&quiet);
                    std::thread::spawn(move || {
                        let mut bytes = [0; 4096];
                        while let Ok(count @ 1..) = from.read(&mut bytes) {
                            if !quiet.load(Ordering::SeqCst) && to.write_all(&bytes[..count]).is_err() {
                                return;
                            }
                        }
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    });
                }
            }
        });
        Self { address, silent, accepted }
    }
}

#[test]
fn an_h2_upstream_that_is_silently_gone_is_found_by_ping_and_its_requests_go_elsewhere() {
    const LONGEST: Duration = Duration::from_secs(15);
    let (serving, of_a, of_b) = (Arc::new(AtomicBool::new(true)), Arc::default(), Arc::default());
    let (a, b) = (grpc(&serving, &of_a), grpc(&serving, &of_b));
    let relay = Relay::to(a.0);
    let origins = [Origin::start("a"), Origin::start("b")];
    let edge = Edge::with(&[&origins[0], &origins[1]], |plan| {
        let group = &mut plan.groups[0];
        group.protocol = UpstreamProtocol::Http2;
        (group.upstreams[0].address, group.upstreams[1].address) = (relay.address, b.0);
        // Nothing but PING can find it: there are no checks, and responses may take long.
        group.first_byte_ms = LONGEST.as_millis() as u64;
    });
    for _ in 0..4 {
        assert_eq!(get(edge.address, "/", "").text(), "h2");
    }
    assert_eq!((of_a.load(Ordering::SeqCst), of_b.load(Ordering::SeqCst)), (2, 2));
    relay.silent.store(true, Ordering::SeqCst);
    // Of these some are sent to the one that is gone.
    let sent = Instant::now();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let address = edge.address;
            std::thread::spawn(move || get(address, "/", ""))
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().unwrap().text(), "h2");
    }
    assert!(sent.elapsed() < LONGEST, "no request waited for as long as a response may take");
    let failed = "mainstay_edge_upstream_failures_total{group=\"web\",upstream=\"a\",reason=\"timeout\"}";
    assert!(edge.metric(failed) >= 1.0);
    assert_eq!(relay.accepted.load(Ordering::SeqCst), 1, "nor was it sent there again");
    drop(edge);
    for (_, server, shutdown) in [a, b] {
        shutdown.end();
        server.join().unwrap();
    }
}
