//! The server's loop over the requests of one HTTP/1.1 connection.

use std::future::{Future, poll_fn};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Version, header};

use super::body::{Incoming, IncomingBody};
use super::chunked;
use super::connection::{Connection, Next, linger_bytes};
use super::head::{Rejection, RequestHead};
use super::respond::{self, Delimiter, Persistence};
use crate::body::read_piece;
use crate::interim::MOST_INTERIM;
use crate::message::{BodyStream, Peer, UpgradeTask};
use crate::rewound::Rewound;
use crate::transport::Transport;
use crate::watch::{NEVER, Watch};
use crate::worker::{InFlight, Worker};
use crate::{Answer, Body, FileRange, Interim, Request, Response, Service, UpgradeRequest};

/// Up to this size a file is read behind the head and both go out in one write; above, it is sent by sendfile(2).
const SMALL_FILE_BYTES: u64 = 32 * 1024;

/// How a connection's life in HTTP/1.1 ends.
pub(crate) enum End<T> {
    /// Nothing more to do.
    Closed,
    /// The client speaks HTTP/2: the stream, and what was read of it.
    Http2(T, BytesMut),
}

/// What follows a response.
enum After {
    /// The next request.
    Continue,
    /// The response was complete; no next request is read.
    Close,
    /// Break off: the response could not be completed.
    Abort,
    /// Another protocol.
    Upgrade(UpgradeTask),
}

/// What of a request its response depends on.
struct Asked {
    method: Method,
    version: Version,
    keep_alive: bool,
    upgrade: Option<String>,
}

/// Answers requests until the connection ends.
pub(crate) async fn serve<T: Transport, S: Service>(
    io: T,
    peer: Peer,
    worker: Rc<Worker>,
    watch: Rc<Watch>,
    service: Rc<S>,
) -> End<T> {
    let connection = Connection::new(io, worker, watch, S::KEEP);
    let mut first = true;
    loop {
        connection.expect_head(first);
        let next = poll_fn(|cx| connection.poll_head(cx, first)).await;
        first = false;
        let head = match next {
            Next::Request(head) => *head,
            Next::Close => {
                if T::SAYS_GOODBYE {
                    poll_fn(|cx| connection.poll_goodbye(cx)).await;
                }
                return End::Closed;
            }
            Next::Refuse(rejection) => {
                refuse(&connection, rejection).await;
                return End::Closed;
            }
            Next::Http2 => {
                let io = connection.io.borrow_mut().take();
                let bytes = std::mem::take(&mut connection.input.borrow_mut().bytes);
                return io.map_or(End::Closed, |io| End::Http2(io, bytes));
            }
        };
        // Boxed, so that a connection without a request does not hold the room of one: it is mostly the room that the
        // request before had, still in the processor's caches.
        match Box::pin(exchange(&connection, head, &peer, &service)).await {
            After::Continue => {}
            After::Abort => return End::Closed,
            After::Close => {
                close(&connection).await;
                return End::Closed;
            }
            After::Upgrade(task) => {
                let io = connection.io.borrow_mut().take();
                let read = std::mem::take(&mut connection.input.borrow_mut().bytes).freeze();
                connection.watch.read_by.set(NEVER);
                connection.watch.write_by.set(NEVER);
                if let Some(io) = io {
                    let task = task(Box::new(Rewound::new(io, read)));
                    connection.worker.tunnel(&connection.watch, task).await;
                }
                return End::Closed;
            }
        }
    }
}

/// One request and its response.
async fn exchange<T: Transport, S: Service>(
    connection: &Rc<Connection<T>>,
    head: RequestHead,
    peer: &Peer,
    service: &Rc<S>,
) -> After {
    let asked = Asked {
        method: head.method.clone(),
        version: head.version,
        keep_alive: head.keep_alive,
        upgrade: head.upgrade.clone(),
    };
    {
        let mut output = connection.output.borrow_mut();
        output.responding = false;
        output.interim_left = if head.version == Version::HTTP_10 { 0 } else { MOST_INTERIM };
    }
    let request = Request {
        method: head.method,
        uri: head.uri,
        version: head.version,
        headers: head.headers,
        body: IncomingBody::of(connection, connection.request.get()),
        peer: peer.address,
        local: peer.local,
        tls: peer.tls.clone(),
        host: head.host,
        upgrade: head.upgrade.map(|protocol| UpgradeRequest { protocol }),
        interim: Interim::along(Rc::<Connection<T>>::clone(connection), connection.request.get()),
    };
    let _in_flight = InFlight::new(&connection.worker);
    let answer = {
        let mut answer = pin!(Rc::clone(service).answer(request, head.block));
        poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            // Responses to earlier requests must not wait for this one.
            if let Poll::Ready(Err(_)) = connection.poll_flush(cx) {
                return Poll::Ready(None);
            }
            connection.poll_left(cx).map(|()| None)
        })
        .await
    };
    let Some(answer) = answer else { return After::Abort };
    respond_to(connection, asked, answer).await
}

