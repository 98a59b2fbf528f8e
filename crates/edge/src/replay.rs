//! A request's body that can be sent again while little of it has gone by.
//!
//! Pieces are passed on as they come; those of small bodies are kept (they are references to memory, not copies), so
//! that another upstream can get the whole body when the first one failed.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use mainstay_http::{Body, BodyError, BodyStream};

use crate::admission::Pause;

/// Bytes of a body that are kept. What is longer is sent once.
const KEPT_BYTES: usize = 64 * 1024;
/// Pieces that are kept: a body of one-byte pieces must not cost many times its size.
const KEPT_PIECES: usize = 64;

/// A body for one or more tries, one after the other.
pub(crate) enum Replay {
    Full(Bytes),
    Stream(Rc<RefCell<Source>>),
}

pub(crate) struct Source {
    stream: Box<dyn BodyStream>,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// More went by than was kept.
    gone: bool,
    ended: bool,
    failed: bool,
    trailers: Option<HeaderMap>,
    /// Told whether the client is waited for.
    pause: Option<Rc<Pause>>,
}

impl Replay {
    pub(crate) fn new(body: Body) -> Self {
        match body {
            Body::Full(bytes) => Self::Full(bytes),
            Body::Stream(stream) => Self::Stream(Rc::new(RefCell::new(Source {
                stream,
                kept: Vec::new(),
                kept_bytes: 0,
                gone: false,
                ended: false,
                failed: false,
                trailers: None,
                pause: None,
            }))),
            // Requests have no files for a body.
            Body::Empty | Body::Upgrade(_) | Body::File(_) => Self::Full(Bytes::new()),
        }
    }

    /// Waits for the whole of a body that tells its length and is small enough to be kept; leaves others as they are.
    pub(crate) async fn gather(&self) -> Result<(), BodyError> {
        let Self::Stream(source) = self else { return Ok(()) };
        let length = source.borrow().stream.remaining();
        let Some(length) = length.filter(|length| *length <= KEPT_BYTES as u64) else { return Ok(()) };
        let mut copied = BytesMut::new();
        loop {
            let piece = poll_fn(|cx| source.borrow_mut().stream.poll_data(cx)).await;
            let mut source = source.borrow_mut();
            match piece {
                // Nearly always: it came with its head.
                Some(Ok(piece)) if piece.len() as u64 == length => source.kept.push(piece),
                // Copied, for slow pieces would each hold the memory that they were read into.
                Some(Ok(piece)) => copied.extend_from_slice(&piece),
                Some(Err(error)) => {
                    source.failed = true;
                    return Err(error);
                }
                None => {
                    source.ended = true;
                    source.trailers = source.stream.trailers();
                    if !copied.is_empty() {
                        source.kept.push(copied.freeze());
                    }
                    source.kept_bytes = source.kept.iter().map(Bytes::len).sum();
                    return Ok(());
                }
            }
        }
    }

    /// Gives a place back for as long as the client is waited for, where some of the body is still to come.
    pub(crate) fn pausing(&self, pause: impl FnOnce() -> Rc<Pause>) {
        if let Self::Stream(source) = self
            && !source.borrow().ended
        {
            source.borrow_mut().pause = Some(pause());
        }
    }

    /// Whether the whole body can still be sent.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::Full(_) => true,
            Self::Stream(source) => {
                let source = source.borrow();
                !source.gone && !source.failed
            }
        }
    }

    /// The body, from its beginning.
    pub(crate) fn body(&self) -> Body {
        match self {
            Self::Full(bytes) if bytes.is_empty() => Body::Empty,
            Self::Full(bytes) => Body::Full(bytes.clone()),
            Self::Stream(source) => {
                Body::Stream(Box::new(Attempt { source: Rc::clone(source), next: 0, sent: 0 }))
            }
        }
    }
}

struct Attempt {
    source: Rc<RefCell<Source>>,
    /// The kept piece that comes next.
    next: usize,
    sent: usize,
}

