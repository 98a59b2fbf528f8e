//! Kept connections to upstreams, for one worker: nothing is shared, so nothing is locked.
//!
//! [`Pool::send`] sends a request and answers with the response as soon as its head is there; both bodies flow as
//! they are polled. A connection goes back to the pool only when request and response are both complete and nothing
//! is left over: whatever else happens, it is closed.

mod body;
mod error;
mod exchange;
mod io;
mod limit;
mod shared;
mod splice;
mod stream;
mod stream_body;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{HeaderMap, Method, Uri, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use crate::client::Upstream;
use crate::field_block::{FieldBlock, Keep};
use crate::known_keys::KnownKeys;
use crate::proxy_protocol::Addresses;
use crate::{Answer, Body, Interim, Request, Response};
pub use error::{ClientError, Sent};
use exchange::{Exchange, Link, Outbound};
pub use io::ConnectOptions;
pub(crate) use io::Deadline;
use io::UpstreamIo;
pub use limit::{Hold, SharedLimit};
use shared::Shared;
use stream::{Asked, StreamExchange};

/// What is spoken to upstreams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.1: one request at a time on a connection.
    #[default]
    Http1,
    /// HTTP/2: by prior knowledge on a plain connection, by ALPN with TLS. Many requests share a connection.
    Http2,
}

/// Bounds of a pool, each for one upstream and one worker.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// What is spoken.
    pub protocol: Protocol,
    /// What comes before it on a connection.
    pub options: ConnectOptions,
    /// Requests at once on one h2 connection, if the upstream allows as many.
    pub streams: usize,
    /// Bytes of a response that may wait in memory, per h2 stream; a connection holds at most `streams` times as many.
    pub stream_window: u32,
    /// Connections that are open at once.
    pub connections: usize,
    /// Requests that wait for a connection.
    pub waiting: usize,
    /// How long one waits for a connection.
    pub wait: Duration,
    /// How long connecting may take.
    pub connect: Duration,
    /// From the request's last byte until the response's head is complete.
    pub first_byte: Duration,
    /// Between two pieces of a response's body.
    pub between_bytes: Duration,
    /// How long a connection is kept without a request.
    pub idle: Duration,
    /// Bytes of a response's head.
    pub head_bytes: usize,
    /// How long a connection that left HTTP (`WebSocket`) may be silent in both directions.
    pub upgrade_idle: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            protocol: Protocol::Http1,
            options: ConnectOptions::default(),
            streams: 100,
            stream_window: 128 * 1024,
            connections: 128,
            waiting: 1024,
            wait: Duration::from_secs(10),
            connect: Duration::from_secs(5),
            first_byte: Duration::from_mins(1),
            between_bytes: Duration::from_mins(1),
            idle: Duration::from_secs(30),
            head_bytes: 64 * 1024,
            upgrade_idle: Duration::from_hours(1),
        }
    }
}

/// A request without its body, lent to the pool: whoever may send it again keeps it.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target.
    pub uri: &'a Uri,
    /// The version that the client spoke.
    pub version: Version,
    /// The header fields; those that belong to one connection are left out when they are sent.
    pub headers: &'a HeaderMap,
    /// The fields in the place of those of the map, as the block that is sent. A request with one changes no protocols
    /// and expects nothing.
    pub block: Option<&'a FieldBlock>,
    /// How the response's fields are wanted.
    pub keep: Keep,
    /// The client's address, for a PROXY header.
    pub peer: Option<SocketAddr>,
    /// The address that the client connected to, for a PROXY header.
    pub local: Option<SocketAddr>,
    /// The host that is asked for, where neither a field nor the target names it.
    pub host: Option<&'a str>,
    /// The protocol that the client wants to change to.
    pub protocol: Option<&'a str>,
    /// The way for interim responses to the client.
    pub interim: &'a Interim,
}

