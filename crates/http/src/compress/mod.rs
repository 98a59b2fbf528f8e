//! Compression on the fly, in bounded memory.
//!
//! A [`Wish`] is what a request asks for, [`response`] does it where it may and pays. [`Encoder`] hides the codings from
//! each other, [`Compressed`] runs a stream through one.

mod encoder;
mod stream;

use std::io;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, COOKIE, ETAG, RANGE, REFERER, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

pub use encoder::{Effort, Encoder};
pub use stream::Compressed;

use crate::encoding::{self, Coding};
use crate::{Body, FieldBlock, Response, mime};

/// Smaller bodies are sent as they are: they fit into one packet anyhow.
pub const LEAST_BYTES: u64 = 1024;

/// The codings that are made on the fly, best first among those that a client likes equally.
pub const ON_THE_FLY: [Coding; 3] = [Coding::Zstandard, Coding::Brotli, Coding::Gzip];

/// Fields that tell a digest of the bytes as they came (RFC 9530, RFC 3230).
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// Bytes in memory, compressed; `None` if that makes them no smaller.
pub fn bytes(bytes: &[u8], coding: Coding, effort: Effort) -> Option<Bytes> {
    let compressed = compress(bytes, coding, effort).ok()?;
    (compressed.len() < bytes.len()).then_some(compressed)
}

fn compress(bytes: &[u8], coding: Coding, effort: Effort) -> io::Result<Bytes> {
    let mut encoder = Encoder::new(coding, effort.level(coding), Some(bytes.len() as u64))?;
    encoder.write(bytes)?;
    encoder.finish()
}

/// A tag that says "the same to a reader, though not byte for byte".
pub fn weakened(etag: &str) -> String {
    if etag.starts_with("W/") { etag.to_owned() } else { format!("W/{etag}") }
}

/// What of a request decides whether its response may be compressed.
pub struct Wish {
    coding: Option<Coding>,
    /// A page of another site made the browser send this, with the visitor's cookies: compressing what the app makes of
    /// it would let that site guess secrets by length (BREACH).
    foreign: bool,
}

impl Wish {
    /// What this request asks for. `host` is the host that it is for.
    pub fn of(method: &Method, headers: &HeaderMap, host: &str) -> Self {
        let coding = (*method != Method::HEAD && !headers.contains_key(RANGE))
            .then(|| encoding::choose(headers, &ON_THE_FLY))
            .flatten();
        Self { coding, foreign: coding.is_some() && is_foreign(headers, host) }
    }

    /// Whether the fields of a request are those of one that takes no coding: most programs say nothing of codings.
    pub fn is_nothing(fields: &FieldBlock) -> bool {
        fields.first(ACCEPT_ENCODING.as_str().as_bytes()).is_none()
    }
}

/// What [`response`] makes of the fields of a response whose client takes no coding, in one walk over them.
pub fn mark(status: StatusCode, fields: &mut FieldBlock, body: &Body) {
    if !is_whole(status, body) || body.length().is_some_and(|length| length < LEAST_BYTES) {
        return;
    }
    let (mut kind, mut told) = (None, None);
    for field in &*fields {
        match field.name {
            b"content-type" => kind = kind.or(Some(field.value)),
            b"content-length" => told = told.or(Some(field.value)),
            b"content-encoding" | b"content-range" | b"content-digest" | b"repr-digest" | b"digest"
            | b"content-md5" => return,
            b"cache-control" if names_element(field.value, "no-transform") => return,
            b"vary" if names_element(field.value, "accept-encoding") || names_element(field.value, "*") => {
                return;
            }
            _ => {}
        }
    }
    let told = || told.and_then(visible)?.parse::<u64>().ok();
    let long = body.length().or_else(told).is_none_or(|length| length >= LEAST_BYTES);
    if long && kind.and_then(visible).is_some_and(mime::is_compressible) {
        fields.push(&VARY, &HeaderValue::from_static("accept-encoding"));
    }
}

