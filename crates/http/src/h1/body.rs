//! The body of a request, read from the connection when the service asks for it.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

use super::chunked::{ChunkDecoder, Decoded};
use super::connection::{Connection, Input};
use super::fields::Framing;
use crate::message::BodyStream;
use crate::transport::Transport;
use crate::watch::NEVER;
use crate::{Body, BodyError};

/// A body up to this size that came together with its head is handed over as bytes in memory.
const READY_BYTES: u64 = 64 * 1024;
/// Room for bytes of a body that is read in one call.
const READ_BYTES: usize = 64 * 1024;

/// How far the current request's body is.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Read to its end, or there is none.
    Done,
    /// So many bytes to come.
    Length(u64),
    /// Chunks to come.
    Chunked { decoder: ChunkDecoder, received: u64 },
    /// It cannot be read to its end; the connection is of no more use.
    Failed,
}

impl Incoming {
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked { decoder: ChunkDecoder::default(), received: 0 },
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }
}

/// What the bytes at hand hold of the body.
pub(crate) enum Taken {
    Data(Bytes),
    End(Option<HeaderMap>),
    NeedMore,
}

impl Input {
    /// Takes the next piece of the body out of the bytes at hand.
    pub(crate) fn take_body(&mut self, limit: u64) -> Result<Taken, BodyError> {
        let taken = match &mut self.incoming {
            Incoming::Done => return Ok(Taken::End(None)),
            Incoming::Failed => return Err(BodyError::Closed),
            Incoming::Length(left) => {
                if self.bytes.is_empty() {
                    return Ok(Taken::NeedMore);
                }
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(self.bytes.len());
                *left -= take as u64;
                if *left == 0 {
                    self.incoming = Incoming::Done;
                }
                Ok(Taken::Data(self.bytes.split_to(take).freeze()))
            }
            Incoming::Chunked { decoder, received } => match decoder.decode(&mut self.bytes) {
                Ok(Decoded::NeedMore) => return Ok(Taken::NeedMore),
                Ok(Decoded::Data(data)) => {
                    *received += data.len() as u64;
                    if *received > limit { Err(BodyError::TooLarge { limit }) } else { Ok(Taken::Data(data)) }
                }
                Ok(Decoded::End(trailers)) => {
                    self.incoming = Incoming::Done;
                    Ok(Taken::End((!trailers.is_empty()).then_some(trailers)))
                }
                Err(reason) => Err(BodyError::Framing(reason)),
            },
        };
        if taken.is_err() {
            self.incoming = Incoming::Failed;
        }
        taken
    }
}

/// What a service reads a request's body from.
pub(crate) struct IncomingBody<T: Transport> {
    connection: Rc<Connection<T>>,
    /// Which request of the connection it belongs to: a body kept too long must not read its successor's bytes.
    request: u64,
    trailers: Option<HeaderMap>,
    ended: bool,
}

impl<T: Transport> IncomingBody<T> {
    /// The body for the request whose head was just read.
    pub(crate) fn of(connection: &Rc<Connection<T>>, request: u64) -> Body {
        let mut input = connection.input.borrow_mut();
        match input.incoming {
            Incoming::Done | Incoming::Failed => Body::Empty,
            Incoming::Length(length) if length <= READY_BYTES && input.bytes.len() as u64 >= length => {
                input.incoming = Incoming::Done;
                Body::Full(input.bytes.split_to(length as usize).freeze())
            }
            _ => Body::Stream(Box::new(Self {
                connection: Rc::clone(connection),
                request,
                trailers: None,
                ended: false,
            })),
        }
    }

    fn is_current(&self) -> bool {
        self.connection.request.get() == self.request
    }
}

impl<T: Transport> BodyStream for IncomingBody<T> {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if !self.is_current() {
            return Poll::Ready(Some(Err(BodyError::Closed)));
        }
        loop {
            let taken = self.connection.input.borrow_mut().take_body(self.connection.limits().body_bytes);
            match taken {
                Ok(Taken::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Taken::End(trailers)) => {
                    self.trailers = trailers;
                    self.ended = true;
                    return Poll::Ready(None);
                }
                Ok(Taken::NeedMore) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match self.connection.poll_more_body(cx, READ_BYTES) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    fn remaining(&self) -> Option<u64> {
        if !self.is_current() {
            return None;
        }
        match self.connection.input.borrow().incoming {
            Incoming::Done => Some(0),
            Incoming::Length(left) => Some(left),
            _ => None,
        }
    }
}

impl<T: Transport> Drop for IncomingBody<T> {
    fn drop(&mut self) {
        if self.is_current() {
            self.connection.watch.read_by.set(NEVER);
        }
    }
}
