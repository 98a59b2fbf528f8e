//! One of the two sides of a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use mainstay_http::tls::{TlsStream, UpstreamTlsStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A client or an upstream.
pub(crate) enum Side {
    Plain(TcpStream),
    Client(Box<TlsStream<TcpStream>>),
    Upstream(Box<UpstreamTlsStream<TcpStream>>),
}

impl Side {
    /// Makes the end visible as a break: a reset, where the protocol's own end would otherwise look complete. TLS shows
    /// it by the missing last message.
    pub(crate) fn break_off(&self) {
        if let Self::Plain(stream) = self {
            // If that fails, the connection is closed all the same.
            let _ = stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Side {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Client(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Upstream(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Side {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Client(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Upstream(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Client(stream) => Pin::new(stream).poll_flush(cx),
            Self::Upstream(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Client(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Upstream(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
