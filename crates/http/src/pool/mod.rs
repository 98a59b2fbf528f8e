//! Kept connections to upstreams, for one worker: nothing is shared, so nothing is locked.
//!
//! [`Pool::send`] sends a request and answers with the response as soon as its head is there; both bodies flow as
//! they are polled. A connection goes back to the pool only when request and response are both complete and nothing
//! is left over: whatever else happens, it is closed.

mod body;
mod exchange;
mod io;
mod splice;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use crate::client::Upstream;
use crate::h1::answer::Malformed;
use crate::{BodyError, Request, Response};
use exchange::{Exchange, Outbound};
pub(crate) use io::Deadline;
use io::UpstreamIo;

/// Bounds of a pool, each for one upstream and one worker.
#[derive(Debug, Clone)]
pub struct PoolSettings {
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

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The upstream cannot be reached: 502, or 503 while it is known to start.
    #[error("cannot connect to the upstream: {0}")]
    Connect(std::io::Error),
    /// It was not reached in time: 504.
    #[error("the upstream took no connection within {0:?}")]
    ConnectTimedOut(Duration),
    /// All connections are busy and too many requests wait: 503.
    #[error("too many requests wait for the upstream")]
    Busy,
    /// All connections stayed busy: 503.
    #[error("no connection to the upstream became free within {0:?}")]
    WaitTimedOut(Duration),
    /// No response in time: 504.
    #[error("no response within {0:?}")]
    TimedOut(Duration),
    /// The upstream closed the connection without a response: 502.
    #[error("the upstream closed the connection without a response")]
    Closed,
    /// What came is no valid response: 502.
    #[error("the upstream's response is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// The client's own body broke; see [`BodyError::status`].
    #[error("the request's body broke: {0}")]
    RequestBody(BodyError),
}

impl ClientError {
    /// The status that a proxy answers with.
    pub fn status(&self) -> http::StatusCode {
        match self {
            Self::Connect(_) | Self::Closed | Self::Malformed(_) => http::StatusCode::BAD_GATEWAY,
            Self::ConnectTimedOut(_) | Self::TimedOut(_) => http::StatusCode::GATEWAY_TIMEOUT,
            Self::Busy | Self::WaitTimedOut(_) => http::StatusCode::SERVICE_UNAVAILABLE,
            Self::RequestBody(error) => error.status(),
        }
    }
}

/// Connections of one worker to its upstreams. Clones are the same pool.
#[derive(Clone)]
pub struct Pool(Rc<Inner>);

pub(crate) struct Inner {
    settings: PoolSettings,
    endpoints: RefCell<HashMap<Upstream, Rc<Endpoint>>>,
    sweeper: RefCell<Option<tokio::task::AbortHandle>>,
}

/// What the pool knows of one upstream.
struct Endpoint {
    idle: RefCell<Vec<Idle>>,
    /// One permit for each connection that is in use.
    permits: Arc<Semaphore>,
    waiting: Cell<usize>,
}

struct Idle {
    io: UpstreamIo,
    since: Instant,
}

/// Upstreams that a pool knows at once; whoever names more makes the oldest idle ones be forgotten.
const UPSTREAMS: usize = 256;

impl Pool {
    /// An empty pool.
    pub fn new(settings: PoolSettings) -> Self {
        Self(Rc::new(Inner { settings, endpoints: RefCell::default(), sweeper: RefCell::default() }))
    }

    /// Sends a request. With 101 the response's body is a [`Body::Upgrade`](crate::Body::Upgrade) that joins the
    /// client's stream with the upstream's: it can be answered as it is.
    ///
    /// A request is sent a second time only if a kept connection turned out to be closed, before any byte of a
    /// response: when nothing was sent, or the method is idempotent, and the whole request is still at hand.
    pub async fn send(&self, upstream: &Upstream, request: Request) -> Result<Response, ClientError> {
        let endpoint = self.endpoint(upstream);
        let mut outbound = Outbound::new(request);
        let permit = self.permit(&endpoint).await?;
        let mut kept = endpoint.take_idle(self.0.settings.idle);
        loop {
            let reused = kept.is_some();
            let io = match kept.take() {
                Some(io) => io,
                None => self.connect(upstream).await?,
            };
            let mut exchange = Exchange::new(io, &outbound, &self.0.settings);
            match poll_fn(|cx| exchange.poll_head(cx, &mut outbound)).await {
                Ok(head) => {
                    let home = Home {
                        endpoint: Rc::clone(&endpoint),
                        pool: Rc::downgrade(&self.0),
                        _permit: permit,
                    };
                    return Ok(exchange.into_response(head, outbound, home));
                }
                // A second stale connection is not tried: the next one is new.
                Err(ClientError::Closed) if reused && outbound.may_be_sent_again(&exchange) => {}
                Err(error) => return Err(error),
            }
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
            permits: Arc::new(Semaphore::new(self.0.settings.connections)),
            waiting: Cell::new(0),
        });
        endpoints.insert(upstream.clone(), Rc::clone(&endpoint));
        endpoint
    }

    async fn permit(&self, endpoint: &Endpoint) -> Result<OwnedSemaphorePermit, ClientError> {
        if let Ok(permit) = Arc::clone(&endpoint.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let settings = &self.0.settings;
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

    async fn connect(&self, upstream: &Upstream) -> Result<UpstreamIo, ClientError> {
        let limit = self.0.settings.connect;
        match tokio::time::timeout(limit, UpstreamIo::connect(upstream)).await {
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
    /// The connection that was used last and is still open and silent.
    fn take_idle(&self, limit: Duration) -> Option<UpstreamIo> {
        loop {
            let mut idle = self.idle.borrow_mut().pop()?;
            if idle.since.elapsed() < limit && idle.io.is_silent() {
                return Some(idle.io);
            }
        }
    }
}

/// Where a connection goes when its exchange is over. Holds the permit until then.
pub(crate) struct Home {
    endpoint: Rc<Endpoint>,
    pool: Weak<Inner>,
    _permit: OwnedSemaphorePermit,
}

impl Home {
    /// Takes back a connection that is clean.
    fn keep(self, io: UpstreamIo) {
        let Some(pool) = self.pool.upgrade() else { return };
        self.endpoint.idle.borrow_mut().push(Idle { io, since: Instant::now() });
        if pool.sweeper.borrow().is_none() {
            let sweeper = tokio::task::spawn_local(sweep(Rc::downgrade(&pool), pool.settings.idle));
            *pool.sweeper.borrow_mut() = Some(sweeper.abort_handle());
        }
    }
}

/// Closes connections that were idle for too long, as long as the pool lives.
async fn sweep(pool: Weak<Inner>, limit: Duration) {
    loop {
        tokio::time::sleep(limit.max(Duration::from_millis(100)) / 2).await;
        let Some(pool) = pool.upgrade() else { return };
        for endpoint in pool.endpoints.borrow().values() {
            endpoint.idle.borrow_mut().retain_mut(|idle| idle.since.elapsed() < limit && idle.io.is_silent());
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
