//! What services do with bodies.

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use http::StatusCode;

use crate::{Body, BodyError};

/// Reads a whole body into memory, up to a bound.
pub async fn read_all(body: Body, limit: u64) -> Result<Bytes, BodyError> {
    let mut stream = match body {
        Body::Empty | Body::Upgrade(_) => return Ok(Bytes::new()),
        Body::Full(bytes) if bytes.len() as u64 > limit => return Err(BodyError::TooLarge { limit }),
        Body::Full(bytes) => return Ok(bytes),
        Body::File(range) if range.length > limit => return Err(BodyError::TooLarge { limit }),
        Body::File(range) => {
            use std::os::unix::fs::FileExt as _;
            let mut bytes = BytesMut::zeroed(range.length as usize);
            range.file.read_exact_at(&mut bytes, range.offset)?;
            return Ok(bytes.freeze());
        }
        Body::Stream(stream) => stream,
    };
    if stream.remaining().is_some_and(|length| length > limit) {
        return Err(BodyError::TooLarge { limit });
    }
    let mut all = BytesMut::new();
    while let Some(piece) = poll_fn(|cx| stream.poll_data(cx)).await {
        let piece = piece?;
        if (all.len() + piece.len()) as u64 > limit {
            return Err(BodyError::TooLarge { limit });
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

impl BodyError {
    /// The status that a service answers with when a request's body ended like this.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TimedOut { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Closed | Self::Framing(_) => StatusCode::BAD_REQUEST,
            Self::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
