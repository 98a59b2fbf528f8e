//! The body of an upstream's response over h2. It owns the stream until it is complete.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;

use super::stream::{Asked, StreamExchange};
use super::{ClientError, Hold};
use crate::h1::fields;
use crate::message::BodyStream;
use crate::{Body, BodyError};

/// The body of a response, read as it is polled.
pub(super) struct StreamResponse {
    /// Gone when the body is complete or broken. Dropped before, the stream is reset with CANCEL and the connection
    /// goes on.
    open: Option<Box<Open>>,
    left: Option<u64>,
    trailers: Option<HeaderMap>,
    waiting: bool,
    failed: bool,
}

/// An exchange whose response has begun.
pub(super) struct Open {
    pub(super) exchange: StreamExchange,
    pub(super) asked: Asked,
    pub(super) receive: RecvStream,
    pub(super) _hold: Hold,
}

impl StreamResponse {
    pub(super) fn of(open: Open, left: Option<u64>) -> Body {
        let open = Some(Box::new(open));
        Body::Stream(Box::new(Self { open, left, trailers: None, waiting: false, failed: false }))
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.open = None;
        self.failed = true;
        Poll::Ready(Some(Err(error)))
    }
}

impl BodyStream for StreamResponse {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.failed {
            return Poll::Ready(Some(Err(BodyError::Closed)));
        }
        loop {
            let Some(open) = &mut self.open else { return Poll::Ready(None) };
            if let Err(ClientError::RequestBody(error)) = open.exchange.poll_send(cx, &mut open.asked) {
                return self.fail(error);
            }
            match open.receive.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.waiting = false;
                    // A client that takes nothing does not ask for more, and so the window closes.
                    let _ = open.receive.flow_control().release_capacity(data.len());
                    if let Some(left) = &mut self.left {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    if data.is_empty() {
                        continue;
                    }
                    return Poll::Ready(Some(Ok(data)));
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "a response over h2 broke off");
                    return self.fail(BodyError::Closed);
                }
                Poll::Ready(None) => match open.receive.poll_trailers(cx) {
                    Poll::Ready(Ok(trailers)) => {
                        self.trailers =
                            trailers.map(fields::allowed_trailers).filter(|trailers| !trailers.is_empty());
                        self.open = None;
                        if self.left.is_some_and(|left| left > 0) {
                            return self.fail(BodyError::Closed);
                        }
                        return Poll::Ready(None);
                    }
                    Poll::Ready(Err(_)) => return self.fail(BodyError::Closed),
                    Poll::Pending => {}
                },
                Poll::Pending => {}
            }
            let between_bytes = open.exchange.between_bytes;
            if !self.waiting {
                self.waiting = true;
                open.exchange.deadline.set(between_bytes);
            }
            ready!(open.exchange.deadline.poll(cx));
            return self.fail(BodyError::TimedOut { seconds: between_bytes.as_secs() as u32 });
        }
    }

    fn trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    fn remaining(&self) -> Option<u64> {
        self.left
    }
}
