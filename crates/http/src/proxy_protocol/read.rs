//! Takes a PROXY header off a connection, and not a byte more.

use std::io;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::{Header, MOST_BYTES, ProxyError, parse};

/// Bytes that are looked at in one call: nearly every header is shorter.
const LOOK_BYTES: usize = 256;

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// What came is none.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The connection broke, or ended in the header.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

impl ReadError {
    /// A name that metrics count by.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Proxy(ProxyError::Missing) => "no PROXY header",
            Self::Proxy(ProxyError::TooLong) => "PROXY header too long",
            Self::Proxy(ProxyError::Malformed) => "malformed PROXY header",
            Self::Proxy(ProxyError::Unsupported) => "unsupported PROXY header",
            Self::Proxy(ProxyError::Checksum) => "wrong checksum of PROXY header",
            Self::Io(_) => "connection broke in PROXY header",
        }
    }
}

/// Reads the header. What follows stays in the socket, so that nothing has to be given back. The caller bounds the
/// time.
pub async fn read(stream: &mut TcpStream) -> Result<Header, ReadError> {
    let mut seen: Vec<u8> = Vec::new();
    loop {
        let before = seen.len();
        seen.resize((before + LOOK_BYTES).min(MOST_BYTES), 0);
        let count = stream.peek(&mut seen[before..]).await?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        seen.truncate(before + count);
        let parsed = parse(&seen)?;
        // What was looked at belongs to the header, up to its end.
        let end = parsed.map_or(seen.len(), |(_, length)| length);
        stream.read_exact(&mut seen[before..end]).await?;
        if let Some((header, _)) = parsed {
            return Ok(header);
        }
    }
}
