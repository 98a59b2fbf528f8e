//! Writes response heads.

use http::header::{CONTENT_LENGTH, DATE, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, Method, StatusCode, Version};

use crate::date::HttpDate;
use crate::field_block::FieldBlock;
use crate::{Body, Response};

/// How the body of a response is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delimiter {
    /// No body at all: answers to HEAD, 1xx, 204, 304. A length may still be told.
    None { told: Option<u64> },
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Until the connection closes (HTTP/1.0 clients).
    Close,
    /// The connection leaves HTTP.
    Upgrade,
}

/// Makes a response out of what cannot be one: an interim status, or a change of protocols that no one asked for,
/// would make the client take the next response for this one.
pub(crate) fn repair(response: &mut Response, upgrade: bool) {
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let upgrades = upgrade && switches && matches!(response.body(), Body::Upgrade(_));
    if response.status().is_informational() && !upgrades {
        tracing::error!(status = response.status().as_u16(), "a service answered with an interim status");
        *response = Response::default();
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
}

/// Decides how a body is delimited (RFC 9112, 6.3).
pub(crate) fn delimiter(
    method: &Method,
    version: Version,
    status: StatusCode,
    headers: &HeaderMap,
    block: Option<&FieldBlock>,
    length: Option<u64>,
    upgrade: bool,
) -> Delimiter {
    let field = || {
        let in_map = headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
        let value = in_map.or_else(|| block?.first(b"content-length"))?;
        super::fields::content_length(value).ok()
    };
    if status == StatusCode::SWITCHING_PROTOCOLS && upgrade {
        return Delimiter::Upgrade;
    }
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        return Delimiter::None { told: None };
    }
    if *method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
        // An empty body says nothing of the length that GET would have; the field does.
        return Delimiter::None { told: field().or(length.filter(|length| *length > 0)) };
    }
    match length.or_else(field) {
        Some(length) => Delimiter::Length(length),
        None if version == Version::HTTP_11 => Delimiter::Chunked,
        None => Delimiter::Close,
    }
}

/// What the `Connection` field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// HTTP/1.1's default: nothing is said.
    KeepAlive,
    /// Said to an HTTP/1.0 client that asked.
    KeepAliveSaid,
    /// This is the last response.
    Close,
}

/// Room for what is added to a response's fields.
const OWN_BYTES: usize = 128;

/// Writes the head of a response.
pub(crate) fn put_head(
    out: &mut Vec<u8>,
    status: StatusCode,
    headers: &HeaderMap,
    block: Option<&FieldBlock>,
    delimiter: Delimiter,
    persistence: Persistence,
    date: &HttpDate,
) {
    put_status(out, status);
    let mut dated = false;
    if let Some(block) = block {
        out.reserve(block.lines().len() + OWN_BYTES);
        block.put_lines(out);
        dated = block.first(b"date").is_some();
    }
    for (name, value) in headers {
        if hop_by_hop(name) && !(delimiter == Delimiter::Upgrade && *name == UPGRADE) {
            continue;
        }
        dated |= *name == DATE;
        put_field(out, name, value);
    }
    if !dated {
        out.extend_from_slice(b"date: ");
        out.extend_from_slice(date);
        out.extend_from_slice(b"\r\n");
    }
    match delimiter {
        Delimiter::Length(length) | Delimiter::None { told: Some(length) } => {
            out.extend_from_slice(b"content-length: ");
            put_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Delimiter::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Delimiter::Upgrade => out.extend_from_slice(b"connection: upgrade\r\n"),
        Delimiter::None { told: None } | Delimiter::Close => {}
    }
    if delimiter != Delimiter::Upgrade {
        match persistence {
            Persistence::KeepAlive => {}
            Persistence::KeepAliveSaid => out.extend_from_slice(b"connection: keep-alive\r\n"),
            Persistence::Close => out.extend_from_slice(b"connection: close\r\n"),
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes an interim response.
pub(crate) fn put_interim(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap) {
    put_status(out, status);
    for (name, value) in headers {
        if !hop_by_hop(name) {
            put_field(out, name, value);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the engine's own answer to a request that it refuses; the connection closes after it.
pub(crate) fn put_refusal(out: &mut Vec<u8>, status: StatusCode, reason: &str, date: &HttpDate) {
    put_status(out, status);
    out.extend_from_slice(b"date: ");
    out.extend_from_slice(date);
    out.extend_from_slice(
        b"\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: ",
    );
    put_decimal(out, reason.len() as u64 + 1);
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(reason.as_bytes());
    out.push(b'\n');
}

fn put_status(out: &mut Vec<u8>, status: StatusCode) {
    if status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

pub(crate) fn put_field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Fields that the engine alone writes: they belong to the connection, or frame the message.
pub(crate) fn hop_by_hop(name: &HeaderName) -> bool {
    // By text: that is a jump by length and at most two comparisons, for each field of each message.
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "transfer-encoding"
            | "upgrade"
            | "te"
            | "trailer"
            | "proxy-authenticate"
            | "keep-alive"
            | "proxy-connection"
    )
}

pub(crate) fn put_decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
