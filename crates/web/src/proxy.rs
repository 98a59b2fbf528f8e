//! Requests to an app that speaks HTTP itself, on a Unix socket or a port of 127.0.0.1.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{FORWARDED, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use mainstay_http::client::Upstream;
use mainstay_http::pool::{ClientError, Pool, PoolSettings};
use mainstay_http::{Body, BodyError, BodyStream, Interim, Request, Response, UpgradeRequest};

use crate::forwarded;

/// The first pause after an app took no connection; it doubles up to [`MOST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(5);
const MOST_PAUSE: Duration = Duration::from_millis(100);
/// How long an app that restarts is waited for at most.
const RESTART: Duration = Duration::from_secs(15);

/// One worker's way to one app.
pub(crate) struct Proxy {
    place: Place,
    pool: Pool,
    patience: Duration,
}

enum Place {
    Socket(PathBuf),
    /// A file that holds the port in use; read anew whenever a request is sent, for the port changes with each start.
    PortFile(PathBuf),
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error("{path}: the app's port is not known: {error}")]
    NoPort { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Failed {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NoPort { .. } | Self::Client(ClientError::Connect(_)) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Client(error) => error.status(),
        }
    }

    /// In metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoPort { .. } => "no_port",
            Self::Client(error) => match error {
                ClientError::Connect(_) => "connect",
                ClientError::ConnectTimedOut(_) => "connect_timeout",
                ClientError::Busy => "queue_full",
                ClientError::WaitTimedOut(_) => "queue_timeout",
                ClientError::TimedOut { .. } => "timeout",
                ClientError::Closed { .. } => "closed",
                ClientError::Reset { .. } => "reset",
                ClientError::Malformed(_) => "malformed",
                ClientError::RequestBody(_) => "request_body",
            },
        }
    }

    /// Whether the app was not there at all, so that nothing of the request was sent.
    fn is_absence(&self) -> bool {
        match self {
            Self::NoPort { .. } => true,
            Self::Client(ClientError::Connect(error)) => matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
            ),
            Self::Client(_) => false,
        }
    }

    /// Whether the app hung up without a word.
    fn is_silence(&self) -> bool {
        matches!(self, Self::Client(ClientError::Closed { .. }))
    }
}

impl Proxy {
    pub(crate) fn to_socket(path: PathBuf, timeout: Duration) -> Self {
        Self::new(Place::Socket(path), timeout)
    }

    pub(crate) fn to_port(file: PathBuf, timeout: Duration) -> Self {
        Self::new(Place::PortFile(file), timeout)
    }

    fn new(place: Place, timeout: Duration) -> Self {
        let settings = PoolSettings { first_byte: timeout, ..PoolSettings::default() };
        Self { place, pool: Pool::new(settings), patience: timeout.min(RESTART) }
    }

    fn upstream(&self) -> Result<Upstream, Failed> {
        match &self.place {
            Place::Socket(path) => Ok(Upstream::Unix(path.clone())),
            Place::PortFile(path) => {
                let no_port = |error| Failed::NoPort { path: path.clone(), error };
                let text = std::fs::read_to_string(path).map_err(no_port)?;
                let port = text.trim().parse().map_err(|_| {
                    no_port(io::Error::new(io::ErrorKind::InvalidData, "it holds no port number"))
                })?;
                Ok(Upstream::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)))
            }
        }
    }

    /// Asks the app; answers also how long it took until its response's head. While the app is not there (it
    /// restarts), it is asked again: nothing was sent yet. One that ends closes what it had accepted and not read: it is asked
    /// once more, where that does no harm.
    pub(crate) async fn ask(&self, request: Request) -> Result<(Response, Duration), Failed> {
        let asked = Instant::now();
        let mut pause = PAUSE;
        let request = Repeatable::new(request);
        let mut may_repeat = request.is_harmless();
        loop {
            let sent = match self.upstream() {
                Ok(upstream) => self.pool.send(&upstream, request.copy()).await.map_err(Failed::from),
                Err(failed) => Err(failed),
            };
            let failed = match sent {
                Ok(response) => return Ok((response, asked.elapsed())),
                Err(failed) => failed,
            };
            if may_repeat && failed.is_silence() {
                may_repeat = false;
                continue;
            }
            if !failed.is_absence() || asked.elapsed() + pause >= self.patience {
                return Err(failed);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MOST_PAUSE);
        }
    }
}

