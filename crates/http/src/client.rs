//! A small client for the control plane: one request, one bounded answer, one deadline. Its futures are `Send`, so
//! that the agent and the command line can use it. Proxies use the connection pool instead.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::h1::answer::{self, Malformed, ResponseFraming};
use crate::h1::chunked::{ChunkDecoder, Decoded};
use crate::h1::fields::Framing;
use crate::h1::lines::{HeadScanner, Scan};
use crate::unix_path::SocketPath;

/// Where an HTTP server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Upstream {
    /// A Unix socket; the path may be longer than an address holds.
    Unix(PathBuf),
    /// TCP.
    Tcp(SocketAddr),
}

impl std::fmt::Display for Upstream {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(out, "{}", path.display()),
            Self::Tcp(address) => write!(out, "{address}"),
        }
    }
}

/// Bounds on one call.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// From connecting to the last byte of the answer.
    pub timeout: Duration,
    /// Bytes of the answer's body.
    pub body_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), body_bytes: 16 << 20 }
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text; what is no UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No one listens there, or not for us.
    #[error("cannot connect to {upstream}: {error}")]
    Connect {
        /// Where to.
        upstream: Upstream,
        /// Why.
        error: io::Error,
    },
    /// Not within the time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// What came is no HTTP.
    #[error("the answer is no HTTP: {0}")]
    Malformed(#[from] Malformed),
    /// The answer's body is larger than allowed.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// GET over a Unix socket.
pub async fn get(socket: impl AsRef<Path>, path: &str) -> Result<Answer, CallError> {
    call(&Upstream::Unix(socket.as_ref().to_owned()), &Method::GET, path, None, Bounds::default()).await
}

/// POST of a JSON text (or of nothing) over a Unix socket.
pub async fn post(socket: impl AsRef<Path>, path: &str, json: Option<&str>) -> Result<Answer, CallError> {
    let body = json.unwrap_or_default().as_bytes();
    let upstream = Upstream::Unix(socket.as_ref().to_owned());
    call(&upstream, &Method::POST, path, Some(("application/json", body)), Bounds::default()).await
}

/// Any request; `body` is a content type and bytes.
pub async fn call(
    upstream: &Upstream,
    method: &Method,
    path: &str,
    body: Option<(&str, &[u8])>,
    bounds: Bounds,
) -> Result<Answer, CallError> {
    let connect_error = |error| CallError::Connect { upstream: upstream.clone(), error };
    let exchange = async {
        match upstream {
            Upstream::Unix(socket) => {
                let short = SocketPath::new(socket).map_err(connect_error)?;
                let stream = UnixStream::connect(short.as_path()).await.map_err(connect_error)?;
                exchange(stream, "localhost", method, path, body, bounds).await
            }
            Upstream::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(connect_error)?;
                exchange(stream, &address.to_string(), method, path, body, bounds).await
            }
        }
    };
    tokio::time::timeout(bounds.timeout, exchange).await.unwrap_or(Err(CallError::TimedOut(bounds.timeout)))
}

async fn exchange<T: AsyncRead + AsyncWrite + Unpin>(
    mut stream: T,
    host: &str,
    method: &Method,
    path: &str,
    body: Option<(&str, &[u8])>,
    bounds: Bounds,
) -> Result<Answer, CallError> {
    if path.bytes().any(|byte| !byte.is_ascii_graphic()) || !path.starts_with('/') {
        return Err(
            io::Error::new(io::ErrorKind::InvalidInput, "a path begins with / and has no spaces").into()
        );
    }
    let framing = body.map_or(String::new(), |(kind, body)| {
        format!("content-type: {kind}\r\ncontent-length: {}\r\n", body.len())
    });
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{framing}\r\n");
    let mut request = request.into_bytes();
    request.extend_from_slice(body.map_or(&[][..], |(_, body)| body));
    // A server may answer before it has read everything, and close: the answer counts, not the broken pipe.
    let written = stream.write_all(&request).await;

    let mut bytes = BytesMut::with_capacity(8 * 1024);
    let head = loop {
        let head = match (read_head(&mut stream, &mut bytes, method).await, &written) {
            (Err(CallError::Io(_)), Err(error)) => {
                return Err(io::Error::new(error.kind(), error.to_string()).into());
            }
            (head, _) => head?,
        };
        if !head.status.is_informational() {
            break head;
        }
    };
    let body = read_body(&mut stream, bytes, head.framing, bounds.body_bytes).await?;
    Ok(Answer { status: head.status, headers: head.headers, body })
}

/// Bytes of an answer's head.
const HEAD_BYTES: usize = 64 * 1024;

async fn read_head<T: AsyncRead + Unpin>(
    stream: &mut T,
    bytes: &mut BytesMut,
    method: &Method,
) -> Result<answer::ResponseHead, CallError> {
    let mut scanner = HeadScanner::default();
    loop {
        match scanner.scan(bytes).map_err(|_| Malformed("malformed line end"))? {
            Scan::Complete { end, .. } => {
                let head = bytes.split_to(end);
                return Ok(answer::parse(&head, method)?);
            }
            Scan::Partial { .. } if bytes.len() > HEAD_BYTES => {
                return Err(Malformed("head too large").into());
            }
            Scan::Partial { .. } => {}
        }
        read(stream, bytes).await?;
    }
}

async fn read_body<T: AsyncRead + Unpin>(
    stream: &mut T,
    mut bytes: BytesMut,
    framing: ResponseFraming,
    limit: usize,
) -> Result<Vec<u8>, CallError> {
    let too_large = |length: usize| if length > limit { Err(CallError::TooLarge(limit)) } else { Ok(()) };
    match framing {
        ResponseFraming::Framed(Framing::Length(length)) => {
            let length = usize::try_from(length).map_err(|_| CallError::TooLarge(limit))?;
            too_large(length)?;
            while bytes.len() < length {
                read(stream, &mut bytes).await?;
            }
            bytes.truncate(length);
            Ok(bytes.to_vec())
        }
        ResponseFraming::Framed(Framing::Chunked) => {
            let (mut decoder, mut body) = (ChunkDecoder::default(), Vec::new());
            loop {
                match decoder.decode(&mut bytes).map_err(Malformed)? {
                    Decoded::Data(data) => {
                        too_large(body.len() + data.len())?;
                        body.extend_from_slice(&data);
                    }
                    Decoded::End(_) => return Ok(body),
                    Decoded::NeedMore => read(stream, &mut bytes).await?,
                }
            }
        }
        ResponseFraming::UntilClose => {
            while stream.read_buf(&mut bytes).await? > 0 {
                too_large(bytes.len())?;
            }
            too_large(bytes.len())?;
            Ok(bytes.to_vec())
        }
    }
}

/// Reads more; the end of the stream is an error.
async fn read<T: AsyncRead + Unpin>(stream: &mut T, bytes: &mut BytesMut) -> io::Result<()> {
    if stream.read_buf(bytes).await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}
