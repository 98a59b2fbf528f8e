//! Upstreams that speak h2 in plain text, gRPC among them.

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

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
