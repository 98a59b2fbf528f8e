//! The stream under an h2 connection: metered, counted, under a deadline for clients that take nothing, and buffered.
//!
//! The `h2` crate writes and flushes every DATA frame by itself. Here frames gather until the connection has nothing
//! more to say, or the buffer is full. Files take their places in the frames here (see `files`).

use std::cell::{RefCell, RefMut};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::files::{FileWire, Files};
use super::gathered::{Frames, Gathered};
use super::meter::FrameMeter;
use crate::transport::Transport;
use crate::watch::{Pace, Watch};
use crate::worker::Worker;

/// Bytes that gather at most.
const BUFFER_BYTES: usize = 128 * 1024;

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
    files: Files,
    frames: Frames,
    gathered: Gathered,
    /// A writer was turned away because the buffer was full.
    refused: bool,
}

impl<T: Transport> Wire<T> {
    /// A stream whose client begins with a preface of `preface` bytes.
    pub(crate) fn new(io: T, worker: Rc<Worker>, watch: Rc<Watch>, preface: usize) -> Self {
        let settings = &worker.settings;
        let meter = FrameMeter::new(settings.h2.control_frames_per_second, preface);
        let pace = Pace::new(settings.timeouts.write, settings.limits.minimum_rate);
        let (files, frames, gathered) = (Files::default(), Frames::default(), Gathered::default());
        let refused = false;
        Self(Rc::new(RefCell::new(Inner {
            io,
            meter,
            pace,
            worker,
            watch,
            files,
            frames,
            gathered,
            refused,
        })))
    }

    /// Writes what has gathered. Answers whether someone who was turned away may try again.
    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_drain(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut inner.refused)))
    }
}

impl<T: Transport> FileWire for Wire<T> {
    fn files(&self) -> RefMut<'_, Files> {
        RefMut::map(self.0.borrow_mut(), |inner| &mut inner.files)
    }
}

impl<T: Transport> Inner<T> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let now = self.worker.watches.clock.now_ms();
            match self.gathered.poll_write(&mut self.io, cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
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
        if Pin::new(&mut self.io).poll_flush(cx)?.is_pending() {
            self.pace.wait(&self.watch.write_by, self.worker.watches.clock.now_ms());
            return Poll::Pending;
        }
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

impl<T: Transport> AsyncWrite for Wire<T> {
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
            inner.frames.put(slice, &mut inner.files, &mut inner.gathered);
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