impl Request {
    /// The head, to be lent, and the body.
    fn lend(&mut self) -> (Head<'_>, Body) {
        let body = std::mem::take(&mut self.body);
        let head = Head {
            method: &self.method,
            uri: &self.uri,
            version: self.version,
            headers: &self.headers,
            block: None,
            keep: Keep::Map,
            peer: self.peer,
            local: self.local,
            host: self.host.as_deref(),
            protocol: self.upgrade.as_ref().map(|upgrade| upgrade.protocol.as_str()),
            interim: &self.interim,
        };
        (head, body)
    }
}

/// Connections of one worker to its upstreams. Clones are the same pool.
#[derive(Clone)]
pub struct Pool(Rc<Inner>);

pub(crate) struct Inner {
    means: Rc<Means>,
    endpoints: RefCell<HashMap<Upstream, Rc<Endpoint>, KnownKeys>>,
    sweeper: RefCell<Option<tokio::task::AbortHandle>>,
}

/// What exchanges need of their pool; they do not keep the pool itself alive.
pub(crate) struct Means {
    pub(crate) settings: PoolSettings,
    /// Buffers for reading, for one exchange after the other.
    buffers: RefCell<Vec<BytesMut>>,
}

impl Means {
    pub(crate) fn take_buffer(&self) -> BytesMut {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes back a buffer without bytes in it.
    pub(crate) fn give_buffer(&self, buffer: BytesMut) {
        let mut buffers = self.buffers.borrow_mut();
        if buffer.capacity() > 0 && buffers.len() < SPARE_BUFFERS {
            buffers.push(buffer);
        }
    }
}

/// What the pool knows of one upstream.
struct Endpoint {
    idle: RefCell<Vec<Idle>>,
    /// One permit for each connection that is in use.
    permits: Arc<Semaphore>,
    waiting: Cell<usize>,
    /// The upstream is no longer wanted: nothing is kept.
    left: Cell<bool>,
    /// Connections that speak h2.
    shared: Shared,
}

struct Idle {
    link: Box<Link>,
    since: Instant,
}

/// What one worker's pool has for one upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections, idle and in use; one that is being opened counts as in use.
    pub open: usize,
    /// Connections without a request.
    pub idle: usize,
    /// HTTP/1.1: connections with a request. h2: requests, of which many share a connection.
    pub in_use: usize,
    /// Requests that wait for a connection.
    pub waiting: usize,
}

/// Buffers for reading that are kept. Neither connections without a request nor requests without a response have one.
const SPARE_BUFFERS: usize = 16;

/// Upstreams that a pool knows at once; whoever names more makes the oldest idle ones be forgotten.
const UPSTREAMS: usize = 256;

impl Pool {
    /// An empty pool.
    pub fn new(settings: PoolSettings) -> Self {
        let means = Rc::new(Means { settings, buffers: RefCell::default() });
        Self(Rc::new(Inner { means, endpoints: RefCell::default(), sweeper: RefCell::default() }))
    }

    /// Sends a request. With 101 the response's body is a [`Body::Upgrade`](crate::Body::Upgrade) that joins the
    /// client's stream with the upstream's: it can be answered as it is.
    ///
    /// A request is sent a second time only if a kept connection turned out to be closed, before any byte of a
    /// response: when nothing was sent, or the method is idempotent, and the whole request is still at hand.
    pub fn send(
        &self,
        upstream: &Upstream,
        request: Request,
    ) -> impl Future<Output = Result<Response, ClientError>> {
        self.send_holding(upstream, request, Hold::default())
    }

    /// Like [`Pool::send`]. What is held, such as a permit of a [`SharedLimit`], is dropped when the exchange is over:
    /// with an error here, or when the response's body is complete, broken or dropped.
    pub async fn send_holding(
        &self,
        upstream: &Upstream,
        mut request: Request,
        hold: Hold,
    ) -> Result<Response, ClientError> {
        let (head, body) = request.lend();
        self.send_lent(upstream, head, body, hold).await.map(Answer::into_response)
    }

    /// Like [`Pool::send`], for a request that stays with the caller but for its body.
    pub async fn send_head(
        &self,
        upstream: &Upstream,
        head: Head<'_>,
        body: Body,
    ) -> Result<Answer, ClientError> {
        self.send_lent(upstream, head, body, Hold::default()).await
    }

