//! A body that is on its way into the cache, and to everyone who asked for it meanwhile.
//!
//! One task pumps the upstream's stream into memory as fast as it comes, so that a slow client slows nobody else down.
//! Readers follow at their own pace, on any thread. A body that grows beyond what is kept is handed back to the one
//! who fetched it, who reads on from the stream itself.

use std::cell::RefCell;
use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use mainstay_http::{BodyError, BodyStream};

/// A body that nobody reads any more is fetched to its end if no more than this is missing.
const LITTLE_BYTES: u64 = 256 * 1024;
/// Pieces smaller than this are copied: they may be slices of a far larger buffer.
const SMALL_PIECE_BYTES: usize = 4096;

/// Memory for all bodies that are on their way.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes) })
    }

    fn take(&self, bytes: usize) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A body that grows.
#[derive(Debug)]
pub struct Fill {
    length: Option<u64>,
    most_bytes: usize,
    budget: Arc<Budget>,
    /// Guards what the pump and the readers share, for as long as it takes to clone a piece.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pieces: Vec<Bytes>,
    bytes: u64,
    reserved: usize,
    end: Option<End>,
    readers: usize,
    /// Readers that wait, by number; the numbers tell when one is registered already.
    wakers: Vec<Waker>,
    /// Counts how often the waiting readers were woken.
    turn: u64,
    pump: Option<Waker>,
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It is all there.
    Complete,
    /// The upstream broke off.
    Failed,
    /// It is larger than what is kept, or there is no memory for it.
    Overflow,
    /// Nobody reads it any more.
    Abandoned,
}

/// Whether a body is fetched to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Whoever reads it.
    Always,
    /// While someone reads it, or little is missing.
    WhileRead,
}

/// The stream of a body that turned out too large, between the pump and the reader who fetched it.
pub(crate) type Rest = Rc<RefCell<Option<Box<dyn BodyStream>>>>;

impl Fill {
    /// A body of this length, where it is known; at most `most_bytes` are taken. `None` if there is no memory for it.
    pub(crate) fn new(length: Option<u64>, most_bytes: usize, budget: &Arc<Budget>) -> Option<Arc<Self>> {
        let reserved = length.map_or(0, |length| length as usize);
        if reserved > most_bytes || !budget.take(reserved) {
            return None;
        }
        let state = Mutex::new(State { reserved, ..State::default() });
        Some(Arc::new(Self { length, most_bytes, budget: Arc::clone(budget), state }))
    }

    /// The length of the whole, where it is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// A reader from the start on; `None` where the body was given up.
    pub(crate) fn reader(self: &Arc<Self>, rest: Option<Rest>) -> Option<Reader> {
        let mut state = self.lock();
        if !matches!(state.end, None | Some(End::Complete)) {
            return None;
        }
        state.readers += 1;
        drop(state);
        Some(Reader { fill: Arc::clone(self), piece: 0, skip: 0, left: self.length, waits_since: None, rest })
    }

    /// Reads the stream into memory.
    pub(crate) async fn pump(&self, mut stream: Box<dyn BodyStream>, rest: Rest, patience: Patience) -> End {
        let end = loop {
            let next = poll_fn(|cx| {
                if self.is_given_up(patience, cx) {
                    return Poll::Ready(Err(End::Abandoned));
                }
                stream.poll_data(cx).map(Ok)
            });
            match next.await {
                Err(end) => break end,
                Ok(Some(Ok(piece))) => {
                    if let Some(end) = self.add(piece) {
                        break end;
                    }
                }
                Ok(Some(Err(error))) => {
                    tracing::debug!(%error, "a response for the cache broke off");
                    break End::Failed;
                }
                Ok(None) => {
                    let bytes = self.lock().bytes;
                    break if self.length.is_none_or(|length| length == bytes) {
                        End::Complete
                    } else {
                        End::Failed
                    };
                }
            }
        };
        if end == End::Overflow {
            *rest.borrow_mut() = Some(stream);
        }
        let mut state = self.lock();
        // A reader may have come in between: nobody is told that a body is complete that is not.
        state.end = Some(end);
        wake(state);
        end
    }