impl BodyStream for Attempt {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let mut source = self.source.borrow_mut();
        if let Some(piece) = source.kept.get(self.next).filter(|_| !source.gone) {
            self.next += 1;
            self.sent += piece.len();
            return Poll::Ready(Some(Ok(piece.clone())));
        }
        if source.ended {
            return Poll::Ready(None);
        }
        let polled = source.stream.poll_data(cx);
        if let Some(pause) = &source.pause {
            pause.set(polled.is_pending());
        }
        match ready!(polled) {
            Some(Ok(piece)) => {
                if !source.gone {
                    if source.kept_bytes + piece.len() <= KEPT_BYTES && source.kept.len() < KEPT_PIECES {
                        source.kept_bytes += piece.len();
                        source.kept.push(piece.clone());
                        self.next += 1;
                    } else {
                        source.gone = true;
                        source.kept = Vec::new();
                    }
                }
                self.sent += piece.len();
                Poll::Ready(Some(Ok(piece)))
            }
            Some(Err(error)) => {
                source.failed = true;
                Poll::Ready(Some(Err(error)))
            }
            None => {
                source.ended = true;
                source.trailers = source.stream.trailers();
                Poll::Ready(None)
            }
        }
    }

    fn trailers(&mut self) -> Option<HeaderMap> {
        self.source.borrow().trailers.clone()
    }

    fn remaining(&self) -> Option<u64> {
        let source = self.source.borrow();
        if source.gone {
            return source.stream.remaining();
        }
        let kept = (source.kept_bytes - self.sent) as u64;
        if source.ended { Some(kept) } else { source.stream.remaining().map(|left| left + kept) }
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT_BYTES, Replay};
    use bytes::Bytes;
    use mainstay_http::{Body, BodyError, BodyStream};
    use std::task::{Context, Poll, Waker};

    struct Pieces(Vec<Bytes>);

    impl BodyStream for Pieces {
        fn poll_data(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
            Poll::Ready(self.0.pop().map(Ok))
        }

        fn remaining(&self) -> Option<u64> {
            Some(self.0.iter().map(|piece| piece.len() as u64).sum())
        }
    }

    fn read(body: Body, most: usize) -> Vec<u8> {
        let Body::Stream(mut stream) = body else { panic!("not a stream") };
        let mut all = Vec::new();
        let length = stream.remaining().unwrap();
        for _ in 0..most {
            match stream.poll_data(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(Ok(piece))) => all.extend_from_slice(&piece),
                _ => break,
            }
            assert_eq!(stream.remaining(), Some(length - all.len() as u64));
        }
        all
    }

    fn replay(pieces: &[usize]) -> Replay {
        let pieces = pieces.iter().rev().map(|length| Bytes::from(vec![b'x'; *length])).collect();
        Replay::new(Body::Stream(Box::new(Pieces(pieces))))
    }

    #[test]
    fn a_small_body_is_sent_again_from_its_beginning() {
        let replay = replay(&[10, 20, 30]);
        assert_eq!(read(replay.body(), 2).len(), 30);
        assert!(replay.is_whole());
        assert_eq!(read(replay.body(), 9).len(), 60);
        assert_eq!(read(replay.body(), 9).len(), 60);
    }

    #[tokio::test]
    async fn a_small_body_is_gathered_and_a_large_one_is_not() {
        for pieces in [&[60][..], &[10, 20, 30], &[1; 1000], &[KEPT_BYTES - 1, 1]] {
            let (small, length) = (replay(pieces), pieces.iter().sum::<usize>());
            small.gather().await.unwrap();
            assert_eq!(read(small.body(), 1).len(), length);
            assert_eq!(read(small.body(), 9).len(), length);
        }
        let large = replay(&[KEPT_BYTES, 1]);
        large.gather().await.unwrap();
        assert_eq!(read(large.body(), 1).len(), KEPT_BYTES);
    }

    #[test]
    fn a_large_body_is_sent_once() {
        let replay = replay(&[KEPT_BYTES, 1, 1]);
        assert_eq!(read(replay.body(), 9).len(), KEPT_BYTES + 2);
        assert!(!replay.is_whole());
    }
}
