//! A range of a file as a stream, in constant memory.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use mainstay_http::{BodyError, BodyStream, FileRange};

/// Bytes that are read at once.
const PIECE_BYTES: u64 = 64 * 1024;

/// A file that is read piece by piece.
pub(crate) struct FilePieces(pub(crate) FileRange);

impl BodyStream for FilePieces {
    fn poll_data(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.0.length == 0 {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(next(&mut self.0).map_err(BodyError::Io)))
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.0.length)
    }
}

/// Takes the next piece off a range. A file that became shorter is an error.
pub(crate) fn next(range: &mut FileRange) -> io::Result<Bytes> {
    let mut piece = BytesMut::zeroed(range.length.min(PIECE_BYTES) as usize);
    let count = range.file.read_at(&mut piece, range.offset)?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    range.offset += count as u64;
    range.length -= count as u64;
    piece.truncate(count);
    Ok(piece.freeze())
}
