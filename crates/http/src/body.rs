//! What services do with bodies.

use std::future::poll_fn;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use rustix::buffer::spare_capacity;

use crate::{Body, BodyError, BodyStream, FileRange};

/// Reads a whole body into memory, up to a bound.
pub async fn read_all(body: Body, limit: u64) -> Result<Bytes, BodyError> {
    let mut stream = match body {
        Body::Empty | Body::Upgrade(_) => return Ok(Bytes::new()),
        Body::Full(bytes) if bytes.len() as u64 > limit => return Err(BodyError::TooLarge { limit }),
        Body::Full(bytes) => return Ok(bytes),
        Body::File(range) if range.length > limit => return Err(BodyError::TooLarge { limit }),
        Body::File(range) => {
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

/// Any body as a stream; `None` where there is nothing to send.
pub(crate) fn into_stream(body: Body) -> Option<Box<dyn BodyStream>> {
    match body {
        Body::Empty | Body::Upgrade(_) => None,
        Body::Full(bytes) => Some(Box::new(Once(Some(bytes).filter(|bytes| !bytes.is_empty())))),
        Body::File(range) => Some(Box::new(FilePieces(range))),
        Body::Stream(stream) => Some(stream),
    }
}

struct Once(Option<Bytes>);

impl BodyStream for Once {
    fn poll_data(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        Poll::Ready(self.0.take().map(Ok))
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// A file that is read piece by piece, in constant memory.
struct FilePieces(FileRange);

impl BodyStream for FilePieces {
    fn poll_data(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.0.length == 0 {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(read_piece(&mut self.0).map_err(BodyError::Io)))
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.0.length)
    }
}

/// Bytes of a file that are read at once.
const FILE_PIECE_BYTES: u64 = 64 * 1024;

/// Takes the next piece off a file's range. A file that ended early is an error.
pub(crate) fn read_piece(range: &mut FileRange) -> io::Result<Bytes> {
    let wanted = range.length.min(FILE_PIECE_BYTES) as usize;
    // Into memory that nobody has to fill with zeros first.
    let mut piece = Vec::with_capacity(wanted);
    rustix::io::pread(&*range.file, spare_capacity(&mut piece), range.offset)?;
    piece.truncate(wanted);
    let read = piece.len();
    if read == 0 && range.length > 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    range.offset += read as u64;
    range.length -= read as u64;
    Ok(piece.into())
}
