//! One request over one connection, both directions at once.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mainstay_http::{BodyError, BodyStream};
use tokio::time::{Instant, Sleep};

use super::head::{self, HeadError, ResponseHead};
use super::pool::{Connection, Pool};
use super::record::{Decoder, Event, RecordError, put_stdin};

/// Bytes that wait to be written before more of the request's body is asked for.
const OUTPUT_BYTES: usize = 64 * 1024;
/// Bytes that are read at once.
const READ_BYTES: usize = 16 * 1024;
/// Bytes of complaints (stderr) of one request that are logged.
const STDERR_BYTES: usize = 8 * 1024;
/// Between two pieces of a response's body.
const BETWEEN_PIECES: Duration = Duration::from_mins(5);

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The connection was closed before a byte of the response.
    #[error("the app closed the connection without a response")]
    Closed {
        /// Whether anything of the request can have been read.
        sent: bool,
    },
    /// It was closed in the middle of the response's head.
    #[error("the app closed the connection in the middle of the response's head")]
    Truncated,
    /// php-fpm refused the request.
    #[error("the app refused the request")]
    Refused,
    /// What came is no FastCGI.
    #[error("what came is no FastCGI: {0}")]
    Record(#[from] RecordError),
    /// What came is no CGI response.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The client's body broke.
    #[error("the request's body broke: {0}")]
    RequestBody(BodyError),
}

/// A request that is being sent and answered.
pub(crate) struct Exchange {
    connection: Connection,
    output: Vec<u8>,
    written: usize,
    decoder: Decoder,
    sent: bool,
    received: bool,
    write_failed: bool,
    ended: bool,
    stderr: Vec<u8>,
}

/// The part of a request's body that is sent as it comes.
pub(crate) type Uploading = Option<Box<dyn BodyStream>>;

impl Exchange {
    /// `output` is the begun request; if its body is complete in it, there is no upload.
    pub(crate) fn new(connection: Connection, output: Vec<u8>) -> Self {
        Self {
            connection,
            output,
            written: 0,
            decoder: Decoder::default(),
            sent: false,
            received: false,
            write_failed: false,
            ended: false,
            stderr: Vec::new(),
        }
    }

    pub(crate) fn is_reused(&self) -> bool {
        self.connection.reused
    }

