//! One request to an upstream, up to the head of its response.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use http::header::{EXPECT, HOST};
use http::{HeaderValue, Method, Response as HttpResponse, StatusCode};
use tokio_util::io::poll_read_buf;

use super::body::UpstreamBody;
use super::error::is_idempotent;
use super::io::{Deadline, UpstreamIo};
use super::splice::splice;
use super::{ClientError, Home, PoolSettings, Sent};
use crate::body::into_stream;
use crate::h1::answer::{self, Malformed, ResponseFraming, ResponseHead};
use crate::h1::chunked;
use crate::h1::fields::Framing;
use crate::h1::lines::{HeadScanner, Scan};
use crate::h1::outgoing::Outgoing;
use crate::h1::respond::{hop_by_hop, put_decimal, put_field};
use crate::message::BodyStream;
use crate::rewound::Rewound;
use crate::{Body, Request, Response};

/// Interim responses (1xx) to one request.
const MOST_INTERIM: usize = 16;
/// Room for bytes that are read in one call.
pub(crate) const READ_BYTES: usize = 16 * 1024;

/// A request as it is written to an upstream.
pub(crate) struct Outbound {
    method: Method,
    upgrade: bool,
    head: Vec<u8>,
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
    pub(crate) fn new(request: Request) -> Self {
        let mut head = Vec::with_capacity(512);
        head.extend_from_slice(request.method.as_str().as_bytes());
        head.push(b' ');
        let target = request.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        head.extend_from_slice(target.as_bytes());
        head.extend_from_slice(b" HTTP/1.1\r\n");
        if !request.headers.contains_key(HOST) {
            let authority = request.uri.authority().map(http::uri::Authority::as_str);
            let host = authority.or(request.host.as_deref()).unwrap_or("localhost");
            if let Ok(host) = HeaderValue::from_str(host) {
                put_field(&mut head, &HOST, &host);
            }
        }
        for (name, value) in &request.headers {
            if !hop_by_hop(name) && *name != EXPECT {
                put_field(&mut head, name, value);
            }
        }
        if let Some(upgrade) = &request.upgrade {
            head.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
            head.extend_from_slice(upgrade.protocol.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        let length = request.body.length();
        let may_be_bare =
            matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE);
        match length {
            Some(0) if may_be_bare => {}
            Some(length) => {
                head.extend_from_slice(b"content-length: ");
                put_decimal(&mut head, length);
                head.extend_from_slice(b"\r\n");
            }
            None => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        head.extend_from_slice(b"\r\n");
        let (full, stream) = match request.body {
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
        Self { method: request.method, upgrade: request.upgrade.is_some(), head, full, stream }
    }

    /// Whether the request may be sent once more, after a kept connection turned out to be closed.
    pub(crate) fn may_be_sent_again(&self, failed: &Exchange) -> bool {
        let whole = failed.body_whole && self.stream.as_ref().is_none_or(|stream| !stream.touched);
        whole && !failed.received && (failed.sent == 0 || is_idempotent(&self.method))
    }
}

/// A connection with a request on it.
pub(crate) struct Exchange {
    pub(crate) io: UpstreamIo,
    pub(crate) input: BytesMut,
    pub(crate) deadline: Deadline,
    pub(crate) settings: PoolSettings,
    output: Outgoing,
    scanner: HeadScanner,
    interim: usize,
    sent: usize,
    received: bool,
    /// The request's body had no stream, or its stream is still there.
    body_whole: bool,
    /// Writing failed or the rest of the body is not wanted: only the response matters now.
    write_ended: bool,
}

impl Exchange {
    pub(crate) fn new(io: UpstreamIo, outbound: &Outbound, settings: &PoolSettings) -> Self {
        let mut output = Outgoing::default();
        output.buffer.extend_from_slice(&outbound.head);
        output.push(outbound.full.clone(), b"");
        Self {
            io,
            input: BytesMut::new(),
            deadline: Deadline::new(settings.first_byte),
            settings: settings.clone(),
            output,
            scanner: HeadScanner::default(),
            interim: 0,
            sent: 0,
            received: false,
            body_whole: true,
            write_ended: false,
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
        loop {
            if let Some(head) = self.parse_head(&outbound.method)? {
                let unasked = head.status == StatusCode::SWITCHING_PROTOCOLS
                    && (!outbound.upgrade || head.upgrade.is_none());
                if unasked {
                    return Poll::Ready(Err(Malformed("101 that no one asked for").into()));
                }
                if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(head));
                }
                self.interim += 1;
                if self.interim > MOST_INTERIM {
                    return Poll::Ready(Err(Malformed("too many interim responses").into()));
                }
                continue;
            }
            self.input.reserve(READ_BYTES);
            match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input) {
                Poll::Ready(Ok(0) | Err(_)) if self.received => {
                    return Poll::Ready(Err(Malformed("the head is incomplete").into()));
                }
                Poll::Ready(Ok(0) | Err(_)) => {
                    let sent = self.sent(outbound);
                    return Poll::Ready(Err(ClientError::Closed { sent }));
                }
                Poll::Ready(Ok(_)) => self.received = true,
                Poll::Pending => {
                    return match self.deadline.poll(cx) {
                        Poll::Ready(()) => {
                            let (after, sent) = (self.settings.first_byte, self.sent(outbound));
                            Poll::Ready(Err(ClientError::TimedOut { after, sent }))
                        }
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }

    fn parse_head(&mut self, method: &Method) -> Result<Option<ResponseHead>, Malformed> {
        match self.scanner.scan(&self.input).map_err(|_| Malformed("malformed line end"))? {
            Scan::Complete { end, .. } if end > self.settings.head_bytes => Err(Malformed("head too large")),
            Scan::Complete { start: 0, end } => {
                let head = self.input.split_to(end);
                self.scanner.reset();
                answer::parse(&head, method).map(Some)
            }
            Scan::Complete { .. } => Err(Malformed("empty lines before the head")),
            Scan::Partial { .. } if self.input.len() > self.settings.head_bytes => {
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
            let starved = match stream {
                Some(body) => match body.poll_fill(cx, &mut self.output)? {
                    Filled::Starved => true,
                    Filled::Enough => false,
                    Filled::Ended => {
                        // What was taken from it is gone.
                        self.body_whole = false;
                        *stream = None;
                        false
                    }
                },
                None => self.output.is_empty(),
            };
            let mut moved = 0;
            let flushed = self.output.poll_flush(&mut self.io, cx, &mut moved);
            if moved > 0 {
                self.sent += moved;
                self.deadline.set(self.settings.first_byte);
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
        stream.is_none() && self.output.is_empty() && !self.write_ended
    }

    /// Makes the response, whose body keeps the connection until it is complete.
    pub(crate) fn into_response(self, head: ResponseHead, outbound: Outbound, home: Home) -> Response {
        let body = match head.framing {
            _ if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                let idle = self.settings.upgrade_idle;
                let upstream = Rewound::new(self.io, self.input.freeze());
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
        response
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

/// Reads more of a response's body into the exchange's buffer.
pub(crate) fn poll_read(exchange: &mut Exchange, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    exchange.input.reserve(READ_BYTES);
    poll_read_buf(Pin::new(&mut exchange.io), cx, &mut exchange.input)
}
