//! One request and its response on an h2 connection.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderMap, HeaderValue, Version};

use super::files::{FileWire, Lent, stand_in};
use super::request;
use super::wire::Wire;
use crate::body::{into_stream, read_piece};
use crate::h1::fields;
use crate::h1::head::Rejection;
use crate::h1::respond::{self, Delimiter, hop_by_hop};
use crate::message::{BodyStream, Peer};
use crate::pool::Deadline;
use crate::transport::Transport;
use crate::watch::{NEVER, Pace};
use crate::worker::{InFlight, Worker};
use crate::{Body, BodyError, FileRange, Interim, Request, Response, Service};

/// Bytes for which capacity is asked at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Files up to this size are read and handed over at once.
const SMALL_FILE_BYTES: u64 = 32 * 1024;

/// Answers one request.
pub(crate) async fn answer<T: Transport, S: Service>(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    wire: Wire<T>,
    peer: Peer,
    worker: Rc<Worker>,
    service: Rc<S>,
) {
    let (mut head, body) = request.into_parts();
    let host = match request::check(&mut head, &worker.settings.limits) {
        Ok(host) => host,
        Err(rejection) => return refuse(&mut respond, &worker, rejection),
    };
    let _in_flight = InFlight::new(&worker);
    let method = head.method.clone();
    let told = head.headers.get(CONTENT_LENGTH);
    let length = told.and_then(|value| fields::content_length(value.as_bytes()).ok());
    let request = Request {
        method: head.method,
        uri: head.uri,
        version: Version::HTTP_2,
        headers: head.headers,
        body: StreamBody::of(body, length, &worker),
        peer: peer.address,
        local: peer.local,
        tls: peer.tls,
        host,
        upgrade: None,
        interim: Interim::default(),
    };
    let response = {
        let mut answer = pin!(service.call(request));
        poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            // The client took its request back: the work is dropped.
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        })
        .await
    };
    if let Some(response) = response {
        send(&mut respond, &wire, &worker, &method, response).await;
    }
}

fn refuse(respond: &mut SendResponse<Bytes>, worker: &Worker, rejection: Rejection) {
    worker.metrics.protocol_error(rejection.reason);
    let mut response = http::Response::new(());
    *response.status_mut() = rejection.status;
    put_date(response.headers_mut(), worker);
    if let Ok(mut stream) = respond.send_response(response, false) {
        // The client may be gone; then no one is left to tell.
        let _ = stream.send_data(Bytes::from(format!("{}\n", rejection.reason)), true);
    }
}

fn put_date(headers: &mut HeaderMap, worker: &Worker) {
    if !headers.contains_key(DATE)
        && let Ok(date) = HeaderValue::from_bytes(&worker.watches.clock.date())
    {
        headers.insert(DATE, date);
    }
}

async fn send(
    respond: &mut SendResponse<Bytes>,
    wire: &dyn FileWire,
    worker: &Rc<Worker>,
    method: &http::Method,
    mut response: Response,
) {
    respond::repair(&mut response, false);
    let (mut head, body) = response.into_parts();
    let delimiter =
        respond::delimiter(method, Version::HTTP_11, head.status, &head.headers, body.length(), false);
    let connection_fields: Vec<_> = head.headers.keys().filter(|name| hop_by_hop(name)).cloned().collect();
    for name in connection_fields {
        head.headers.remove(name);
    }
    if let Delimiter::Length(length) | Delimiter::None { told: Some(length) } = delimiter {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    put_date(&mut head.headers, worker);
    let bare = matches!(delimiter, Delimiter::None { .. } | Delimiter::Length(0));
    head.version = Version::HTTP_2;
    let Ok(mut stream) = respond.send_response(http::Response::from_parts(head, ()), bare) else { return };
    if bare {
        return;
    }
    let sent = match body {
        Body::Full(bytes) => stream.send_data(bytes, true).map_err(|_| Broken::Client),
        Body::File(range) if range.length <= SMALL_FILE_BYTES => send_small_file(&mut stream, range),
        Body::File(range) => send_file(&mut stream, wire, worker, range).await,
        body => match into_stream(body) {
            Some(body) => send_stream(&mut stream, worker, body, delimiter).await,
            None => stream.send_data(Bytes::new(), true).map_err(|_| Broken::Client),
        },
    };
    if let Err(broken) = sent {
        tracing::debug!(?broken, "an h2 response broke off");
        stream.send_reset(match broken {
            Broken::Client => Reason::CANCEL,
            Broken::Body => Reason::INTERNAL_ERROR,
        });
    }
}

/// Whose fault it is that a response broke off.
#[derive(Debug)]
enum Broken {
    Client,
    Body,
}

fn send_small_file(stream: &mut SendStream<Bytes>, mut range: FileRange) -> Result<(), Broken> {
    while range.length > 0 {
        let piece = read_piece(&mut range).map_err(|_| Broken::Body)?;
        stream.send_data(piece, range.length == 0).map_err(|_| Broken::Client)?;
    }
    Ok(())
}

/// Has a file framed as if it were in memory; the bytes themselves take their place on the wire.
async fn send_file(
    stream: &mut SendStream<Bytes>,
    wire: &dyn FileWire,
    worker: &Rc<Worker>,
    range: FileRange,
) -> Result<(), Broken> {
    let mut left = range.length;
    // Frames that were promised have to be kept, so a file that is too short must be noticed before.
    if range.file.metadata().map_err(|_| Broken::Body)?.len() < range.offset.saturating_add(left) {
        return Err(Broken::Body);
    }
    let lent = Lent::new(wire, stream.stream_id().as_u32(), range);
    let mut window = Patience::new(worker, worker.settings.timeouts.write);
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX);
        let room = poll_fn(|cx| window.poll_room(cx, stream, wanted)).await?;
        let part = stand_in(room.min(wanted));
        left -= part.len() as u64;
        stream.send_data(part, left == 0).map_err(|_| Broken::Client)?;
    }
    // Until the last frame is out: a client that leaves now must not leave an open file behind.
    poll_fn(
        |cx| if lent.poll_done(cx).is_ready() { Poll::Ready(()) } else { stream.poll_reset(cx).map(|_| ()) },
    )
    .await;
    Ok(())
}

