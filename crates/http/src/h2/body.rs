//! The body of an h2 request, and the patience with clients that are slow to send or to take one.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use super::interim::Responder;
use super::stream::{Broken, PIECE_BYTES};
use crate::h1::fields;
use crate::message::BodyStream;
use crate::pool::Deadline;
use crate::watch::{NEVER, Pace};
use crate::worker::Worker;
use crate::{Body, BodyError};

/// The body of an h2 request. The client's window opens as the service reads.
pub(super) struct StreamBody {
    stream: RecvStream,
    worker: Rc<Worker>,
    received: u64,
    length: Option<u64>,
    trailers: Option<HeaderMap>,
    ended: bool,
    patience: Patience,
    respond: Rc<Responder>,
}

impl StreamBody {
    pub(super) fn of(
        stream: RecvStream,
        length: Option<u64>,
        worker: &Rc<Worker>,
        respond: &Rc<Responder>,
    ) -> Body {
        if stream.is_end_stream() {
            return Body::Empty;
        }
        let patience = Patience::new(worker, worker.settings.timeouts.body);
        let worker = Rc::clone(worker);
        Body::Stream(Box::new(Self {
            stream,
            worker,
            received: 0,
            length,
            trailers: None,
            ended: false,
            patience,
            respond: Rc::clone(respond),
        }))
    }
}

impl BodyStream for StreamBody {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.patience.moved(data.len());
                    if self.stream.flow_control().release_capacity(data.len()).is_err() {
                        return Poll::Ready(Some(Err(BodyError::Closed)));
                    }
                    self.received += data.len() as u64;
                    let limit = self.worker.settings.limits.body_bytes;
                    if self.received > limit {
                        return Poll::Ready(Some(Err(BodyError::TooLarge { limit })));
                    }
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(Err(BodyError::Closed))),
                Poll::Ready(None) => match self.stream.poll_trailers(cx) {
                    Poll::Ready(Ok(trailers)) => {
                        self.trailers = trailers.map(fields::allowed_trailers);
                        self.ended = true;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Some(Err(BodyError::Closed))),
                    Poll::Pending => return Poll::Pending,
                },
                Poll::Pending => {
                    self.respond.send_continue();
                    ready!(self.patience.poll_lost(cx));
                    let seconds = self.worker.settings.timeouts.body.as_secs() as u32;
                    return Poll::Ready(Some(Err(BodyError::TimedOut { seconds })));
                }
            }
        }
    }

    fn trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    fn remaining(&self) -> Option<u64> {
        if self.ended { Some(0) } else { self.length.map(|length| length.saturating_sub(self.received)) }
    }
}

/// How long a client may still take, under the same minimum rate as for HTTP/1.1.
pub(super) struct Patience {
    worker: Rc<Worker>,
    pace: Pace,
    until_ms: Cell<u64>,
    deadline: Option<Deadline>,
}

impl Patience {
    pub(super) fn new(worker: &Rc<Worker>, full: Duration) -> Self {
        let pace = Pace::new(full, worker.settings.limits.minimum_rate);
        Self { worker: Rc::clone(worker), pace, until_ms: Cell::new(NEVER), deadline: None }
    }

    fn moved(&mut self, bytes: usize) {
        self.pace.moved(bytes, &self.until_ms, self.worker.watches.clock.now_ms());
    }

    /// Ready when the client took too long. To be asked whenever there is nothing to do but to wait.
    fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.worker.watches.clock.now_ms();
        self.pace.wait(&self.until_ms, now);
        let left = Duration::from_millis(self.until_ms.get().saturating_sub(now));
        let deadline = self.deadline.get_or_insert_with(|| Deadline::new(left));
        deadline.set(left);
        deadline.poll(cx)
    }

    /// Waits until at least a byte may be sent; answers how many may.
    pub(super) fn poll_room(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut SendStream<Bytes>,
        wanted: usize,
    ) -> Poll<Result<usize, Broken>> {
        stream.reserve_capacity(wanted.min(PIECE_BYTES));
        loop {
            let room = stream.capacity();
            if room > 0 {
                self.moved(room);
                return Poll::Ready(Ok(room));
            }
            match stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => return Poll::Ready(Err(Broken::Client)),
                Poll::Pending => break,
            }
        }
        ready!(self.poll_lost(cx));
        self.worker.metrics.protocol_error("response not taken");
        Poll::Ready(Err(Broken::Client))
    }
}
