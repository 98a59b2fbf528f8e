//! A connection to an upstream, and the one timer that it needs.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep};

use super::Head;
use crate::client::Upstream;
use crate::proxy_protocol::{self, Addresses, Version};
use crate::tls::{self, Alpn, ClientTls, UpstreamTlsStream};
use crate::unix_path::SocketPath;

/// What comes before HTTP on connections to upstreams.
#[derive(Debug, Clone, Default)]
pub struct ConnectOptions {
    /// TLS. Its ALPN has to ask for the protocol that the pool speaks.
    pub tls: Option<ClientTls>,
    /// A PROXY header that names the client. Such a connection carries one request (or one upgraded connection) of one
    /// client, and is then closed: no one else may be taken for that client.
    pub proxy_protocol: Option<Version>,
}

/// The two ends of the client's connection, for a PROXY header.
pub(crate) fn client_of(head: &Head<'_>) -> Option<Addresses> {
    let source = head.peer?;
    // Where the client connected to is not always known; the header has no way to leave it out.
    let nowhere = |source: SocketAddr| match source {
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
    };
    Some(Addresses { source, destination: head.local.unwrap_or_else(|| nowhere(source)) })
}

/// A stream to an upstream.
pub(crate) enum UpstreamIo {
    Tcp(TcpStream),
    Unix(UnixStream),
    TcpTls(Box<UpstreamTlsStream<TcpStream>>),
    UnixTls(Box<UpstreamTlsStream<UnixStream>>),
}

impl UpstreamIo {
    /// Connects, sends a PROXY header, and shakes hands, as far as the options say.
    pub(crate) async fn connect(
        upstream: &Upstream,
        options: &ConnectOptions,
        client: Option<Addresses>,
    ) -> io::Result<Self> {
        let header = options.proxy_protocol.map(|version| proxy_protocol::header(version, client));
        let header = header.unwrap_or_default();
        match upstream {
            Upstream::Unix(path) => {
                let short = SocketPath::new(path)?;
                let mut stream = UnixStream::connect(short.as_path()).await?;
                stream.write_all(&header).await?;
                Ok(match &options.tls {
                    None => Self::Unix(stream),
                    Some(tls) => Self::UnixTls(Box::new(tls.connect(stream, None).await?)),
                })
            }
            Upstream::Tcp(address) => {
                let mut stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                stream.write_all(&header).await?;
                Ok(match &options.tls {
                    None => Self::Tcp(stream),
                    Some(tls) => Self::TcpTls(Box::new(tls.connect(stream, Some(address.ip())).await?)),
                })
            }
        }
    }

    /// The scheme of requests on it.
    pub(crate) fn scheme(&self) -> &'static str {
        match self {
            Self::Tcp(_) | Self::Unix(_) => "http",
            Self::TcpTls(_) | Self::UnixTls(_) => "https",
        }
    }

    /// The protocol that was agreed on by ALPN.
    pub(crate) fn negotiated(&self) -> Option<Alpn> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            Self::TcpTls(stream) => tls::negotiated(stream),
            Self::UnixTls(stream) => tls::negotiated(stream),
        }
    }

    /// Whether nothing came since the last response: neither the end of the connection nor bytes that no one asked for.
    pub(crate) fn is_silent(&mut self) -> bool {
        let mut byte = [0_u8; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        Pin::new(self).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer).is_pending()
    }
}

/// Does the same on whatever stream it is.
macro_rules! on_each {
    ($io:expr, $stream:ident => $act:expr) => {
        match $io.get_mut() {
            UpstreamIo::Tcp($stream) => $act,
            UpstreamIo::Unix($stream) => $act,
            UpstreamIo::TcpTls($stream) => $act,
            UpstreamIo::UnixTls($stream) => $act,
        }
    };
}

impl AsyncRead for UpstreamIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_each!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_each!(self, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// A deadline that is moved often and met rarely: the timer stays where it was and is moved only when it fires.
pub(crate) struct Deadline {
    at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    pub(crate) fn new(after: Duration) -> Self {
        let at = Instant::now() + after;
        Self { at, timer: Box::pin(tokio::time::sleep_until(at)) }
    }

    /// Moves the deadline.
    pub(crate) fn set(&mut self, after: Duration) {
        self.set_from(std::time::Instant::now(), after);
    }

    /// The same for whoever has read the clock just now.
    pub(crate) fn set_from(&mut self, now: std::time::Instant, after: Duration) {
        self.at = Instant::from_std(now) + after;
        if self.at < self.timer.deadline() {
            self.timer.as_mut().reset(self.at);
        }
    }

    /// Ready when the deadline has passed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.at <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.at);
        }
        Poll::Pending
    }
}
