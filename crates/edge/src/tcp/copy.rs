//! Copies bytes both ways, in bounded memory, each direction to its own end.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use mainstay_http::metrics::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Bytes that are read at once, and that one direction of a connection holds at most.
const PIECE_BYTES: usize = 64 * 1024;

thread_local! {
    /// Where bytes pass through when the other side takes them at once: nearly always.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE_BYTES].into_boxed_slice());
}

/// How copying ended before both sides had closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// Reading from the client or writing to it failed.
    #[error("the client broke off: {0}")]
    Client(io::Error),
    /// The same of the upstream.
    #[error("the upstream broke off: {0}")]
    Upstream(io::Error),
    /// Both were silent.
    #[error("both sides were silent")]
    Idle,
}

/// What counts the bytes of both directions.
pub(crate) struct Counters<'a> {
    pub(crate) received: &'a Counter,
    pub(crate) sent: &'a Counter,
}

/// Copies until both sides have closed. `first` was already read from the client.
pub(crate) async fn copy<A, B>(
    client: &mut A,
    upstream: &mut B,
    first: Vec<u8>,
    idle: Duration,
    counters: Counters<'_>,
) -> Result<(), Broken>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    counters.received.add(first.len() as u64);
    let mut up = Direction { unsent: !first.is_empty(), held: first, ..Direction::default() };
    let mut down = Direction::default();
    let mut last = Instant::now();
    let mut timer = pin!(tokio::time::sleep_until(last + idle));
    poll_fn(|cx| {
        let (mut received, mut sent) = (0, 0);
        let up_done = up.poll(client, upstream, cx, &mut received);
        let down_done = down.poll(upstream, client, cx, &mut sent);
        if received + sent > 0 {
            counters.received.add(received);
            counters.sent.add(sent);
            last = Instant::now();
        }
        let up_done = up_done.map_err(|end| end.of(Broken::Client, Broken::Upstream));
        let down_done = down_done.map_err(|end| end.of(Broken::Upstream, Broken::Client));
        match (up_done, down_done) {
            (Poll::Ready(Err(broken)), _) | (_, Poll::Ready(Err(broken))) => return Poll::Ready(Err(broken)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
            _ => {}
        }
        while timer.as_mut().poll(cx).is_ready() {
            if last + idle <= Instant::now() {
                return Poll::Ready(Err(Broken::Idle));
            }
            // The timer is moved when it fires and not with every piece.
            timer.as_mut().reset(last + idle);
        }
        Poll::Pending
    })
    .await
}

/// One direction.
#[derive(Default)]
struct Direction {
    /// Read, but not yet taken by the other side.
    held: Vec<u8>,
    /// How much of it was taken.
    taken: usize,
    /// Something was written that the stream may still hold, such as TLS.
    unsent: bool,
    /// The reader has said that it is done.
    ended: bool,
    /// The writer was told so.
    closed: bool,
}

/// Which end of a direction failed.
enum End {
    Reader(io::Error),
    Writer(io::Error),
}

impl End {
    fn of(self, reader: fn(io::Error) -> Broken, writer: fn(io::Error) -> Broken) -> Broken {
        match self {
            Self::Reader(error) => reader(error),
            Self::Writer(error) => writer(error),
        }
    }
}

impl Direction {
    fn poll<R, W>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        cx: &mut Context<'_>,
        moved: &mut u64,
    ) -> Poll<Result<(), End>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        loop {
            while self.taken < self.held.len() {
                let count = ready!(Pin::new(&mut *writer).poll_write(cx, &self.held[self.taken..]));
                self.taken += wrote(count)?;
            }
            if self.taken > 0 {
                // Freed and not kept: a connection that waits holds nothing.
                self.held = Vec::new();
                self.taken = 0;
            }
            if self.ended {
                // Closing sends what is left, and the end.
                ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(End::Writer)?;
                self.closed = true;
                return Poll::Ready(Ok(()));
            }
            match self.pass(reader, writer, cx, moved) {
                Poll::Ready(done) => done?,
                Poll::Pending => {
                    if self.unsent && self.held.is_empty() {
                        ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(End::Writer)?;
                        self.unsent = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads a piece and writes it at once, as far as it is taken.
    fn pass<R, W>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        cx: &mut Context<'_>,
        moved: &mut u64,
    ) -> Poll<Result<(), End>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match ready!(Pin::new(reader).poll_read(cx, &mut buffer)) {
                Ok(()) => {}
                // TLS that ends without its last message ends here as plain TCP does.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(error) => return Poll::Ready(Err(End::Reader(error))),
            }
            let piece = buffer.filled();
            *moved += piece.len() as u64;
            self.ended = piece.is_empty();
            self.unsent |= !piece.is_empty();
            let mut taken = 0;
            while taken < piece.len() {
                match Pin::new(&mut *writer).poll_write(cx, &piece[taken..]) {
                    Poll::Ready(count) => taken += wrote(count)?,
                    Poll::Pending => {
                        self.held = piece[taken..].to_vec();
                        break;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
    }
}

fn wrote(count: io::Result<usize>) -> Result<usize, End> {
    match count {
        Ok(0) => Err(End::Writer(io::ErrorKind::WriteZero.into())),
        Ok(count) => Ok(count),
        Err(error) => Err(End::Writer(error)),
    }
}