async fn respond_to<T: Transport>(connection: &Rc<Connection<T>>, asked: Asked, answer: Answer) -> After {
    let Answer { mut response, block } = answer;
    let wants_upgrade = asked.upgrade.is_some();
    respond::repair(&mut response, wants_upgrade);
    let body = std::mem::take(response.body_mut());
    let delimiter = respond::delimiter(
        &asked.method,
        asked.version,
        response.status(),
        response.headers(),
        block.as_ref(),
        body.length(),
        matches!(body, Body::Upgrade(_)) && wants_upgrade,
    );
    if delimiter == Delimiter::Upgrade
        && !response.headers().contains_key(header::UPGRADE)
        && let Some(Ok(protocol)) = asked.upgrade.map(HeaderValue::try_from)
    {
        response.headers_mut().insert(header::UPGRADE, protocol);
    }
    let unread = {
        let input = connection.input.borrow();
        let too_long = |left| left > connection.limits().discard_bytes && !matches!(body, Body::Stream(_));
        match input.incoming {
            Incoming::Failed => true,
            Incoming::Length(left) if too_long(left) => true,
            _ => input.awaits_continue,
        }
    };
    let keep = asked.keep_alive
        && delimiter != Delimiter::Close
        && !unread
        && !connection.worker.draining.get()
        && !is_last(&response);
    let persistence = match (keep, asked.version) {
        (false, _) => Persistence::Close,
        (true, Version::HTTP_10) => Persistence::KeepAliveSaid,
        (true, _) => Persistence::KeepAlive,
    };
    {
        let mut output = connection.output.borrow_mut();
        output.responding = true;
        respond::put_head(
            &mut output.waiting.buffer,
            response.status(),
            response.headers(),
            block.as_ref(),
            delimiter,
            persistence,
            &connection.worker.watches.clock.date(),
        );
    }
    let sent = send_body(connection, body, delimiter).await;
    match sent {
        Ok(Some(task)) => return After::Upgrade(task),
        Ok(None) => {}
        Err(error) => {
            tracing::debug!(%error, "a response broke off");
            return After::Abort;
        }
    }
    if !keep {
        return After::Close;
    }
    if !connection.input.borrow().incoming.is_done() {
        if poll_fn(|cx| connection.poll_flush(cx)).await.is_err() {
            return After::Abort;
        }
        let mut left = connection.limits().discard_bytes;
        if !poll_fn(|cx| connection.poll_discard(cx, &mut left)).await {
            return After::Close;
        }
    }
    After::Continue
}

