//! What is noted of a request while it is answered, and told at its end: in the access log and in the metrics.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use mainstay_http::{Body, BodyError, BodyStream, Request};

use crate::forwarded::{Id, Told};
use crate::service::Web;
use crate::site::TargetInfo;
use mainstay_http::access_log::Line;

/// The client left before there was a response; no one gets to see it but the log.
const CLIENT_LEFT: u16 = 499;

/// A request on its way. Tells about it when it is dropped.
pub(crate) struct Record {
    web: Rc<Web>,
    pub(crate) started: Instant,
    pub(crate) id: Id,
    /// Whether the client spoke TLS, to whoever stands before this server.
    pub(crate) is_secure: bool,
    method: Method,
    uri: Uri,
    host: Option<String>,
    client: Option<std::net::SocketAddr>,
    version: Version,
    user_agent: Option<HeaderValue>,
    pub(crate) target: Rc<TargetInfo>,
    pub(crate) upstream: Option<Duration>,
    status: u16,
    bytes: u64,
}

impl Record {
    pub(crate) fn new(web: &Rc<Web>, request: &Request, told: Told) -> Self {
        web.metrics.in_flight.add(1);
        Self {
            web: Rc::clone(web),
            started: Instant::now(),
            id: told.id.map_or_else(|| Id::Own(web.ids.next()), Id::Told),
            is_secure: told.is_secure,
            method: request.method.clone(),
            uri: request.uri.clone(),
            host: request.host.clone(),
            client: request.peer,
            version: request.version,
            user_agent: request.headers.get(USER_AGENT).cloned(),
            target: Rc::clone(&web.site.nobody),
            upstream: None,
            status: CLIENT_LEFT,
            bytes: 0,
        }
    }

    /// Takes note of the response. A body that is still on its way keeps the record until its end; other bodies count as
    /// sent when they are handed over.
    pub(crate) fn answered(mut self, status: StatusCode, body: Body) -> Body {
        self.status = status.as_u16();
        if self.method == Method::HEAD {
            return body;
        }
        match body {
            Body::Stream(stream) => Body::Stream(Box::new(Recorded { stream, record: self })),
            body => {
                self.bytes = body.length().unwrap_or(0);
                body
            }
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        let metrics = &self.target.metrics;
        self.web.metrics.in_flight.add(-1);
        metrics.duration.observe(duration);
        metrics.sent.add(self.bytes);
        metrics.answered(&self.method, StatusCode::from_u16(self.status).unwrap_or_default());
        self.web.log.write(&Line {
            id: &self.id,
            client: self.client.map(|client| client.ip()),
            method: &self.method,
            host: self.host.as_deref().unwrap_or_default(),
            path: self.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str),
            version: self.version,
            status: self.status,
            bytes: self.bytes,
            duration,
            upstream: self.upstream,
            target: &self.target.name,
            release: self.target.release.as_ref().and_then(|release| release.to_str().ok()),
            user_agent: self.user_agent.as_ref().map_or(&[], |agent| agent.as_bytes()),
            balanced: None,
        });
    }
}

/// A body whose bytes are counted.
struct Recorded {
    stream: Box<dyn BodyStream>,
    record: Record,
}

impl BodyStream for Recorded {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let polled = self.stream.poll_data(cx);
        if let Poll::Ready(Some(Ok(piece))) = &polled {
            self.record.bytes += piece.len() as u64;
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
