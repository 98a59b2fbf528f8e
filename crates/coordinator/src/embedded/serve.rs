//! HTTP/1.1 around the store. Bounds are set on whatever a peer can make grow or wait.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::Listener;
use super::api::{self, Incoming, failure};
use super::watch;
use super::writer::Handle;
use crate::TlsError;
use crate::wire::{BODY_MOST_BYTES, Failure};

/// Connections at a time; further ones wait to be accepted.
const CONNECTIONS_MOST: usize = 256;

/// Watches at a time.
const WATCHES_MOST: usize = 192;

/// For a TLS handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// For the head of a request, and so for how long a connection may be idle.
const HEAD_WITHIN: Duration = Duration::from_mins(1);

/// For the body of a request.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// After an accept that failed, as with too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Server {
    handle: Handle,
    connections: Arc<Semaphore>,
    watches: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(handle: Handle) -> Self {
        Self {
            handle,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MOST)),
            watches: Arc::new(Semaphore::new(WATCHES_MOST)),
        }
    }

    pub(super) async fn run(self, listener: Listener) -> Result<Infallible, TlsError> {
        let acceptor = match &listener {
            Listener::Tls(_, tls) => Some(TlsAcceptor::from(tls.server()?)),
            Listener::Tcp(_) | Listener::Unix(_) => None,
        };
        // Ends with this future, and the connections with it.
        let mut running = JoinSet::new();
        loop {
            while running.try_join_next().is_some() {}
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else { continue };
            let stream: Box<dyn Stream> = match accept(&listener).await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the coordinator cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (handle, watches, acceptor) =
                (self.handle.clone(), Arc::clone(&self.watches), acceptor.clone());
            running.spawn(async move {
                let _permit = permit;
                if let Err(why) = connection(stream, acceptor, handle, watches).await {
                    tracing::debug!(why, "a connection to the coordinator ended");
                }
            });
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn accept(listener: &Listener) -> std::io::Result<Box<dyn Stream>> {
    Ok(match listener {
        Listener::Tcp(listener) | Listener::Tls(listener, _) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // A peer that lost its power does not close: the kernel finds out.
            socket2::SockRef::from(&stream).set_tcp_keepalive(
                &socket2::TcpKeepalive::new().with_time(HANDSHAKE_WITHIN).with_interval(HANDSHAKE_WITHIN),
            )?;
            Box::new(stream)
        }
        Listener::Unix(listener) => Box::new(listener.accept().await?.0),
    })
}

async fn connection(
    stream: Box<dyn Stream>,
    acceptor: Option<TlsAcceptor>,
    handle: Handle,
    watches: Arc<Semaphore>,
) -> Result<(), String> {
    let stream: Box<dyn Stream> = match acceptor {
        None => stream,
        Some(acceptor) => match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Box::new(stream),
            Ok(Err(error)) => return Err(format!("TLS: {error}")),
            Err(_) => return Err("TLS took too long".to_owned()),
        },
    };
    let service = service_fn(|request| answer(request, &handle, &watches));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(|error| error.to_string())
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    handle: &Handle,
    watches: &Arc<Semaphore>,
) -> Result<Response<Answer>, Infallible> {
    let path = request.uri().path().to_owned();
    if request.method() == Method::GET && path == "/health" {
        let well = handle.ask(api::Request::Status).await.is_ok();
        let (status, text) = if well { (200, "true") } else { (503, "false") };
        return Ok(response(status, Answer::whole(format!(r#"{{"health":"{text}"}}"#).into_bytes())));
    }
    if request.method() != Method::POST {
        return Ok(failed(&failure(12, "the API is asked by POST")));
    }
    let body = Limited::new(request.into_body(), BODY_MOST_BYTES).collect();
    let body = match tokio::time::timeout(BODY_WITHIN, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return Ok(failed(&failure(3, format!("the request's body: {error}")))),
        Err(_) => return Ok(failed(&failure(3, "the request's body took too long"))),
    };
    let answered = match api::read(&path, &body) {
        Err(failure) => Err(failure),
        Ok(Incoming::Watch(create)) => match Arc::clone(watches).try_acquire_owned() {
            Ok(permit) => Ok(Answer::Stream(watch::start(handle.clone(), create, permit))),
            Err(_) => Err(failure(8, "etcdserver: too many requests")),
        },
        Ok(Incoming::Request(request)) => {
            handle.ask(request).await.map(|answer| Answer::whole(answer.body()))
        }
    };
    Ok(match answered {
        Ok(answer) => response(200, answer),
        Err(failure) => failed(&failure),
    })
}

fn failed(failure: &Failure) -> Response<Answer> {
    response(api::status(failure.code), Answer::whole(api::json(failure)))
}

fn response(status: u16, answer: Answer) -> Response<Answer> {
    let mut response = Response::new(answer);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}

/// The body of an answer.
enum Answer {
    Whole(Full<Bytes>),
    /// Messages as they come; the stream ends with its sender.
    Stream(mpsc::Receiver<Bytes>),
}

impl Answer {
    fn whole(body: Vec<u8>) -> Self {
        Self::Whole(Full::new(Bytes::from(body)))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context),
            Self::Stream(messages) => {
                messages.poll_recv(context).map(|message| message.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
