//! One request and its response on an h2 connection.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE, EXPECT, HOST, TE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, Version};

use super::body::{Patience, StreamBody};
use super::interim::Responder;
use super::request;
use super::tunnel::Tunnel;
use crate::body::{into_stream, read_piece};
use crate::field_block::{FieldBlock, Keep};
use crate::h1::fields;
use crate::h1::head::Rejection;
use crate::h1::respond::{self, Delimiter, hop_by_hop};
use crate::message::{BodyStream, Peer};
use crate::watch::Watch;
use crate::websocket;
use crate::worker::{InFlight, Worker};
use crate::{Body, FileRange, Interim, Request, Response, Service, UpgradeRequest};

/// Bytes for which capacity is asked at once.
pub(super) const PIECE_BYTES: usize = 64 * 1024;
/// Files up to this size are read and handed over at once.
const SMALL_FILE_BYTES: u64 = 32 * 1024;

/// Answers one request, and stays with what it becomes if it leaves HTTP.
pub(crate) async fn answer<S: Service>(
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    peer: Peer,
    worker: Rc<Worker>,
    watch: Rc<Watch>,
    service: Rc<S>,
) {
    let tunnelling = worker.request(exchange(request, respond, peer, &worker, service)).await;
    if let Some(task) = tunnelling {
        worker.tunnel(&watch, task).await;
    }
}

async fn exchange<S: Service>(
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    peer: Peer,
    worker: &Rc<Worker>,
    service: Rc<S>,
) -> Option<Tunnelling> {
    let (mut head, body) = request.into_parts();
    let host = match request::check(&mut head, &worker.settings.limits) {
        Ok(host) => host,
        Err(rejection) => {
            refuse(&Responder::new(respond, false), worker, rejection);
            return None;
        }
    };
    let expects = !body.is_end_stream() && head.headers.contains_key(EXPECT);
    let respond = Rc::new(Responder::new(respond, expects));
    let _in_flight = InFlight::new(worker);
    let method = head.method.clone();
    let told = head.headers.get(CONTENT_LENGTH);
    let length = told.and_then(|value| fields::content_length(value.as_bytes()).ok());
    let protocol = head.extensions.get::<Protocol>().map(|protocol| protocol.as_str().to_owned());
    let (body, tunnel) = match protocol {
        Some(_) => (Body::Empty, Some(body)),
        None => (StreamBody::of(body, length, worker, &respond), None),
    };
    let is_usual = protocol.is_none() && !expects && !head.headers.contains_key(TE);
    let block = (S::KEEP == Keep::Block && is_usual).then(|| block(&mut head));
    let request = Request {
        method: head.method,
        uri: head.uri,
        version: Version::HTTP_2,
        headers: head.headers,
        body,
        peer: peer.address,
        local: peer.local,
        tls: peer.tls,
        host,
        upgrade: protocol.map(|protocol| UpgradeRequest { protocol }),
        interim: Interim::along(Rc::<Responder>::clone(&respond), 0),
    };
    let response = {
        let mut answer = pin!(service.answer(request, block));
        poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer.into_response())),
            // The client took its request back: the work is dropped.
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        })
        .await
    };
    send(&respond, worker, &method, response?, tunnel).await
}

/// The fields as a block, with the host among them.
fn block(head: &mut Parts) -> FieldBlock {
    let headers = std::mem::take(&mut head.headers);
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let authority = head.uri.authority().filter(|_| !headers.contains_key(HOST));
    let authority = authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let room = bytes + authority.as_ref().map_or(0, |value| value.len() + 8);
    let mut block = FieldBlock::with_capacity(room, headers.len() + 1);
    if let Some(host) = &authority {
        block.push(&HOST, host);
    }
    for (name, value) in &headers {
        block.push(name, value);
    }
    block
}

/// What runs on a stream that left HTTP.
type Tunnelling = Pin<Box<dyn Future<Output = ()>>>;

fn refuse(respond: &Responder, worker: &Worker, rejection: Rejection) {
    worker.metrics.protocol_error(rejection.reason);
    let mut response = http::Response::new(());
    *response.status_mut() = rejection.status;
    put_date(response.headers_mut(), worker);
    if let Ok(mut stream) = respond.respond(response, false) {
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
    respond: &Responder,
    worker: &Rc<Worker>,
    method: &http::Method,
    mut response: Response,
    tunnel: Option<RecvStream>,
) -> Option<Tunnelling> {
    respond::repair(&mut response, tunnel.is_some());
    let (mut head, body) = response.into_parts();
    if let (StatusCode::SWITCHING_PROTOCOLS, Body::Upgrade(_), Some(_)) = (head.status, &body, &tunnel) {
        // The stream's 200 says what a connection's 101 says, and without the proof (RFC 8441, 5).
        head.status = StatusCode::OK;
        head.headers.remove(websocket::ACCEPT);
        put_head_fields(&mut head.headers, None, worker);
        head.version = Version::HTTP_2;
        let stream = respond.respond(http::Response::from_parts(head, ()), false).ok()?;
        let (Body::Upgrade(task), Some(receive)) = (body, tunnel) else { return None };
        return Some(task(Box::new(Tunnel::new(stream, receive))));
    }
    drop(tunnel);
    let delimiter =
        respond::delimiter(method, Version::HTTP_11, head.status, &head.headers, None, body.length(), false);
    let length = match delimiter {
        Delimiter::Length(length) | Delimiter::None { told: Some(length) } => Some(length),
        _ => None,
    };
    put_head_fields(&mut head.headers, length, worker);
    let bare = matches!(delimiter, Delimiter::None { .. } | Delimiter::Length(0));
    head.version = Version::HTTP_2;
    let mut stream = respond.respond(http::Response::from_parts(head, ()), bare).ok()?;
    if bare {
        return None;
    }
    let sent = match body {
        Body::Full(bytes) => stream.send_data(bytes, true).map_err(|_| Broken::Client),
        Body::File(range) if range.length <= SMALL_FILE_BYTES => send_small_file(&mut stream, range),
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
    None
}

/// Leaves out what belongs to a connection of HTTP/1.1, and adds what the engine alone says.
fn put_head_fields(headers: &mut HeaderMap, length: Option<u64>, worker: &Worker) {
    let connection_fields: Vec<_> = headers.keys().filter(|name| hop_by_hop(name)).cloned().collect();
    for name in connection_fields {
        headers.remove(name);
    }
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    put_date(headers, worker);
}

/// Whose fault it is that a response broke off.
#[derive(Debug)]
pub(super) enum Broken {
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
        Some(trailers) => {
            stream.send_trailers(fields::allowed_trailers(trailers)).map_err(|_| Broken::Client)
        }
        None => stream.send_data(Bytes::new(), true).map_err(|_| Broken::Client),
    }
}