fn is_foreign(headers: &HeaderMap, host: &str) -> bool {
    if !headers.contains_key(COOKIE) {
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
    if !pays(&head.headers, &body) || !may(head.status, &head.headers, &body) {
        return Response::from_parts(head, body);
    }
    // Also where this client got it plain: a cache must not give it to one that takes it compressed, or the other way.
    if !has_element(&head.headers, &VARY, "accept-encoding") && !has_element(&head.headers, &VARY, "*") {
        head.headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    }
    let Some(coding) = wish.coding.filter(|_| !wish.foreign) else {
        return Response::from_parts(head, body);
    };
    let body = match body {
        Body::Full(bytes) => match compress(&bytes, coding, Effort::Once) {
            Ok(compressed) => Body::Full(compressed),
            Err(error) => {
                tracing::warn!(%error, "a response is sent as it is, because it cannot be compressed");
                return Response::from_parts(head, Body::Full(bytes));
            }
        },
        Body::Stream(stream) => match Compressed::new(stream, coding) {
            Ok(compressed) => Body::Stream(Box::new(compressed)),
            Err((error, stream)) => {
                tracing::warn!(%error, "a response is sent as it is, because it cannot be compressed");
                return Response::from_parts(head, Body::Stream(stream));
            }
        },
        body => body,
    };
    let etag = text(&head.headers, &ETAG).map(weakened);
    if let Some(etag) = etag.and_then(|etag| HeaderValue::try_from(etag).ok()) {
        head.headers.insert(ETAG, etag);
    }
    head.headers.remove(CONTENT_LENGTH);
    head.headers.remove(ACCEPT_RANGES);
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    Response::from_parts(head, body)
}

/// Whether compressing makes it smaller by enough.
fn pays(headers: &HeaderMap, body: &Body) -> bool {
    let told = text(headers, &CONTENT_LENGTH).and_then(|length| length.parse().ok());
    body.length().or(told).is_none_or(|length| length >= LEAST_BYTES)
        && text(headers, &CONTENT_TYPE).is_some_and(mime::is_compressible)
}

/// Whether the response is a whole one, in its plain form, that nobody forbids to change.
fn may(status: StatusCode, headers: &HeaderMap, body: &Body) -> bool {
    is_whole(status, body)
        && !headers.contains_key(CONTENT_ENCODING)
        && !headers.contains_key(CONTENT_RANGE)
        && !has_element(headers, &CACHE_CONTROL, "no-transform")
        && !DIGESTS.iter().any(|digest| headers.contains_key(digest))
}

/// Whether there is a whole body that could be compressed.
fn is_whole(status: StatusCode, body: &Body) -> bool {
    let partial =
        matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    matches!(body, Body::Full(_) | Body::Stream(_)) && !partial
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn has_element(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    headers.get_all(name).iter().any(|field| names_element(field.as_bytes(), wanted))
}

fn names_element(value: &[u8], wanted: &str) -> bool {
    visible(value).is_some_and(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case(wanted)))
}

/// A value of visible ASCII alone, as [`HeaderValue::to_str`] takes it.
fn visible(value: &[u8]) -> Option<&str> {
    let sound = value.iter().fold(true, |all, byte| all & matches!(byte, b' '..=b'~' | b'\t'));
    std::str::from_utf8(value).ok().filter(|_| sound)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::Read as _;
    use std::task::{Context, Poll, Waker};

    use super::{Compressed, Effort, Wish, bytes, is_foreign, response};
    use crate::encoding::Coding;
    use crate::{Body, BodyError, BodyStream, FieldBlock, Response};
    use bytes::Bytes;
    use http::{HeaderMap, Method};
    use proptest::prelude::*;

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

    fn plain(coding: Coding, compressed: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        // What was flushed can be read though the end is missing.
        let _ = match coding {
            Coding::Brotli => brotli::Decompressor::new(compressed, 4096).read_to_end(&mut plain),
            Coding::Zstandard => zstd::Decoder::new(compressed).unwrap().read_to_end(&mut plain),
            Coding::Gzip => flate2::read::GzDecoder::new(compressed).read_to_end(&mut plain),
        };
        plain
    }

    /// Brings its pieces; `None` is a pause.
    struct Pieces(VecDeque<Option<Bytes>>);

    impl BodyStream for Pieces {
        fn poll_data(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
            match self.0.pop_front() {
                Some(Some(piece)) => Poll::Ready(Some(Ok(piece))),
                Some(None) => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    #[test]
    fn what_is_compressed_can_be_read_again() {
        let text = "hello ".repeat(100_000);
        for coding in Coding::ALL {
            for effort in [Effort::Once, Effort::Kept] {
                let compressed = bytes(text.as_bytes(), coding, effort).unwrap();
                assert_eq!(plain(coding, &compressed), text.as_bytes(), "{coding:?}");
            }
            assert_eq!(bytes(b"x", coding, Effort::Once), None);
        }
    }

    #[test]
    fn what_came_before_a_pause_is_not_held_back() {
        for coding in Coding::ALL {
            let pieces = [Some("first"), None, Some("second"), None, None, Some("third")];
            let pieces = pieces.map(|piece| piece.map(Bytes::from)).into();
            let Ok(mut stream) = Compressed::new(Box::new(Pieces(pieces)), coding) else { panic!() };
            let (mut all, mut seen) = (Vec::new(), Vec::new());
            let mut context = Context::from_waker(Waker::noop());
            loop {
                match stream.poll_data(&mut context) {
                    Poll::Ready(Some(piece)) => all.extend_from_slice(&piece.unwrap()),
                    Poll::Ready(None) => break,
                    Poll::Pending => {}
                }
                seen.push(plain(coding, &all));
            }
            assert_eq!(seen[0], b"first", "{coding:?}");
            assert!(seen.contains(&b"firstsecond".to_vec()), "{coding:?}");
            assert_eq!(seen.last().unwrap(), b"firstsecondthird", "{coding:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_stream_survives(
            pieces in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 1..40_000)), 0..8),
            coding in 0usize..3,
        ) {
            let coding = Coding::ALL[coding];
            let whole: Vec<u8> = pieces.iter().flatten().flatten().copied().collect();
            let pieces = pieces.into_iter().map(|piece| piece.map(Bytes::from)).collect();
            let Ok(mut stream) = Compressed::new(Box::new(Pieces(pieces)), coding) else { panic!() };
            let mut all = Vec::new();
            let mut context = Context::from_waker(Waker::noop());
            loop {
                match stream.poll_data(&mut context) {
                    Poll::Ready(Some(piece)) => {
                        let piece = piece.unwrap();
                        prop_assert!(!piece.is_empty());
                        all.extend_from_slice(&piece);
                    }
                    Poll::Ready(None) => break,
                    Poll::Pending => {}
                }
            }
            prop_assert_eq!(plain(coding, &all), whole);
        }
    }

    #[test]
    fn the_client_weighs_and_equal_weights_go_to_the_cheapest() {
        for (field, coding) in [
            ("gzip, deflate, br, zstd", "zstd"),
            ("gzip, br", "br"),
            ("gzip", "gzip"),
            ("gzip;q=0.9, br;q=0.8", "gzip"),
            ("zstd;q=0, br;q=0.1", "br"),
        ] {
            let done = response(answer(&[TEXT], &"x".repeat(2000)), &wish(&[("accept-encoding", field)]));
            assert_eq!(done.headers()["content-encoding"], coding, "{field}");
        }
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
        assert!(untouched(&[TEXT, ("cache-control", "public, No-Transform")], &long, &[TAKES]));
        assert!(untouched(&[TEXT, ("repr-digest", "sha-256=:AA==:")], &long, &[TAKES]));
        assert!(untouched(&[("content-type", "text/event-stream")], &long, &[TAKES]));
        assert!(untouched(&[TEXT], &long, &[]));
        assert!(untouched(&[TEXT], &long, &[TAKES, ("range", "bytes=0-1")]));
    }

    proptest! {
        #[test]
        fn fields_in_a_block_are_marked_as_those_in_a_map(
            fields in proptest::collection::vec((0_usize..9, 0_usize..9), 0..6),
            status in prop::sample::select(vec![200_u16, 204, 206, 304, 404]),
            length in prop::sample::select(vec![0_usize, 1023, 1024]),
        ) {
            let names = [
                "content-type", "content-type", "content-length", "content-encoding", "content-range",
                "cache-control", "vary", "repr-digest", "x-other",
            ];
            let values = [
                "text/html", "text/html; charset=utf-8", "image/png", "no-transform", "a, Accept-Encoding", "*",
                "public", "\u{e4}", "",
            ];
            let mut response = answer(&[], &"x".repeat(length));
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
            let mut block = FieldBlock::default();
            for (name, value) in fields {
                let name: http::HeaderName = names[name].parse().unwrap();
                let value = http::HeaderValue::from_bytes(values[value].as_bytes()).unwrap();
                block.push(&name, &value);
                response.headers_mut().append(name, value);
            }
            super::mark(response.status(), &mut block, response.body());
            let response = super::response(response, &wish(&[]));
            prop_assert_eq!(&block.to_map(), response.headers());
        }
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