    /// What was to be sent, to send it again. Only whole if nothing was uploaded.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// The response's head, and the first of its body.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut Uploading,
        collected: &mut BytesMut,
    ) -> Poll<Result<ResponseHead, Broken>> {
        loop {
            if let Poll::Ready(Err(error)) = self.poll_send(cx, upload) {
                return Poll::Ready(Err(Broken::RequestBody(error)));
            }
            match ready!(self.poll_event(cx))? {
                Some(Event::Stdout(piece)) => {
                    collected.extend_from_slice(&piece);
                    if let Some(end) = head::end(collected)? {
                        let head = collected.split_to(end);
                        return Poll::Ready(Ok(head::parse(&head)?));
                    }
                }
                Some(Event::End { accepted: false }) => return Poll::Ready(Err(Broken::Refused)),
                Some(Event::End { .. }) => return Poll::Ready(Err(Broken::Truncated)),
                Some(Event::Stderr(_)) => {}
                None if self.received => return Poll::Ready(Err(Broken::Truncated)),
                None => return Poll::Ready(Err(Broken::Closed { sent: self.sent })),
            }
        }
    }

    /// The rest of a response that is here already, without waiting: true if it is all of it.
    pub(crate) fn take_rest(&mut self, body: &mut BytesMut) -> Result<bool, RecordError> {
        while let Some(event) = self.decoder.decode(&mut self.connection.input)? {
            match event {
                Event::Stdout(piece) => body.extend_from_slice(&piece),
                Event::Stderr(piece) => self.complain(&piece),
                Event::End { .. } => {
                    self.ended = true;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Gives the connection back if nothing is left on it.
    pub(crate) fn finish(mut self, pool: &Rc<Pool>, uploading: bool) {
        self.log_complaints();
        let clean = self.ended
            && !uploading
            && !self.write_failed
            && self.written == self.output.len()
            && self.connection.input.is_empty()
            && self.decoder.is_at_rest();
        if clean {
            pool.keep(self.connection);
        }
    }

    /// Sends what it can of the request. Only the client's own body makes it fail; that php-fpm reads no more does not
    /// mean that it does not answer.
    fn poll_send(&mut self, cx: &mut Context<'_>, upload: &mut Uploading) -> Poll<Result<(), BodyError>> {
        loop {
            if self.write_failed {
                return Poll::Ready(Ok(()));
            }
            let mut starved = false;
            while let Some(body) = upload
                && self.output.len() - self.written < OUTPUT_BYTES
            {
                match body.poll_data(cx) {
                    Poll::Ready(Some(Ok(piece))) => put_stdin(&mut self.output, &piece),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) => {
                        put_stdin(&mut self.output, b"");
                        *upload = None;
                    }
                    Poll::Pending => {
                        starved = true;
                        break;
                    }
                }
            }
            if self.written == self.output.len() {
                return if starved { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            match self.connection.stream.try_write(&self.output[self.written..]) {
                Ok(count) => {
                    self.sent = true;
                    self.written += count;
                    if self.written == self.output.len() && upload.is_some() {
                        self.output.clear();
                        self.written = 0;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = ready!(self.connection.stream.poll_write_ready(cx)) {
                        tracing::debug!(%error, "cannot wait for the app");
                        self.write_failed = true;
                    }
                }
                Err(_) => self.write_failed = true,
            }
        }
    }

    /// The next event; `None` when the connection was closed.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Event>, RecordError>> {
        loop {
            match self.decoder.decode(&mut self.connection.input)? {
                Some(Event::Stderr(piece)) => {
                    self.complain(&piece);
                    return Poll::Ready(Ok(Some(Event::Stderr(piece))));
                }
                Some(event) => {
                    self.ended |= matches!(event, Event::End { .. });
                    return Poll::Ready(Ok(Some(event)));
                }
                None => {}
            }
            if ready!(self.poll_read(cx)) == 0 {
                return Poll::Ready(Ok(None));
            }
            self.received = true;
        }
    }

    /// Reads more; a failed read is an end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        let Connection { stream, input, .. } = &mut self.connection;
        loop {
            if ready!(stream.poll_read_ready(cx)).is_err() {
                return Poll::Ready(0);
            }
            input.reserve(READ_BYTES);
            match stream.try_read_buf(input) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.unwrap_or(0)),
            }
        }
    }

    fn complain(&mut self, piece: &[u8]) {
        let room = STDERR_BYTES - self.stderr.len().min(STDERR_BYTES);
        self.stderr.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn log_complaints(&mut self) {
        let complaints = std::mem::take(&mut self.stderr);
        if !complaints.is_empty() {
            tracing::warn!(stderr = %String::from_utf8_lossy(&complaints).trim_end(), "the app complains");
        }
    }
}

/// The body of a response that is still on its way. Reading it also sends what is left of the request.
pub(crate) struct ResponseBody {
    exchange: Option<Exchange>,
    first: Bytes,
    upload: Uploading,
    pool: Rc<Pool>,
    deadline: Pin<Box<Sleep>>,
}

impl ResponseBody {
    pub(crate) fn new(exchange: Exchange, first: Bytes, upload: Uploading, pool: Rc<Pool>) -> Self {
        let deadline = Box::pin(tokio::time::sleep(BETWEEN_PIECES));
        Self { exchange: Some(exchange), first, upload, pool, deadline }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.log_complaints();
        }
        Poll::Ready(Some(Err(error)))
    }
}

impl BodyStream for ResponseBody {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.first))));
        }
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
        loop {
            if let Poll::Ready(Err(error)) = exchange.poll_send(cx, &mut self.upload) {
                return self.fail(error);
            }
            match exchange.poll_event(cx) {
                Poll::Ready(Ok(Some(Event::Stdout(piece)))) => {
                    self.deadline.as_mut().reset(Instant::now() + BETWEEN_PIECES);
                    return Poll::Ready(Some(Ok(piece)));
                }
                Poll::Ready(Ok(Some(Event::Stderr(_)))) => {}
                Poll::Ready(Ok(Some(Event::End { .. }))) => {
                    if let Some(exchange) = self.exchange.take() {
                        exchange.finish(&self.pool, self.upload.is_some());
                    }
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(None)) => return self.fail(BodyError::Closed),
                Poll::Ready(Err(error)) => return self.fail(io::Error::other(error).into()),
                Poll::Pending => {
                    ready!(self.deadline.as_mut().poll(cx));
                    return self.fail(BodyError::TimedOut { seconds: BETWEEN_PIECES.as_secs() as u32 });
                }
            }
        }
    }
}