/// Whether the service asks for the connection to be closed.
fn is_last(response: &Response) -> bool {
    response
        .headers()
        .get(header::CONNECTION)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// Sends what follows the head. An error means that the response is incomplete and the connection must break off.
async fn send_body<T: Transport>(
    connection: &Connection<T>,
    body: Body,
    delimiter: Delimiter,
) -> io::Result<Option<UpgradeTask>> {
    match (body, delimiter) {
        (Body::Upgrade(task), Delimiter::Upgrade) => {
            poll_fn(|cx| connection.poll_flush(cx)).await?;
            return Ok(Some(task));
        }
        (_, Delimiter::None { .. }) | (Body::Empty | Body::Upgrade(_), _) => {}
        (Body::Full(bytes), _) => connection.output.borrow_mut().waiting.push(bytes, b""),
        (Body::File(range), _) => send_file(connection, range).await?,
        (Body::Stream(stream), _) => send_stream(connection, stream, delimiter).await?,
    }
    // With the next request already here, its response may go out in the same write.
    let pipelined =
        !connection.input.borrow().bytes.is_empty() && !connection.output.borrow().waiting.is_full();
    if !pipelined {
        poll_fn(|cx| connection.poll_flush(cx)).await?;
    }
    Ok(None)
}

async fn send_stream<T: Transport>(
    connection: &Connection<T>,
    mut stream: Box<dyn BodyStream>,
    delimiter: Delimiter,
) -> io::Result<()> {
    let mut left = if let Delimiter::Length(length) = delimiter { Some(length) } else { None };
    let mut ended = false;
    poll_fn(|cx| {
        loop {
            let mut starved = false;
            while !ended && !starved && !connection.output.borrow().waiting.is_full() {
                match stream.poll_data(cx) {
                    Poll::Ready(Some(piece)) => {
                        let piece = piece.map_err(io::Error::other)?;
                        put_piece(connection, piece, delimiter, &mut left)?;
                    }
                    Poll::Ready(None) => {
                        ended = true;
                        if left.is_some_and(|left| left > 0) {
                            return Poll::Ready(Err(io::Error::other("the body is shorter than announced")));
                        }
                        if delimiter == Delimiter::Chunked {
                            let trailers = stream.trailers();
                            let mut output = connection.output.borrow_mut();
                            chunked::put_end(&mut output.waiting.buffer, trailers.as_ref());
                        }
                    }
                    Poll::Pending => starved = true,
                }
            }
            ready!(connection.poll_flush(cx))?;
            if ended {
                return Poll::Ready(Ok(()));
            }
            if starved {
                return match connection.poll_left(cx) {
                    Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                    Poll::Pending => Poll::Pending,
                };
            }
        }
    })
    .await
}

fn put_piece<T: Transport>(
    connection: &Connection<T>,
    piece: Bytes,
    delimiter: Delimiter,
    left: &mut Option<u64>,
) -> io::Result<()> {
    if piece.is_empty() {
        return Ok(());
    }
    let waiting = &mut connection.output.borrow_mut().waiting;
    if delimiter == Delimiter::Chunked {
        chunked::put_size(&mut waiting.buffer, piece.len());
        waiting.push(piece, b"\r\n");
        return Ok(());
    }
    if let Some(left) = left {
        *left = left
            .checked_sub(piece.len() as u64)
            .ok_or_else(|| io::Error::other("the body is longer than announced"))?;
    }
    waiting.push(piece, b"");
    Ok(())
}

async fn send_file<T: Transport>(connection: &Connection<T>, mut range: FileRange) -> io::Result<()> {
    if range.length <= SMALL_FILE_BYTES {
        let mut output = connection.output.borrow_mut();
        let buffer = &mut output.waiting.buffer;
        let start = buffer.len();
        buffer.resize(start + range.length as usize, 0);
        // A file that shrank fails here, before a byte of the response left, or breaks the connection off.
        return range.file.read_exact_at(&mut buffer[start..], range.offset);
    }
    poll_fn(|cx| connection.poll_flush(cx)).await?;
    while range.length > 0 {
        let sent = poll_fn(|cx| match connection.poll_send_file(cx, &range) {
            Some(Poll::Ready(Ok(0))) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Some(Poll::Ready(done)) => Poll::Ready(done.map(Some)),
            Some(Poll::Pending) => Poll::Pending,
            None => Poll::Ready(Ok(None)),
        })
        .await?;
        let Some(sent) = sent else { return send_file_in_pieces(connection, range).await };
        range.offset += sent as u64;
        range.length -= sent as u64;
    }
    Ok(())
}

async fn send_file_in_pieces<T: Transport>(
    connection: &Connection<T>,
    mut range: FileRange,
) -> io::Result<()> {
    while range.length > 0 {
        let piece = read_piece(&mut range)?;
        connection.output.borrow_mut().waiting.push(piece, b"");
        poll_fn(|cx| connection.poll_flush(cx)).await?;
    }
    Ok(())
}

/// Answers a request that is not to be served, and closes.
async fn refuse<T: Transport>(connection: &Connection<T>, rejection: Rejection) {
    connection.worker.metrics.protocol_error(rejection.reason);
    tracing::debug!(reason = rejection.reason, status = rejection.status.as_u16(), "refused a request");
    let date = connection.worker.watches.clock.date();
    respond::put_refusal(
        &mut connection.output.borrow_mut().waiting.buffer,
        rejection.status,
        rejection.reason,
        &date,
    );
    linger(connection).await;
}

/// Ends a connection whose last response was complete.
async fn close<T: Transport>(connection: &Connection<T>) {
    let clean = {
        let input = connection.input.borrow();
        input.incoming.is_done() && input.bytes.is_empty()
    };
    if clean {
        // Nothing is unread, so closing sends FIN and not a reset.
        if poll_fn(|cx| connection.poll_flush(cx)).await.is_ok() && T::SAYS_GOODBYE {
            poll_fn(|cx| connection.poll_goodbye(cx)).await;
        }
    } else {
        linger(connection).await;
    }
}

async fn linger<T: Transport>(connection: &Connection<T>) {
    if poll_fn(|cx| connection.poll_flush(cx)).await.is_err() {
        return;
    }
    connection.watch.read_by.set(connection.worker.watches.clock.after(LINGER));
    let (mut shut, mut left) = (false, linger_bytes());
    poll_fn(|cx| connection.poll_linger(cx, &mut shut, &mut left)).await;
}

/// How long a client may take to notice that it was refused.
const LINGER: std::time::Duration = std::time::Duration::from_secs(2);
