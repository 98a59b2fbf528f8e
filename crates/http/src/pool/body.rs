//! The body of an upstream's response. It owns the connection until it is complete.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

use super::exchange::{Exchange, OutboundStream};
use super::{ClientError, Home};
use crate::h1::answer::ResponseFraming;
use crate::h1::chunked::{ChunkDecoder, Decoded};
use crate::h1::fields::Framing;
use crate::message::BodyStream;
use crate::{Body, BodyError};

/// Up to this size a body in memory is copied out of the buffer that it was read into.
const COPY_BYTES: usize = 8 * 1024;

enum Rest {
    Length(u64),
    Chunked(ChunkDecoder),
    UntilClose,
}

/// A body that is read as it is polled.
pub(crate) struct UpstreamBody {
    /// Gone when the body is complete or broken.
    connection: Option<Box<(Exchange, Home)>>,
    rest: Rest,
    keep: bool,
    /// What of the request's body is still to be sent.
    request: Option<OutboundStream>,
    trailers: Option<HeaderMap>,
    /// The deadline for the next piece runs. It does not while the client takes its time.
    waiting: bool,
    failed: bool,
}

impl UpstreamBody {
    pub(crate) fn of(
        mut exchange: Exchange,
        framing: ResponseFraming,
        keep: bool,
        request: Option<OutboundStream>,
        home: Home,
    ) -> Body {
        let rest = match framing {
            ResponseFraming::Framed(Framing::Length(length)) => Rest::Length(length),
            ResponseFraming::Framed(Framing::Chunked) => Rest::Chunked(ChunkDecoder::default()),
            ResponseFraming::UntilClose => Rest::UntilClose,
        };
        if let Some(length) = exchange.holds(framing) {
            let bytes = exchange.input.split_to(length);
            // A small body must not hold the whole buffer, which the next exchange reads into.
            let bytes = if length <= COPY_BYTES { Bytes::copy_from_slice(&bytes) } else { bytes.freeze() };
            give_back(exchange, home, keep, request.as_ref());
            return if bytes.is_empty() { Body::Empty } else { Body::Full(bytes) };
        }
        let connection = Some(Box::new((exchange, home)));
        Body::Stream(Box::new(Self {
            connection,
            rest,
            keep,
            request,
            trailers: None,
            waiting: false,
            failed: false,
        }))
    }

    fn end(&mut self) {
        if let Some(connection) = self.connection.take() {
            let (exchange, home) = *connection;
            give_back(exchange, home, self.keep, self.request.as_ref());
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.connection = None;
        self.failed = true;
        Poll::Ready(Some(Err(error)))
    }

    /// Takes what is at hand.
    fn take(&mut self) -> Result<Step, &'static str> {
        let Some(connection) = &mut self.connection else { return Ok(Step::End) };
        let input = &mut connection.0.input;
        match &mut self.rest {
            Rest::Length(0) => Ok(Step::End),
            Rest::Length(_) | Rest::UntilClose if input.is_empty() => Ok(Step::NeedMore),
            Rest::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= take as u64;
                Ok(Step::Data(input.split_to(take).freeze()))
            }
            Rest::UntilClose => Ok(Step::Data(input.split().freeze())),
            Rest::Chunked(decoder) => Ok(match decoder.decode(input)? {
                Decoded::Data(data) => Step::Data(data),
                Decoded::NeedMore => Step::NeedMore,
                Decoded::End(trailers) => {
                    self.trailers = (!trailers.is_empty()).then_some(trailers);
                    Step::End
                }
            }),
        }
    }
}

enum Step {
    Data(Bytes),
    NeedMore,
    End,
}

/// Keeps a connection only if both messages are complete and nothing is left over.
fn give_back(exchange: Exchange, home: Home, keep: bool, request: Option<&OutboundStream>) {
    if keep && exchange.is_sent(request) && exchange.input.is_empty() {
        home.keep(exchange.into_link());
    }
}

impl BodyStream for UpstreamBody {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.failed {
            return Poll::Ready(Some(Err(BodyError::Closed)));
        }
        loop {
            match self.take() {
                Ok(Step::Data(data)) => {
                    if matches!(self.rest, Rest::Length(0)) {
                        self.end();
                    }
                    return Poll::Ready(Some(Ok(data)));
                }
                Ok(Step::End) => {
                    self.end();
                    return Poll::Ready(None);
                }
                Ok(Step::NeedMore) => {}
                Err(reason) => return self.fail(BodyError::Framing(reason)),
            }
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            let exchange = &mut connection.0;
            if let Err(ClientError::RequestBody(error)) = exchange.poll_send(cx, &mut self.request) {
                return self.fail(error);
            }
            match exchange.poll_read(cx) {
                Poll::Ready(Ok(0)) if matches!(self.rest, Rest::UntilClose) => {
                    self.connection = None;
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(0)) => return self.fail(BodyError::Closed),
                Poll::Ready(Ok(_)) => self.waiting = false,
                Poll::Ready(Err(error)) => return self.fail(error.into()),
                Poll::Pending => {
                    if !self.waiting {
                        self.waiting = true;
                        exchange.expect_more();
                    }
                    if exchange.poll_deadline(cx).is_pending() {
                        return Poll::Pending;
                    }
                    let seconds = exchange.between_bytes().as_secs() as u32;
                    return self.fail(BodyError::TimedOut { seconds });
                }
            }
        }
    }

    fn trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    fn remaining(&self) -> Option<u64> {
        match &self.rest {
            Rest::Length(left) => Some(*left),
            _ => None,
        }
    }
}
