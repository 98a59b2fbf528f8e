//! Small HTTP services on Unix sockets: every role's `/health` and `/metrics`, and the agent's control API.
//!
//! Each runs on a thread of its own, so that it answers whatever the rest of the process is busy with, and its
//! handlers are `Send`, so that they can be part of an ordinary tokio program.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::body::read_all;
use crate::metrics::{EngineMetrics, Registry};
use crate::settings::{Limits, Timeouts};
use crate::{Body, Listener, Request, Response, Server, Service, Settings, Shutdown, unix_path};

/// A request whose whole body was read.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// What follows `?`; empty without.
    pub query: String,
    /// The fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Call {
    /// The body as JSON; the error is a ready answer.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Reply> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Reply::text(StatusCode::BAD_REQUEST, format!("the body is not what is expected: {error}\n"))
        })
    }

    /// The value of a parameter of the query, as it stands there.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }
}

/// An answer in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The content type.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// Plain text.
    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: text.into().into_bytes() }
    }

    /// JSON with status 200.
    pub fn json<T: serde::Serialize>(value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self { status: StatusCode::OK, content_type: "application/json", body },
            Err(error) => {
                Self::text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot be written as JSON: {error}\n"))
            }
        }
    }

    /// The same with another status.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

type Answering = Pin<Box<dyn Future<Output = Reply> + Send>>;
type Handler = Arc<dyn Fn(Call) -> Answering + Send + Sync>;

/// Which handler answers which method and path.
#[derive(Clone, Default)]
pub struct Router {
    routes: Vec<(Method, String, Handler)>,
}

impl Router {
    /// A router that answers everything with 404.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a handler for one method and one path; a path that ends with `*` takes everything that begins with it.
    #[must_use]
    pub fn route<F, A>(mut self, method: Method, path: &str, handler: F) -> Self
    where
        F: Fn(Call) -> A + Send + Sync + 'static,
        A: Future<Output = Reply> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |call| Box::pin(handler(call)));
        self.routes.push((method, path.to_owned(), handler));
        self
    }

    /// Adds `GET /health`: 200 `ok`, or 503 with the reason why not.
    #[must_use]
    pub fn health(self, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.route(Method::GET, "/health", move |_| {
            std::future::ready(match check() {
                Ok(()) => Reply::text(StatusCode::OK, "ok\n"),
                Err(reason) => Reply::text(StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
            })
        })
    }

    /// Adds `GET /metrics`.
    #[must_use]
    pub fn metrics(self, registry: &Registry) -> Self {
        let registry = registry.clone();
        self.route(Method::GET, "/metrics", move |_| {
            std::future::ready(Reply {
                status: StatusCode::OK,
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                body: registry.render().into_bytes(),
            })
        })
    }

    fn find(&self, method: &Method, path: &str) -> Result<&Handler, Reply> {
        let takes = |pattern: &str| match pattern.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => path == pattern,
        };
        let here = || self.routes.iter().filter(|(_, pattern, _)| takes(pattern));
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        if let Some((_, _, handler)) = here().find(|(allowed, _, _)| allowed == method) {
            return Ok(handler);
        }
        Err(if here().next().is_some() {
            Reply::text(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method\n")
        } else {
            Reply::text(StatusCode::NOT_FOUND, "no such path\n")
        })
    }
}

/// A running admin socket. Dropping it ends it.
#[derive(Debug)]
pub struct AdminSocket {
    shutdown: Shutdown,
    server: Option<Server>,
    path: PathBuf,
    /// The socket's file, to remove it only while it is ours.
    identity: Option<(u64, u64)>,
}

/// Bytes of a control request's body.
const BODY_BYTES: u64 = 4 << 20;

/// Serves a router on a Unix socket at `path`, taking the path over from a process that is about to leave. `mode`
/// says who may connect: 0o600 for the owner and root, 0o660 for the group too.
pub fn serve(path: &Path, mode: u32, router: Router) -> io::Result<AdminSocket> {
    let listener = unix_path::listen(path, mode)?;
    let identity = unix_path::identity(path);
    let settings = Settings {
        limits: Limits { connections: 64, body_bytes: BODY_BYTES, ..Limits::default() },
        timeouts: Timeouts {
            drain: Duration::from_secs(2),
            drain_idle: Duration::ZERO,
            ..Timeouts::default()
        },
        ..Settings::default()
    };
    let shutdown = Shutdown::new();
    // Its connections are not those that the role's metrics are about.
    let metrics = EngineMetrics::new(&Registry::default());
    let listeners = vec![vec![Listener::Unix(listener)]];
    let server = Server::start(listeners, &settings, &metrics, &shutdown, move |_| Routed(router.clone()))?;
    Ok(AdminSocket { shutdown, server: Some(server), path: path.to_owned(), identity })
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if self.identity.is_some() && unix_path::identity(&self.path) == self.identity {
            // If it is gone by now, that is what was wanted.
            let _ = std::fs::remove_file(&self.path);
        }
        self.shutdown.drain();
        if let Some(server) = self.server.take()
            && let Err(error) = server.join()
        {
            tracing::error!(%error, socket = %self.path.display(), "the admin socket ended badly");
        }
    }
}

struct Routed(Router);

impl Service for Routed {
    async fn call(self: Rc<Self>, request: Request) -> Response {
        let reply = match self.0.find(&request.method, request.uri.path()).cloned() {
            Err(reply) => reply,
            Ok(handler) => match read_all(request.body, BODY_BYTES).await {
                Err(error) => Reply::text(error.status(), format!("{error}\n")),
                Ok(body) => {
                    handler(Call {
                        method: request.method,
                        path: request.uri.path().to_owned(),
                        query: request.uri.query().unwrap_or_default().to_owned(),
                        headers: request.headers,
                        body,
                    })
                    .await
                }
            },
        };
        let mut response = Response::new(Body::Full(reply.body.into()));
        *response.status_mut() = reply.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
        response
    }
}