    /// All of it in one piece, after it is complete.
    pub(crate) fn whole(&self) -> Bytes {
        let state = self.lock();
        let mut whole = BytesMut::with_capacity(state.bytes as usize);
        state.pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
        whole.freeze()
    }

    fn is_given_up(&self, patience: Patience, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        if patience == Patience::Always || state.readers > 0 {
            if !state.pump.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.pump = Some(cx.waker().clone());
            }
            return false;
        }
        let given_up = self.length.is_none_or(|length| length.saturating_sub(state.bytes) > LITTLE_BYTES);
        if given_up {
            // At once, so that no reader joins what is given up.
            state.end = Some(End::Abandoned);
        }
        given_up
    }

    /// Adds a piece. The piece that overflows is added too, for the one who reads on.
    fn add(&self, piece: Bytes) -> Option<End> {
        let piece = if piece.len() < SMALL_PIECE_BYTES { Bytes::copy_from_slice(&piece) } else { piece };
        let mut state = self.lock();
        let bytes = state.bytes + piece.len() as u64;
        let fits = match self.length {
            Some(length) => bytes <= length,
            None => bytes <= self.most_bytes as u64 && self.budget.take(piece.len()),
        };
        if fits && self.length.is_none() {
            state.reserved += piece.len();
        }
        if !fits && self.length.is_some() {
            return Some(End::Failed);
        }
        state.bytes = bytes;
        state.pieces.push(piece);
        wake(state);
        (!fits).then_some(End::Overflow)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock in the midst of a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        let reserved = self.lock().reserved;
        self.budget.give_back(reserved);
    }
}

fn wake(mut state: MutexGuard<'_, State>) {
    state.turn += 1;
    let wakers = std::mem::take(&mut state.wakers);
    drop(state);
    wakers.into_iter().for_each(Waker::wake);
}

/// One who reads a body while it grows.
pub(crate) struct Reader {
    fill: Arc<Fill>,
    /// The next piece.
    piece: usize,
    /// Bytes to leave out before the first one.
    skip: u64,
    /// Bytes that are still wanted, where that is known.
    left: Option<u64>,
    /// The turn in which this reader began to wait, with what wakes it.
    waits_since: Option<(u64, Waker)>,
    rest: Option<Rest>,
}

impl Reader {
    /// Reads only these bytes.
    pub(crate) fn limit(&mut self, range: Range<u64>) {
        self.skip = range.start;
        self.left = Some(range.end - range.start);
    }

    /// The part of a piece that is wanted.
    fn cut(&mut self, mut piece: Bytes) -> Bytes {
        let skipped = self.skip.min(piece.len() as u64);
        self.skip -= skipped;
        let _ = piece.split_to(skipped as usize);
        if let Some(left) = &mut self.left {
            piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= piece.len() as u64;
        }
        piece
    }
}

impl BodyStream for Reader {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if self.left == Some(0) {
                return Poll::Ready(None);
            }
            let mut state = self.fill.lock();
            if let Some(piece) = state.pieces.get(self.piece).cloned() {
                drop(state);
                self.piece += 1;
                let piece = self.cut(piece);
                if !piece.is_empty() {
                    return Poll::Ready(Some(Ok(piece)));
                }
                continue;
            }
            match state.end {
                Some(End::Complete) => return Poll::Ready(None),
                Some(End::Overflow) => {
                    drop(state);
                    let mut rest = self.rest.as_ref().map(|rest| rest.borrow_mut());
                    return match rest.as_mut().and_then(|rest| rest.as_mut()) {
                        Some(stream) => stream.poll_data(cx),
                        None => Poll::Ready(Some(Err(BodyError::Closed))),
                    };
                }
                Some(End::Failed | End::Abandoned) => return Poll::Ready(Some(Err(BodyError::Closed))),
                None => {
                    let registered = self
                        .waits_since
                        .as_ref()
                        .is_some_and(|(turn, waker)| *turn == state.turn && waker.will_wake(cx.waker()));
                    if !registered {
                        state.wakers.push(cx.waker().clone());
                        self.waits_since = Some((state.turn, cx.waker().clone()));
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        self.left
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.fill.lock();
        state.readers -= 1;
        if state.readers == 0
            && let Some(pump) = state.pump.take()
        {
            drop(state);
            pump.wake();
        }
    }
}
