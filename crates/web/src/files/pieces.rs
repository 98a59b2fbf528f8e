//! A range of a file as a stream, in constant memory.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use mainstay_http::{BodyError, BodyStream, FileRange};
use rustix::buffer::spare_capacity;

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
    let wanted = range.length.min(PIECE_BYTES) as usize;
    // Into memory that nobody has to fill with zeros first.
    let mut piece = Vec::with_capacity(wanted);
    rustix::io::pread(&*range.file, spare_capacity(&mut piece), range.offset)?;
    piece.truncate(wanted);
    let count = piece.len();
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    range.offset += count as u64;
    range.length -= count as u64;
    Ok(piece.into())
}
