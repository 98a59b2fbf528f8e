//! A body of unknown length that must not grow beyond a bound.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use mainstay_http::{BodyError, BodyStream};

/// A stream that fails once more than `most` bytes have come.
pub(crate) struct Limited {
    pub(crate) stream: Box<dyn BodyStream>,
    pub(crate) left: u64,
    pub(crate) most: u64,
}

impl BodyStream for Limited {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let polled = ready!(self.stream.poll_data(cx));
        if let Some(Ok(piece)) = &polled {
            match self.left.checked_sub(piece.len() as u64) {
                Some(left) => self.left = left,
                None => return Poll::Ready(Some(Err(BodyError::TooLarge { limit: self.most }))),
            }
        }
        Poll::Ready(polled)
    }

    fn trailers(&mut self) -> Option<HeaderMap> {
        self.stream.trailers()
    }

    fn remaining(&self) -> Option<u64> {
        self.stream.remaining()
    }
}
