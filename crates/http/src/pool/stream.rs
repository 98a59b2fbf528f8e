//! One request to an upstream on a stream of an h2 connection, and its response.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, EXPECT, HOST, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Response as HttpResponse, StatusCode, Uri, Version};

use super::error::is_idempotent;
use super::exchange::CONTINUE_PATIENCE;
use super::io::Deadline;
use super::shared::Place;
use super::splice::splice;
use super::stream_body::{Open, StreamResponse};
use super::{ClientError, Head, Hold, PoolSettings, Sent};
use crate::body::into_stream;
use crate::field_block::FieldBlock;
use crate::h1::answer::Malformed;
use crate::h1::fields;
use crate::h1::respond::hop_by_hop;
use crate::h2::tunnel::Tunnel;
use crate::interim::MOST_INTERIM;
use crate::message::BodyStream;
use crate::{Body, Interim, Response, websocket};

/// Bytes for which capacity is asked at once.
const PIECE_BYTES: usize = 64 * 1024;

/// A request as it is sent on a stream.
pub(super) struct Asked {
    method: Method,
    path: PathAndQuery,
    authority: Option<Authority>,
    headers: HeaderMap,
    protocol: Option<String>,
    /// The client waits for 100 before it sends the body.
    expects: bool,
    interim: Interim,
    /// A body in memory, which can be sent again.
    full: Bytes,
    upload: Option<Upload>,
    /// Some of the body was taken: it cannot be sent again.
    touched: bool,
}

/// A body that can be sent only once.
struct Upload {
    stream: Box<dyn BodyStream>,
    left: Option<u64>,
}

impl Asked {
    pub(super) fn new(asked: Head<'_>, body: Body) -> Self {
        let mut headers = asked.block.map_or_else(|| asked.headers.clone(), FieldBlock::to_map);
        let host = headers.remove(HOST);
        let authority = asked
            .uri
            .authority()
            .cloned()
            .filter(|_| host.is_none())
            .or_else(|| host.and_then(|host| Authority::try_from(host.as_bytes()).ok()))
            .or_else(|| asked.host.and_then(|host| Authority::try_from(host).ok()));
        let expects = headers.remove(EXPECT).is_some();
        remove_connection_fields(&mut headers);
        let length = body.length();
        let may_be_bare =
            matches!(*asked.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE);
        if let Some(length) = length.filter(|length| *length > 0 || !may_be_bare)
            && asked.protocol.is_none()
        {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        // Trailers always pass through us (RFC 9110, 10.1.4); gRPC servers insist on hearing it.
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let (full, upload) = match body {
            Body::Full(bytes) => (bytes, None),
            Body::Empty | Body::Upgrade(_) => (Bytes::new(), None),
            body => (Bytes::new(), into_stream(body).map(|stream| Upload { stream, left: length })),
        };
        let expects = expects && (upload.is_some() || !full.is_empty());
        if expects {
            headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
        }
        Self {
            method: asked.method.clone(),
            path: asked.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
            authority,
            headers,
            protocol: asked.protocol.map(str::to_owned),
            expects,
            interim: asked.interim.clone(),
            full,
            upload,
            touched: false,
        }
    }

    fn head(&self, scheme: &'static str) -> Option<http::Request<()>> {
        let mut uri = Uri::builder().path_and_query(self.path.clone());
        uri = uri.scheme(if scheme == "https" { Scheme::HTTPS } else { Scheme::HTTP });
        uri = match &self.authority {
            Some(authority) => uri.authority(authority.clone()),
            None => uri.authority("localhost"),
        };
        let mut head = http::Request::new(());
        *head.uri_mut() = uri.build().ok()?;
        *head.version_mut() = Version::HTTP_2;
        *head.headers_mut() = self.headers.clone();
        *head.method_mut() = self.method.clone();
        if let Some(protocol) = &self.protocol {
            *head.method_mut() = Method::CONNECT;
            head.extensions_mut().insert(Protocol::from(protocol.as_str()));
            // HTTP/1.1's proof that the server speaks the protocol has no place here (RFC 8441, 5).
            head.headers_mut().remove(websocket::KEY);
        }
        Some(head)
    }

    /// Whether the request may be sent once more after this.
    pub(super) fn may_be_sent_again(&self, error: &ClientError, reused: bool) -> bool {
        let refused = error.sent() == Sent::Nothing;
        let stale = reused && matches!(error, ClientError::Closed { .. }) && is_idempotent(&self.method);
        !self.touched && (refused || stale)
    }
}

fn remove_connection_fields(headers: &mut HeaderMap) {
    let present: Vec<_> = headers.keys().filter(|name| hop_by_hop(name)).cloned().collect();
    for name in present {
        headers.remove(name);
    }
}

/// A stream with a request on it.
pub(super) struct StreamExchange {
    /// Gone when the request was sent, or when the upstream takes no more of it.
    send: Option<SendStream<Bytes>>,
    piece: Bytes,
    response: ResponseFuture,
    /// The body waits for 100, or for this.
    hold_body: Option<Deadline>,
    interim: usize,
    whole: bool,
    pub(super) deadline: Deadline,
    first_byte: Duration,
    pub(super) between_bytes: Duration,
    place: Place,
}

impl StreamExchange {
    /// Begins a request. Fails if the connection is just being closed: nothing was sent then.
    pub(super) fn begin(asked: &Asked, place: Place, settings: &PoolSettings) -> Result<Self, ClientError> {
        let closed = ClientError::Closed { sent: Sent::Nothing };
        let mut sender = place.sender();
        if asked.protocol.is_some() && !sender.is_extended_connect_protocol_enabled() {
            return Err(Malformed("the upstream takes no WebSocket over h2").into());
        }
        let Some(head) = asked.head(place.scheme()) else {
            return Err(Malformed("the request has no form in h2").into());
        };
        let bare = asked.full.is_empty() && asked.upload.is_none() && asked.protocol.is_none();
        let begun = sender.send_request(head, bare);
        let Ok((response, send)) = begun else {
            place.give_up();
            return Err(closed);
        };
        Ok(Self {
            send: Some(send).filter(|_| !bare),
            piece: asked.full.clone(),
            response,
            hold_body: asked.expects.then(|| Deadline::new(CONTINUE_PATIENCE)),
            interim: 0,
            whole: bare,
            deadline: Deadline::new(settings.first_byte),
            first_byte: settings.first_byte,
            between_bytes: settings.between_bytes,
            place,
        })
    }

