//! One request to an upstream, up to the head of its response.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::header::{EXPECT, HOST, TE};
use http::{HeaderValue, Method, Response as HttpResponse, StatusCode, Version};
use tokio_util::io::poll_read_buf;

use super::body::UpstreamBody;
use super::error::is_idempotent;
use super::io::{Deadline, UpstreamIo};
use super::splice::splice;
use super::{ClientError, Head, Home, Means, Sent};
use crate::body::into_stream;
use crate::field_block::Keep;
use crate::h1::answer::{self, Malformed, ResponseFraming, ResponseHead};
use crate::h1::chunked;
use crate::h1::fields::{self, Framing};
use crate::h1::lines::{HeadScanner, Scan};
use crate::h1::outgoing::Outgoing;
use crate::h1::respond::{hop_by_hop, put_decimal, put_field};
use crate::interim::MOST_INTERIM;
use crate::message::BodyStream;
use crate::rewound::Rewound;
use crate::{Answer, Body, Interim, websocket};

/// How long a body waits for the upstream's 100, when the client itself waits for one (RFC 9110, 10.1.1).
pub(crate) const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);
/// Room for bytes that are read in one call. With our own head before them they still fit into the 64 KiB that a TLS
/// stream takes at once: a rest would be a record and a write of its own.
const READ_BYTES: usize = 60 * 1024;

/// Room for a head that is written.
const HEAD_BYTES: usize = 768;
/// Room for what is added to a request's fields.
const OWN_BYTES: usize = 128;

/// A request as it is written to an upstream.
pub(crate) struct Outbound {
    method: Method,
    upgrade: bool,
    keep: Keep,
    /// The challenge of a WebSocket whose client, which speaks h2, made none.
    made_key: Option<HeaderValue>,
    /// The client waits for 100 before it sends the body.
    expects: bool,
    interim: Interim,
    /// The body's length, where known.
    length: Option<u64>,
    /// A body in memory, which can be sent again.
    full: bytes::Bytes,
    /// A body that can be sent only once.
    pub(crate) stream: Option<OutboundStream>,
}

/// A body on its way to the upstream.
pub(crate) struct OutboundStream {
    stream: Box<dyn BodyStream>,
    chunked: bool,
    left: u64,
    /// Some of it was taken: it cannot be sent again.
    touched: bool,
}

impl Outbound {
    pub(crate) fn new(head: Head<'_>, body: Body) -> Self {
        let length = body.length();
        let expects = head.protocol.is_none() && length != Some(0) && head.headers.contains_key(EXPECT);
        // A WebSocket needs a key, which a client that speaks h2 does not send.
        let keyless = head.version == Version::HTTP_2 && !head.headers.contains_key(websocket::KEY);
        let made_key = head
            .protocol
            .filter(|protocol| keyless && websocket::is_asked_for(protocol))
            .and_then(|_| websocket::new_key());
        let (full, stream) = match body {
            Body::Full(bytes) => (bytes, None),
            Body::Empty | Body::Upgrade(_) => (bytes::Bytes::new(), None),
            body => (bytes::Bytes::new(), into_stream(body)),
        };
        let stream = stream.map(|stream| OutboundStream {
            stream,
            chunked: length.is_none(),
            left: length.unwrap_or(0),
            touched: false,
        });
        Self {
            method: head.method.clone(),
            upgrade: head.protocol.is_some(),
            keep: head.keep,
            made_key,
            expects,
            interim: head.interim.clone(),
            length,
            full,
            stream,
        }
    }

