//! Requests, responses and bodies as the engine and its services hand them to each other.

use std::cell::RefCell;
use std::fs::File;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, Version};

use crate::field_block::{FieldBlock, Keep};
use crate::tls::TlsInfo;
use crate::{BodyError, Interim};

/// A request whose head is complete and whose body may still be on its way.
pub struct Request {
    /// The method.
    pub method: Method,
    /// The target. For HTTP/1.1 usually path and query alone; for h2 with scheme and authority.
    pub uri: Uri,
    /// The version that the client spoke.
    pub version: Version,
    /// The header fields, hop-by-hop ones removed by the engine, except for `TE: trailers`.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
    /// The client's address: what a trusted proxy's PROXY header told, where there was one.
    pub peer: Option<SocketAddr>,
    /// The address that the client connected to, where known.
    pub local: Option<SocketAddr>,
    /// What the client's TLS connection agreed on; none without TLS.
    pub tls: Option<Rc<TlsInfo>>,
    /// The host that the request is for: `:authority`, absolute-form or `Host`, lower case, without port.
    pub host: Option<String>,
    /// Set when the client asks to leave HTTP for another protocol: `Upgrade: websocket` in HTTP/1.1, extended CONNECT
    /// in h2 (RFC 8441), where the method reads GET here too.
    pub upgrade: Option<UpgradeRequest>,
    /// The way for interim responses (1xx) to the client.
    pub interim: Interim,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) tls: Option<Rc<TlsInfo>>,
}

/// A client's wish to change protocols on this connection.
pub struct UpgradeRequest {
    /// The value of the `Upgrade` header field.
    pub protocol: String,
}

/// A response. A service that answers 101 puts a [`Body::Upgrade`] in it; an h2 client gets 200 in its place.
pub type Response = http::Response<Body>;

/// A response, and fields of it that were never put into its map.
pub struct Answer {
    /// The response.
    pub response: Response,
    /// More fields, which are sent as they are, but for those that frame the message.
    pub block: Option<FieldBlock>,
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self { response, block: None }
    }
}

impl Answer {
    /// The response with all fields in its map.
    pub fn into_response(self) -> Response {
        let mut response = self.response;
        if let Some(block) = self.block {
            if response.headers().is_empty() {
                *response.headers_mut() = block.into_map();
            } else {
                response.headers_mut().extend(block.into_map());
            }
        }
        response
    }
}

/// What answers requests on one worker thread. Nothing of it crosses threads, so it needs neither `Send` nor locks.
pub trait Service: 'static {
    /// How the fields of usual requests of HTTP/1.1 are handed over. With [`Keep::Block`] they come to
    /// [`Service::answer`] beside a request whose map is empty.
    const KEEP: Keep = Keep::Map;

    /// Answers one request. Never fails: an error is a response too.
    fn call(self: Rc<Self>, request: Request) -> impl Future<Output = Response> + 'static;

    /// Answers one request whose fields may be in a block. What passes most of them on need not look at each of them.
    fn answer(
        self: Rc<Self>,
        mut request: Request,
        block: Option<FieldBlock>,
    ) -> impl Future<Output = Answer> + 'static {
        if let Some(block) = block {
            request.headers = block.into_map();
        }
        let response = self.call(request);
        async move { response.await.into() }
    }
}

/// A stream of body data, polled on one thread.
pub trait BodyStream {
    /// The next piece; `None` at the end. Pieces are never empty.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>>;

    /// Trailer fields, asked for once after the end of the data.
    fn trailers(&mut self) -> Option<HeaderMap> {
        None
    }

    /// The exact number of bytes still to come, where known.
    fn remaining(&self) -> Option<u64> {
        None
    }
}

/// A body on its way in or out.
#[derive(Default)]
pub enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// Bytes in memory.
    Full(Bytes),
    /// A range of a file; sent without passing through user space where the transport allows.
    File(FileRange),
    /// Anything else.
    Stream(Box<dyn BodyStream>),
    /// The connection changes protocols (101): the task takes over the client's byte stream.
    Upgrade(UpgradeTask),
}

/// A part of a regular file.
pub struct FileRange {
    /// The open file, shared so that several ranges or requests may use it; read by position only.
    pub file: Rc<File>,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// A byte stream that left HTTP.
pub trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Io for T {}

/// What runs on a connection after 101.
pub type UpgradeTask = Box<dyn FnOnce(Box<dyn Io>) -> Pin<Box<dyn Future<Output = ()>>>>;

impl Body {
    /// The exact length in bytes, where known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Body::Empty | Body::Upgrade(_) => Some(0),
            Body::Full(bytes) => Some(bytes.len() as u64),
            Body::File(range) => Some(range.length),
            Body::Stream(stream) => stream.remaining(),
        }
    }
}

/// A slot that two parts of one worker share, such as a service's connection pool.
pub type Local<T> = Rc<RefCell<T>>;