    async fn send_lent(
        &self,
        upstream: &Upstream,
        head: Head<'_>,
        body: Body,
        hold: Hold,
    ) -> Result<Answer, ClientError> {
        let endpoint = self.endpoint(upstream);
        // What is rare or dear anyhow is boxed here and below, so that its room is not part of each request's future.
        if self.0.means.settings.protocol == Protocol::Http2 {
            return Box::pin(self.send_on_stream(&endpoint, upstream, head, body, hold))
                .await
                .map(Answer::from);
        }
        let mut outbound = Outbound::new(head, body);
        let permit = match Arc::clone(&endpoint.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => Box::pin(self.permit(&endpoint)).await?,
        };
        let mut now = Instant::now();
        let mut kept = endpoint.take_idle(self.0.means.settings.idle, now);
        loop {
            let reused = kept.is_some();
            let link = if let Some(link) = kept.take() {
                link
            } else {
                let io = Box::pin(self.connect(upstream, io::client_of(&head))).await?;
                now = Instant::now();
                Box::new(Link::new(io, self.0.means.settings.first_byte))
            };
            let mut exchange = Exchange::new(link, &outbound, &head, &self.0.means, now);
            match poll_fn(|cx| exchange.poll_head(cx, &mut outbound)).await {
                Ok(head) => {
                    let home = Home {
                        endpoint: Rc::clone(&endpoint),
                        pool: Rc::downgrade(&self.0),
                        _permit: permit,
                        _hold: hold,
                    };
                    return Ok(exchange.into_response(head, outbound, home));
                }
                // A second stale connection is not tried: the next one is new.
                Err(ClientError::Closed { .. }) if reused && outbound.may_be_sent_again(&exchange) => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn send_on_stream(
        &self,
        endpoint: &Endpoint,
        upstream: &Upstream,
        head: Head<'_>,
        body: Body,
        hold: Hold,
    ) -> Result<Response, ClientError> {
        let settings = &self.0.means.settings;
        let client = io::client_of(&head);
        let mut asked = Asked::new(head, body);
        let mut again = true;
        loop {
            let connect = || self.connect(upstream, client);
            let place = if settings.options.proxy_protocol.is_some() {
                // What a PROXY header says holds for one client.
                endpoint.shared.own_place(settings, connect()).await?
            } else {
                endpoint.shared.place(settings, connect).await?
            };
            self.sweep_sometimes();
            let reused = place.reused;
            let error = match StreamExchange::begin(&asked, place, settings) {
                Err(error) => error,
                Ok(mut exchange) => match poll_fn(|cx| exchange.poll_head(cx, &mut asked)).await {
                    Ok(response) => {
                        return Ok(exchange.into_response(response, asked, hold, settings.upgrade_idle));
                    }
                    Err(error) => error,
                },
            };
            if !std::mem::take(&mut again) || !asked.may_be_sent_again(&error, reused) {
                return Err(error);
            }
        }
    }

    /// Closes the idle connections of an upstream that is no longer wanted. Those in use close when their exchange ends.
    pub fn close_upstream(&self, upstream: &Upstream) {
        if let Some(endpoint) = self.0.endpoints.borrow_mut().remove(upstream) {
            endpoint.left.set(true);
            endpoint.idle.borrow_mut().clear();
            endpoint.shared.close();
        }
    }

    /// How many connections to an upstream this worker has.
    pub fn counts(&self, upstream: &Upstream) -> Counts {
        let endpoints = self.0.endpoints.borrow();
        endpoints
            .get(upstream)
            .map_or_else(Counts::default, |endpoint| endpoint.counts(&self.0.means.settings))
    }

    /// Makes sure that idle connections are closed in time.
    fn sweep_sometimes(&self) {
        if self.0.sweeper.borrow().is_none() {
            let sweeper = tokio::task::spawn_local(sweep(Rc::downgrade(&self.0), self.0.means.settings.idle));
            *self.0.sweeper.borrow_mut() = Some(sweeper.abort_handle());
        }
    }

    fn endpoint(&self, upstream: &Upstream) -> Rc<Endpoint> {
        let mut endpoints = self.0.endpoints.borrow_mut();
        if let Some(endpoint) = endpoints.get(upstream) {
            return Rc::clone(endpoint);
        }
        if endpoints.len() >= UPSTREAMS {
            endpoints.retain(|_, endpoint| Rc::strong_count(endpoint) > 1);
        }
        let endpoint = Rc::new(Endpoint {
            idle: RefCell::default(),
            permits: Arc::new(Semaphore::new(self.0.means.settings.connections)),
            waiting: Cell::new(0),
            left: Cell::new(false),
            shared: Shared::default(),
        });
        endpoints.insert(upstream.clone(), Rc::clone(&endpoint));
        endpoint
    }

    /// Waits for a connection to be allowed.
    async fn permit(&self, endpoint: &Endpoint) -> Result<OwnedSemaphorePermit, ClientError> {
        let settings = &self.0.means.settings;
        if endpoint.waiting.get() >= settings.waiting {
            return Err(ClientError::Busy);
        }
        let _waiting = Waiting::new(&endpoint.waiting);
        match tokio::time::timeout(settings.wait, Arc::clone(&endpoint.permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(ClientError::Busy),
            Err(_) => Err(ClientError::WaitTimedOut(settings.wait)),
        }
    }

    /// Opens a connection; `client` is for the PROXY header, if one is sent.
    async fn connect(
        &self,
        upstream: &Upstream,
        client: Option<Addresses>,
    ) -> Result<UpstreamIo, ClientError> {
        let limit = self.0.means.settings.connect;
        match tokio::time::timeout(
            limit,
            UpstreamIo::connect(upstream, &self.0.means.settings.options, client),
        )
        .await
        {
            Ok(connected) => connected.map_err(ClientError::Connect),
            Err(_) => Err(ClientError::ConnectTimedOut(limit)),
        }
    }
}

/// Counts one who waits, as long as it lives.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Endpoint {
    fn counts(&self, settings: &PoolSettings) -> Counts {
        if settings.protocol == Protocol::Http2 {
            let (open, idle, in_use) = self.shared.counts();
            return Counts { open, idle, in_use, waiting: self.shared.waiting() };
        }
        let idle = self.idle.borrow().len();
        let in_use = settings.connections.saturating_sub(self.permits.available_permits());
        Counts { open: idle + in_use, idle, in_use, waiting: self.waiting.get() }
    }

    /// The connection that was used last and is still open and silent.
    fn take_idle(&self, limit: Duration, now: Instant) -> Option<Box<Link>> {
        loop {
            let mut idle = self.idle.borrow_mut().pop()?;
            if now.saturating_duration_since(idle.since) < limit && idle.link.io.is_silent() {
                return Some(idle.link);
            }
        }
    }
}

/// Where a connection goes when its exchange is over. Holds the permit until then.
pub(crate) struct Home {
    endpoint: Rc<Endpoint>,
    pool: Weak<Inner>,
    _permit: OwnedSemaphorePermit,
    _hold: Hold,
}

impl Home {
    /// Takes back a connection that is clean.
    fn keep(self, link: Box<Link>) {
        let Some(pool) = self.pool.upgrade() else { return };
        // What a PROXY header says holds for one client.
        let of_one_client = pool.means.settings.options.proxy_protocol.is_some();
        if self.endpoint.left.get() || of_one_client {
            return;
        }
        self.endpoint.idle.borrow_mut().push(Idle { link, since: Instant::now() });
        Pool(pool).sweep_sometimes();
    }
}

/// Closes connections that were idle for too long, as long as the pool lives.
async fn sweep(pool: Weak<Inner>, limit: Duration) {
    loop {
        tokio::time::sleep(limit.max(Duration::from_millis(100)) / 2).await;
        let Some(pool) = pool.upgrade() else { return };
        for endpoint in pool.endpoints.borrow().values() {
            endpoint
                .idle
                .borrow_mut()
                .retain_mut(|idle| idle.since.elapsed() < limit && idle.link.io.is_silent());
            endpoint.shared.sweep(limit);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(sweeper) = self.sweeper.borrow_mut().take() {
            sweeper.abort();
        }
    }
}
