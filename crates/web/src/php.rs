//! Requests to PHP: the parameters that nginx would give, and the request's body.

use std::future::poll_fn;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{Method, StatusCode, Version};
use mainstay_http::{Body, BodyError, BodyStream, FileRange, Request, Response};

use crate::fastcgi::record::put_param;
use crate::fastcgi::{Client, Failure, FastCgiRequest};
use crate::files::pieces::FilePieces;
use crate::forwarded::reaches_app;
use crate::script::Script;
use mainstay_http::path::SitePath;

/// A body up to this size is read before php-fpm is asked, so that a slow client does not keep a process waiting.
const READ_FIRST_BYTES: usize = 64 * 1024;

/// Where a request came in.
pub(crate) struct Place<'a> {
    /// The public folder.
    pub(crate) root: &'a [u8],
    /// Path as it is forwarded.
    pub(crate) path: &'a SitePath<'a>,
    pub(crate) id: &'a [u8],
    pub(crate) listen: Option<SocketAddr>,
    /// Whether the client spoke TLS, to whoever stands before this server.
    pub(crate) is_secure: bool,
}

/// Why PHP gave no response.
pub(crate) enum Failed {
    /// The client's body broke.
    Body(BodyError),
    /// A temporary file could not be written.
    Spool(io::Error),
    /// php-fpm did not answer.
    App(Failure),
}

impl Failed {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Body(error) => error.status(),
            Self::Spool(_) => StatusCode::INSUFFICIENT_STORAGE,
            Self::App(failure) => failure.status(),
        }
    }

    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Body(_) => "request_body",
            Self::Spool(_) => "spool",
            Self::App(failure) => failure.reason(),
        }
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Body(error) => error.fmt(out),
            Self::Spool(error) => write!(out, "a request's body cannot be kept in a temporary file: {error}"),
            Self::App(failure) => failure.fmt(out),
        }
    }
}

/// Asks PHP; answers also how long it took, from asking to its response's head.
pub(crate) async fn ask(
    client: &Client,
    mut request: Request,
    mut params: Vec<u8>,
) -> Result<(Response, Duration), Failed> {
    let length = request.body.length();
    let (body, upload, length) = take_body(std::mem::take(&mut request.body), length).await?;
    if length > 0 || !matches!(request.method, Method::GET | Method::HEAD) {
        put_param(&mut params, b"CONTENT_LENGTH", length.to_string().as_bytes());
    }
    let is_safe = matches!(request.method, Method::GET | Method::HEAD);
    let asked = Instant::now();
    let (head, body) =
        client.send(FastCgiRequest { params, body, upload, is_safe }).await.map_err(Failed::App)?;
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    Ok((response, asked.elapsed()))
}

/// All parameters but the body's length.
pub(crate) fn params(request: &Request, script: &Script, place: &Place<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(2048);
    let mut put = |name: &str, value: &[u8]| put_param(&mut out, name.as_bytes(), value);
    put("SCRIPT_FILENAME", &[place.root, &script.path].concat());
    put("DOCUMENT_ROOT", place.root);
    put("SCRIPT_NAME", &script.path);
    put("DOCUMENT_URI", &[&script.path[..], &script.path_info].concat());
    // With cgi.fix_pathinfo=0 php-fpm takes a PATH_INFO that is there, even an empty one, as the script's own path.
    if !script.path_info.is_empty() {
        put("PATH_INFO", &script.path_info);
    }
    let query = request.uri.query().unwrap_or_default();
    match request.uri.query() {
        None => put("REQUEST_URI", place.path.encoded.as_bytes()),
        Some(query) => put("REQUEST_URI", format!("{}?{query}", place.path.encoded).as_bytes()),
    }
    put("QUERY_STRING", query.as_bytes());
    put("REQUEST_METHOD", request.method.as_str().as_bytes());
    put("REQUEST_SCHEME", if place.is_secure { b"https" } else { b"http" });
    if place.is_secure {
        put("HTTPS", b"on");
    }
    put("GATEWAY_INTERFACE", b"CGI/1.1");
    put("SERVER_SOFTWARE", b"mainstay");
    put(
        "SERVER_PROTOCOL",
        match request.version {
            Version::HTTP_10 => b"HTTP/1.0",
            Version::HTTP_2 => b"HTTP/2.0",
            _ => b"HTTP/1.1",
        },
    );
    put("SERVER_NAME", request.host.as_deref().unwrap_or_default().as_bytes());
    if let Some(listen) = place.listen {
        put("SERVER_ADDR", listen.ip().to_string().as_bytes());
        // The port that the client spoke to: apps make addresses out of it.
        let port = if place.is_secure { 443 } else { listen.port() };
        put("SERVER_PORT", port.to_string().as_bytes());
    }
    if let Some(peer) = request.peer {
        put("REMOTE_ADDR", peer.ip().to_canonical().to_string().as_bytes());
        if peer.port() != 0 {
            put("REMOTE_PORT", peer.port().to_string().as_bytes());
        }
    }
    // php-fpm refuses scripts that it was not sent to by a server that says so.
    put("REDIRECT_STATUS", b"200");
    put("HTTP_X_REQUEST_ID", place.id);
    put("CONTENT_TYPE", request.headers.get(CONTENT_TYPE).map_or(b"", |value| value.as_bytes()));
    put_fields(&mut out, request);
    out
}

