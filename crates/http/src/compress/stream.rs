//! A body that is compressed as it goes.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::encoder::{Effort, Encoder};
use crate::encoding::Coding;
use crate::{BodyError, BodyStream};

/// A stream that is compressed as it goes. What was taken is passed on before it waits for more, so that a page that
/// comes slowly is seen as it comes.
pub struct Compressed {
    stream: Box<dyn BodyStream>,
    encoder: Option<Encoder>,
    unflushed: bool,
}

/// Compressed bytes that are collected before they are passed on.
const PIECE_BYTES: usize = 16 * 1024;
/// Plain bytes that are taken in before others on this thread have their turn.
const TURN_BYTES: usize = 256 * 1024;

impl Compressed {
    /// Compresses what this stream brings; gives it back where no compressor can be made.
    pub fn new(
        stream: Box<dyn BodyStream>,
        coding: Coding,
    ) -> Result<Self, (io::Error, Box<dyn BodyStream>)> {
        match Encoder::new(coding, Effort::Once.level(coding), stream.remaining()) {
            Ok(encoder) => Ok(Self { stream, encoder: Some(encoder), unflushed: false }),
            Err(error) => Err((error, stream)),
        }
    }
}

impl BodyStream for Compressed {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Some(encoder) = &mut self.encoder else { return Poll::Ready(None) };
        let mut taken = 0;
        loop {
            if encoder.waiting_bytes() >= PIECE_BYTES {
                return Poll::Ready(Some(Ok(encoder.take())));
            }
            if taken >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(piece))) => {
                    self.unflushed = true;
                    taken += piece.len();
                    if let Err(error) = encoder.write(&piece) {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    let Some(encoder) = self.encoder.take() else { return Poll::Ready(None) };
                    return Poll::Ready(match encoder.finish() {
                        Ok(rest) if rest.is_empty() => None,
                        Ok(rest) => Some(Ok(rest)),
                        Err(error) => Some(Err(error.into())),
                    });
                }
                Poll::Pending if self.unflushed => {
                    self.unflushed = false;
                    if let Err(error) = encoder.flush() {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                    if encoder.waiting_bytes() > 0 {
                        return Poll::Ready(Some(Ok(encoder.take())));
                    }
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