async fn send_stream(
    stream: &mut SendStream<Bytes>,
    worker: &Rc<Worker>,
    mut body: Box<dyn BodyStream>,
    delimiter: Delimiter,
) -> Result<(), Broken> {
    let mut left = if let Delimiter::Length(length) = delimiter { Some(length) } else { None };
    let mut window = Patience::new(worker, worker.settings.timeouts.write);
    loop {
        // A piece is asked for when there is room for it: a client with a tiny window holds one piece at most.
        poll_fn(|cx| window.poll_room(cx, stream, 1)).await?;
        let piece = poll_fn(|cx| match body.poll_data(cx) {
            Poll::Ready(piece) => Poll::Ready(Some(piece)),
            Poll::Pending => stream.poll_reset(cx).map(|_| None),
        })
        .await
        .ok_or(Broken::Client)?;
        let Some(piece) = piece else { break };
        let mut piece = piece.map_err(|_| Broken::Body)?;
        if let Some(left) = &mut left {
            *left = left.checked_sub(piece.len() as u64).ok_or(Broken::Body)?;
        }
        while !piece.is_empty() {
            let room = poll_fn(|cx| window.poll_room(cx, stream, piece.len())).await?;
            let part = piece.split_to(room.min(piece.len()));
            let last = left == Some(0) && piece.is_empty();
            stream.send_data(part, last).map_err(|_| Broken::Client)?;
            if last {
                return Ok(());
            }
        }
    }
    if left.is_some_and(|left| left > 0) {
        return Err(Broken::Body);
    }
    stream.reserve_capacity(0);
    match body.trailers() {
        Some(mut trailers) => {
            let forbidden: Vec<_> =
                trailers.keys().filter(|name| !fields::allowed_in_trailers(name)).cloned().collect();
            for name in forbidden {
                trailers.remove(name);
            }
            stream.send_trailers(trailers).map_err(|_| Broken::Client)
        }
        None => stream.send_data(Bytes::new(), true).map_err(|_| Broken::Client),
    }
}

/// How long a client may still take, under the same minimum rate as for HTTP/1.1.
struct Patience {
    worker: Rc<Worker>,
    pace: Pace,
    until_ms: Cell<u64>,
    deadline: Option<Deadline>,
}

impl Patience {
    fn new(worker: &Rc<Worker>, full: Duration) -> Self {
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
    fn poll_room(
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

/// The body of an h2 request. The client's window opens as the service reads.
struct StreamBody {
    stream: RecvStream,
    worker: Rc<Worker>,
    received: u64,
    length: Option<u64>,
    trailers: Option<HeaderMap>,
    ended: bool,
    patience: Patience,
}

impl StreamBody {
    fn of(stream: RecvStream, length: Option<u64>, worker: &Rc<Worker>) -> Body {
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
                        self.trailers = trailers;
                        self.ended = true;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Some(Err(BodyError::Closed))),
                    Poll::Pending => return Poll::Pending,
                },
                Poll::Pending => {
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