fn put_fields(out: &mut Vec<u8>, request: &Request) {
    let mut name_buffer = Vec::with_capacity(64);
    for name in request.headers.keys() {
        if *name == CONTENT_LENGTH || *name == CONTENT_TYPE || !reaches_app(name) {
            continue;
        }
        name_buffer.clear();
        name_buffer.extend_from_slice(b"HTTP_");
        name_buffer.extend(name.as_str().bytes().map(|byte| match byte {
            b'-' => b'_',
            byte => byte.to_ascii_uppercase(),
        }));
        let mut values = request.headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
        let (first, second) = (values.next().unwrap_or_default(), values.next());
        match second {
            None => put_param(out, &name_buffer, first),
            Some(second) => {
                let all: Vec<&[u8]> = [first, second].into_iter().chain(values).collect();
                put_param(out, &name_buffer, &all.join(&b", "[..]));
            }
        }
    }
    // In h2 the host stands in the target.
    if !request.headers.contains_key(HOST)
        && let Some(authority) = request.uri.authority()
    {
        put_param(out, b"HTTP_HOST", authority.as_str().as_bytes());
    }
}

type Taken = (Vec<u8>, Option<Box<dyn BodyStream>>, u64);

/// Reads the start of the body; all of it, if it is small or its length is not known, for CGI needs the length first.
async fn take_body(body: Body, length: Option<u64>) -> Result<Taken, Failed> {
    let mut stream = match body {
        Body::Empty | Body::Upgrade(_) => return Ok((Vec::new(), None, 0)),
        Body::Full(bytes) => {
            let length = bytes.len() as u64;
            return Ok((bytes.into(), None, length));
        }
        Body::File(range) => {
            let length = range.length;
            return Ok((Vec::new(), Some(Box::new(FilePieces(range))), length));
        }
        Body::Stream(stream) => stream,
    };
    let mut start = BytesMut::new();
    while start.len() < READ_FIRST_BYTES {
        let Some(piece) = poll_fn(|cx| stream.poll_data(cx)).await else {
            let length = start.len() as u64;
            return Ok((start.into(), None, length));
        };
        start.extend_from_slice(&piece.map_err(Failed::Body)?);
    }
    if let Some(length) = length {
        return Ok((start.into(), Some(stream), length));
    }
    let mut file = tempfile::tempfile().map_err(Failed::Spool)?;
    let mut length = start.len() as u64;
    while let Some(piece) = poll_fn(|cx| stream.poll_data(cx)).await {
        let piece = piece.map_err(Failed::Body)?;
        length += piece.len() as u64;
        file.write_all(&piece).map_err(Failed::Spool)?;
    }
    let range = FileRange { file: std::rc::Rc::new(file), offset: 0, length: length - start.len() as u64 };
    Ok((start.into(), Some(Box::new(FilePieces(range))), length))
}
