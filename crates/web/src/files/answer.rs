//! Responses made of files.

use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    RANGE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use mainstay_http::compress::{self, Compressed, Effort};
use mainstay_http::conditional::{self, Validators, Verdict};
use mainstay_http::encoding::{self, Coding};
use mainstay_http::range::{self, Asked};
use mainstay_http::{Body, FileRange, Response};

use super::cache::{self, Content, Entry, Representation};
use super::multipart;
use super::pieces::FilePieces;

/// What a request for a file is answered with. The method is GET or HEAD.
pub(crate) fn answer(
    entry: &Entry,
    method: &Method,
    headers: &HeaderMap,
    compress: bool,
    boundary: impl FnOnce() -> String,
) -> Response {
    let form = match choose(entry, headers, compress) {
        Chosen::Form(form) => form,
        Chosen::Stream(coding) => return streamed(entry, coding, method, headers),
    };
    let validators = Validators { etag: &form.etag, modified: entry.modified };
    match conditional::judge(headers, validators) {
        Verdict::Proceed => {}
        Verdict::NotModified => return bare(StatusCode::NOT_MODIFIED, form.headers.clone()),
        Verdict::Failed => return bare(StatusCode::PRECONDITION_FAILED, HeaderMap::new()),
    }
    if *method == Method::GET
        && let Some(field) = headers.get(RANGE).and_then(|field| field.to_str().ok())
        && conditional::range_applies(headers, validators)
    {
        match range::parse(field, form.length) {
            Asked::Whole => {}
            Asked::Unsatisfiable => return unsatisfiable(form),
            Asked::Parts(parts) => return partial(entry, form, &parts, boundary),
        }
    }
    let mut response = bare(StatusCode::OK, form.headers.clone());
    if *method == Method::HEAD {
        response.headers_mut().insert(CONTENT_LENGTH, form.length.into());
    } else {
        *response.body_mut() = part(form, 0..form.length);
    }
    response
}

enum Chosen<'a> {
    Form(&'a Representation),
    /// Compressed while it is sent.
    Stream(Coding),
}

/// The form of the file that this client gets.
fn choose<'a>(entry: &'a Entry, headers: &HeaderMap, compress: bool) -> Chosen<'a> {
    if !entry.media_type.compressible || !headers.contains_key(ACCEPT_ENCODING) {
        return Chosen::Form(&entry.plain);
    }
    // Precompressed forms come first: among codings that the client likes equally, they cost nothing.
    let mut available: Vec<Coding> = entry.coded.iter().map(|(coding, _)| *coding).collect();
    if compress && entry.plain.length >= compress::LEAST_BYTES {
        // What is kept is worth the smallest form, what is made each time the cheapest.
        let made = match entry.plain.content {
            Content::Memory(_) => Coding::ALL,
            Content::Open(_) => compress::ON_THE_FLY,
        };
        available
            .extend(made.into_iter().filter(|coding| entry.coded.iter().all(|(there, _)| there != coding)));
    }
    let Some(coding) = encoding::choose(headers, &available) else { return Chosen::Form(&entry.plain) };
    if let Some((_, form)) = entry.coded.iter().find(|(there, _)| *there == coding) {
        return Chosen::Form(form);
    }
    match &entry.plain.content {
        Content::Memory(bytes) => {
            let compressed = entry.compressed[coding as usize].get_or_init(|| {
                let bytes = compress::bytes(bytes, coding, Effort::Kept)?;
                Some(cache::in_memory(bytes, entry.media_type, entry.modified, Some(coding)))
            });
            Chosen::Form(compressed.as_ref().unwrap_or(&entry.plain))
        }
        // A part of a file can only be had plain: its compressed bytes are not numbered.
        Content::Open(_) if headers.contains_key(RANGE) => Chosen::Form(&entry.plain),
        Content::Open(_) => Chosen::Stream(coding),
    }
}

/// A large file, compressed as it goes. Its tag is weak, for the bytes may differ from time to time.
fn streamed(entry: &Entry, coding: Coding, method: &Method, headers: &HeaderMap) -> Response {
    let form = &entry.plain;
    let etag = compress::weakened(&form.etag);
    let mut fields = form.headers.clone();
    fields.remove(ACCEPT_RANGES);
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        fields.insert(ETAG, etag);
    }
    fields.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    match conditional::judge(headers, Validators { etag: &etag, modified: entry.modified }) {
        Verdict::Proceed => {}
        Verdict::NotModified => return bare(StatusCode::NOT_MODIFIED, fields),
        Verdict::Failed => return bare(StatusCode::PRECONDITION_FAILED, HeaderMap::new()),
    }
    let mut response = bare(StatusCode::OK, fields);
    if *method == Method::GET
        && let Content::Open(file) = &form.content
    {
        let range = FileRange { file: Rc::clone(file), offset: 0, length: form.length };
        match Compressed::new(Box::new(FilePieces(range)), coding) {
            Ok(compressed) => *response.body_mut() = Body::Stream(Box::new(compressed)),
            Err((error, _)) => {
                tracing::warn!(%error, "a file cannot be compressed");
                return bare(StatusCode::INTERNAL_SERVER_ERROR, HeaderMap::new());
            }
        }
    }
    response
}

fn partial(
    entry: &Entry,
    form: &Representation,
    parts: &[Range<u64>],
    boundary: impl FnOnce() -> String,
) -> Response {
    let mut response = bare(StatusCode::PARTIAL_CONTENT, form.headers.clone());
    if let [only] = parts {
        let (first, last, length) = (only.start, only.end - 1, form.length);
        if let Ok(told) = HeaderValue::try_from(format!("bytes {first}-{last}/{length}")) {
            response.headers_mut().insert(CONTENT_RANGE, told);
        }
        *response.body_mut() = part(form, only.clone());
        return response;
    }
    let boundary = boundary();
    if let Ok(content_type) = HeaderValue::try_from(format!("multipart/byteranges; boundary={boundary}")) {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    *response.body_mut() = multipart::body(form, entry.media_type.value, parts, &boundary);
    response
}

fn unsatisfiable(form: &Representation) -> Response {
    let mut response = bare(StatusCode::RANGE_NOT_SATISFIABLE, HeaderMap::new());
    if let Ok(told) = HeaderValue::try_from(format!("bytes */{}", form.length)) {
        response.headers_mut().insert(CONTENT_RANGE, told);
    }
    response
}

fn part(form: &Representation, range: Range<u64>) -> Body {
    match &form.content {
        Content::Memory(bytes) if bytes.is_empty() => Body::Full(Bytes::new()),
        Content::Memory(bytes) => Body::Full(bytes.slice(range.start as usize..range.end as usize)),
        Content::Open(file) => Body::File(FileRange {
            file: Rc::clone(file),
            offset: range.start,
            length: range.end - range.start,
        }),
    }
}

fn bare(status: StatusCode, headers: HeaderMap) -> Response {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
