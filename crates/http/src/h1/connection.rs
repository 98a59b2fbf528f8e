//! One HTTP/1.1 connection of the server: what it holds, and how bytes get in and out under its deadlines.
//!
//! Everything is shared through one `Rc`, because the body of a request is read by the service while the connection
//! writes the response. No borrow lasts longer than one poll.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use http::{HeaderMap, StatusCode};
use tokio_util::io::poll_read_buf;

use super::body::{Incoming, Taken};
use super::head::{self, Rejection, RequestHead};
use super::lines::{HeadScanner, LineError, Scan};
use super::outgoing::Outgoing;
use super::respond;
use crate::BodyError;
use crate::field_block::Keep;
use crate::interim::InterimWay;
use crate::settings::Limits;
use crate::transport::Transport;
use crate::watch::{NEVER, Pace, Watch};
use crate::worker::Worker;

/// What every HTTP/2 client sends first (RFC 9113, 3.4).
pub(crate) const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Room for the bytes of a head that is read in one call.
const READ_BYTES: usize = 8 * 1024;
/// Bytes thrown away after the last response, so that the client reads the response and not a reset.
const LINGER_BYTES: usize = 16 << 20;

/// One connection.
pub(crate) struct Connection<T> {
    /// How the service wants the fields of its requests.
    keep: Keep,
    pub(crate) worker: Rc<Worker>,
    pub(crate) watch: Rc<Watch>,
    /// Counts requests; the number names the current one.
    pub(crate) request: Cell<u64>,
    /// Taken out when the connection leaves HTTP/1.1.
    pub(crate) io: RefCell<Option<T>>,
    pub(crate) input: RefCell<Input>,
    pub(crate) output: RefCell<Output>,
}

/// What came in.
pub(crate) struct Input {
    /// Read, but not yet understood.
    pub(crate) bytes: BytesMut,
    /// The body of the current request.
    pub(crate) incoming: Incoming,
    /// The client waits for 100 before it sends the body.
    pub(crate) awaits_continue: bool,
    scanner: HeadScanner,
    pace: Pace,
}

/// What goes out.
pub(crate) struct Output {
    pub(crate) waiting: Outgoing,
    /// The head of the response to the current request was written.
    pub(crate) responding: bool,
    /// Interim responses that the current request may still get.
    pub(crate) interim_left: usize,
    pace: Pace,
}

/// What comes next on a connection.
pub(crate) enum Next {
    Request(Box<RequestHead>),
    /// The client speaks HTTP/2.
    Http2,
    Refuse(Rejection),
    /// The client left, or was idle for too long.
    Close,
}

impl<T: Transport> Connection<T> {
    pub(crate) fn new(io: T, worker: Rc<Worker>, watch: Rc<Watch>, keep: Keep) -> Rc<Self> {
        let settings = &worker.settings;
        let rate = settings.limits.minimum_rate;
        let input = Input {
            bytes: BytesMut::new(),
            incoming: Incoming::Done,
            awaits_continue: false,
            scanner: HeadScanner::default(),
            pace: Pace::new(settings.timeouts.body, rate),
        };
        let output = Output {
            waiting: Outgoing::default(),
            responding: false,
            interim_left: 0,
            pace: Pace::new(settings.timeouts.write, rate),
        };
        Rc::new(Self {
            keep,
            worker,
            watch,
            request: Cell::new(0),
            io: RefCell::new(Some(io)),
            input: RefCell::new(input),
            output: RefCell::new(output),
        })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.worker.settings.limits
    }

    fn now(&self) -> u64 {
        self.worker.watches.clock.now_ms()
    }

    /// Begins to wait for a head.
    pub(crate) fn expect_head(&self, first: bool) {
        let timeouts = &self.worker.settings.timeouts;
        // A connection without a byte may be asked to leave, whether it is kept or was opened in advance.
        let idle = self.input.borrow().bytes.is_empty();
        let patience = if idle && !first { timeouts.idle } else { timeouts.head };
        self.watch.idle.set(idle);
        self.watch.read_by.set(self.worker.watches.clock.after(patience));
        self.request.set(self.request.get() + 1);
    }

