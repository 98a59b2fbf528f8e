//! The server's side of a handshake.

use std::io;
use std::time::Instant;

use rustls::server::Acceptor;
use rustls::{AlertDescription, Error, PeerIncompatible};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::LazyConfigAcceptor;

use super::info::TlsInfo;
use super::metrics::TlsMetrics;
use super::server::ServerTls;
use super::stream::{Bounded, TlsStream};

/// Bytes that a client may send until the handshake is done: a hello, and perhaps certificates of its own.
const HANDSHAKE_BYTES: usize = 32 * 1024;

/// The fatal alert `unrecognized_name` (RFC 6066, 3) as a record.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client asked for a name that is not served.
    #[error("the client asked for {0:?}, which no certificate is for")]
    UnknownName(String),
    /// The client sent more than a handshake may have.
    #[error("the client's handshake is larger than {HANDSHAKE_BYTES} bytes")]
    TooLarge,
    /// The client speaks HTTP without TLS.
    #[error("the client speaks plain HTTP")]
    PlainHttp,
    /// It was not done in time.
    #[error("the handshake was not done in time")]
    TimedOut,
    /// It was broken off because the server stops.
    #[error("the server stops")]
    Stopped,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(io::Error),
    /// The two sides do not come together.
    #[error("{0}")]
    Tls(Error),
}

impl HandshakeError {
    /// A name that metrics count by.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownName(_) => "unknown name",
            Self::TooLarge => "too large",
            Self::PlainHttp => "plain HTTP",
            Self::TimedOut => "timed out",
            Self::Stopped => "server stops",
            Self::Io(_) => "connection broke",
            Self::Tls(error) => match error {
                Error::InvalidMessage(_) => "no TLS",
                Error::NoCertificatesPresented => "no client certificate",
                Error::InvalidCertificate(_) => "client certificate refused",
                Error::AlertReceived(
                    AlertDescription::UnknownCA
                    | AlertDescription::BadCertificate
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::CertificateRevoked
                    | AlertDescription::UnsupportedCertificate,
                ) => "certificate refused by client",
                Error::AlertReceived(_) => "alert from client",
                Error::PeerIncompatible(
                    PeerIncompatible::Tls12NotOffered
                    | PeerIncompatible::Tls12NotOfferedOrEnabled
                    | PeerIncompatible::SupportedVersionsExtensionRequired,
                ) => "version",
                Error::PeerIncompatible(_) => "nothing in common",
                Error::NoApplicationProtocol => "protocol",
                _ => "misbehaviour",
            },
        }
    }

    fn of(error: io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => Self::Tls(error),
            Err(error) => Self::Io(error),
        }
    }
}

/// Makes a connection into one over TLS. The caller bounds the time, and counts failures with
/// [`TlsMetrics::failed`].
pub async fn accept<T>(
    io: T,
    tls: &ServerTls,
    metrics: &TlsMetrics,
) -> Result<(TlsStream<T>, TlsInfo), HandshakeError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let begin = Instant::now();
    let current = tls.current();
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), Bounded::new(io, HANDSHAKE_BYTES));
    let mut start = match (&mut acceptor).await {
        Ok(start) => start,
        Err(error) => {
            let too_large = acceptor.take_io().is_some_and(|io| io.is_exhausted());
            return Err(if too_large { HandshakeError::TooLarge } else { HandshakeError::of(error) });
        }
    };
    let name = start.client_hello().server_name().map(str::to_owned);
    if !current.chooser.takes(name.as_deref()) {
        // The client is told; whether it listens changes nothing.
        let _ = start.io.write_all(&UNRECOGNIZED_NAME).await;
        let _ = start.io.shutdown().await;
        return Err(HandshakeError::UnknownName(name.unwrap_or_default()));
    }
    let mut stream = match start.into_stream(current.config).into_fallible().await {
        Ok(stream) => stream,
        Err((_, io)) if io.is_exhausted() => return Err(HandshakeError::TooLarge),
        Err((error, _)) => return Err(HandshakeError::of(error)),
    };
    let (io, connection) = stream.get_mut();
    io.lift();
    let info = TlsInfo::new(connection, name.as_deref(), current.chooser);
    metrics.done(&info, begin.elapsed());
    Ok((TlsStream(Box::new(stream)), info))
}
