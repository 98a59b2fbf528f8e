//! What is noted of a request while it is answered, and told at its end: in the access log and in the metrics.

use std::future::Future as _;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use mainstay_http::access_log::{Balanced, Line};
use mainstay_http::request_id::RequestId;
use mainstay_http::{Body, BodyError, BodyStream, FieldBlock, Request};
use tokio::time::Sleep;

use crate::in_force::Slot;
use crate::service::Worker;
use crate::site::Route;
use crate::trace::TraceId;
use crate::trip::Trip;

/// The client left before there was a response; no one gets to see it but the log.
const CLIENT_LEFT: u16 = 499;

/// What a request is called in logs and fields.
#[derive(Clone)]
pub(crate) enum Id {
    /// By us.
    Own(RequestId),
    /// By a trusted proxy.
    Brought(HeaderValue),
}

impl Id {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Own(id) => id,
            Self::Brought(id) => id.as_bytes(),
        }
    }

    /// For a field. No two messages have the same, so h2 must not remember it: its table of fields would hold nothing
    /// else, and be searched for each.
    pub(crate) fn value(&self) -> HeaderValue {
        let mut value = match self {
            // Hexadecimal digits are a valid value.
            Self::Own(id) => HeaderValue::from_bytes(id).unwrap_or(HeaderValue::from_static("none")),
            Self::Brought(id) => id.clone(),
        };
        value.set_sensitive(true);
        value
    }
}

/// A request on its way. Tells about it when it is dropped.
pub(crate) struct Record {
    worker: Rc<Worker>,
    pub(crate) started: Instant,
    pub(crate) id: Id,
    pub(crate) method: Method,
    uri: Uri,
    pub(crate) host: Option<String>,
    pub(crate) client: Option<IpAddr>,
    version: Version,
    user_agent: Option<HeaderValue>,
    /// The client's fields, where they were not put into a map.
    pub(crate) block: Option<FieldBlock>,
    pub(crate) tls: Option<&'static str>,
    pub(crate) trace: Option<TraceId>,
    pub(crate) route: Rc<Route>,
    pub(crate) group: Option<Rc<str>>,
    pub(crate) trip: Trip,
    pub(crate) cache: Option<&'static str>,
    /// What the client is told of its rate limits: `RateLimit-Policy` and `RateLimit` of each.
    pub(crate) rates: Vec<(HeaderValue, HeaderValue)>,
    /// Held until the response is complete.
    pub(crate) slot: Option<Slot>,
    status: u16,
    bytes: u64,
}

impl Record {
    pub(crate) fn new(
        worker: &Rc<Worker>,
        route: &Rc<Route>,
        request: &Request,
        id: Id,
        started: Instant,
    ) -> Box<Self> {
        worker.metrics.in_flight.add(1);
        Box::new(Self {
            worker: Rc::clone(worker),
            started,
            id,
            method: request.method.clone(),
            uri: request.uri.clone(),
            host: request.host.clone(),
            client: request.peer.map(|peer| peer.ip().to_canonical()),
            version: request.version,
            user_agent: request.headers.get(USER_AGENT).cloned(),
            block: None,
            tls: request.tls.as_ref().map(|tls| tls.version),
            trace: None,
            route: Rc::clone(route),
            group: None,
            trip: Trip::new(started, request.tls.is_some()),
            cache: None,
            rates: Vec::new(),
            slot: None,
            status: CLIENT_LEFT,
            bytes: 0,
        })
    }

    /// Takes note of the response. A body that is still on its way keeps the record until its end; other bodies count as
    /// sent when they are handed over.
    pub(crate) fn answered(mut self: Box<Self>, status: StatusCode, body: Body) -> Body {
        self.status = status.as_u16();
        match body {
            Body::Stream(stream) if self.method != Method::HEAD => {
                let left = self.route.timeout.map(|timeout| self.started + timeout);
                let deadline = left.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.into())));
                Body::Stream(Box::new(Recorded { stream, record: self, deadline }))
            }
            Body::Upgrade(task) => Body::Upgrade(Box::new(move |io| {
                Box::pin(async move {
                    task(io).await;
                    drop(self);
                })
            })),
            body => {
                self.bytes = if self.method == Method::HEAD { 0 } else { body.length().unwrap_or(0) };
                body
            }
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = Instant::now();
        let duration = now.saturating_duration_since(self.started);
        self.trip.ends(now);
        let route = &self.route;
        self.worker.metrics.in_flight.add(-1);
        route.metrics.duration.observe(duration);
        route.metrics.sent.add(self.bytes);
        route.metrics.answered(&self.method, StatusCode::from_u16(self.status).unwrap_or_default());
        let journey = &self.trip.journey;
        let in_block = || self.block.as_ref()?.first(b"user-agent");
        let user_agent = self.user_agent.as_ref().map(HeaderValue::as_bytes).or_else(in_block);
        if let Some(reason) = journey.refused {
            route.metrics.refused(reason);
        }
        self.worker.log.write(&Line {
            id: self.id.as_bytes(),
            client: self.client,
            method: &self.method,
            host: self.host.as_deref().unwrap_or_default(),
            path: self.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str),
            version: self.version,
            status: self.status,
            bytes: self.bytes,
            duration,
            upstream: journey.upstream_time,
            target: self.group.as_deref().unwrap_or("edge"),
            release: None,
            user_agent: user_agent.unwrap_or_default(),
            balanced: Some(Balanced {
                route: &route.name,
                upstream: journey.upstream.as_deref(),
                tries: journey.tries,
                queue: journey.queued,
                tls: self.tls,
                trace: self.trace.as_ref().map(<[u8; 32]>::as_slice),
                cache: self.cache,
                refused: journey.refused,
            }),
        });
    }
}

/// A body whose bytes are counted, and whose time is bounded where the route says so.
struct Recorded {
    stream: Box<dyn BodyStream>,
    record: Box<Record>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl BodyStream for Recorded {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let polled = self.stream.poll_data(cx);
        match &polled {
            Poll::Ready(Some(Ok(piece))) => self.record.bytes += piece.len() as u64,
            Poll::Ready(Some(Err(error))) => self.record.trip.broke(error),
            Poll::Ready(None) => {}
            Poll::Pending => {
                if let Some(deadline) = &mut self.deadline
                    && deadline.as_mut().poll(cx).is_ready()
                {
                    let seconds = self.record.route.timeout.map_or(0, |timeout| timeout.as_secs() as u32);
                    return Poll::Ready(Some(Err(BodyError::TimedOut { seconds })));
                }
            }
        }
        polled
    }

    fn trailers(&mut self) -> Option<HeaderMap> {
        self.stream.trailers()
    }

    fn remaining(&self) -> Option<u64> {
        self.stream.remaining()
    }
}