    /// Writes the head.
    fn put_head(&self, head: &Head<'_>, out: &mut Vec<u8>) {
        out.reserve(HEAD_BYTES);
        out.extend_from_slice(head.method.as_str().as_bytes());
        out.push(b' ');
        let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        out.extend_from_slice(target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        let (mut hosted, mut trailers) = (false, false);
        if let Some(block) = head.block {
            out.reserve(block.lines().len() + OWN_BYTES);
            block.put_lines(out);
            hosted = block.first(b"host").is_some();
        }
        for (name, value) in head.headers {
            if hop_by_hop(name) {
                trailers |= *name == TE;
            } else if *name != EXPECT {
                hosted |= *name == HOST;
                put_field(out, name, value);
            }
        }
        if !hosted {
            let authority = head.uri.authority().map(http::uri::Authority::as_str);
            let host = authority.or(head.host).unwrap_or("localhost");
            if let Ok(host) = HeaderValue::from_str(host) {
                put_field(out, &HOST, &host);
            }
        }
        if self.expects {
            out.extend_from_slice(b"expect: 100-continue\r\n");
        }
        if let Some(protocol) = head.protocol {
            out.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
            out.extend_from_slice(protocol.as_bytes());
            out.extend_from_slice(b"\r\n");
            if let Some(key) = &self.made_key {
                put_field(out, &websocket::KEY, key);
            }
        } else if trailers && fields::takes_trailers(head.headers) {
            out.extend_from_slice(b"connection: te\r\nte: trailers\r\n");
        }
        let may_be_bare =
            matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE);
        match self.length {
            Some(0) if may_be_bare => {}
            Some(length) => {
                out.extend_from_slice(b"content-length: ");
                put_decimal(out, length);
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Whether the request may be sent once more, after a kept connection turned out to be closed.
    pub(crate) fn may_be_sent_again(&self, failed: &Exchange) -> bool {
        let whole = failed.body_whole && self.stream.as_ref().is_none_or(|stream| !stream.touched);
        whole && !failed.received && (failed.sent == 0 || is_idempotent(&self.method))
    }
}

/// A connection, and what stays with it from one exchange to the next.
pub(crate) struct Link {
    pub(crate) io: UpstreamIo,
    /// Moved by each exchange; between them it may run out without harm.
    deadline: Deadline,
    output: Outgoing,
}

impl Link {
    pub(crate) fn new(io: UpstreamIo, first_byte: Duration) -> Self {
        Self { io, deadline: Deadline::new(first_byte), output: Outgoing::default() }
    }
}

/// A connection with a request on it.
pub(crate) struct Exchange {
    link: Box<Link>,
    pub(crate) input: BytesMut,
    means: Rc<Means>,
    /// The body waits for 100, or for this; the bytes of a body in memory.
    held: Option<(Deadline, bytes::Bytes)>,
    scanner: HeadScanner,
    interim: usize,
    sent: usize,
    received: bool,
    /// The request's body had no stream, or its stream is still there.
    body_whole: bool,
    /// Writing failed or the rest of the body is not wanted: only the response matters now.
    write_ended: bool,
    /// It was not polled yet.
    begins: bool,
}

impl Exchange {
    pub(crate) fn new(
        mut link: Box<Link>,
        outbound: &Outbound,
        head: &Head<'_>,
        means: &Rc<Means>,
        now: Instant,
    ) -> Self {
        outbound.put_head(head, &mut link.output.buffer);
        link.deadline.set_from(now, means.settings.first_byte);
        let held = outbound.expects.then(|| (Deadline::new(CONTINUE_PATIENCE), outbound.full.clone()));
        if held.is_none() {
            link.output.push(outbound.full.clone(), b"");
        }
        Self {
            held,
            link,
            input: BytesMut::new(),
            means: Rc::clone(means),
            scanner: HeadScanner::default(),
            interim: 0,
            sent: 0,
            received: false,
            body_whole: true,
            write_ended: false,
            begins: true,
        }
    }

    /// Sends the request and reads the head of the response, whichever can go on.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        outbound: &mut Outbound,
    ) -> Poll<Result<ResponseHead, ClientError>> {
        if let Err(error) = self.poll_send(cx, &mut outbound.stream) {
            return Poll::Ready(Err(error));
        }
        self.begins = false;
        loop {
            if let Some(head) = self.parse_head(&outbound.method, outbound.keep)? {
                let unasked = head.status == StatusCode::SWITCHING_PROTOCOLS
                    && (!outbound.upgrade || head.upgrade.is_none());
                if unasked {
                    return Poll::Ready(Err(Malformed("101 that no one asked for").into()));
                }
                if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                    if let Some(key) = outbound.made_key.as_ref().filter(|_| head.status.is_informational())
                        && head.headers.get(websocket::ACCEPT) != websocket::accept(key).as_ref()
                    {
                        return Poll::Ready(Err(Malformed("101 for another WebSocket").into()));
                    }
                    // A body that was not asked for is not sent, and the connection with it is of no more use.
                    self.write_ended |= self.held.is_some();
                    return Poll::Ready(Ok(head));
                }
                self.interim += 1;
                if self.interim > MOST_INTERIM {
                    return Poll::Ready(Err(Malformed("too many interim responses").into()));
                }
                match &head.block {
                    Some(block) => outbound.interim.send(head.status, &block.to_map()),
                    None => outbound.interim.send(head.status, &head.headers),
                }
                if head.status == StatusCode::CONTINUE && self.let_go() {
                    self.poll_send(cx, &mut outbound.stream)?;
                }
                continue;
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(0) | Err(_)) if self.received => {
                    return Poll::Ready(Err(Malformed("the head is incomplete").into()));
                }
                Poll::Ready(Ok(0) | Err(_)) => {
                    let sent = self.sent(outbound);
                    return Poll::Ready(Err(ClientError::Closed { sent }));
                }
                Poll::Ready(Ok(_)) => self.received = true,
                Poll::Pending => {
                    return match self.link.deadline.poll(cx) {
                        Poll::Ready(()) => {
                            let (after, sent) = (self.means.settings.first_byte, self.sent(outbound));
                            Poll::Ready(Err(ClientError::TimedOut { after, sent }))
                        }
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }

    fn parse_head(&mut self, method: &Method, keep: Keep) -> Result<Option<ResponseHead>, Malformed> {
        match self.scanner.scan(&self.input).map_err(|_| Malformed("malformed line end"))? {
            Scan::Complete { end, .. } if end > self.means.settings.head_bytes => {
                Err(Malformed("head too large"))
            }
            Scan::Complete { start: 0, end } => {
                let head = self.input.split_to(end);
                self.scanner.reset();
                answer::parse_keeping(&head, method, keep).map(Some)
            }
            Scan::Complete { .. } => Err(Malformed("empty lines before the head")),
            Scan::Partial { .. } if self.input.len() > self.means.settings.head_bytes => {
                Err(Malformed("head too large"))
            }
            Scan::Partial { .. } => Ok(None),
        }
    }

    /// Writes what it can of the request. Fails only if the client's own body does: an upstream that stops reading
    /// may have answered already.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Option<OutboundStream>,
    ) -> Result<(), ClientError> {
        while !self.write_ended {
            if let Some((until, _)) = &mut self.held
                && until.poll(cx).is_ready()
            {
                self.let_go();
            }
            let starved = match stream {
                _ if self.held.is_some() => true,
                Some(body) => match body.poll_fill(cx, &mut self.link.output)? {
                    Filled::Starved => true,
                    Filled::Enough => false,
                    Filled::Ended => {
                        // What was taken from it is gone.
                        self.body_whole = false;
                        *stream = None;
                        false
                    }
                },
                None => self.link.output.is_empty(),
            };
            let mut moved = 0;
            let Link { io, output, .. } = &mut *self.link;
            let flushed = output.poll_flush(io, cx, &mut moved);
            if moved > 0 {
                self.sent += moved;
                // What is written as soon as the exchange begins moves no deadline that was just set.
                if !self.begins {
                    self.link.deadline.set(self.means.settings.first_byte);
                }
            }
            match flushed {
                Poll::Ready(Ok(())) if starved => return Ok(()),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => self.write_ended = true,
                Poll::Pending => return Ok(()),
            }
        }
        Ok(())
    }

    /// Sends the body that waited. Answers whether one did.
    fn let_go(&mut self) -> bool {
        let Some((_, full)) = self.held.take() else { return false };
        self.link.output.push_later(full);
        true
    }

    /// How much of the request the upstream can have seen.
    fn sent(&self, outbound: &Outbound) -> Sent {
        match self.sent {
            0 => Sent::Nothing,
            _ if self.is_sent(outbound.stream.as_ref()) => Sent::Whole,
            _ => Sent::Part,
        }
    }

    /// Whether all of the request was written.
    pub(crate) fn is_sent(&self, stream: Option<&OutboundStream>) -> bool {
        stream.is_none() && self.held.is_none() && self.link.output.is_empty() && !self.write_ended
    }

    /// Makes the response, whose body keeps the connection until it is complete.
    pub(crate) fn into_response(self, head: ResponseHead, outbound: Outbound, home: Home) -> Answer {
        let body = match head.framing {
            _ if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                let idle = self.means.settings.upgrade_idle;
                let upstream = Rewound::new(self.link.io, self.input.freeze());
                Body::Upgrade(Box::new(move |client| {
                    Box::pin(async move {
                        // The permit is held as long as the connection is in use.
                        let _home = home;
                        splice(client, upstream, idle).await;
                    })
                }))
            }
            framing => {
                let keep = head.keep_alive && framing != ResponseFraming::UntilClose;
                UpstreamBody::of(self, framing, keep, outbound.stream, home)
            }
        };
        let mut response = HttpResponse::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        if let Some(protocol) = head.upgrade.and_then(|protocol| HeaderValue::from_str(&protocol).ok()) {
            response.headers_mut().insert(http::header::UPGRADE, protocol);
        }
        Answer { response, block: head.block }
    }

    /// The connection, free for the next exchange.
    pub(crate) fn into_link(mut self) -> Box<Link> {
        self.link.output.shrink();
        self.means.give_buffer(self.input);
        self.link
    }

    /// Reads more. What waits with nothing read has no buffer: there may be thousands that wait.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let was_empty = self.input.is_empty();
        if self.input.capacity() == 0 {
            self.input = self.means.take_buffer();
        }
        self.input.reserve(READ_BYTES);
        let read = poll_read_buf(Pin::new(&mut self.link.io), cx, &mut self.input);
        if was_empty && read.is_pending() {
            self.means.give_buffer(std::mem::take(&mut self.input));
        }
        read
    }

    /// How long the upstream may be silent within a body.
    pub(crate) fn between_bytes(&self) -> Duration {
        self.means.settings.between_bytes
    }

    /// Begins to wait for more of the body.
    pub(crate) fn expect_more(&mut self) {
        self.link.deadline.set(self.between_bytes());
    }

    /// Ready when the wait was too long.
    pub(crate) fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.link.deadline.poll(cx)
    }

