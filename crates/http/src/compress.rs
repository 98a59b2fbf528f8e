//! Compression on the fly, in bounded memory.

use std::io::Write as _;
use std::task::{Context, Poll};

use crate::{Body, BodyError, BodyStream, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE,
    REFERER, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::encoding::{self, Coding};
use crate::mime;

/// Smaller bodies are sent as they are: they fit into one packet anyhow.
pub const LEAST_BYTES: u64 = 1024;
/// For what is sent once. Level 4 takes about half the time of the usual 6 for a few per cent more bytes.
const LEVEL: u32 = 4;
/// For what is kept and sent many times.
const LEVEL_KEPT: u32 = 7;

/// Bytes in memory, compressed; `None` if that makes them no smaller.
pub fn gzip(bytes: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 2), Compression::new(LEVEL_KEPT));
    encoder.write_all(bytes).ok()?;
    let compressed = encoder.finish().ok()?;
    (compressed.len() < bytes.len()).then(|| compressed.into())
}

/// A tag that says "the same to a reader, though not byte for byte".
pub fn weakened(etag: &str) -> String {
    if etag.starts_with("W/") { etag.to_owned() } else { format!("W/{etag}") }
}

/// What of a request decides whether its response may be compressed.
pub struct Wish {
    accepts: bool,
    /// A page of another site made the browser send this, with the visitor's cookies: compressing what the app makes of
    /// it would let that site guess secrets by length (BREACH).
    foreign: bool,
}

impl Wish {
    /// What this request asks for. `host` is the host that it is for.
    pub fn of(method: &Method, headers: &HeaderMap, host: &str) -> Self {
        let accepts = *method != Method::HEAD
            && !headers.contains_key(RANGE)
            && encoding::choose(headers, &[Coding::Gzip]).is_some();
        Self { accepts, foreign: accepts && is_foreign(headers, host) }
    }
}

fn is_foreign(headers: &HeaderMap, host: &str) -> bool {
    if !headers.contains_key(http::header::COOKIE) {
        return false;
    }
    if let Some(site) = headers.get("sec-fetch-site") {
        return site.as_bytes() == b"cross-site";
    }
    let Some(referer) = headers.get(REFERER).and_then(|referer| referer.to_str().ok()) else { return false };
    let Some((_, rest)) = referer.split_once("://") else { return true };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let from = authority.rsplit_once(':').map_or(authority, |(from, _)| from);
    !from.eq_ignore_ascii_case(host)
}

/// Compresses an app's response if the client takes that and it pays.
pub fn response(response: Response, wish: &Wish) -> Response {
    let (mut head, body) = response.into_parts();
    let text = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let pays = body.length().is_none_or(|length| length >= LEAST_BYTES)
        && text(CONTENT_LENGTH)
            .and_then(|length| length.parse::<u64>().ok())
            .is_none_or(|length| length >= LEAST_BYTES)
        && text(CONTENT_TYPE).is_some_and(mime::is_compressible);
    let whole = matches!(body, Body::Full(_) | Body::Stream(_))
        && !matches!(
            head.status,
            StatusCode::PARTIAL_CONTENT | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        )
        && !head.headers.contains_key(CONTENT_ENCODING)
        && !head.headers.contains_key(CONTENT_RANGE)
        && !text(CACHE_CONTROL).is_some_and(|value| value.contains("no-transform"));
    let etag = text(ETAG).map(weakened);
    if !pays || !whole {
        return Response::from_parts(head, body);
    }
    // Also where this client got it plain: a cache must not give it to one that takes it compressed, or the other way.
    head.headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    if !wish.accepts || wish.foreign {
        return Response::from_parts(head, body);
    }
    if let Some(etag) = etag.and_then(|etag| HeaderValue::try_from(etag).ok()) {
        head.headers.insert(ETAG, etag);
    }
    head.headers.remove(CONTENT_LENGTH);
    head.headers.remove(ACCEPT_RANGES);
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(Coding::Gzip.name()));
    let body = match body {
        Body::Full(bytes) => {
            let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 2), Compression::new(LEVEL));
            // Writing to a Vec cannot fail.
            let _ = encoder.write_all(&bytes);
            Body::Full(encoder.finish().unwrap_or_default().into())
        }
        Body::Stream(stream) => Body::Stream(Box::new(Gzip::new(stream))),
        body => body,
    };
    Response::from_parts(head, body)
}

/// A stream that is compressed as it goes. What was taken is passed on before it waits for more, so that a page that
/// comes slowly is seen as it comes.
pub struct Gzip {
    stream: Box<dyn BodyStream>,
    encoder: Option<GzEncoder<Vec<u8>>>,
    unflushed: bool,
}

