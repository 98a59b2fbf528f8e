//! The stream under an h2 connection: metered, counted, under a deadline for clients that take nothing, and buffered.
//!
//! The `h2` crate writes and flushes every DATA frame by itself. Here frames gather until the connection has nothing
//! more to say, or the buffer is full: a system call for each 64 KiB and not for each 16 KiB.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::FrameMeter;
use crate::watch::{Pace, Watch};
use crate::worker::Worker;

/// Bytes that gather at most.
const BUFFER_BYTES: usize = 64 * 1024;
/// A buffer that has grown is given back when it is empty: idle connections hold little.
const KEPT_BYTES: usize = 8 * 1024;

/// The stream; one half is inside the `h2` crate, the other in the hands of whoever decides when to write.
pub(crate) struct Wire<T>(Rc<RefCell<Inner<T>>>);

impl<T> Clone for Wire<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

struct Inner<T> {
    io: T,
    meter: FrameMeter,
    pace: Pace,
    worker: Rc<Worker>,
    watch: Rc<Watch>,
    gathered: Vec<u8>,
    written: usize,
    /// A writer was turned away because the buffer was full.
    refused: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire<T> {
    /// A stream whose client begins with a preface of `preface` bytes.
    pub(crate) fn new(io: T, worker: Rc<Worker>, watch: Rc<Watch>, preface: usize) -> Self {
        let settings = &worker.settings;
        let meter = FrameMeter::new(settings.h2.control_frames_per_second, preface);
        let pace = Pace::new(settings.timeouts.write, settings.limits.minimum_rate);
        let (gathered, written, refused) = (Vec::new(), 0, false);
        Self(Rc::new(RefCell::new(Inner { io, meter, pace, worker, watch, gathered, written, refused })))
    }

    /// Writes what has gathered. Answers whether someone who was turned away may try again.
    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_drain(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut inner.refused)))
    }
}

impl<T: AsyncWrite + Unpin> Inner<T> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            let now = self.worker.watches.clock.now_ms();
            match Pin::new(&mut self.io).poll_write(cx, &self.gathered[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.written += count;
                    self.worker.metrics.sent_bytes.add(count as u64);
                    self.meter.sent(count);
                    self.pace.moved(count, &self.watch.write_by, now);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.pace.wait(&self.watch.write_by, now);
                    return Poll::Pending;
                }
            }
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        // A full buffer is about to be filled again; giving it back each time would cost more than the writing.
        let more_will_come = self.gathered.len() >= BUFFER_BYTES;
        self.gathered.clear();
        if !more_will_come {
            self.gathered.shrink_to(KEPT_BYTES);
        }
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Wire<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut inner.io).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = read {
            let received = &buffer.filled()[before..];
            inner.worker.metrics.received_bytes.add(received.len() as u64);
            if !inner.meter.received(received, inner.worker.watches.clock.now_ms()) {
                inner.worker.metrics.protocol_error("h2 frame flood");
                return Poll::Ready(Err(io::Error::other("too many frames that carry nothing")));
            }
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.gathered.len() >= BUFFER_BYTES {
            let drained = inner.poll_drain(cx);
            inner.refused |= drained.is_pending();
            ready!(drained)?;
        }
        for slice in slices {
            inner.gathered.extend_from_slice(slice);
        }
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: the connection drains the buffer when it has nothing more to say.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}
