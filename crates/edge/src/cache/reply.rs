//! Answers made of a stored response: conditions, ranges and HEAD (RFC 9111, 4.3.2; RFC 9110, 13 and 14).

use http::header::{
    ACCEPT_RANGES, AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG,
    LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use mainstay_http::conditional::{self, Validators, Verdict};
use mainstay_http::range::{self, Asked};
use mainstay_http::{Body, Response};

use super::fill::{Fill, Reader};
use super::policy::{Moment, time};
use super::stored::{Content, Stored};
use std::sync::Arc;

/// What of a stored response a request gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// 304.
    NotModified,
    /// 206, these bytes of so many.
    Range(std::ops::Range<u64>, u64),
    /// 416, of so many bytes.
    Unsatisfiable(u64),
}

/// What of a response of this kind a GET or HEAD gets. Several ranges at once are answered with the whole.
pub fn part(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    response: &HeaderMap,
    length: Option<u64>,
) -> Part {
    if status != StatusCode::OK {
        return Part::Whole;
    }
    let etag = response.get(ETAG).and_then(|etag| etag.to_str().ok()).unwrap_or_default();
    let modified = time(response, &LAST_MODIFIED);
    // Without a date of its own, a response is compared by when it was made (RFC 9111, 4.3.2).
    let since = modified.or_else(|| time(response, &DATE)).unwrap_or(u64::MAX);
    if conditional::judge(request, Validators { etag, modified: since }) == Verdict::NotModified {
        return Part::NotModified;
    }
    let exact = Validators { etag, modified: modified.unwrap_or(u64::MAX) };
    if *method == Method::GET
        && let Some(field) = request.get(RANGE).and_then(|field| field.to_str().ok())
        && let Some(length) = length
        && conditional::range_applies(request, exact)
    {
        return match range::parse(field, length) {
            Asked::Parts(parts) if parts.len() == 1 => Part::Range(parts[0].clone(), length),
            Asked::Unsatisfiable => Part::Unsatisfiable(length),
            _ => Part::Whole,
        };
    }
    Part::Whole
}

/// The answer to a request. `None` if the body broke off, or nobody waits for it any more, since it was found.
pub(crate) fn reply(
    stored: &Stored,
    method: &Method,
    request: &HeaderMap,
    now: Moment,
    reader: impl FnOnce(&Arc<Fill>) -> Option<Reader>,
) -> Option<Response> {
    let length = stored.length();
    let part = part(method, request, stored.status, &stored.headers, length);
    let mut response = bare(stored, &part, now);
    if *method == Method::HEAD {
        if let (Part::Whole, Some(length)) = (&part, length) {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        return Some(response);
    }
    let range = match part {
        Part::NotModified | Part::Unsatisfiable(_) => return Some(response),
        Part::Whole => None,
        Part::Range(range, _) => Some(range),
    };
    *response.body_mut() = match &stored.content {
        Content::Whole(bytes) => match range {
            None if bytes.is_empty() => Body::Empty,
            None => Body::Full(bytes.clone()),
            Some(range) => Body::Full(bytes.slice(range.start as usize..range.end as usize)),
        },
        Content::Growing(fill) => {
            let mut reader = reader(fill)?;
            if let Some(range) = range {
                reader.limit(range);
            }
            Body::Stream(Box::new(reader))
        }
    };
    Some(response)
}

/// A response without a body.
fn bare(stored: &Stored, part: &Part, now: Moment) -> Response {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = stored.status;
    *response.headers_mut() = stored.headers.clone();
    let headers = response.headers_mut();
    headers.insert(AGE, (stored.age_ms(now) / 1000).into());
    match part {
        Part::Whole => {
            if stored.length().is_some()
                && stored.status == StatusCode::OK
                && !headers.contains_key(ACCEPT_RANGES)
            {
                headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            }
        }
        Part::NotModified => {
            headers.remove(CONTENT_TYPE);
            headers.remove(CONTENT_ENCODING);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        Part::Range(range, length) => {
            // `first-last/length` is made of digits.
            if let Ok(told) =
                HeaderValue::try_from(format!("bytes {}-{}/{length}", range.start, range.end - 1))
            {
                headers.insert(CONTENT_RANGE, told);
            }
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Part::Unsatisfiable(length) => {
            headers.clear();
            if let Ok(told) = HeaderValue::try_from(format!("bytes */{length}")) {
                headers.insert(CONTENT_RANGE, told);
            }
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
        }
    }
    response
}