/// Puts what an app behind a proxy expects into a request: where it came from, and its id.
pub(crate) fn prepare(request: &mut Request, path: &str, id: &HeaderValue, is_secure: bool) {
    let proto = if is_secure { "https" } else { "http" };
    let query = request.uri.query().map(|query| format!("{path}?{query}"));
    let target = query.as_deref().unwrap_or(path);
    let host = request.headers.get(HOST).cloned().or_else(|| {
        let authority = request.uri.authority()?;
        HeaderValue::from_str(authority.as_str()).ok()
    });
    if let Ok(target) = target.parse::<PathAndQuery>() {
        request.uri = Uri::from(target);
    }
    forwarded::clean(&mut request.headers);
    let mut put = |name: &'static str, value: HeaderValue| {
        request.headers.insert(HeaderName::from_static(name), value);
    };
    put("x-request-id", id.clone());
    put("x-forwarded-proto", HeaderValue::from_static(proto));
    let mut forwarded = String::new();
    if let Some(peer) = request.peer {
        let address = peer.ip().to_canonical();
        if let Ok(address) = HeaderValue::try_from(address.to_string()) {
            put("x-forwarded-for", address.clone());
            put("x-real-ip", address);
        }
        forwarded = match address {
            IpAddr::V4(address) => format!("for={address};"),
            IpAddr::V6(address) => format!("for=\"[{address}]\";"),
        };
    }
    if let Some(host) = host {
        if let Ok(text) = host.to_str() {
            forwarded = format!("{forwarded}host=\"{}\";", text.replace(['"', '\\'], ""));
        }
        put("x-forwarded-host", host.clone());
        request.headers.insert(HOST, host);
    }
    if let Ok(value) = HeaderValue::try_from(format!("{forwarded}proto={proto}")) {
        request.headers.insert(FORWARDED, value);
    }
}

/// A request that can be handed out again as long as nothing of its body was read.
struct Repeatable {
    method: Method,
    uri: Uri,
    version: http::Version,
    headers: HeaderMap,
    peer: Option<SocketAddr>,
    host: Option<String>,
    protocol: Option<String>,
    interim: Interim,
    body: RepeatableBody,
}

enum RepeatableBody {
    Full(Bytes),
    Shared(Rc<RefCell<Box<dyn BodyStream>>>),
}

impl Repeatable {
    fn new(request: Request) -> Self {
        Self {
            method: request.method,
            uri: request.uri,
            version: request.version,
            headers: request.headers,
            peer: request.peer,
            host: request.host,
            protocol: request.upgrade.map(|upgrade| upgrade.protocol),
            interim: request.interim,
            body: match request.body {
                Body::Full(bytes) => RepeatableBody::Full(bytes),
                Body::Stream(stream) => RepeatableBody::Shared(Rc::new(RefCell::new(stream))),
                Body::File(range) => RepeatableBody::Shared(Rc::new(RefCell::new(Box::new(
                    crate::files::pieces::FilePieces(range),
                )))),
                Body::Empty | Body::Upgrade(_) => RepeatableBody::Full(Bytes::new()),
            },
        }
    }

    /// Whether the app may see it twice: it changes nothing, and there is no body that could be half read.
    fn is_harmless(&self) -> bool {
        let is_empty = matches!(&self.body, RepeatableBody::Full(bytes) if bytes.is_empty());
        self.method.is_safe() && is_empty && self.protocol.is_none()
    }

    fn copy(&self) -> Request {
        Request {
            method: self.method.clone(),
            uri: self.uri.clone(),
            version: self.version,
            headers: self.headers.clone(),
            body: match &self.body {
                RepeatableBody::Full(bytes) if bytes.is_empty() => Body::Empty,
                RepeatableBody::Full(bytes) => Body::Full(bytes.clone()),
                RepeatableBody::Shared(stream) => Body::Stream(Box::new(Shared(Rc::clone(stream)))),
            },
            peer: self.peer,
            local: None,
            tls: None,
            host: self.host.clone(),
            upgrade: self.protocol.clone().map(|protocol| UpgradeRequest { protocol }),
            interim: self.interim.clone(),
        }
    }
}

struct Shared(Rc<RefCell<Box<dyn BodyStream>>>);

impl BodyStream for Shared {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.0.borrow_mut().poll_data(cx)
    }

    fn trailers(&mut self) -> Option<HeaderMap> {
        self.0.borrow_mut().trailers()
    }

    fn remaining(&self) -> Option<u64> {
        self.0.borrow().remaining()
    }
}
