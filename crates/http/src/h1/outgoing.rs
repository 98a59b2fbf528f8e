//! Bytes on their way out: a head or small pieces in a reused buffer, then at most one large piece, in one write.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// Up to this size a piece is copied behind the head; above, it is written from where it lies.
const COPY_BYTES: usize = 8 * 1024;
/// From this size on the buffer is full and has to be written first.
const FULL_BYTES: usize = 32 * 1024;

/// A kept connection keeps a buffer up to this size.
const KEPT_BYTES: usize = 2 * 1024;

/// What waits to be written.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// Written first.
    pub(crate) buffer: Vec<u8>,
    written: usize,
    /// Written after the buffer.
    large: Bytes,
    /// Written after the large piece.
    tail: &'static [u8],
    /// Written into a stream that may still hold it, such as TLS.
    unflushed: bool,
}

impl Outgoing {
    /// Whether all is written and has left.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_written() && !self.unflushed
    }

    fn is_written(&self) -> bool {
        self.written == self.buffer.len() && self.large.is_empty() && self.tail.is_empty()
    }

    /// Whether nothing more may be added before some of it is written.
    pub(crate) fn is_full(&self) -> bool {
        !self.large.is_empty() || !self.tail.is_empty() || self.buffer.len() >= FULL_BYTES
    }

    /// Gives up a buffer that grew beyond what most messages need.
    pub(crate) fn shrink(&mut self) {
        if self.buffer.capacity() > KEPT_BYTES {
            self.buffer = Vec::new();
        }
    }

    /// Adds a piece and what has to follow it. Must not be full.
    pub(crate) fn push(&mut self, piece: Bytes, tail: &'static [u8]) {
        if piece.len() <= COPY_BYTES {
            self.buffer.extend_from_slice(&piece);
            self.buffer.extend_from_slice(tail);
        } else {
            self.large = piece;
            self.tail = tail;
        }
    }

    /// Adds a piece whatever waits: behind a full buffer, it is copied.
    pub(crate) fn push_later(&mut self, piece: Bytes) {
        if self.is_full() {
            self.buffer.extend_from_slice(&piece);
        } else {
            self.push(piece, b"");
        }
    }

    /// Writes everything; answers how many bytes went out in this call.
    pub(crate) fn poll_flush<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
        progress: &mut usize,
    ) -> Poll<io::Result<()>> {
        while !self.is_written() {
            let head = &self.buffer[self.written..];
            let wrote = if self.large.is_empty() && self.tail.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, head))?
            } else {
                let slices = [IoSlice::new(head), IoSlice::new(&self.large), IoSlice::new(self.tail)];
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices))?
            };
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *progress += wrote;
            self.unflushed = true;
            self.advance(wrote);
        }
        ready!(Pin::new(&mut *io).poll_flush(cx))?;
        self.unflushed = false;
        self.buffer.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, count: usize) {
        let of_head = count.min(self.buffer.len() - self.written);
        self.written += of_head;
        let of_large = (count - of_head).min(self.large.len());
        self.large.advance(of_large);
        if self.large.is_empty() {
            // Also an empty rest holds the memory, which its owner may be about to read into again.
            self.large = Bytes::new();
        }
        self.tail = &self.tail[count - of_head - of_large..];
    }
}