    /// Reads the next head. Responses that wait are written before anything is waited for.
    pub(crate) fn poll_head(&self, cx: &mut Context<'_>, first: bool) -> Poll<Next> {
        loop {
            if let Some(next) = self.parse_head(first) {
                self.watch.idle.set(false);
                self.watch.read_by.set(NEVER);
                return Poll::Ready(next);
            }
            if ready!(self.poll_flush(cx)).is_err() {
                return Poll::Ready(Next::Close);
            }
            let mut input = self.input.borrow_mut();
            if self.watch.idle.get() && self.worker.draining.get() {
                let soon = self.worker.draining_since_ms.get()
                    + self.worker.settings.timeouts.drain_idle.as_millis() as u64;
                self.watch.read_by.set(self.watch.read_by.get().min(soon));
            }
            if self.watch.read_by.get() <= self.now() {
                return Poll::Ready(if input.bytes.is_empty() {
                    Next::Close
                } else {
                    Next::Refuse(Rejection { status: StatusCode::REQUEST_TIMEOUT, reason: "head timeout" })
                });
            }
            let was_empty = input.bytes.is_empty();
            if input.bytes.capacity() == 0 {
                input.bytes = self.worker.take_buffer();
            }
            match self.poll_read(cx, &mut input.bytes, READ_BYTES) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::Close),
                Poll::Ready(Ok(_)) => {
                    if was_empty && self.watch.idle.replace(false) {
                        self.watch
                            .read_by
                            .set(self.worker.watches.clock.after(self.worker.settings.timeouts.head));
                    }
                }
                Poll::Pending => {
                    // Thousands of idle connections hold no buffer.
                    if was_empty {
                        self.worker.give_buffer(std::mem::take(&mut input.bytes));
                    }
                    self.watch.set_task(cx);
                    return Poll::Pending;
                }
            }
        }
    }

    fn parse_head(&self, first: bool) -> Option<Next> {
        let mut input = self.input.borrow_mut();
        let input = &mut *input;
        if input.bytes.is_empty() {
            return None;
        }
        if first {
            let seen = input.bytes.len().min(H2_PREFACE.len());
            if input.bytes[..seen] == H2_PREFACE[..seen] {
                return (seen == H2_PREFACE.len()).then_some(Next::Http2);
            }
        }
        let limits = self.limits();
        let too_large =
            Rejection { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason: "head too large" };
        match input.scanner.scan(&input.bytes) {
            Ok(Scan::Complete { start, end }) => {
                let parsed = if end - start > limits.head_bytes {
                    Err(too_large)
                } else {
                    head::parse_keeping(&input.bytes[start..end], limits, self.keep)
                };
                input.bytes.advance(end);
                input.scanner.reset();
                // While the service works, others read into the same memory, which is still in the cache.
                if input.bytes.is_empty() {
                    self.worker.give_buffer(std::mem::take(&mut input.bytes));
                }
                Some(match parsed {
                    Ok(head) => {
                        input.incoming = Incoming::new(head.framing);
                        input.awaits_continue = head.expects_continue && !input.incoming.is_done();
                        input.pace = Pace::new(self.worker.settings.timeouts.body, limits.minimum_rate);
                        Next::Request(Box::new(head))
                    }
                    Err(rejection) => Next::Refuse(rejection),
                })
            }
            Ok(Scan::Partial { first_line: false }) if input.bytes.len() > limits.target_bytes + 64 => {
                Some(Next::Refuse(Rejection { status: StatusCode::URI_TOO_LONG, reason: "target too long" }))
            }
            Ok(Scan::Partial { .. }) if input.bytes.len() > limits.head_bytes => {
                Some(Next::Refuse(too_large))
            }
            Ok(Scan::Partial { .. }) => None,
            Err(error) => Some(Next::Refuse(Rejection::bad(match error {
                LineError::BareLf => "bare LF",
                LineError::BareCr => "bare CR",
                LineError::EmptyLines => "empty lines",
            }))),
        }
    }

    /// Reads more of a body, after telling the client to go on if it waits for that.
    pub(crate) fn poll_more_body(&self, cx: &mut Context<'_>, room: usize) -> Poll<Result<(), BodyError>> {
        let mut input = self.input.borrow_mut();
        let input = &mut *input;
        let responding = self.output.borrow().responding;
        if input.awaits_continue && !responding {
            input.awaits_continue = false;
            self.output.borrow_mut().waiting.buffer.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if !responding && let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            input.incoming = Incoming::Failed;
            return Poll::Ready(Err(error.into()));
        }
        if self.watch.read_by.get() <= self.now() {
            input.incoming = Incoming::Failed;
            self.watch.read_by.set(NEVER);
            let seconds = self.worker.settings.timeouts.body.as_secs() as u32;
            return Poll::Ready(Err(BodyError::TimedOut { seconds }));
        }
        match self.poll_read(cx, &mut input.bytes, room) {
            Poll::Ready(Ok(0)) => {
                input.incoming = Incoming::Failed;
                Poll::Ready(Err(BodyError::Closed))
            }
            Poll::Ready(Err(error)) => {
                input.incoming = Incoming::Failed;
                Poll::Ready(Err(error.into()))
            }
            Poll::Ready(Ok(count)) => {
                input.pace.moved(count, &self.watch.read_by, self.now());
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                input.pace.wait(&self.watch.read_by, self.now());
                self.watch.set_body_reader(cx);
                Poll::Pending
            }
        }
    }

    /// Throws the rest of the body away, within bounds. Answers whether the connection can be used again.
    pub(crate) fn poll_discard(&self, cx: &mut Context<'_>, left: &mut u64) -> Poll<bool> {
        loop {
            let mut input = self.input.borrow_mut();
            if input.awaits_continue {
                return Poll::Ready(false);
            }
            match input.take_body(self.limits().body_bytes) {
                Ok(Taken::End(_)) => return Poll::Ready(true),
                Ok(Taken::Data(data)) if data.len() as u64 <= *left => {
                    *left -= data.len() as u64;
                    continue;
                }
                Ok(Taken::Data(_)) | Err(_) => return Poll::Ready(false),
                Ok(Taken::NeedMore) => {}
            }
            if matches!(input.incoming, Incoming::Length(length) if length > *left) {
                return Poll::Ready(false);
            }
            drop(input);
            if ready!(self.poll_more_body(cx, READ_BYTES)).is_err() {
                return Poll::Ready(false);
            }
        }
    }

    /// Ready when the client has left while it should be waiting for a response.
    pub(crate) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut input = self.input.borrow_mut();
        let input = &mut *input;
        if !self.limits().cancel_when_client_leaves || !input.incoming.is_done() || !input.bytes.is_empty() {
            return Poll::Pending;
        }
        if input.bytes.capacity() == 0 {
            input.bytes = self.worker.take_buffer();
        }
        match self.poll_read(cx, &mut input.bytes, READ_BYTES) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(()),
            // The next request, early; it waits.
            Poll::Ready(Ok(_)) => Poll::Pending,
            Poll::Pending => {
                self.worker.give_buffer(std::mem::take(&mut input.bytes));
                Poll::Pending
            }
        }
    }

    /// Writes all that waits, under the deadline for clients that take nothing.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut output = self.output.borrow_mut();
        let output = &mut *output;
        if output.waiting.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.poll_under_pace(cx, &mut output.pace, |io, cx, moved| output.waiting.poll_flush(io, cx, moved))
    }

    /// Sends a part of a file past user space; `None` where the stream cannot.
    pub(crate) fn poll_send_file(
        &self,
        cx: &mut Context<'_>,
        range: &crate::FileRange,
    ) -> Option<Poll<io::Result<usize>>> {
        let mut output = self.output.borrow_mut();
        let mut supported = true;
        let sent = self.poll_under_pace(cx, &mut output.pace, |io, cx, moved| {
            match io.poll_send_file(cx, &range.file, range.offset, range.length) {
                Some(Poll::Ready(Ok(count))) => {
                    *moved = count;
                    Poll::Ready(Ok(count))
                }
                Some(other) => other,
                None => {
                    supported = false;
                    Poll::Ready(Ok(0))
                }
            }
        });
        supported.then_some(sent)
    }

    fn poll_under_pace<R>(
        &self,
        cx: &mut Context<'_>,
        pace: &mut Pace,
        act: impl FnOnce(&mut T, &mut Context<'_>, &mut usize) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        let mut io = self.io.borrow_mut();
        let Some(io) = io.as_mut() else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let mut moved = 0;
        let done = act(io, cx, &mut moved);
        if moved > 0 {
            self.worker.metrics.sent_bytes.add(moved as u64);
            pace.moved(moved, &self.watch.write_by, self.now());
        }
        if done.is_pending() {
            if self.watch.write_by.get() <= self.now() {
                self.worker.metrics.protocol_error("response not taken");
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            pace.wait(&self.watch.write_by, self.now());
            self.watch.set_task(cx);
        }
        done
    }

    fn poll_read(&self, cx: &mut Context<'_>, bytes: &mut BytesMut, room: usize) -> Poll<io::Result<usize>> {
        let mut io = self.io.borrow_mut();
        let Some(io) = io.as_mut() else { return Poll::Ready(Ok(0)) };
        bytes.reserve(room);
        let read = poll_read_buf(Pin::new(io), cx, bytes);
        if let Poll::Ready(Ok(count)) = read {
            self.worker.metrics.received_bytes.add(count as u64);
        }
        read
    }

    /// Says that nothing more comes, if that can be said at once: whoever does not listen is not waited for.
    pub(crate) fn poll_goodbye(&self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(io) = self.io.borrow_mut().as_mut() {
            let _ = Pin::new(io).poll_shutdown(cx);
        }
        Poll::Ready(())
    }

    /// Says that nothing more comes, and throws away what the client still sends, for a bounded time.
    pub(crate) fn poll_linger(&self, cx: &mut Context<'_>, shut: &mut bool, left: &mut usize) -> Poll<()> {
        if !*shut {
            let mut io = self.io.borrow_mut();
            let Some(io) = io.as_mut() else { return Poll::Ready(()) };
            if ready!(Pin::new(io).poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            *shut = true;
        }
        let mut input = self.input.borrow_mut();
        loop {
            input.bytes.clear();
            match self.poll_read(cx, &mut input.bytes, READ_BYTES) {
                Poll::Ready(Ok(count)) if count > 0 && *left > count => *left -= count,
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if self.watch.read_by.get() <= self.now() => return Poll::Ready(()),
                Poll::Pending => {
                    self.watch.set_task(cx);
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<T: Transport> InterimWay for Connection<T> {
    fn send_interim(&self, request: u64, status: StatusCode, headers: &HeaderMap) {
        let mut output = self.output.borrow_mut();
        if self.request.get() != request || output.responding || output.interim_left == 0 {
            return;
        }
        // A client that does not wait for 100, or has it, needs none.
        if status == StatusCode::CONTINUE && !std::mem::take(&mut self.input.borrow_mut().awaits_continue) {
            return;
        }
        output.interim_left -= 1;
        respond::put_interim(&mut output.waiting.buffer, status, headers);
    }
}

/// How many bytes [`Connection::poll_linger`] throws away.
pub(crate) const fn linger_bytes() -> usize {
    LINGER_BYTES
}