    /// Sends the request and waits for the head of the response, whichever can go on.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        asked: &mut Asked,
    ) -> Poll<Result<HttpResponse<RecvStream>, ClientError>> {
        while let Poll::Ready(Some(interim)) = self.response.poll_informational(cx) {
            let interim = interim.map_err(|error| self.failure(&error))?;
            self.interim += 1;
            if self.interim > MOST_INTERIM {
                return Poll::Ready(Err(Malformed("too many interim responses").into()));
            }
            if interim.status() == StatusCode::CONTINUE {
                self.hold_body = None;
            }
            let (mut head, ()) = interim.into_parts();
            remove_connection_fields(&mut head.headers);
            asked.interim.send(head.status, &head.headers);
        }
        if asked.protocol.is_none() {
            self.poll_send(cx, asked)?;
        }
        match Pin::new(&mut self.response).poll(cx) {
            Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.failure(&error))),
            Poll::Pending => {
                ready!(self.deadline.poll(cx));
                let (after, sent) = (self.first_byte, self.sent());
                Poll::Ready(Err(ClientError::TimedOut { after, sent }))
            }
        }
    }

    /// Sends what it can of the body. Fails only if the client's own body does.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, asked: &mut Asked) -> Result<(), ClientError> {
        if let Some(until) = &mut self.hold_body {
            if until.poll(cx).is_pending() {
                return Ok(());
            }
            self.hold_body = None;
        }
        while let Some(send) = &mut self.send {
            if !self.piece.is_empty() {
                send.reserve_capacity(self.piece.len().min(PIECE_BYTES));
                let room = send.capacity();
                if room == 0 {
                    match send.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(_))) => continue,
                        Poll::Ready(_) => self.send = None,
                        Poll::Pending => {}
                    }
                    return Ok(());
                }
                let part = self.piece.split_to(room.min(self.piece.len()));
                let last = self.piece.is_empty() && asked.upload.is_none();
                if send.send_data(part, last).is_err() {
                    self.send = None;
                    return Ok(());
                }
                self.deadline.set(self.first_byte);
                if last {
                    self.whole = true;
                    self.send = None;
                }
                continue;
            }
            let Some(upload) = &mut asked.upload else { return Ok(()) };
            match upload.stream.poll_data(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(piece)) => {
                    asked.touched = true;
                    self.piece = piece.map_err(ClientError::RequestBody)?;
                    if let Some(left) = &mut upload.left {
                        *left = left.checked_sub(self.piece.len() as u64).ok_or_else(wrong_length)?;
                    }
                }
                Poll::Ready(None) if upload.left.is_some_and(|left| left > 0) => return Err(wrong_length()),
                Poll::Ready(None) => {
                    asked.touched = true;
                    let ended = match upload.stream.trailers().map(fields::allowed_trailers) {
                        Some(trailers) if !trailers.is_empty() => send.send_trailers(trailers),
                        _ => send.send_data(Bytes::new(), true),
                    };
                    self.whole = ended.is_ok();
                    self.deadline.set(self.first_byte);
                    asked.upload = None;
                    self.send = None;
                }
            }
        }
        Ok(())
    }

    fn sent(&self) -> Sent {
        if self.whole { Sent::Whole } else { Sent::Part }
    }

    fn failure(&self, error: &h2::Error) -> ClientError {
        tracing::debug!(%error, "a request to an upstream over h2 failed");
        if let Some(after) = self.place.silent() {
            // A new connection to the same upstream would be no better.
            return ClientError::TimedOut { after, sent: self.sent() };
        }
        let reason = error.reason();
        match reason {
            // The upstream says itself that it did not begin (RFC 9113, 6.8 and 8.7).
            Some(_) if error.is_go_away() && error.is_remote() => {
                self.place.give_up();
                ClientError::Closed { sent: Sent::Nothing }
            }
            Some(Reason::REFUSED_STREAM) if error.is_remote() => ClientError::Closed { sent: Sent::Nothing },
            Some(reason) if error.is_reset() && error.is_remote() => {
                ClientError::Reset { code: reason.into(), sent: self.sent() }
            }
            Some(_) => Malformed("not as HTTP/2 says").into(),
            None => ClientError::Closed { sent: self.sent() },
        }
    }

    /// Makes the response, whose body keeps the place until it is complete.
    pub(super) fn into_response(
        mut self,
        response: HttpResponse<RecvStream>,
        asked: Asked,
        hold: Hold,
        upgrade_idle: Duration,
    ) -> Response {
        let (mut head, receive) = response.into_parts();
        remove_all_but_length(&mut head.headers);
        let upgraded = asked.protocol.is_some() && head.status.is_success();
        if upgraded && let Some(send) = self.send.take() {
            let (upstream, place) = (Tunnel::new(send, receive), self.place);
            let body = Body::Upgrade(Box::new(move |client| {
                Box::pin(async move {
                    let _held = (place, hold);
                    splice(client, upstream, upgrade_idle).await;
                })
            }));
            let mut response = HttpResponse::new(body);
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.headers_mut() = head.headers;
            if let Some(accept) = asked.headers.get(websocket::KEY).and_then(websocket::accept) {
                response.headers_mut().insert(websocket::ACCEPT, accept);
            }
            return response;
        }
        let bodiless = asked.method == Method::HEAD
            || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let mut response = HttpResponse::new(Body::Empty);
        if !bodiless && !receive.is_end_stream() {
            let told = head.headers.get(CONTENT_LENGTH);
            let left = told.and_then(|value| fields::content_length(value.as_bytes()).ok());
            *response.body_mut() =
                StreamResponse::of(Open { exchange: self, asked, receive, _hold: hold }, left);
        }
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        response
    }
}

fn remove_all_but_length(headers: &mut HeaderMap) {
    let length = headers.get(CONTENT_LENGTH).cloned();
    remove_connection_fields(headers);
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length);
    }
}

fn wrong_length() -> ClientError {
    ClientError::RequestBody(io::Error::other("the body has not the length that was announced").into())
}