    /// Whether the whole body is already here.
    pub(crate) fn holds(&self, framing: ResponseFraming) -> Option<usize> {
        match framing {
            ResponseFraming::Framed(Framing::Length(length)) if length <= self.input.len() as u64 => {
                Some(length as usize)
            }
            _ => None,
        }
    }
}

enum Filled {
    /// The stream has nothing at the moment.
    Starved,
    /// There is something to write.
    Enough,
    /// The body is complete.
    Ended,
}

impl OutboundStream {
    fn poll_fill(&mut self, cx: &mut Context<'_>, output: &mut Outgoing) -> Result<Filled, ClientError> {
        while !output.is_full() {
            match self.stream.poll_data(cx) {
                Poll::Pending => return Ok(Filled::Starved),
                Poll::Ready(Some(piece)) => {
                    self.touched = true;
                    let piece = piece.map_err(ClientError::RequestBody)?;
                    if self.chunked {
                        chunked::put_size(&mut output.buffer, piece.len());
                        output.push(piece, b"\r\n");
                    } else {
                        self.left = self.left.checked_sub(piece.len() as u64).ok_or_else(wrong_length)?;
                        output.push(piece, b"");
                    }
                }
                Poll::Ready(None) if self.chunked => {
                    let trailers = self.stream.trailers();
                    chunked::put_end(&mut output.buffer, trailers.as_ref());
                    return Ok(Filled::Ended);
                }
                Poll::Ready(None) if self.left > 0 => return Err(wrong_length()),
                Poll::Ready(None) => return Ok(Filled::Ended),
            }
        }
        Ok(Filled::Enough)
    }
}

fn wrong_length() -> ClientError {
    ClientError::RequestBody(io::Error::other("the body has not the length that was announced").into())
}
