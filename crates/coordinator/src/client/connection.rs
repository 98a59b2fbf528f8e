//! Connections to one endpoint: opened with a deadline, kept for the next request, and told apart when they fail by whether
//! the request can have reached the other side.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::Endpoint;

/// How many idle connections an endpoint keeps.
const IDLE_MOST: usize = 4;

/// How long a peer may leave what we sent unacknowledged, or stay silent to the kernel's probes. For watches, which wait
/// long: a server that lost its power does not say so.
const SILENCE_MOST: Duration = Duration::from_secs(4);

/// A connection that a request can be sent on.
pub(super) type Sender = SendRequest<Full<Bytes>>;

/// Why an exchange came to nothing.
#[derive(Debug)]
pub(super) enum Broken {
    /// Nothing of the request was sent.
    NotSent(String),
    /// The request was sent, at least in part.
    Sent(String),
}

/// One endpoint and its idle connections.
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    /// Guards the list only; never held across a wait.
    idle: Mutex<Vec<Sender>>,
}

impl Target {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, idle: Mutex::new(Vec::new()) }
    }

    /// Forgets the idle connections: the server they lead to did not answer.
    pub(super) fn forget(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Gives a connection back whose answer was read to its end.
    pub(super) fn keep(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MOST && !sender.is_closed() {
            idle.push(sender);
        }
    }

    fn take(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    /// Sends a request, on a kept connection or a new one, and waits for the head of its answer.
    pub(super) async fn send(
        &self,
        tls: Option<&Arc<ClientConfig>>,
        times: Times,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Sender, Response<Incoming>), Broken> {
        while let Some(mut sender) = self.take() {
            if sender.ready().await.is_err() {
                continue;
            }
            match timeout_at(times.answer_by(), sender.try_send_request(request)).await {
                Ok(Ok(response)) => return Ok((sender, response)),
                // The server had closed the connection in the meantime: hyper gives back what it never sent.
                Ok(Err(mut error)) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Broken::Sent(chain(&error.into_error()))),
                },
                Err(_) => return Err(Broken::Sent(times.silence())),
            }
        }
        let mut sender = match tokio::time::timeout(times.connect, open(&self.endpoint, tls)).await {
            Ok(Ok(sender)) => sender,
            Ok(Err(why)) => return Err(Broken::NotSent(why)),
            Err(_) => return Err(Broken::NotSent(format!("no connection within {:?}", times.connect))),
        };
        match timeout_at(times.answer_by(), sender.try_send_request(request)).await {
            Ok(Ok(response)) => Ok((sender, response)),
            Ok(Err(mut error)) => {
                let unsent = error.take_message().is_some();
                let why = chain(&error.into_error());
                Err(if unsent { Broken::NotSent(why) } else { Broken::Sent(why) })
            }
            Err(_) => Err(Broken::Sent(times.silence())),
        }
    }
}

/// How long one attempt may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// For a new connection.
    pub(super) connect: Duration,
    /// For the answer, once there is a connection.
    pub(super) answer: Duration,
    /// For everything.
    pub(super) end: Instant,
}

impl Times {
    /// Until when an answer is waited for that is asked for now.
    pub(super) fn answer_by(&self) -> Instant {
        self.end.min(Instant::now() + self.answer)
    }

    pub(super) fn silence(&self) -> String {
        format!("no answer within {:?}", self.answer)
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn open(endpoint: &Endpoint, tls: Option<&Arc<ClientConfig>>) -> Result<Sender, String> {
    let stream: Box<dyn Stream> = match endpoint {
        Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(|error| error.to_string())?),
        Endpoint::Http { host, port } => Box::new(tcp(host, *port).await?),
        Endpoint::Https { host, port } => {
            let config = tls.ok_or("the address is https, and no certificate was given to show there")?;
            let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
            let stream = tcp(host, *port).await?;
            let connector = TlsConnector::from(Arc::clone(config));
            Box::new(connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?)
        }
    };
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
    // Ends by itself when the sender is dropped or the peer closes; what failed is told to whoever waits for an answer.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, String> {
    let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
    let options = || {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        let second = Duration::from_secs(1);
        socket.set_tcp_keepalive(
            &TcpKeepalive::new().with_time(second).with_interval(second).with_retries(3),
        )?;
        socket.set_tcp_user_timeout(Some(SILENCE_MOST))
    };
    options().map_err(|error: std::io::Error| error.to_string())?;
    Ok(stream)
}

/// An error with its causes: hyper's own sentence says only where it happened.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