/// Compressed bytes that are collected before they are passed on.
const PIECE_BYTES: usize = 16 * 1024;

impl Gzip {
    /// Compresses what this stream brings.
    pub fn new(stream: Box<dyn BodyStream>) -> Self {
        let encoder = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
        Self { stream, encoder: Some(encoder), unflushed: false }
    }
}

impl BodyStream for Gzip {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Some(encoder) = &mut self.encoder else { return Poll::Ready(None) };
        loop {
            if encoder.get_ref().len() >= PIECE_BYTES {
                return Poll::Ready(Some(Ok(std::mem::take(encoder.get_mut()).into())));
            }
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(piece))) => {
                    self.unflushed = true;
                    if let Err(error) = encoder.write_all(&piece) {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    let Some(encoder) = self.encoder.take() else { return Poll::Ready(None) };
                    return match encoder.finish() {
                        Ok(rest) => Poll::Ready(Some(Ok(rest.into()))),
                        Err(error) => Poll::Ready(Some(Err(error.into()))),
                    };
                }
                Poll::Pending if self.unflushed => {
                    self.unflushed = false;
                    if let Err(error) = encoder.flush() {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                    let piece = std::mem::take(encoder.get_mut());
                    if !piece.is_empty() {
                        return Poll::Ready(Some(Ok(piece.into())));
                    }
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Wish, gzip, is_foreign, response};
    use crate::{Body, Response};
    use bytes::Bytes;
    use http::{HeaderMap, Method};
    use std::io::Read as _;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn answer(fields: &[(&'static str, &str)], body: &str) -> Response {
        let mut response = Response::new(Body::Full(Bytes::copy_from_slice(body.as_bytes())));
        *response.headers_mut() = headers(fields);
        response
    }

    fn wish(fields: &[(&'static str, &str)]) -> Wish {
        Wish::of(&Method::GET, &headers(fields), "a.b")
    }

    const TEXT: (&str, &str) = ("content-type", "text/html");
    const TAKES: (&str, &str) = ("accept-encoding", "gzip");

    #[test]
    fn what_is_compressed_can_be_read_again() {
        let text = "hello ".repeat(1000);
        let mut plain = String::new();
        flate2::read::GzDecoder::new(&gzip(text.as_bytes()).unwrap()[..]).read_to_string(&mut plain).unwrap();
        assert_eq!(plain, text);
        assert_eq!(gzip(b"x"), None);
    }

    #[test]
    fn a_compressed_response_has_a_weak_tag_and_says_what_it_depends_on() {
        let done = response(answer(&[TEXT, ("etag", "\"a\"")], &"x".repeat(2000)), &wish(&[TAKES]));
        assert_eq!(done.headers()["etag"], "W/\"a\"");
        assert_eq!(done.headers()["content-encoding"], "gzip");
        assert_eq!(done.headers()["vary"], "accept-encoding");
        assert!(done.body().length().unwrap() < 100);
    }

    #[test]
    fn what_does_not_pay_or_is_coded_already_is_left_alone() {
        let untouched = |fields: &[(&'static str, &str)], body: &str, asked: &[(&'static str, &str)]| {
            let done = response(answer(fields, body), &wish(asked));
            done.headers().get("content-encoding").is_none_or(|coding| coding != "gzip")
        };
        let long = "x".repeat(2000);
        assert!(untouched(&[TEXT], "short", &[TAKES]));
        assert!(untouched(&[("content-type", "image/png")], &long, &[TAKES]));
        assert!(untouched(&[TEXT, ("content-encoding", "br")], &long, &[TAKES]));
        assert!(untouched(&[TEXT, ("cache-control", "no-transform")], &long, &[TAKES]));
        assert!(untouched(&[TEXT], &long, &[]));
        assert!(untouched(&[TEXT], &long, &[TAKES, ("range", "bytes=0-1")]));
    }

    #[test]
    fn what_another_site_asked_for_with_cookies_is_not_compressed() {
        let foreign = |fields: &[(&'static str, &str)]| is_foreign(&headers(fields), "a.b");
        assert!(foreign(&[("cookie", "s=1"), ("sec-fetch-site", "cross-site")]));
        assert!(foreign(&[("cookie", "s=1"), ("referer", "http://evil.example/a.b")]));
        assert!(!foreign(&[("cookie", "s=1"), ("referer", "http://a.b:8080/x")]));
        assert!(!foreign(&[("cookie", "s=1"), ("sec-fetch-site", "same-origin")]));
        assert!(!foreign(&[("referer", "http://evil.example/")]));
    }
}
